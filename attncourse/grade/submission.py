"""What a notebook answers: which unit, the cells to run, whether its check cells are the released ones."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .closure import imported_names, rooms, rooms_behind
from .intake import Unreadable


@dataclass(frozen=True)
class Cell:
    """One code cell: its grade_id where it has one, whether it grades, its source as plain Python."""

    grade_id: str
    grades: bool
    skipped: bool
    source: str


@dataclass(frozen=True)
class Submission:
    """One notebook: the unit that it answers ("" if none) and its code cells; or why it cannot be read."""

    unit: str = ""
    cells: list[Cell] = field(default_factory=list)
    unreadable: str = ""


@dataclass(frozen=True)
class Release:
    """What was handed out: of each unit, the source of each check cell by grade_id, and the rooms it does without."""

    checks: dict[str, dict[str, str]]
    withheld: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path, units: set[str]) -> "Release":
        """Every released notebook of a folder; `units` are those that have checks.

        Raises:
            ValueError: there is none, or one of another unit, or one cannot be read.
        """
        checks, withheld = {}, {}
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
            withheld[unit] = _withheld(cells)
        if not checks:
            raise ValueError(f"{folder} holds no released exercises; run `make exercises`, or say --exercises FOLDER")
        return cls(checks, withheld)

    def unit_of(self, said: str, cells: list[Cell]) -> str:
        """The unit that a notebook names, else the one whose cells it holds, else none."""
        if said in self.checks:
            return said
        ids = {cell.grade_id for cell in cells}
        held = [unit for unit, checks in self.checks.items() if ids & set(checks)]
        return held[0] if len(held) == 1 else ""

    def differences(self, submission: Submission) -> list[str]:
        """What was done to the check cells: each one edited, deleted or duplicated, by name."""
        found = []
        for grade_id, source in self.checks[submission.unit].items():
            copies = [cell.source for cell in submission.cells if cell.grade_id == grade_id]
            if not copies:
                found.append(f"the check cell {grade_id} was deleted")
            elif len(copies) > 1:
                found.append(f"the check cell {grade_id} was duplicated")
            elif copies[0].strip() != source.strip():
                found.append(f"the check cell {grade_id} was edited")
        return found


def _withheld(cells: list[Cell]) -> tuple[str, ...]:
    """Rooms that a released notebook does without: there stand the answers. Of the checks, no notebook needs the rooms."""
    used = set().union(*(imported_names(python_of(cell.source)) for cell in cells))
    return tuple(sorted(rooms() - rooms_behind(name for name in used if not name.startswith("attncourse.check"))))


def read_submission(data: bytes, release: Release) -> Submission:
    """One notebook; where it cannot be read, the submission says why."""
    try:
        said, cells = read_cells(data)
    except Unreadable as error:
        return Submission(unreadable=str(error))
    return Submission(release.unit_of(said, cells), cells)


def read_cells(data: bytes) -> tuple[str, list[Cell]]:
    """The unit that a notebook's metadata names ("" if none), and its code cells.

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
    skipped = grades or bool(marks.get("locked")) or "bootstrap" in cell.metadata.get("tags", [])
    source = cell.source if isinstance(cell.source, str) else "".join(cell.source)
    return Cell(str(marks.get("grade_id", "")), grades, skipped, source)


def cells_to_run(submission: Submission) -> Iterator[tuple[int, Cell, str]]:
    """The learner's own cells in order: (number, cell, Python that a plain interpreter takes)."""
    for number, cell in enumerate(submission.cells, start=1):
        if not cell.skipped and cell.source.strip():
            yield number, cell, python_of(cell.source)


def python_of(source: str) -> str:
    """A cell without IPython's magics; a cell that is no Python even so, as it is.

    Whoever runs that one meets the error in the words that the learner's own notebook uses.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        python = TransformerManager().transform_cell(source)
        ast.parse(python)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source
    return python
