"""Which row of a platform's table is whose, and what is said of those that have none."""

from collections import defaultdict
from collections.abc import Iterable

from ..files import first_line
from ..marks import Learner, Record, better, has_mark, title_of
from ..read.roster import Key, Roster

Marks = dict[tuple[Learner, str], Record]


def find_rows(learners: dict[Learner, set[Key]], rows: list[set[Key]]) -> tuple[dict[Learner, int], list[str]]:
    """Return which row is whose, by keys that they share; notes on those for whom it cannot be told.

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
    """Return a note on each learner of whom a name did not tell who it is."""
    return [f"{said(learner)}: {learner.note}" for learner in learners if learner.note]


def said(learner: Learner) -> str:
    """Return a learner in a note."""
    return first_line(learner.shown if learner.shown == learner.learner else f"{learner.shown} ({learner.learner})", 80)


def by_row(marks: Marks, found: dict[Learner, int], unit: str) -> dict[int, Record]:
    """Return the record that counts in each row for one unit."""
    best: dict[int, Record] = {}
    for (learner, u), record in marks.items():
        if u == unit and learner in found:
            best[found[learner]] = better(best.get(found[learner]), record)
    return best


def unmarked(records: Iterable[Record]) -> list[str]:
    """Return a note on each record that counts and yet holds no mark."""
    return [f"{first_line(r['file'], 80)}: {r['state']}, so no mark is entered" for r in records if not has_mark(r)]


def other_maximum(platform: str, unit: str, maximum: str, possible: float) -> list[str]:
    """Return a note where a platform counts another number of points than the unit has; marks are entered as they are."""
    try:
        same = not maximum or float(maximum.replace(",", ".")) == possible
    except ValueError:
        same = False
    return (
        [] if same else [f"{title_of(unit)}: {platform} says {first_line(maximum, 20)} points, the unit has {possible}"]
    )
