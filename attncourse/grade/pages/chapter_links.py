"""Where a learner can read again: a section of a chapter, as a link where the book's address is known."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attncourse.check import UNITS
from attncourse.check.core import Check
from attncourse.course.chapters import sections_of, title_of
from attncourse.course.origin import read_origin

from ..imports import PACKAGE


@dataclass(frozen=True)
class Place:
    """A place is a section of a chapter in words, and its address ("" where none is known)."""

    chapter: str
    section: str
    address: str


@dataclass(frozen=True)
class Book:
    """A book is what a course hands out: the address of its pages, else that of its notebooks, else only its words."""

    pages: str = ""
    notebooks: str = ""

    @classmethod
    def find(cls, book_url: str | None = None, root: Path = PACKAGE.parent) -> "Book":
        """Return the built book at `book_url` (default: the notebooks of the repository that a checkout names)."""
        if book_url is not None:
            return cls(pages=book_url.rstrip("/"))
        if not (root / "pyproject.toml").is_file():
            return cls()
        origin = read_origin(root)
        return cls(notebooks=f"{origin.repository}/blob/{origin.tag}/book")

    def place(self, check: Check) -> Place | None:
        """Return where to read again what a check asks; none for a check of an unregistered unit."""
        if check.unit not in UNITS:
            return None
        page, anchor = check.read_again
        chapter, sections = _contents(PACKAGE.parent, page)
        section = sections.get(anchor, _as_words(anchor))
        if self.pages:
            return Place(chapter, section, f"{self.pages}/{page}.html" + (f"#{anchor}" if section else ""))
        return Place(chapter, section, f"{self.notebooks}/{page}.ipynb" if self.notebooks else "")


@cache
def _contents(root: Path, page: str) -> tuple[str, dict[str, str]]:
    """Return the chapter's title and its sections;
    where its notebook is not at hand, the page's name in words, and none.
    """
    if not (root / "book" / f"{page}.ipynb").is_file():
        return _as_words(page), {}
    return title_of(root, page), sections_of(root, page)


def _as_words(name: str) -> str:
    return re.sub(r"[-_]+", " ", name).capitalize()
