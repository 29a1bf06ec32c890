"""One run of `attncourse grade`: what is asked before it, the marking, and all that is written after it."""

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from attncourse.check import CHECKS
from attncourse.course.assignment import Assignment, read_assignment
from attncourse.course.checkout import checkout

from .accept import accept, check_accepted
from .canvas import canvas_roster, write_canvas
from .classroom import grade_all, records_of, reserved, set_aside, whose
from .feedback import write_feedback
from .gradebook import check_gradebook, write_gradebook
from .identity import Identity
from .intake import Handed, open_submissions
from .moodle import moodle_roster, write_moodle
from .pool import cluster, local_processes
from .reading import Record
from .records import NOT_GRADED, weighed, write_table
from .report import Aside, write_class_report
from .roster import Roster, Table
from .submission import Release
from .task import Settings

UNGRADED, FAILED, INTERRUPTED = 1, 3, 130


def mark_class(args: argparse.Namespace) -> int:
    """Mark; 0 when every submission has its record, 1 when one could not be graded through no fault of its own.

    3 when what was marked could not all be written, as on a full disk: the same command goes on from there.

    Raises:
        ValueError: nothing to mark, no release to compare with, no sandbox, no place to write to, or options that do
            not go together.
    """
    if args.submissions is None or args.out is None:
        raise ValueError("name what to mark and where to write: attncourse grade SUBMISSIONS --out DIR")
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    # what could stop the run is asked before the first submission is marked
    assignment = read_assignment(args.assignment) if args.assignment else None
    roster = read_roster(args.roster)
    if args.gradebook:
        check_gradebook(args.gradebook)
    settings = Settings(
        release=released(args.exercises, args.checks, assignment),
        checks=args.checks,
        private=private_folders(args),
        unconfined=args.unconfined,
    )
    with open_submissions(args.submissions, out=args.out) as handed:
        if not any(item.meant for item in handed):
            raise ValueError(f"{args.submissions} holds no notebook (*.ipynb)")
        if not args.scheduler:
            settings.sandbox()
        units = settings.release.checks
        identities, notes = whose(handed, units, roster=roster, root=args.submissions.absolute().stem)
        handed, aside = set_aside(handed, identities)
        check_accepted(args.accept, [item.file for item in handed])
        with reserved(args.out):
            try:
                _mark(handed, identities, settings, args)
                accept(args.accept, args.out)
                records = records_of(handed, args.out)
                records = [weighed(r, assignment) if assignment else r for r in records]
                beside = [Aside(identities[item.file].name, item.file, reason) for item, reason in aside]
                return publish(records, len(handed), args, notes=notes, aside=beside)
            except OSError as error:
                where = "" if error.filename is None else f"{error.filename}: "
                kept = "what is marked is kept, and the same command goes on from here"
                print(f"{where}{error.strerror or error}; {kept}", file=sys.stderr)
                return FAILED


def _mark(handed: list[Handed], identities: dict[str, Identity], settings: Settings, args: argparse.Namespace) -> None:
    where = cluster(args.scheduler) if args.scheduler else local_processes(args.workers)
    try:
        with where as pool:
            grade_all(handed, identities, args.out, settings, pool, again=args.again)
    except KeyboardInterrupt:
        print("interrupted: what is marked is kept, and the same command goes on from here", file=sys.stderr)


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
    folders = (args.submissions, args.out, args.exercises, args.exercises.parent / "solutions", checkout())
    return tuple(folder.absolute() for folder in folders if folder is not None)


def publish(
    records: list[Record],
    handed: int,
    args: argparse.Namespace,
    *,
    notes: Iterable[str] = (),
    aside: Sequence[Aside] = (),
) -> int:
    """Write what is made from the records, and say what is where; the exit code."""
    notes = [*notes, *write_tables(records, args)]
    write_feedback(args.out, records, book_url=args.book_url)
    report = write_class_report(args.out, records, aside=aside)
    if args.gradebook:
        notes += write_gradebook(args.gradebook, records, exercises=args.exercises)
    if aside:
        notes.append(f"{len(aside)} files that lie beside notebooks are not marked; {report} names them")
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
    states = Counter(record["state"] for record in records)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"{len(records)} submissions: {counts}")
    print(f"{args.out / 'grades.csv'}, {args.out / 'feedback'}/, {report}")
    if len(records) < handed:
        return INTERRUPTED
    return UNGRADED if NOT_GRADED in states else 0


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


def read_roster(roster: Path | None) -> Roster | None:
    """The class by its export, before anything is marked.

    Raises:
        ValueError: neither Canvas nor Moodle exported it.
    """
    if roster is None:
        return None
    return moodle_roster(roster) if is_moodle(roster) else canvas_roster(roster)


def is_moodle(roster: Path) -> bool:
    """Whether a roster is Moodle's worksheet; what is not is taken for Canvas' gradebook."""
    return Table.read(roster).column("Identifier") is not None
