"""`python -m attncourse grade FOLDER --out DIR`."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from .sandbox import PACKAGE

HEADROOM_BYTES = 8 << 30


def add_parsers(commands) -> None:
    """The shell's `grade`."""
    parser = commands.add_parser(
        "grade",
        help="mark a folder of submitted notebooks",
        description="Mark every notebook below FOLDER. Learners' code runs in a bubblewrap sandbox and is judged "
        "outside it. DIR/records holds one JSON record a submission, DIR/grades.csv one row.",
        epilog="example: python -m attncourse grade submissions/ --out grades/",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds the notebooks, in subfolders too")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where records and grades.csv go")
    parser.add_argument(
        "--exercises",
        type=Path,
        default=PACKAGE.parent / "exercises" if checkout() else Path("exercises"),
        metavar="DIR",
        help="the released exercises, to see whether check cells were changed (default: exercises/)",
    )
    parser.add_argument("--again", action="store_true", help="mark unchanged submissions again")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="submissions marked at a time"
    )
    parser.add_argument("--unconfined", action="store_true", help="without a sandbox: learners' code has your rights")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mark the folder; 0 when every submission has its record, 1 when a worker could not be started for one.

    Raises:
        ValueError: there is no such folder, nothing in it, no release to compare with, or no sandbox.
    """
    from attncourse.check import CHECKS

    from .classroom import grade_folder
    from .sandbox import find_sandbox
    from .submission import Release, find_notebooks

    if not args.folder.is_dir():
        raise ValueError(f"{args.folder} is not a folder")
    if args.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {args.jobs}")
    paths = find_notebooks(args.folder)
    if not paths:
        raise ValueError(f"{args.folder} holds no notebook (*.ipynb)")
    release = Release.read(args.exercises, {check.unit for check in CHECKS.values()})
    args.out.mkdir(parents=True, exist_ok=True)
    private = (args.folder, args.out, args.exercises, args.exercises.parent / "solutions", *checkout())
    sandbox = find_sandbox(private=private, unconfined=args.unconfined)
    with own_memory_limited():
        records = grade_folder(args.folder, paths, args.out, release, sandbox, again=args.again, jobs=args.jobs)
    return report(records, args.out)


def checkout() -> list[Path]:
    """The folder of the whole course, where this package is not installed away from it."""
    return [PACKAGE.parent] if (PACKAGE.parent / "solutions").is_dir() else []


@contextlib.contextmanager
def own_memory_limited():
    """Within it, a result that makes a judge ask for absurd memory fails there, instead of ending the whole run."""
    import resource

    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    lowest = min(limit for limit in (soft, taken + HEADROOM_BYTES) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def report(records: list[dict], out: Path) -> int:
    """Print how many submissions are in which state; the exit code."""
    from .records import NOT_GRADED

    states = [record["state"] for record in records]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    print(f"{len(records)} submissions: {counts}. {out / 'grades.csv'}")
    for record in records:
        if record["state"] == NOT_GRADED:
            print(f"{record['file']}: {record['notes'][0]}", file=sys.stderr)
    return 1 if NOT_GRADED in states else 0
