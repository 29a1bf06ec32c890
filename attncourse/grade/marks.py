"""What pages and tables agree on when they read records: who handed in, which record counts, what is a mark."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attncourse.check import CHECKS, UNITS

Record = dict[str, Any]

FAILED_IN_PART = ("crashed", "timed out", "out of memory")
LONGEST_SLUG = 60  # characters; four bytes each still fit into a file's name


@dataclass(frozen=True, eq=False)
class Learner:
    """A learner is who handed in: who the learning platform says it was,
    and where it says nothing, the submission's name.
    """

    learner: str
    canvas_id: str = ""
    moodle_id: str = ""
    name: str = ""
    note: str = ""  # why it could not be told who it is

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what is equal for two submissions of one learner."""
        return (self.canvas_id, "" if self.canvas_id else self.moodle_id, "" if self.known else self.learner)

    @property
    def known(self) -> bool:
        return bool(self.canvas_id or self.moodle_id)

    def __eq__(self, other) -> bool:
        return isinstance(other, Learner) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @classmethod
    def of(cls, record: Record) -> "Learner":
        """Return whose record it is."""
        identity = record["identity"]
        numbers = (identity["canvas_id"], identity["moodle_id"])
        return cls(record["learner"], *numbers, identity["name"], identity.get("note", ""))

    @property
    def shown(self) -> str:
        return self.name or self.learner

    @property
    def slug(self) -> str:
        """Return a file's name without ending, safe in any folder, and for every other learner another one.

        A plain name stays as it is. Where letters had to go (capitals too: some file systems do not tell them apart), a
        digest follows; it and ids follow a dot, which stands in no plain name, so that nobody can take another's.
        """
        plain = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFKC", self.learner).casefold())[:LONGEST_SLUG]
        ids = {"canvas": self.canvas_id, "participant": self.moodle_id}
        if plain and plain == self.learner and all(re.fullmatch(r"\d{0,20}", number) for number in ids.values()):
            return ".".join([plain, *(f"{kind}-{number}" for kind, number in ids.items() if number)])
        key = "\0".join((self.learner, self.canvas_id, self.moodle_id))
        return f"{plain or 'learner'}.{hashlib.sha256(key.encode('utf-8', 'backslashreplace')).hexdigest()[:16]}"


def has_mark(record: Record) -> bool:
    """Return whether a record's points are a mark: it was marked, or failed in part and still earned some.

    What crashed, timed out or ran out of memory without a point is no zero, and what was tampered with has no points to
    trust: an instructor looks first.
    """
    return record["state"] == "marked" or (record["state"] in FAILED_IN_PART and record["points"] > 0)


def counting(records: Iterable[Record]) -> dict[tuple[Learner, str], Record]:
    """Return the record that counts for each (learner, unit): the best, one with a mark before one without."""
    best: dict[tuple[Learner, str], Record] = {}
    for record in records:
        key = Learner.of(record), record["unit"]
        best[key] = better(best.get(key), record)
    return best


def better(one: Record | None, other: Record) -> Record:
    """Return the record that counts of two of one learner and unit; the first where they are worth the same."""
    return other if one is None or _worth(other) > _worth(one) else one


def _worth(record: Record) -> tuple[bool, int]:
    return has_mark(record), record["points"]


def in_order(units: set[str]) -> list[str]:
    """Return units as the course has them, then those that it no longer has, then "", which stands for none."""
    return sorted(units, key=lambda u: (not u, u not in UNITS, list(UNITS).index(u) if u in UNITS else 0, u))


def title_of(unit: str) -> str:
    """Return a unit as learners know it."""
    return UNITS[unit].title if unit in UNITS else unit or "Unknown exercises"


def points_possible(unit: str, records: Iterable[Record]) -> float:
    """Return what a unit is worth: as the records have it, since an assignment may have its own points,
    else by its checks.
    """
    said = max((record["possible"] for record in records if record["unit"] == unit), default=0)
    return said or sum(check.points for check in CHECKS.values() if check.unit == unit)
