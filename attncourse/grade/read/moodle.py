"""The class as Moodle exports its grading worksheet (mod/assign/feedback/offline of moodle/moodle)."""

import re
from pathlib import Path

from .roster import Key, Roster, login_keys, name_keys
from .table import Table

NEEDED = ("Identifier", "Grade", "Last modified (grade)")  # to import marks again


def is_moodle(roster: Path) -> bool:
    """Return whether a roster is Moodle's worksheet; what is not is taken for Canvas' gradebook."""
    return Table.read(roster).column("Identifier") is not None


def moodle_roster(path: Path) -> Roster:
    """Return the class by Moodle's worksheet.

    Raises:
        ValueError: it is none.
    """
    table = Table.read(path, *NEEDED)
    return Roster("Moodle", [row_keys(table, row) for row in table.rows])


def row_keys(table: Table, row: list[str]) -> set[Key]:
    """Return by what a participant's row is known."""
    number = participant_number(table.cell(row, "Identifier"))
    logins = login_keys(*(table.cell(row, name) for name in ("Email address", "ID number", "Username")))
    return {("id", number)} | logins | name_keys(table.cell(row, "Full name"))


def participant_number(identifier: str) -> str:
    """Return the number in "Participant 12", however a language says participant."""
    return re.sub(r"\D", "", identifier)
