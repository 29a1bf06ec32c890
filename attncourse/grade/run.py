"""One run of `attncourse grade`: what is asked before it, the marking, and all that is written after it."""

import importlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attncourse._shared.validate import require
from attncourse.check import CHECKS
from attncourse.course.assignment import Assignment, read_assignment
from attncourse.course.checkout import checkout

from .accept import accept, check_accepted
from .classroom import grade_all, records_of, reserved, set_aside, whose
from .export.canvas import write_canvas
from .export.gradebook import check_gradebook, write_gradebook
from .export.grades import write_table
from .export.moodle import write_moodle
from .marks import Record
from .one_submission import Settings
from .pages.feedback import write_feedback
from .pages.report import Aside, write_class_report
from .pool import cluster, local_processes
from .read.canvas import canvas_roster
from .read.identity import Identity
from .read.intake import Handed, open_submissions
from .read.moodle import is_moodle, moodle_roster
from .read.roster import Roster
from .read.submission import Release
from .records import NOT_GRADED, weighed

UNGRADED, FAILED, INTERRUPTED = 1, 3, 130


@dataclass(frozen=True)
class Run:
    """A run is what is asked of one marking of a class.

    Args:
        submissions: a folder or a zip.
        out: where everything that is written goes.
        exercises: the released exercises.
        checks: module that registers the checks when it is imported.
        assignment: an assignment.json whose points count.
        workers: processes of this machine that mark.
        scheduler: address of a Dask cluster that marks instead.
        roster: Canvas' or Moodle's export, to fill the marks in.
        gradebook: nbgrader's, to write the marks into.
        book_url: where learners read the built book.
        accept: files of changed check cells whose points are to count.
        again: mark unchanged submissions again.
        unconfined: without a sandbox.

    Raises:
        ValueError: there is no process to mark.
    """

    submissions: Path
    out: Path
    exercises: Path
    checks: str = "attncourse.check"
    assignment: Path | None = None
    workers: int = 1
    scheduler: str | None = None
    roster: Path | None = None
    gradebook: Path | None = None
    book_url: str | None = None
    accept: tuple[str, ...] = ()
    again: bool = False
    unconfined: bool = False

    def __post_init__(self):
        require(self.workers >= 1, f"--workers must be at least 1, got {self.workers}")


def mark_class(run: Run) -> int:
    """Mark a class; return 0 when every submission has its record,
    1 when one could not be graded through no fault of its own.

    3 when what was marked could not all be written, as on a full disk: the same command goes on from there.

    Raises:
        ValueError: nothing to mark, no release to compare with, no sandbox, no place to write to, or options that do
            not go together.
    """
    # what could stop the run is asked before the first submission is marked
    assignment = read_assignment(run.assignment) if run.assignment else None
    roster = read_roster(run.roster)
    if run.gradebook:
        check_gradebook(run.gradebook)
    settings = Settings(
        release=released(run.exercises, run.checks, assignment),
        checks=run.checks,
        private=private_folders(run),
        unconfined=run.unconfined,
    )
    with open_submissions(run.submissions, out=run.out) as handed:
        if not any(item.meant for item in handed):
            raise ValueError(f"{run.submissions} holds no notebook (*.ipynb)")
        if not run.scheduler:
            settings.sandbox()
        units = settings.release.checks
        identities, notes = whose(handed, units, roster=roster, root=run.submissions.absolute().stem)
        handed, aside = set_aside(handed, identities)
        check_accepted(run.accept, [item.file for item in handed])
        with reserved(run.out):
            try:
                _mark(handed, identities, settings, run)
                accept(run.accept, run.out)
                records = records_of(handed, run.out)
                records = [weighed(r, assignment) if assignment else r for r in records]
                beside = [Aside(identities[item.file].name, item.file, reason) for item, reason in aside]
                return publish(records, len(handed), run, notes=notes, aside=beside)
            except OSError as error:
                where = "" if error.filename is None else f"{error.filename}: "
                kept = "what is marked is kept, and the same command goes on from here"
                print(f"{where}{error.strerror or error}; {kept}", file=sys.stderr)
                return FAILED


def _mark(handed: list[Handed], identities: dict[str, Identity], settings: Settings, run: Run) -> None:
    where = cluster(run.scheduler) if run.scheduler else local_processes(run.workers)
    try:
        with where as pool:
            grade_all(handed, identities, run.out, settings, pool, again=run.again)
    except KeyboardInterrupt:
        print("interrupted: what is marked is kept, and the same command goes on from here", file=sys.stderr)


def released(folder: Path, checks: str, assignment: Assignment | None) -> Release:
    """Return what was handed out, of units that the module of checks knows and the assignment, if there is one, holds."""
    try:
        importlib.import_module(checks)
    except ImportError as error:
        raise ValueError(
            f"--checks must name a module that registers checks; {checks!r} cannot be imported: {error}"
        ) from error
    release = Release.read(folder, {check.unit for check in CHECKS.values()})
    return release if assignment is None else release.only(assignment.units)


def private_folders(run: Run) -> tuple[Path, ...]:
    """Return what learners' code may not see even where it lies in the interpreter's or the system's folders."""
    folders = (run.submissions, run.out, run.exercises, run.exercises.parent / "solutions", checkout())
    return tuple(folder.absolute() for folder in folders if folder is not None)


def publish(
    records: list[Record],
    handed: int,
    run: Run,
    *,
    notes: Iterable[str] = (),
    aside: Sequence[Aside] = (),
) -> int:
    """Write what is made from the records, say what is where, and return the exit code."""
    notes = [*notes, *write_tables(records, run)]
    write_feedback(run.out, records, book_url=run.book_url)
    report = write_class_report(run.out, records, aside=aside)
    if run.gradebook:
        notes += write_gradebook(run.gradebook, records, exercises=run.exercises)
    if aside:
        notes.append(f"{len(aside)} files that lie beside notebooks are not marked; {report} names them")
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
    states = Counter(record["state"] for record in records)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"{len(records)} submissions: {counts}")
    print(f"{run.out / 'grades.csv'}, {run.out / 'feedback'}/, {report}")
    if len(records) < handed:
        return INTERRUPTED
    return UNGRADED if NOT_GRADED in states else 0


def write_tables(records: list[Record], run: Run) -> list[str]:
    """Write grades.csv, canvas.csv, and moodle.csv or, of several units, one moodle-UNIT.csv each;
    return notes on what is missing.

    A roster goes into the table of the platform that it comes from.
    """
    write_table(run.out / "grades.csv", records)
    moodles = run.roster is not None and is_moodle(run.roster)
    canvas, moodle = (None, run.roster) if moodles else (run.roster, None)
    notes = {"canvas": write_canvas(run.out / "canvas.csv", records, roster=canvas), "moodle": []}
    units = sorted({record["unit"] for record in records if record["unit"]})
    for unit in units:
        name = "moodle.csv" if len(units) == 1 else f"moodle-{unit}.csv"
        notes["moodle"] += write_moodle(run.out / name, records, unit=unit, roster=moodle)
    # without its roster a platform's table says of everybody that a number is not known
    return notes["moodle"] if moodles else notes["canvas"]


def read_roster(roster: Path | None) -> Roster | None:
    """Return the class by its export, before anything is marked.

    Raises:
        ValueError: neither Canvas nor Moodle exported it.
    """
    if roster is None:
        return None
    return moodle_roster(roster) if is_moodle(roster) else canvas_roster(roster)
