"""The tables of mechanisms in the README and in the book's index, written from what the rooms say of themselves."""

from pathlib import Path

from attncourse.check import UNITS
from attncourse.rooms import Room, rooms

from .catalogue import checks_of
from .chapters import title_of
from .exercises_page import anchor

BEGIN, END = "<!-- mechanisms -->", "<!-- end of mechanisms -->"


def write_tables(root: Path) -> list[Path]:
    """Write both tables between their marks; the changed files."""
    changed = []
    for path, table in ((root / "README.md", readme_table(root)), (root / "book" / "index.md", index_table())):
        before = path.read_text(encoding="utf-8")
        after = between_marks(before, table)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def between_marks(text: str, table: str) -> str:
    """Return a page with this table in the place of what stands between its marks.

    Raises:
        ValueError: the page has no marks.
    """
    above, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, below = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"a page with the table of mechanisms must have the lines {BEGIN} and {END}")
    return f"{above}{begin}{table}\n{end}{below}"


def readme_table(root: Path) -> str:
    """Return a line per room, with links that are relative to the checkout."""
    lines = [
        [
            f"[{room.title}](attncourse/{name})",
            _papers(room),
            f"[{title_of(root, room.chapter).partition(':')[0]}](book/{room.chapter}.ipynb)",
            f"[{room.kernels}](attncourse/{name}/kernel.py)",
            f"[`{name}`](exercises/{name}/{name}.ipynb)",
        ]
        for name, room in rooms().items()
    ]
    return _table(["Mechanism", "Paper", "Chapter", "Kernel", "Exercises"], lines)


def index_table() -> str:
    """Return a line per room, with links to the book's own pages; three columns, which a page shows without scrolling."""
    lines = [
        [f"[{room.title}]({room.chapter}.ipynb)", f"[{_asked(name)}]({_page_of(name)})", _papers(room)]
        for name, room in rooms().items()
    ]
    return _table(["Mechanism", "Exercises", "Paper"], lines)


def _papers(room: Room) -> str:
    return ", ".join(f"[{label}]({address})" for label, address in room.papers)


def _asked(unit: str) -> str:
    checks = checks_of(unit)
    return f"{len(checks)} exercises, {sum(check.points for check in checks)} points"


def _page_of(unit: str) -> str:
    """Return the unit's section in the book's page of exercises."""
    return f"exercises.md#{anchor(UNITS[unit])}"


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
