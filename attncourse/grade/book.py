"""Where a learner can read again: a section of a chapter, as a link where the book's address is known."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attncourse.check import UNITS
from attncourse.check.core import Check

from .sandbox import PACKAGE


@dataclass(frozen=True)
class Place:
    """A section of a chapter in words, and its address ("" where none is known)."""

    chapter: str
    section: str
    address: str


@dataclass(frozen=True)
class Book:
    """The book that a course hands out: the address of its pages, else that of its notebooks, else only its words."""

    pages: str = ""
    notebooks: str = ""

    @classmethod
    def find(cls, book_url: str | None = None, root: Path = PACKAGE.parent) -> "Book":
        """The built book at `book_url`; unless given, the notebooks of the repository that a checkout names."""
        if book_url is not None:
            return cls(pages=book_url.rstrip("/"))
        if not (root / "pyproject.toml").is_file():
            return cls()
        from attncourse.publish import read_origin

        origin = read_origin(root)
        return cls(notebooks=f"{origin.repository}/blob/{origin.tag}/book")

    def place(self, check: Check) -> Place | None:
        """Where to read again what a check asks; none for a check of an unregistered unit."""
        if check.unit not in UNITS:
            return None
        page = UNITS[check.unit].chapter
        headings = headings_of(PACKAGE.parent / "book" / f"{page}.ipynb")
        chapter = next(iter(headings.values()), _as_words(page))
        section = headings.get(check.section, _as_words(check.section))
        if self.pages:
            return Place(chapter, section, f"{self.pages}/{page}.html" + (f"#{check.section}" if section else ""))
        return Place(chapter, section, f"{self.notebooks}/{page}.ipynb" if self.notebooks else "")


@cache
def headings_of(notebook: Path) -> dict[str, str]:
    """Each heading of a chapter in order, by what the page's address calls it; none where there is no such notebook."""
    if not notebook.is_file():
        return {}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = [line.lstrip("#").strip() for line in text.splitlines() if re.match(r"#{1,3} ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"): heading for heading in found}


def _as_words(name: str) -> str:
    return re.sub(r"[-_]+", " ", name).capitalize()
