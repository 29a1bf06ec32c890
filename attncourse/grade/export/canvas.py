"""Marks as Canvas imports them (format: lib/gradebook_importer.rb and gradebook_exporter.rb of instructure/canvas-lms)."""

import re
from collections.abc import Iterable
from pathlib import Path

from ..files import inert
from ..marks import Learner, Record, counting, has_mark, in_order, points_possible, title_of
from ..read.canvas import NEEDED, is_points, row_keys
from ..read.roster import Key, login_keys, name_keys
from ..read.table import Table, folded
from .rows import by_row, find_rows, other_maximum, said, unclear, unmarked

COLUMNS = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
POINTS_POSSIBLE = "    Points Possible"  # with these blanks, as Canvas writes it
LEFT_ALONE = ("EX", "N/A")  # excused; not assigned to this student


def write_canvas(
    path: Path, records: Iterable[Record], *, roster: Path | None = None, columns: dict[str, str] | None = None
) -> list[str]:
    """Write a gradebook for Canvas to import, and return notes on all that is not entered.

    Of several submissions of one learner for one unit the best counts. Who has no mark gets none: the cell is empty, or
    as the roster has it, never 0. Of a roster, the students' own columns and those of the units are written; Canvas
    would set other assignments back to what they were at the export.

    Args:
        roster: the gradebook as Canvas exports it. Students are found by Canvas's id, or, where a submission came
            without one, by login, SIS id or name. Unless given, there is a row a learner.
        columns: {unit: title of its assignment in Canvas}; unless given, the assignment is titled as the unit.

    Raises:
        ValueError: the roster is no such export, or has not one column of an assignment in `columns`.
    """
    marks = counting(records)
    learners = {learner: _keys(learner) for learner, _ in marks}
    table = Table.read(roster, *NEEDED) if roster else _own_roster(learners)
    rows = [row for row in table.rows if not is_points(row)]
    found, notes = find_rows(learners, [row_keys(table, row) for row in rows])
    if not roster:
        found, notes = dict(zip(learners, range(len(rows)), strict=True)), unclear(learners)
    places = list(range(table.column("Section") + 1))
    for unit in in_order({unit for _, unit in marks if unit}):
        place = _assignment(table, unit, (columns or {}).get(unit))
        places.append(place)
        notes += _enter_possible(table, unit, place, points_possible(unit, marks.values()))
        for number, record in by_row(marks, found, unit).items():
            cell = rows[number][place].strip()
            if cell in LEFT_ALONE:
                notes.append(f"{said(Learner.of(record))}: Canvas has {cell} there, which is left")
            elif has_mark(record):
                rows[number][place] = str(record["points"])
    table.write(path, places)
    return notes + unmarked(marks.values())


def _keys(learner: Learner) -> set[Key]:
    ids = {("id", learner.canvas_id)} if learner.canvas_id else set()
    return ids | login_keys(learner.learner) | name_keys(learner.name) | name_keys(learner.learner)


def _own_roster(learners: Iterable[Learner]) -> Table:
    rows = [[POINTS_POSSIBLE, "", "", "", ""]]
    for learner in learners:
        login = "" if learner.canvas_id else learner.learner
        name = learner.shown.replace("Points Possible", "points possible")
        rows.append([inert(name), inert(learner.canvas_id), "", inert(login), ""])
    return Table(list(COLUMNS), rows)


def _assignment(table: Table, unit: str, title: str | None) -> int:
    """Return where a unit's assignment is, titled as in Canvas or with its number behind it;
    a new column where there is none.
    """
    wanted = {folded(title)} if title else {folded(unit), folded(title_of(unit))}
    titles = [re.sub(r" \(\d+\)$", "", head) for head in table.header]
    fits = [i for i, head in enumerate(titles) if folded(head) in wanted]
    if len(fits) > 1 or (title and not fits):
        there = ", ".join(repr(head) for head in table.header[table.column("Section") + 1 :])
        raise ValueError(f"one assignment must be titled {title or title_of(unit)!r} for {unit}, there are {there}")
    return fits[0] if fits else table.append(title_of(unit))


def _enter_possible(table: Table, unit: str, place: int, possible: float) -> list[str]:
    """Say what a new assignment is worth, or note where an old one is worth something else."""
    for row in table.rows:
        if is_points(row):
            row[place] = row[place].strip() or str(possible)
            return other_maximum("Canvas", unit, row[place], possible)
    return []
