"""`attncourse grade SUBMISSIONS --out DIR`."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from .closure import PACKAGE

EPILOG = """\
examples:
  attncourse grade submissions/ --out grades/           a folder of notebooks, or nbgrader's submitted/
  attncourse grade submissions.zip --out grades/        the zip that Canvas or Moodle exports
  attncourse grade submissions/ --out grades/ --scheduler tcp://10.0.0.7:8786
  attncourse grade --selftest                           does the sandbox hold on this machine?

Run again, it marks only what is new or changed. Killed at any moment, it goes on where it was."""


def add_parsers(commands) -> None:
    """The shell's `grade`."""
    parser = commands.add_parser(
        "grade",
        help="mark what a class handed in",
        description="Mark every notebook of SUBMISSIONS. Learners' code runs in a bubblewrap sandbox without network "
        "and is judged outside it. DIR then holds one JSON record a submission in records/, grades.csv, canvas.csv, "
        "moodle.csv, a page for each learner in feedback/, and report.html on the class.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("submissions", type=Path, nargs="?", metavar="SUBMISSIONS", help="a folder or a zip")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where everything that is written goes")
    parser.add_argument(
        "--exercises",
        type=Path,
        default=PACKAGE.parent / "exercises" if checkout() else Path("exercises"),
        metavar="DIR",
        help="the released exercises, to see whether check cells were changed (default: exercises/)",
    )
    parser.add_argument("--assignment", type=Path, metavar="FILE", help="assignment.json whose points count")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that mark")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="mark on this Dask cluster instead")
    parser.add_argument("--roster", type=Path, metavar="CSV", help="Canvas' or Moodle's export, to fill the marks in")
    parser.add_argument("--gradebook", type=Path, metavar="DB", help="write the marks into nbgrader's gradebook too")
    parser.add_argument("--again", action="store_true", help="mark unchanged submissions again")
    parser.add_argument("--unconfined", action="store_true", help="without a sandbox: learners' code has your rights")
    parser.add_argument("--selftest", action="store_true", help="try to break out of the sandbox, print what holds")
    parser.add_argument(
        "--checks", default="attncourse.check", metavar="MODULE", help="registers the checks (default: the course's)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mark; 0 when every submission has its record, 1 when one could not be graded through no fault of its own.

    Raises:
        ValueError: nothing to mark, no release to compare with, no sandbox, or options that do not go together.
    """
    if args.selftest:
        from .selftest import selftest

        return selftest()
    if args.submissions is None or args.out is None:
        raise ValueError("name what to mark and where to write: attncourse grade SUBMISSIONS --out DIR")
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    from .classroom import grade_all, records_of
    from .intake import open_submissions
    from .pool import cluster, local_processes
    from .task import Settings

    settings = Settings(
        release=released(args.exercises, args.checks),
        checks=args.checks,
        private=private_folders(args),
        unconfined=args.unconfined,
    )
    with open_submissions(args.submissions) as handed:
        if not handed:
            raise ValueError(f"{args.submissions} holds no notebook (*.ipynb)")
        if not args.scheduler:
            settings.sandbox()
        args.out.mkdir(parents=True, exist_ok=True)
        where = cluster(args.scheduler) if args.scheduler else local_processes(args.workers)
        try:
            with where as pool:
                grade_all(handed, args.out, settings, pool, again=args.again)
        except KeyboardInterrupt:
            print("interrupted: what is marked is kept, and the same command goes on from here", file=sys.stderr)
        return publish(list(records_of(handed, args.out)), len(handed), args)


def released(folder: Path, checks: str):
    """What was handed out, of units that the module of checks knows."""
    from attncourse.check import CHECKS

    from .submission import Release

    try:
        importlib.import_module(checks)
    except ImportError as error:
        raise ValueError(
            f"--checks names a module that registers checks, {checks!r} cannot be imported: {error}"
        ) from error
    return Release.read(folder, {check.unit for check in CHECKS.values()})


def private_folders(args: argparse.Namespace) -> tuple[Path, ...]:
    """What learners' code may not see even where it lies in the interpreter's or the system's folders."""
    folders = (args.submissions, args.out, args.exercises, args.exercises.parent / "solutions", *checkout())
    return tuple(folder.absolute() for folder in folders)


def checkout() -> list[Path]:
    """The folder of the whole course, where this package is not installed away from it."""
    return [PACKAGE.parent] if (PACKAGE.parent / "solutions").is_dir() else []


def publish(records: list[dict], handed: int, args: argparse.Namespace) -> int:
    """Write what is made from the records, say how many are in which state; the exit code."""
    from .records import NOT_GRADED, write_table

    write_table(args.out / "grades.csv", records)
    states = [record["state"] for record in records]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    print(f"{len(records)} submissions: {counts}. {args.out / 'grades.csv'}")
    for record in records:
        if record["state"] == NOT_GRADED:
            print(f"{record['file']}: {record['notes'][0]}", file=sys.stderr)
    if len(records) < handed:
        return 130
    return 1 if NOT_GRADED in states else 0
