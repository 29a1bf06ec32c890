"""The chapter's schematic: what one token leaves behind in one layer, as boxes of true proportion."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attncourse.plot.schematic import INK, ROLES, canvas, note

HEAD = 0.024  # height of a head's key and value, in inches
WIDE = 1.25  # width of a column: that of one key and one value
ENLARGED = 8
FOOT = 0.75  # where the boxes stand
SHADE = 0.45
MEANING = {"key": "keys, a line per head", "value": "values, a line per head", "state": "latent, for all heads"}


@dataclass(frozen=True)
class Part:
    """A part is some of the numbers that a token leaves in a layer.

    Args:
        role: of its colour, a key of `ROLES`.
        numbers: how many.
        left, share: where it begins in its column and how much of the width it takes, from 0 to 1.
    """

    role: str
    numbers: int
    left: float = 0.0
    share: float = 1.0


def left_behind(designs: dict[str, list[list[Part]]], *, per_line: int) -> Figure:
    """Draw a column per design, from below: rows of parts, every number of the same area; small ones enlarged above.

    Args:
        designs: name -> rows from below to above, each of parts side by side.
        per_line: numbers that stand side by side in the full width of a column: a head's key and value.
    """
    columns = [(0.35 + i * (WIDE + 0.35), name, rows) for i, (name, rows) in enumerate(designs.items())]
    tallest = max(_height(rows, per_line) for rows in designs.values())
    figure, ax = canvas(columns[-1][0] + WIDE + 0.25, FOOT + tallest + 0.25)
    for left, name, rows in columns:
        note(ax, (left + WIDE / 2, 0.5), name, size=11, bold=True)
        note(ax, (left + WIDE / 2, 0.24), f"{_numbers(rows):,} numbers")
        top = _draw(ax, left, FOOT, rows, per_line, HEAD)
        if ENLARGED * (top - FOOT) < tallest - 0.6:
            foot = FOOT + 0.75
            for side in (0, WIDE):
                ax.plot([left + side] * 2, [top, foot], ":", color=INK, linewidth=0.8)
            top = _draw(ax, left, foot, rows, per_line, ENLARGED * HEAD)
            note(ax, (left + WIDE / 2, top + 0.14), f"{ENLARGED} times as high")
    for i, (role, what) in enumerate(MEANING.items()):
        corner = (columns[-2][0] + 0.45, FOOT + tallest - 0.2 - 0.3 * i)
        ax.add_patch(Rectangle(corner, 0.3, 0.18, facecolor=ROLES[role], edgecolor="none", alpha=SHADE))
        note(ax, (corner[0] + 0.42, corner[1] + 0.09), what, align="left")
    return figure


def _numbers(rows: list[list[Part]]) -> int:
    return sum(part.numbers for row in rows for part in row)


def _height(rows: list[list[Part]], per_line: int, head: float = HEAD) -> float:
    return sum(_row_height(row, per_line, head) for row in rows)


def _row_height(row: list[Part], per_line: int, head: float) -> float:
    """Return the height that gives the row's first part its area; the others' is the same."""
    return head * row[0].numbers / (row[0].share * per_line)


def _draw(ax: Axes, left: float, foot: float, rows: list[list[Part]], per_line: int, head: float) -> float:
    """Draw a design's rows above `foot`, and return where they end."""
    for row in rows:
        height = _row_height(row, per_line, head)
        for part in row:
            corner, edge = (left + part.left * WIDE, foot), to_rgb(ROLES[part.role])
            ax.add_patch(Rectangle(corner, part.share * WIDE, height, facecolor=edge, edgecolor="none", alpha=SHADE))
            for line in range(1, round(height / head) if part.role != "state" else 1):
                y = foot + line * head
                ax.plot([corner[0], corner[0] + part.share * WIDE], [y, y], color="white", linewidth=5 * head + 0.2)
        foot += height
    return foot
