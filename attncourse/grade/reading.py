"""What pages and tables agree on when they read records: who handed in, which record counts, what is a mark, safe text."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from attncourse.check import CHECKS, UNITS

Record = dict[str, Any]

FAILED_IN_PART = ("crashed", "timed out", "out of memory")
PARTING = "\t\n\v\f\r\x85\u2028\u2029"
LONGEST_SLUG = 60  # characters; four bytes each still fit into a file's name


@dataclass(frozen=True, eq=False)
class Learner:
    """Who handed in: who the learning platform says it was, and where it says nothing, the submission's name."""

    learner: str
    canvas_id: str = ""
    moodle_id: str = ""
    name: str = ""
    note: str = ""  # why it could not be told who it is

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for two submissions of one learner."""
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
        """Whose record it is."""
        identity = record["identity"]
        numbers = (identity["canvas_id"], identity["moodle_id"])
        return cls(record["learner"], *numbers, identity["name"], identity.get("note", ""))

    @property
    def shown(self) -> str:
        return self.name or self.learner

    @property
    def slug(self) -> str:
        """A file's name without ending, safe in any folder, and for every other learner another one.

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
    """Whether a record's points are a mark: it was marked, or failed in part and still earned some.

    What crashed, timed out or ran out of memory without a point is no zero, and what was tampered with has no points
    to trust: an instructor looks first.
    """
    return record["state"] == "marked" or (record["state"] in FAILED_IN_PART and record["points"] > 0)


def counting(records: Iterable[Record]) -> dict[tuple[Learner, str], Record]:
    """The record that counts for each (learner, unit): the best, one with a mark before one without."""
    best: dict[tuple[Learner, str], Record] = {}
    for record in records:
        key = Learner.of(record), record["unit"]
        best[key] = better(best.get(key), record)
    return best


def better(one: Record | None, other: Record) -> Record:
    """The record that counts of two of one learner and unit; the first where they are worth the same."""
    return other if one is None or _worth(other) > _worth(one) else one


def _worth(record: Record) -> tuple[bool, int]:
    return has_mark(record), record["points"]


def in_order(units: set[str]) -> list[str]:
    """Units as the course has them, then those that it no longer has, then "", which stands for none."""
    return sorted(units, key=lambda u: (not u, u not in UNITS, list(UNITS).index(u) if u in UNITS else 0, u))


def title_of(unit: str) -> str:
    """A unit as learners know it."""
    return UNITS[unit].title if unit in UNITS else unit or "Unknown exercises"


def points_possible(unit: str, records: Iterable[Record]) -> float:
    """What a unit is worth: as the records have it, since an assignment may have its own points, else by its checks."""
    said = max((record["possible"] for record in records if record["unit"] == unit), default=0)
    return said or sum(check.points for check in CHECKS.values() if check.unit == unit)


def read_records(out: Path) -> Iterator[Record]:
    """Every record of a folder that `grade` wrote, one at a time, in the order of their files.

    Raises:
        ValueError: there is no record in the folder, or a file among them that is none.
    """
    from .records import read_record

    paths = iter(sorted((out / "records").rglob("*.json")))
    first = next(paths, None)
    if first is None:
        raise ValueError(f"{out} holds no records; `python -m attncourse grade FOLDER --out {out}` writes them")
    for path in chain([first], paths):
        record = read_record(path)
        if record is None:
            raise ValueError(f"{path} is no record")
        yield record


def inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula, wherever it is pasted and at whatever it separates cells.

    Characters that steer (controls, and those that turn the direction of writing) are left out, or blanks where they
    part words.
    """
    text = "".join(" " if c in PARTING else c for c in text if c in PARTING or not _steers(c))
    return re.sub(r"""(^|[,;|])(?=[\s"]*[=+\-@＝＋－＠﹢﹣﹫])""", r"\1'", text)


def _steers(character: str) -> bool:
    # the joiners, which are letters' in many scripts, steer nothing
    return unicodedata.category(character) in ("Cc", "Cf") and character not in "\u200c\u200d"


def first_line(text: str, most: int = 200) -> str:
    """The head of a text, on one line, without what would steer a terminal."""
    line = "".join(c if c.isprintable() else " " for c in text.strip().partition("\n")[0])
    return line if len(line) <= most else line[: most - 4] + " ..."


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, in UTF-8 on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
