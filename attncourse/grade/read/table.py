"""Exports of Canvas and Moodle as tables."""

import csv
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ..files import first_line, write_whole


@dataclass
class Table:
    """A table is a CSV file: its cells, and how it separates them."""

    header: list[str]
    rows: list[list[str]]
    delimiter: str = ","
    byte_order_mark: str = ""  # Excel wants one

    @classmethod
    def read(cls, path: Path, *columns: str) -> "Table":
        """Read an export that must have these columns.

        Raises:
            ValueError: it cannot be read, is not in UTF-8, or has no such column.
        """
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not in UTF-8; give it as it was exported, not as Excel saved it") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        text = text.removeprefix(mark)
        first = text.partition("\n")[0].strip()
        delimiter = ";" if first.count(";") > first.count(",") else ","
        try:
            cells = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
        except csv.Error as error:
            raise ValueError(f"{path} is no table of comma-separated values: {error}") from error
        header, *rows = cells or [[]]
        table = cls(header, [row + [""] * (len(header) - len(row)) for row in rows], delimiter, mark)
        missing = [name for name in columns if table.column(name) is None]
        if missing:
            raise ValueError(
                f"{path} has no column {' or '.join(map(repr, missing))}; give an export in English whose first line has "
                f"them, this one begins {first_line(first)!r}"
            )
        return table

    def column(self, name: str) -> int | None:
        """Return where the column of this name is, whatever its capitals and blanks; the first of several."""
        titles = [folded(title) for title in self.header]
        return titles.index(folded(name)) if folded(name) in titles else None

    def cell(self, row: list[str], name: str) -> str:
        """Return what a row has in a column; "" where there is no such column."""
        place = self.column(name)
        return "" if place is None else row[place].strip()

    def append(self, title: str) -> int:
        """Add a new empty column at the end, and return where it is."""
        self.header.append(title)
        for row in self.rows:
            row.append("")
        return len(self.header) - 1

    def write(self, path: Path, places: list[int] | None = None) -> None:
        """Write it as it was read, or only the columns at these places."""
        places = list(range(len(self.header))) if places is None else places
        text = io.StringIO()
        table = csv.writer(text, delimiter=self.delimiter, lineterminator="\r\n")
        table.writerows([row[place] for place in places] for row in (self.header, *self.rows))
        write_whole(path, self.byte_order_mark + text.getvalue())


def folded(name: str) -> str:
    """Return a name in which capitals, blanks and punctuation make no difference."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold()))
