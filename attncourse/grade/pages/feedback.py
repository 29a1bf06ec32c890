"""What a learner reads: points, each verdict with its message and picture, where to read again. No seed, no input."""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from attncourse.check import CHECKS, Picture
from attncourse.check.drawing import expected_beside_got, in_words, png

from ..marks import Learner, Record, counting, has_mark, title_of
from . import wording
from .chapter_links import Book
from .page import as_data, write_page

SAY_NOTHING_MORE = ("passed", "unsolved")


def write_feedback(out: Path, records: Iterable[Record], *, book_url: str | None = None) -> list[Path]:
    """Write out/feedback/<learner>.html for each learner,
    and return the pages in the order of the learners' first records.

    A page holds all that the records know of a learner, since one page is what is attached to one message; a run over
    one unit gives pages of that unit.

    Args:
        book_url: where the built book can be read; unless given, chapters are linked to the repository's notebooks.
    """
    by_learner: dict[Learner, list[Record]] = defaultdict(list)
    for record in records:
        by_learner[Learner.of(record)].append(record)
    book, pages = Book.find(book_url), []
    for learner, handed_in in by_learner.items():
        units = [_unit_shown(record, handed_in, book) for record in counting(handed_in).values()]
        page = out / "feedback" / f"{learner.slug}.html"
        pages.append(write_page(page, "feedback.html.j2", learner=learner, units=units))
    return pages


def _unit_shown(record: Record, handed_in: list[Record], book: Book) -> dict[str, Any]:
    """Return what the page says of one unit: the record that counts, and in a line each what else was handed in."""
    unit, state = record["unit"], record["state"]
    return {
        "title": title_of(unit),
        "record": record,
        "has_mark": has_mark(record),
        "meaning": wording.SUBMISSION[state],
        # a grader that did not run says why in words that are for the instructor
        "notes": [] if state == "not graded" else record["notes"],
        "checks": [_check_shown(check, book) for check in record["checks"]],
        "others": [other for other in handed_in if other["unit"] == unit and other is not record],
    }


def _check_shown(check: dict[str, Any], book: Book) -> dict[str, Any]:
    known = CHECKS.get(check["check"])
    state = check["state"]
    return {
        "name": check["check"],
        "asks": known.judge.__doc__.splitlines()[0] if known else "",
        "state": state,
        "points": check["points"],
        "possible": check["possible"],
        "meaning": wording.CHECK[state],
        "message": "" if state in SAY_NOTHING_MORE else check["message"].strip(),
        "picture": _picture_shown(check["picture"]) if check["picture"] else None,
        "again": book.place(known) if known and state != "passed" else None,
    }


def _picture_shown(picture: dict[str, Any]) -> dict[str, str]:
    """Return the picture of a record as an address, and in words."""
    matrices = (tuple(map(tuple, picture[key])) for key in ("got", "expected"))
    return _draw(*matrices, picture["rows"], picture["columns"])


# common mistakes give the same pattern again and again, and drawing one takes longer than the rest of its page
@lru_cache(maxsize=512)
def _draw(got: tuple, expected: tuple, rows: str, columns: str) -> dict[str, str]:
    picture = Picture(*(torch.tensor(x, dtype=torch.float64) for x in (got, expected)), rows, columns)
    return {"data": as_data(png(expected_beside_got(picture))), "words": in_words(picture)}
