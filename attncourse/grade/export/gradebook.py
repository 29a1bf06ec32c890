"""Marks in nbgrader's own gradebook, written through its API, for its formgrader and its exporters."""

import errno
import os
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ..files import first_line, inert
from ..marks import Learner, Record, counting, has_mark, in_order
from .rows import unmarked

COURSE = "attncourse"  # as nbgrader_config.py has it


def check_gradebook(database: Path) -> None:
    """Refuse a gradebook that cannot be written, before anything is marked.

    Raises:
        ValueError: it is locked or no database, or there is no folder to make it in.
    """
    if not database.exists():
        if not database.absolute().parent.is_dir():
            raise ValueError(f"--gradebook must lie in a folder that exists, got {database}")
        return
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=1)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise ValueError(
            f"--gradebook must be a gradebook.db that can be written now, got {database}: {error}"
        ) from error


def write_gradebook(database: Path, records: Iterable[Record], *, exercises: Path) -> list[str]:
    """Enter records into nbgrader's gradebook, which is made where there is none,
    and return notes on those without a mark.

    Of several submissions of one learner for one unit the best counts. A check's points are the automatic score of its
    cell; where a submission holds no mark there is none, and nbgrader says that it needs manual grading (its exporters
    write 0.0 until then, as they do for who handed in nothing). Scores given by hand are kept. Students go by the names
    of their feedback pages, which are safe as the folders that nbgrader makes of them. Running it again changes
    nothing.

    Args:
        database: nbgrader's gradebook.db.
        exercises: the released exercises, exercises/<unit>/<unit>.ipynb: nbgrader keeps the cells of a notebook, and
            takes them from there where the gradebook does not know the unit.

    Raises:
        ValueError: a unit was never released, or its release lacks a cell that a record has points for.
        OSError: the database cannot be written, as while someone else writes.
    """
    from sqlalchemy.exc import DBAPIError

    try:
        return _write_gradebook(database, records, exercises)
    except DBAPIError as error:
        raise OSError(errno.EIO, f"the gradebook could not be written: {error.orig}", str(database)) from error


def open_gradebook(url: str):
    """Return nbgrader's gradebook of the course at this address, made where there is none."""
    from nbgrader.api import Gradebook

    before = os.environ.get("PATH", "")
    # To make one nbgrader calls alembic, which is installed beside it, by name.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        return Gradebook(url, COURSE)
    finally:
        os.environ["PATH"] = before


def _write_gradebook(database: Path, records: Iterable[Record], exercises: Path) -> list[str]:
    marks = counting(records)
    url = f"sqlite:///{Path(database).absolute()}"
    units = in_order({unit for _, unit in marks if unit})
    with open_gradebook(url) as gradebook:
        for unit in units:
            _enter_unit(gradebook, url, unit, exercises / unit / f"{unit}.ipynb")
        # nbgrader builds a submission from parts that are not in its session yet, of which SQLAlchemy warns when it flushes
        with gradebook.db.no_autoflush:
            for (learner, unit), record in marks.items():
                if unit:
                    _enter_record(gradebook, learner, record)
    return unmarked(marks.values())


def _enter_unit(gradebook, url: str, unit: str, release: Path) -> None:
    """Make the unit an assignment of one notebook, unless it is one; its cells are saved by nbgrader's own preprocessor."""
    import nbformat
    from nbgrader.api import MissingEntry
    from nbgrader.preprocessors import SaveCells

    try:
        gradebook.find_notebook(unit, unit)
    except MissingEntry:
        if not release.is_file():
            raise ValueError(f"there is no {release}, from which nbgrader would take the cells of {unit}") from None
        gradebook.update_or_create_assignment(unit)
        notebook = nbformat.read(release, as_version=4)
        SaveCells().preprocess(notebook, {"nbgrader": {"notebook": unit, "assignment": unit, "db_url": url}})
        gradebook.db.expire_all()


def _enter_record(gradebook, learner: Learner, record: Record) -> None:
    """Enter one learner's points for one unit."""
    unit, student = record["unit"], learner.slug
    scores = {f"{check['check'].replace('.', '-')}-check": check["points"] for check in record["checks"]}
    if not has_mark(record):
        scores = {}
    shown = inert(first_line(learner.name, 100).replace(",", " "))  # nbgrader's exporter does not quote
    gradebook.update_or_create_student(student, last_name=shown or None)
    gradebook.update_or_create_submission(unit, student)
    grades = {grade.name: grade for grade in gradebook.find_submission_notebook(unit, unit, student).grades}
    unknown = set(scores) - set(grades)
    if unknown:
        raise ValueError(f"the gradebook's {unit} has no cell {', '.join(sorted(unknown))}; release the exercises anew")
    for name, grade in grades.items():
        score = scores.get(name)
        changed = grade.auto_score != score
        grade.auto_score = score
        if grade.manual_score is None:
            grade.needs_manual_grade = score is None
        elif changed:
            grade.needs_manual_grade = True
    gradebook.db.commit()
