"""`python -m attncourse`: what the course does from a shell."""

import argparse
import importlib
import io
import sys

# Each command's module is imported on its own, so that one extra that is not installed disables only its command.
COMMAND_MODULES = (
    "attncourse.catalogue",
    "attncourse.assign",
    "attncourse.grade.command",
    "attncourse.grade.show",
    "attncourse.authoring",
    "attncourse.publish",
    "attncourse.new_exercise",
    "attncourse.profile.command",
    "attncourse.profile.bench",
    "attncourse.cache",
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
    """Run one command; the exit code is 0 when it did what was asked, 2 when it could not be asked so."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"attncourse: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
