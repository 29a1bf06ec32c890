"""Schematics: boxes, arrows and small tables of numbers on a canvas whose unit is an inch.

A chapter's first picture is drawn of these. Colours say what a thing is, the same in every chapter: see `ROLES`.
"""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from .style import COLORS

ROLES = {
    "query": COLORS[0],
    "key": COLORS[1],
    "value": COLORS[2],
    "weight": COLORS[3],
    "state": COLORS[4],
    "token": COLORS[5],
    "plain": COLORS[6],
}
INK = "#222222"


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of so many inches and axes without frame or ticks, in which one unit is one inch."""
    figure, ax = plt.subplots(figsize=(width, height), layout="none")
    ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return figure, ax


def box(
    ax: Axes, centre: tuple[float, float], text: str = "", *,
    width: float = 1.2, height: float = 0.45, role: str = "plain", size: float = 10,
) -> None:  # fmt: skip
    """Draw a box with rounded corners, tinted by its role, and its text in the middle.

    Args:
        centre: where its middle is, in inches.
        role: a key of `ROLES`.
        size: of the text, in points.
    """
    x, y = centre
    edge = to_rgb(ROLES[role])
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=_tint(edge), edgecolor=edge, linewidth=1.3,
        )
    )  # fmt: skip
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], *,
    role: str = "plain", thickness: float = 1.3, bend: float = 0.0, dashed: bool = False,
) -> None:  # fmt: skip
    """Draw an arrow from one place to another; `bend` is its height over the straight line, as a share of the length."""
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=8 + 2 * thickness, shrinkA=0, shrinkB=0,
            connectionstyle=f"arc3,rad={bend}", color=ROLES[role], linewidth=thickness,
            linestyle="--" if dashed else "-",
        )
    )  # fmt: skip


def cells(
    ax: Axes, corner: tuple[float, float], values: list[list], *,
    role: str = "plain", side: float = 0.42, size: float = 9,
) -> None:  # fmt: skip
    """Draw a small matrix, a square per entry, with each entry's text in it.

    Args:
        corner: of the matrix, at the left and the top, in inches.
        values: rows of entries; each is written as `str` writes it, and None leaves a square white and empty.
        side: of a square, in inches.
    """
    x, y = corner
    edge = to_rgb(ROLES[role])
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            face = "white" if value is None else _tint(edge)
            left, bottom = x + j * side, y - (i + 1) * side
            ax.add_patch(Rectangle((left, bottom), side, side, facecolor=face, edgecolor=edge, linewidth=1))
            if value is not None:
                middle = (left + side / 2, bottom + side / 2)
                ax.text(*middle, str(value), ha="center", va="center", fontsize=size, color=INK)


def note(
    ax: Axes, place: tuple[float, float], text: str, *,
    size: float = 9.5, align: str = "center", bold: bool = False,
) -> None:  # fmt: skip
    """Write text at a place; `align` is "left", "center" or "right"."""
    ax.text(*place, text, ha=align, va="center", fontsize=size, color=INK, weight="bold" if bold else "normal")


def _tint(color: tuple[float, float, float], share: float = 0.18) -> tuple[float, ...]:
    """Return the colour thinned with white, on which dark text can be read."""
    return tuple(1 - share * (1 - part) for part in color)
