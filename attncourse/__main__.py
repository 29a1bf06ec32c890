"""`python -m attncourse`: what the course does from a shell."""

import argparse
import importlib
import importlib.metadata
import io
import os
import re
import sys
from typing import NoReturn

UNUSABLE, FAILED, UNREAD = 2, 3, 128 + 13  # the last as a shell has it of a program that SIGPIPE ends

# Where each command is, and what it does. It is imported when it is asked for: what one needs, another need not wait for,
# and an extra that is not installed disables only the commands that need it.
COMMANDS = {
    "exercises": ("attncourse.course.catalogue", "list the exercises with points, minutes and prerequisites"),
    "where": ("attncourse.course.where", "list what belongs to a chapter, a room or an exercise"),
    "assign": ("attncourse.course.assign", "make what a class gets: notebooks, a page, a zip for the LMS"),
    "grade": ("attncourse.grade.command", "mark what a class handed in"),
    "record": ("attncourse.grade.record_command", "print what was marked of one learner, and how"),
    "release": ("attncourse.course.release", "regenerate exercises/ from solutions/"),
    "bootstrap": (
        "attncourse.course.origin",
        "regenerate first cells, badges and the tables of mechanisms and exercises",
    ),
    "point-at": ("attncourse.course.origin", "point launch buttons, first cells and README at a fork and tag"),
    "poster": ("attncourse.course.poster", "draw every mechanism on one sheet of A3"),
    "new-exercise": ("attncourse.course.new_exercise", "lay down a new unit of exercises, or one exercise more"),
    "profile": ("attncourse.profile.command", "predict and measure every mechanism on this device"),
    "compare": ("attncourse.profile.command", "set two records of measurements side by side"),
    "bench": ("attncourse.profile.bench", "record a whole set of measurements of this device"),
    "tune": ("attncourse.profile.tune", "find the fastest tiles of the kernels on this GPU"),
    "cache": ("attncourse.kv_cache.command", "what a model's key-value cache costs, from its published sizes"),
    "choose": ("attncourse.choose.command", "which attention for which job, ranked by the cost model"),
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser, with all that this command takes; of the others it knows what they do."""
    parser = argparse.ArgumentParser(
        prog="attncourse",
        description="The attention course from a shell. COMMAND --help says more.",
        epilog="Example: python -m attncourse grade submissions/ --out grades/",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    asked, _ = COMMANDS.get(command, (None, ""))
    for name, (module, does) in COMMANDS.items():
        if module != asked:
            commands.add_parser(name, help=does)
    if asked:
        importlib.import_module(asked).add_parsers(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit code.

    That is 2 when it could not be asked so, 3 when a file or disk fails it, 141 when nobody reads what it prints any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has seen enough; what is still held back must not be written at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _run(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        args = build_parser(arguments[0] if arguments else None).parse_args(arguments)
        return args.run(args)
    except BrokenPipeError:
        raise
    except ValueError as error:
        _end(UNUSABLE, str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _end(UNUSABLE if isinstance(error, FileNotFoundError) else FAILED, f"{where}{error.strerror or error}")
    except ModuleNotFoundError as error:
        _end(UNUSABLE, lacking(error))


def _end(code: int, why: str) -> NoReturn:
    print(f"attncourse: {why}", file=sys.stderr)
    raise SystemExit(code)


def lacking(error: ModuleNotFoundError) -> str:
    """Return which extra of the course brings what is not installed.

    Raises:
        ModuleNotFoundError: the error itself, where no extra does.
    """
    try:
        wanted = importlib.metadata.requires("attncourse") or []
    except importlib.metadata.PackageNotFoundError:
        raise error from None
    module = _plain((error.name or "").partition(".")[0])
    for need in wanted:
        package, extra = re.match(r"[\w.-]+", need)[0], re.search(r"extra == ['\"]([\w-]+)", need)
        if extra and _plain(package) == module:
            return f"this needs {package}, which is not installed: pip install 'attncourse[{extra[1]}]'"
    raise error


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).casefold()


if __name__ == "__main__":
    sys.exit(main())
