"""What a room says of itself, once, in its `room.py`; whoever lists rooms reads it there."""

import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# The book's chapters in order, a line each, which `attncourse bootstrap` writes from _toc.yml: an installation has no book.
CHAPTERS = Path(__file__).with_name("chapters.txt")


@dataclass(frozen=True)
class Room:
    """A room is what is said of a mechanism.

    Attributes:
        title: its name in words.
        idea: what it does, in a sentence or two.
        formula: the line of mathematics that tells it from others, in TeX as matplotlib sets it.
        papers: where it comes from, each as (authors and year, address).
        chapter: the page of the book that teaches it, without ending.
        kernels: what its kernels do, in a few words.
        builds_on: other rooms that it may import.
        has_layer: whether it has a `module.py`; a room that serves the layers of others has none.
    """

    title: str
    idea: str
    formula: str
    papers: tuple[tuple[str, str], ...]
    chapter: str
    kernels: str
    builds_on: tuple[str, ...] = ()
    has_layer: bool = True


@cache
def rooms() -> dict[str, Room]:
    """Return every room by its name, in the order of the book; rooms of one chapter by their names.

    Each `room.py` is run by its path. To import it would import the room around it, and with that PyTorch.
    """
    found = {path.parent.name: runpy.run_path(str(path))["ROOM"] for path in sorted(PACKAGE.glob("*/room.py"))}
    return dict(sorted(found.items(), key=lambda item: place_of(item[1].chapter)))


def rooms_with(pattern: str, *, root: Path = PACKAGE) -> tuple[str, ...]:
    """Return the rooms that have a file, in their order.

    Args:
        pattern: the file's path below `root` with {} for the room: "{}/case.py".
    """
    return tuple(room for room in rooms() if (root / pattern.format(room)).is_file())


def place_of(chapter: str) -> int:
    """Return the place of a chapter in the book; a chapter that is not in it yet comes last."""
    order = CHAPTERS.read_text(encoding="utf-8").split()
    return order.index(chapter) if chapter in order else len(order)
