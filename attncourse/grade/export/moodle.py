"""Marks as Moodle imports them (format: the offline grading worksheet, mod/assign/feedback/offline of moodle/moodle)."""

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from ..files import first_line, inert
from ..marks import Learner, Record, counting, has_mark, points_possible
from ..read.moodle import NEEDED, participant_number, row_keys
from ..read.roster import Key, login_keys, name_keys
from ..read.table import Table
from .rows import by_row, find_rows, other_maximum, said, unclear, unmarked

COLUMNS = [
    "Identifier", "Full name", "Email address", "Status", "Grade", "Maximum grade", "Grade can be changed",
    "Last modified (submission)", "Last modified (grade)", "Feedback comments",
]  # fmt: skip
NEVER = "-"  # Moodle's word for a time that has not been
OURS = re.compile(r"\d+ of \d+ points(<br>|$)|No mark yet: ")  # how a comment begins that was made here


def write_moodle(path: Path, records: Iterable[Record], *, unit: str, roster: Path | None = None) -> list[str]:
    """Write the grading worksheet of one unit, since one belongs to one assignment,
    and return notes on all that is not entered.

    Of several submissions of one learner the best counts. Who has no mark gets none: the cell is empty, or as the
    roster has it, never 0. The grade is filled in, and the comment unless someone else wrote it; the rest of a roster
    stays as it is.

    Args:
        roster: the worksheet as Moodle gives it for download, in English. Learners are found by the number of their
            "Participant N", or, where a submission came without one, by e-mail address, ID number or name. Unless
            given, there is a row a learner, and Moodle skips those whose number is not known.

    Raises:
        ValueError: the roster is no such worksheet.
    """
    every = counting(records)
    marks = {key: record for key, record in every.items() if key[1] == unit}
    learners = {learner: _keys(learner) for learner, _ in marks}
    possible = points_possible(unit, marks.values())
    table = Table.read(roster, *NEEDED) if roster else _own_roster(learners, possible)
    found, notes = find_rows(learners, [row_keys(table, row) for row in table.rows])
    if not roster:
        found = dict(zip(learners, range(len(table.rows)), strict=True))
        unknown = (learner for learner in learners if not learner.moodle_id)
        skipped = [f"{said(learner)}: no participant number, so that Moodle will skip the row" for learner in unknown]
        notes = unclear(learners) + skipped
    notes += _maximum(table, unit, possible)
    comments = table.column("Feedback comments")
    for number, record in by_row(marks, found, unit).items():
        row = table.rows[number]
        if table.cell(row, "Grade can be changed") == "No":
            notes.append(f"{said(Learner.of(record))}: Moodle lets nobody change that grade")
            continue
        if has_mark(record):
            row[table.column("Grade")] = str(record["points"])
        if comments is not None and (not row[comments].strip() or OURS.match(row[comments])):
            row[comments] = comment(record)
    table.write(path)
    return notes + unmarked(record for (_, of), record in every.items() if of in (unit, ""))


def comment(record: Record) -> str:
    """Return what was found, a line per check; Moodle takes a comment for HTML."""
    points = f"{record['points']} of {record['possible']} points"
    lines = [points if has_mark(record) else f"No mark yet: {record['state']}"]
    for check in record["checks"]:
        if check["state"] != "passed":
            lines.append(f"{check['check']}: {check['state']}, {first_line(check['message'])}".removesuffix(", "))
    return inert("<br>".join(escape(line) for line in lines))


def _keys(learner: Learner) -> set[Key]:
    ids = {("id", participant_number(learner.moodle_id))} if learner.moodle_id else set()
    return ids | login_keys(learner.learner) | name_keys(learner.name) | name_keys(learner.learner)


def _own_roster(learners: Iterable[Learner], possible: float) -> Table:
    rows = []
    for learner in learners:
        identifier = f"Participant {participant_number(learner.moodle_id)}" if learner.moodle_id else ""
        maximum = f"{possible:.2f}"
        rows.append([identifier, inert(learner.shown), "", "", "", maximum, "Yes", NEVER, NEVER, ""])
    return Table(list(COLUMNS), rows)


def _maximum(table: Table, unit: str, possible: float) -> list[str]:
    """Return a note where Moodle counts another number of points; it skips a grade that is above its own maximum."""
    said = table.cell(table.rows[0], "Maximum grade") if table.rows else ""
    return other_maximum("Moodle", unit, said, possible)
