"""The class as Canvas exports its gradebook (lib/gradebook_exporter.rb of instructure/canvas-lms)."""

from pathlib import Path

from .roster import Key, Roster, login_keys, name_keys
from .table import Table

NEEDED = ("ID", "Section")


def canvas_roster(path: Path) -> Roster:
    """Return the class by Canvas's export.

    Raises:
        ValueError: it is none.
    """
    table = Table.read(path, *NEEDED)
    return Roster("Canvas", [row_keys(table, row) for row in table.rows if not is_points(row)])


def row_keys(table: Table, row: list[str]) -> set[Key]:
    """Return by what a student's row is known."""
    name = table.cell(row, "Student") or f"{table.cell(row, 'LastName')} {table.cell(row, 'FirstName')}"
    logins = login_keys(table.cell(row, "SIS Login ID"), table.cell(row, "SIS User ID"))
    return {("id", table.cell(row, "ID"))} | logins | name_keys(name)


def is_points(row: list[str]) -> bool:
    """Return whether Canvas takes a row for what assignments are worth, not for a student."""
    return "Points Possible" in row[0]
