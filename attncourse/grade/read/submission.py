"""What a notebook answers: which unit, the cells to run, whether its check cells are the released ones."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from attncourse.course.checkout import no_checkout

from ..imports import PACKAGE, imported_names
from ..wall.shortcuts import statements_of
from .intake import Unreadable


@dataclass(frozen=True)
class Cell:
    """A cell is one code cell: its grade_id where it has one, whether it grades, its source as it was written."""

    grade_id: str
    grades: bool
    source: str


@dataclass(frozen=True)
class Submission:
    """A submission is one notebook: the unit that it answers ("" if none) and its code cells; or why it cannot be read."""

    unit: str = ""
    cells: list[Cell] = field(default_factory=list)
    unreadable: str = ""


@dataclass(frozen=True)
class Release:
    """A release is what was handed out: of each unit, the source of each check cell by grade_id,
    and what it imports of the course.
    """

    checks: dict[str, dict[str, str]]
    imports: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path, units: set[str]) -> "Release":
        """Return every released notebook of a folder; `units` are those that have checks.

        Raises:
            ValueError: there is none, or one of another unit, or one cannot be read.
        """
        checks, imports = {}, {}
        for path in sorted(folder.glob("*/*.ipynb")):
            try:
                unit, cells = read_cells(path.read_bytes())
            except Unreadable as error:
                raise ValueError(f"{path}: {error}") from error
            if unit not in units:
                raise ValueError(
                    f"{path} is of the unit {unit!r}, which has no checks; there are {', '.join(sorted(units))}"
                )
            checks[unit] = {cell.grade_id: cell.source for cell in cells if cell.grades}
            imports[unit] = _imports(cells)
        if not checks:
            raise no_checkout("the released exercises", folder, option="--exercises")
        return cls(checks, imports)

    def only(self, units: tuple[str, ...]) -> "Release":
        """Return what was handed out of these units.

        Raises:
            ValueError: one of them is not there.
        """
        missing = [unit for unit in units if unit not in self.checks]
        if missing:
            raise ValueError(f"no exercises are released of {', '.join(missing)}; there are {', '.join(self.checks)}")
        return Release({unit: self.checks[unit] for unit in units}, {unit: self.imports[unit] for unit in units})

    def unit_of(self, said: str, cells: list[Cell]) -> str:
        """Return the unit that a notebook names, else the one whose cells it holds, else none."""
        if said in self.checks:
            return said
        ids = {cell.grade_id for cell in cells}
        held = [unit for unit, checks in self.checks.items() if ids & set(checks)]
        return held[0] if len(held) == 1 else ""

    def differences(self, submission: Submission) -> list[str]:
        """Return what was done to the check cells: each one edited, deleted or duplicated, by name."""
        found = []
        for grade_id, source in self.checks[submission.unit].items():
            copies = [cell.source for cell in submission.cells if cell.grade_id == grade_id]
            if not copies and grade_id not in self.unlabelled(submission):
                found.append(f"the check cell {grade_id} was deleted")
            elif len(copies) > 1:
                found.append(f"the check cell {grade_id} was duplicated")
            elif copies and copies[0].strip() != source.strip():
                found.append(f"the check cell {grade_id} was edited")
        return found

    def unlabelled(self, submission: Submission) -> list[str]:
        """Return the check cells that stand there word for word, without the metadata that names them:
        some editors drop it.
        """
        named = {cell.grade_id for cell in submission.cells}
        texts = {cell.source.strip() for cell in submission.cells if not cell.grade_id}
        checks = self.checks[submission.unit].items()
        return [grade_id for grade_id, source in checks if grade_id not in named and source.strip() in texts]


def _imports(cells: list[Cell]) -> tuple[str, ...]:
    """Return modules of the course that a released notebook imports."""
    statements = (statement for cell in cells for statement in statements_of(cell.source))
    return tuple(sorted(n for n in imported_names(statements) if n.partition(".")[0] == PACKAGE.name))


def read_submission(data: bytes, release: Release) -> Submission:
    """Read one notebook; where it cannot be read, the submission says why."""
    try:
        said, cells = read_cells(data)
    except Unreadable as error:
        return Submission(unreadable=str(error))
    return Submission(release.unit_of(said, cells), cells)


def read_cells(data: bytes) -> tuple[str, list[Cell]]:
    """Return the unit that a notebook's metadata names ("" if none), and its code cells.

    Raises:
        Unreadable: the bytes are no notebook.
    """
    import nbformat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(data.decode(), as_version=4)
        said = notebook.metadata.get("attncourse", {}).get("unit", "")
        return str(said), [_cell(cell) for cell in notebook.cells if cell.cell_type == "code"]
    except Exception as error:
        # whatever a stranger's file makes of the reader, the run goes on with the next one
        raise Unreadable(f"no notebook: {type(error).__name__}: {str(error)[:200]}") from error


def _cell(cell) -> Cell:
    marks = cell.metadata.get("nbgrader", {})
    grades = bool(marks.get("grade")) and not marks.get("solution")
    source = cell.source if isinstance(cell.source, str) else "".join(cell.source)
    return Cell(str(marks.get("grade_id", "")), grades, source)


def cells_to_run(submission: Submission) -> list[tuple[int, Cell]]:
    """Return its cells in order, numbered from 1: all of them, since a learner may have added to one that was given.

    A check cell finds a check that says nothing.
    """
    return [(number, cell) for number, cell in enumerate(submission.cells, start=1) if cell.source.strip()]
