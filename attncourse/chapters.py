"""What a chapter's notebook says of itself: its title, and its headings as addresses in the built page."""

import re
from pathlib import Path


def chapters(root: Path) -> list[str]:
    """The chapters of a checkout, by the names of their pages."""
    return [path.stem for path in sorted((root / "book").glob("*.ipynb"))]


def title_of(root: Path, chapter: str) -> str:
    """The chapter's title.

    Raises:
        ValueError: it has none.
    """
    for level, heading in _headings(root, chapter):
        if level == 1:
            return heading
    raise ValueError(f"a chapter must begin with a title (# ...), and book/{chapter}.ipynb has none")


def sections_of(root: Path, chapter: str) -> list[str]:
    """Where its sections stand in the built page, as in short_history.html#what-it-costs."""
    return [
        re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
        for level, heading in _headings(root, chapter)
        if level > 1
    ]


def _headings(root: Path, chapter: str) -> list[tuple[int, str]]:
    import nbformat  # comes with the extras for authors and instructors

    notebook = nbformat.read(root / "book" / f"{chapter}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    fenced = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), heading.strip()) for marks, heading in re.findall(r"^(#+) (.+)$", fenced, flags=re.MULTILINE)]
