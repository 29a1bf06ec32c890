"""`python -m attncourse`: what the course does from a shell."""

import argparse
import importlib
import importlib.metadata
import io
import os
import re
import sys

UNUSABLE, FAILED, UNREAD = 2, 3, 128 + 13  # the last as a shell has it of a program that SIGPIPE ends

# Each command's module is imported on its own, so that one extra that is not installed disables only its command.
COMMAND_MODULES = (
    "attncourse.course.catalogue",
    "attncourse.course.assign",
    "attncourse.grade.command",
    "attncourse.grade.record_command",
    "attncourse.course.release",
    "attncourse.course.origin",
    "attncourse.course.new_exercise",
    "attncourse.profile.command",
    "attncourse.profile.bench",
    "attncourse.profile.tune",
    "attncourse.kv_cache.command",
    "attncourse.choose.command",
)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command that this installation can run."""
    parser = argparse.ArgumentParser(
        prog="attncourse",
        description="The attention course from a shell. COMMAND --help says more.",
        epilog="Beside these, python -m attncourse.profile measures what the rooms promise of time and memory. "
        "Example: python -m attncourse grade submissions/ --out grades/",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMAND_MODULES:
        importlib.import_module(name).add_parsers(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code, or

    2 when it could not be asked so, 3 when a file or disk fails it, 141 when nobody reads what it prints any more.
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
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except BrokenPipeError:
        raise
    except ValueError as error:
        parser.exit(UNUSABLE, f"attncourse: {error}\n")
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        code = UNUSABLE if isinstance(error, FileNotFoundError) else FAILED
        parser.exit(code, f"attncourse: {where}{error.strerror or error}\n")
    except ModuleNotFoundError as error:
        parser.exit(UNUSABLE, f"attncourse: {lacking(error)}\n")


def lacking(error: ModuleNotFoundError) -> str:
    """Which extra of the course brings what is not installed.

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
