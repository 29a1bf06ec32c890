"""What was handed in: which unit it answers, the cells to run, whether its check cells are the released ones."""

import ast
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LARGEST_FILE = 20 << 20


class Unreadable(Exception):
    """The file is no notebook."""


@dataclass(frozen=True)
class Cell:
    """One code cell: its grade_id where it has one, whether it grades, its source as plain Python."""

    grade_id: str
    grades: bool
    skipped: bool
    source: str


@dataclass(frozen=True)
class Submission:
    """One notebook: `learner` and `file` come from where it lay, never from what it says of itself."""

    file: str
    learner: str
    content: str
    unit: str = ""
    cells: list[Cell] = field(default_factory=list)
    unreadable: str = ""


@dataclass(frozen=True)
class Release:
    """What was handed out: of each unit, the source of each check cell by grade_id."""

    checks: dict[str, dict[str, str]]

    @classmethod
    def read(cls, folder: Path, units: set[str]) -> "Release":
        """Every released notebook of a folder; `units` are those that have checks.

        Raises:
            ValueError: there is none, or one of another unit.
        """
        checks = {}
        for path in sorted(folder.glob("*/*.ipynb")):
            unit, cells = read_cells(path.read_bytes())
            if unit not in units:
                raise ValueError(
                    f"{path} is of the unit {unit!r}, which has no checks; there are {', '.join(sorted(units))}"
                )
            checks[unit] = {cell.grade_id: cell.source for cell in cells if cell.grades}
        if not checks:
            raise ValueError(f"{folder} holds no released exercises; run `make exercises`, or say --exercises FOLDER")
        return cls(checks)

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


def find_notebooks(folder: Path) -> list[Path]:
    """Every notebook below a folder, without following links."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in files if name.endswith(".ipynb") and not name.startswith(".")]
    return sorted(found)


def read_submission(path: Path, folder: Path, release: Release) -> Submission:
    """One notebook of a folder; where it cannot be read, the submission says why."""
    # names that are no text, which Python holds as lone surrogates, would fit into no record
    file = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
    names = {"file": file, "learner": file.removesuffix(".ipynb")}
    try:
        data = read_bytes(path)
    except Unreadable as error:
        return Submission(**names, content="", unreadable=str(error))
    content = hashlib.sha256(data).hexdigest()
    try:
        said, cells = read_cells(data)
    except Unreadable as error:
        return Submission(**names, content=content, unreadable=str(error))
    return Submission(**names, content=content, unit=release.unit_of(said, cells), cells=cells)


def read_bytes(path: Path) -> bytes:
    """The file's bytes, without following a link: one could lead to the solutions."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror
        raise Unreadable(f"the file cannot be read: {reason}") from error
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"the file is larger than {LARGEST_FILE >> 20} MiB")
    return data


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
    from IPython.core.inputtransformer2 import TransformerManager

    for number, cell in enumerate(submission.cells, start=1):
        if cell.skipped or not cell.source.strip():
            continue
        try:
            python = TransformerManager().transform_cell(cell.source)
            ast.parse(python)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # the worker meets the error again, in the words that the learner's own notebook uses
            python = cell.source
        yield number, cell, python
