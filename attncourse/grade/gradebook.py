"""Marks in nbgrader's own gradebook, written through its API, for its formgrader and its exporters."""

from collections.abc import Iterable
from pathlib import Path

from .reading import Learner, Record, counting, first_line, has_mark, in_order, inert
from .roster import unmarked

COURSE = "attncourse"  # as nbgrader_config.py has it


def write_gradebook(database: Path, records: Iterable[Record], *, exercises: Path) -> list[str]:
    """Enter records into nbgrader's gradebook, which is made where there is none; notes on those without a mark.

    Of several submissions of one learner for one unit the best counts. A check's points are the automatic score of its
    cell; where a submission holds no mark there is none, and nbgrader says that it needs manual grading (its exporters
    write 0.0 until then, as they do for who handed in nothing). Scores given by hand are kept. Students go by the names
    of their feedback pages, which are safe as the folders that nbgrader makes of them. Running it again changes nothing.

    Args:
        database: nbgrader's gradebook.db.
        exercises: the released exercises, exercises/<unit>/<unit>.ipynb: nbgrader keeps the cells of a notebook, and
            takes them from there where the gradebook does not know the unit.

    Raises:
        ValueError: a unit was never released, or its release lacks a cell that a record has points for.
    """
    from nbgrader.api import Gradebook

    marks = counting(records)
    url = f"sqlite:///{Path(database).absolute()}"
    units = in_order({unit for _, unit in marks if unit})
    with Gradebook(url, COURSE) as gradebook:
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
    """One learner's points for one unit."""
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
