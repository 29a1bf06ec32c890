"""Exports of Canvas and Moodle as tables, and which of their rows is whose."""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .reading import Learner, Record, better, first_line, has_mark, title_of, write_whole

Marks = dict[tuple[Learner, str], Record]
Key = tuple[str, str]  # ("id" | "login" | "name", how it is written)


@dataclass
class Table:
    """A CSV file: its cells, and how it separates them."""

    header: list[str]
    rows: list[list[str]]
    delimiter: str = ","
    byte_order_mark: str = ""  # Excel wants one

    @classmethod
    def read(cls, path: Path, *columns: str) -> "Table":
        """An export that must have these columns.

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
        """Where the column of this name is, whatever its capitals and blanks; the first of several."""
        titles = [folded(title) for title in self.header]
        return titles.index(folded(name)) if folded(name) in titles else None

    def cell(self, row: list[str], name: str) -> str:
        """What a row has in a column; "" where there is no such column."""
        place = self.column(name)
        return "" if place is None else row[place].strip()

    def append(self, title: str) -> int:
        """A new empty column at the end; where it is."""
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
    """A name in which capitals, blanks and punctuation make no difference."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold()))


def name_keys(name: str) -> set[Key]:
    """The ways to write a name that count as one: "Lovelace, Ada", "Ada Lovelace", and Canvas's files' "lovelaceada"."""
    words = folded(name).split()
    return {("name", " ".join(sorted(words))), ("name", "".join(words))} if words else set()


def login_keys(*logins: str) -> set[Key]:
    """Logins, e-mail addresses and numbers are compared whole."""
    whole = (unicodedata.normalize("NFC", login.strip()).casefold() for login in logins)
    return {("login", login) for login in whole if login}


@dataclass(frozen=True)
class Roster:
    """The class by the export of a platform: by which keys each row is known."""

    platform: str
    rows: list[set[Key]]

    @cached_property
    def _index(self) -> dict[Key, set[int]]:
        index: dict[Key, set[int]] = defaultdict(set)
        for number, keys in enumerate(self.rows):
            for key in keys:
                index[key].add(number)
        return index

    def fits(self, keys: Iterable[Key]) -> set[int]:
        """The rows that have one of these keys."""
        return set().union(*(self._index[key] for key in keys if key[1] and key in self._index))

    def words(self, row: int) -> set[str]:
        """The words of a row's name."""
        return {word for kind, text in self.rows[row] if kind == "name" for word in text.split()}


def find_rows(learners: dict[Learner, set[Key]], rows: list[set[Key]]) -> tuple[dict[Learner, int], list[str]]:
    """Which row is whose, by keys that they share; notes on those for whom it cannot be told.

    An id decides: who came with one is not looked for by name. Without one, exactly one row must fit, and exactly one
    learner fit it: two people of one name get nothing rather than each other's marks.
    """
    roster, found, notes = Roster("", rows), {}, []
    claims: dict[int, list[Learner]] = defaultdict(list)
    for learner, keys in learners.items():
        ids = {key for key in keys if key[0] == "id"}
        fits = set() if learner.note else roster.fits(ids or keys)
        if len(fits) == 1:
            claims[fits.pop()].append(learner)
        else:
            why = "more than one row of the roster fits" if fits else "not in the roster"
            notes.append(f"{said(learner)}: {learner.note or why}")
    for number, several in claims.items():
        by_id = [learner for learner in several if any(kind == "id" for kind, _ in learners[learner])]
        sure = by_id or (several if len(several) == 1 else [])
        found |= dict.fromkeys(sure, number)
        unsure = (learner for learner in several if learner not in sure)
        notes += [f"{said(learner)}: another submission fits the same row of the roster" for learner in unsure]
    return found, notes


def unclear(learners: Iterable[Learner]) -> list[str]:
    """A note on each learner of whom a name did not tell who it is."""
    return [f"{said(learner)}: {learner.note}" for learner in learners if learner.note]


def said(learner: Learner) -> str:
    """A learner in a note."""
    return first_line(learner.shown if learner.shown == learner.learner else f"{learner.shown} ({learner.learner})", 80)


def by_row(marks: Marks, found: dict[Learner, int], unit: str) -> dict[int, Record]:
    """The record that counts in each row for one unit."""
    best: dict[int, Record] = {}
    for (learner, u), record in marks.items():
        if u == unit and learner in found:
            best[found[learner]] = better(best.get(found[learner]), record)
    return best


def unmarked(records: Iterable[Record]) -> list[str]:
    """A note on each record that counts and yet holds no mark."""
    return [f"{first_line(r['file'], 80)}: {r['state']}, so no mark is entered" for r in records if not has_mark(r)]


def other_maximum(platform: str, unit: str, maximum: str, possible: float) -> list[str]:
    """A note where a platform counts another number of points than the unit has; marks are entered as they are."""
    try:
        same = not maximum or float(maximum.replace(",", ".")) == possible
    except ValueError:
        same = False
    return (
        [] if same else [f"{title_of(unit)}: {platform} says {first_line(maximum, 20)} points, the unit has {possible}"]
    )
