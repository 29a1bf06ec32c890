"""The class as Canvas or Moodle exports it: by which names, logins and numbers each row is known."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from .table import folded

Key = tuple[str, str]  # ("id" | "login" | "name", how it is written)


def name_keys(name: str) -> set[Key]:
    """Return the ways to write a name that count as one:
    "Lovelace, Ada", "Ada Lovelace", and Canvas's files' "lovelaceada".
    """
    words = folded(name).split()
    return {("name", " ".join(sorted(words))), ("name", "".join(words))} if words else set()


def login_keys(*logins: str) -> set[Key]:
    """Return logins, e-mail addresses and numbers, which are compared whole."""
    whole = (unicodedata.normalize("NFC", login.strip()).casefold() for login in logins)
    return {("login", login) for login in whole if login}


@dataclass(frozen=True)
class Roster:
    """A roster is the class by the export of a platform: by which keys each row is known."""

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
        """Return the rows that have one of these keys."""
        return set().union(*(self._index[key] for key in keys if key[1] and key in self._index))

    def words(self, row: int) -> set[str]:
        """Return the words of a row's name."""
        return {word for kind, text in self.rows[row] if kind == "name" for word in text.split()}
