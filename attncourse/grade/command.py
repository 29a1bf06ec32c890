"""`attncourse grade SUBMISSIONS --out DIR`."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from attncourse.course.checkout import checkout

EPILOG = """\
examples:
  attncourse grade submissions/ --out grades/           a folder of notebooks, or nbgrader's submitted/
  attncourse grade submissions.zip --out grades/        the zip that Canvas or Moodle exports
  attncourse grade submissions/ --out grades/ --scheduler tcp://10.0.0.7:8786
  attncourse grade --selftest                           does the sandbox hold on this machine?

Run again, it marks only what is new or changed. Killed at any moment, it goes on where it was.
It ends with 0 when all is marked, 1 when some could not be graded, 2 when it could not be asked so,
3 when a file or disk failed it: what was marked is kept, and the same command goes on."""


def add_parsers(commands) -> None:
    """Add the shell's `grade` to the commands."""
    parser = commands.add_parser(
        "grade",
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
        default=(checkout() or Path()) / "exercises",
        metavar="DIR",
        help="the released exercises, to see whether check cells were changed (default: exercises/)",
    )
    parser.add_argument("--assignment", type=Path, metavar="FILE", help="assignment.json whose points count")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that mark")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="mark on this Dask cluster instead")
    parser.add_argument("--roster", type=Path, metavar="CSV", help="Canvas' or Moodle's export, to fill the marks in")
    parser.add_argument("--gradebook", type=Path, metavar="DB", help="write the marks into nbgrader's gradebook too")
    parser.add_argument("--book-url", metavar="URL", help="where learners read the built book, for feedback's links")
    parser.add_argument(
        "--accept",
        nargs="+",
        default=[],
        metavar="FILE",
        help="notebooks of changed check cells, as grades.csv names them, whose points are to count",
    )
    parser.add_argument("--again", action="store_true", help="mark unchanged submissions again")
    parser.add_argument("--unconfined", action="store_true", help="without a sandbox: learners' code has your rights")
    parser.add_argument("--selftest", action="store_true", help="try to break out of the sandbox, print what holds")
    parser.add_argument(
        "--checks", default="attncourse.check", metavar="MODULE", help="registers the checks (default: the course's)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mark, or try the sandbox; what it takes is imported only now, since --help needs none of it.

    Raises:
        ValueError: it is not said what to mark, or where to write.
    """
    from .run import Run, mark_class
    from .wall.selftest import selftest

    if args.selftest:
        return selftest()
    if args.submissions is None or args.out is None:
        raise ValueError("name what to mark and where to write: attncourse grade SUBMISSIONS --out DIR")
    asked = {field.name: getattr(args, field.name) for field in fields(Run)}
    return mark_class(Run(**asked | {"accept": tuple(args.accept)}))
