"""One run of `attncourse grade`: what is asked before it, the marking, and all that is written after it."""

import argparse
import importlib
import sys
from collections import Counter
from pathlib import Path

from attncourse.assignment import Assignment, read_assignment
from attncourse.check import CHECKS

from .accept import accept, check_accepted
from .canvas import write_canvas
from .classroom import grade_all, records_of
from .command import checkout
from .feedback import write_feedback
from .gradebook import write_gradebook
from .intake import open_submissions
from .moodle import write_moodle
from .pool import cluster, local_processes
from .reading import Record
from .records import NOT_GRADED, weighed, write_table
from .report import write_class_report
from .roster import Table
from .submission import Release
from .task import Settings

INTERRUPTED = 130


def mark_class(args: argparse.Namespace) -> int:
    """Mark; 0 when every submission has its record, 1 when one could not be graded through no fault of its own.

    Raises:
        ValueError: nothing to mark, no release to compare with, no sandbox, or options that do not go together.
    """
    if args.submissions is None or args.out is None:
        raise ValueError("name what to mark and where to write: attncourse grade SUBMISSIONS --out DIR")
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    # what could stop the run is asked before the first submission is marked
    assignment = read_assignment(args.assignment) if args.assignment else None
    check_roster(args.roster)
    settings = Settings(
        release=released(args.exercises, args.checks, assignment),
        checks=args.checks,
        private=private_folders(args),
        unconfined=args.unconfined,
    )
    with open_submissions(args.submissions) as handed:
        if not handed:
            raise ValueError(f"{args.submissions} holds no notebook (*.ipynb)")
        check_accepted(args.accept, [item.file for item in handed])
        if not args.scheduler:
            settings.sandbox()
        args.out.mkdir(parents=True, exist_ok=True)
        where = cluster(args.scheduler) if args.scheduler else local_processes(args.workers)
        try:
            with where as pool:
                grade_all(handed, args.out, settings, pool, again=args.again)
        except KeyboardInterrupt:
            print("interrupted: what is marked is kept, and the same command goes on from here", file=sys.stderr)
        accept(args.accept, args.out)
        records = records_of(handed, args.out)
        return publish([weighed(r, assignment) if assignment else r for r in records], len(handed), args)


def released(folder: Path, checks: str, assignment: Assignment | None) -> Release:
    """What was handed out, of units that the module of checks knows and the assignment, if there is one, holds."""
    try:
        importlib.import_module(checks)
    except ImportError as error:
        raise ValueError(
            f"--checks must name a module that registers checks; {checks!r} cannot be imported: {error}"
        ) from error
    release = Release.read(folder, {check.unit for check in CHECKS.values()})
    return release if assignment is None else release.only(assignment.units)


def private_folders(args: argparse.Namespace) -> tuple[Path, ...]:
    """What learners' code may not see even where it lies in the interpreter's or the system's folders."""
    folders = (args.submissions, args.out, args.exercises, args.exercises.parent / "solutions", *checkout())
    return tuple(folder.absolute() for folder in folders)


def publish(records: list[Record], handed: int, args: argparse.Namespace) -> int:
    """Write what is made from the records, and say what is where; the exit code."""
    notes = write_tables(records, args)
    write_feedback(args.out, records, book_url=args.book_url)
    report = write_class_report(args.out, records)
    if args.gradebook:
        notes += write_gradebook(args.gradebook, records, exercises=args.exercises)
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
    states = Counter(record["state"] for record in records)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"{len(records)} submissions: {counts}")
    print(f"{args.out / 'grades.csv'}, {args.out / 'feedback'}/, {report}")
    if len(records) < handed:
        return INTERRUPTED
    return int(NOT_GRADED in states)


def write_tables(records: list[Record], args: argparse.Namespace) -> list[str]:
    """grades.csv, canvas.csv, and moodle.csv or, of several units, one moodle-UNIT.csv each; notes on what is missing.

    A roster goes into the table of the platform that it comes from.
    """
    write_table(args.out / "grades.csv", records)
    moodles = args.roster is not None and is_moodle(args.roster)
    canvas, moodle = (None, args.roster) if moodles else (args.roster, None)
    notes = {"canvas": write_canvas(args.out / "canvas.csv", records, roster=canvas), "moodle": []}
    units = sorted({record["unit"] for record in records if record["unit"]})
    for unit in units:
        name = "moodle.csv" if len(units) == 1 else f"moodle-{unit}.csv"
        notes["moodle"] += write_moodle(args.out / name, records, unit=unit, roster=moodle)
    # without its roster a platform's table says of everybody that a number is not known
    return notes["moodle"] if moodles else notes["canvas"]


def check_roster(roster: Path | None) -> None:
    """Refuse a roster that neither Canvas nor Moodle exported, before anything is marked."""
    if roster is not None and not is_moodle(roster):
        Table.read(roster, "ID", "Section")


def is_moodle(roster: Path) -> bool:
    """Whether a roster is Moodle's worksheet; what is not is taken for Canvas' gradebook."""
    return Table.read(roster).column("Identifier") is not None
