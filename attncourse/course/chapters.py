"""The book's pages, and what a chapter's notebook says of itself: its title, and its headings as addresses in its page."""

import re
from pathlib import Path


def pages(root: Path) -> list[str]:
    """Return the pages of a checkout's book in order: those of its table of contents, whatever else lies in the folder."""
    import yaml  # comes with the extras for authors and instructors

    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [contents["root"], *(page["file"] for part in contents.get("parts", []) for page in part["chapters"])]


def chapters(root: Path) -> list[str]:
    """Return the chapters of a checkout, which are its pages that run, by the names of their pages."""
    return [page for page in pages(root) if (root / "book" / f"{page}.ipynb").exists()]


def write_order(root: Path) -> list[Path]:
    """Write the chapters' order where the package reads it, which has no book where it is installed; the changed file."""
    path, order = root / "attncourse" / "chapters.txt", "\n".join(chapters(root)) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == order:
        return []
    path.parent.mkdir(exist_ok=True)
    path.write_text(order, encoding="utf-8")
    return [path]


def title_of(root: Path, chapter: str) -> str:
    """Return the chapter's title.

    Raises:
        ValueError: it has none.
    """
    for level, heading in _headings(root, chapter):
        if level == 1:
            return heading
    raise ValueError(f"a chapter must begin with a title (# ...), and book/{chapter}.ipynb has none")


def sections_of(root: Path, chapter: str) -> dict[str, str]:
    """Return its sections in order: where each stands in the built page,
    say short_history.html#what-it-costs, and its heading.
    """
    headings = [heading for level, heading in _headings(root, chapter) if level > 1]
    return {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-"): heading for heading in headings}


def _headings(root: Path, chapter: str) -> list[tuple[int, str]]:
    import nbformat  # comes with the extras for authors and instructors

    notebook = nbformat.read(root / "book" / f"{chapter}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    fenced = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), heading.strip()) for marks, heading in re.findall(r"^(#+) (.+)$", fenced, flags=re.MULTILINE)]
