"""Schematics of the chapter: the band of a window beside the cone that it opens through layers, and a ring of slots."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attncourse.plot.schematic import arrow, canvas, cells, note

SIDE = 0.3  # of a square, in inches


def band_and_cone(*, n: int, window: int, layers: int) -> Figure:
    """Draw which of n keys each query sees in one layer, and which tokens the last one hears through several layers."""
    figure, ax = canvas(6.7, 3.5)
    _band(ax, (0.75, 2.85), n, window)
    _cone(ax, 3.75, n, window, layers)
    return figure


def _band(ax: Axes, corner: tuple[float, float], n: int, window: int) -> None:
    """Draw the matrix of pairs: those in the window, and in outline the others of the past."""
    x, y = corner
    note(ax, (x + n * SIDE / 2, y + 0.5), "one layer: pairs that are scored", bold=True)
    for i in range(n):
        for j in range(i + 1):
            square = (x + j * SIDE, y - (i + 1) * SIDE)
            ax.add_patch(Rectangle(square, SIDE, SIDE, facecolor="white", edgecolor="#bbbbbb", linewidth=0.8))
        first = max(i - window + 1, 0)
        cells(ax, (x + first * SIDE, y - i * SIDE), [[""] * (i + 1 - first)], role="weight", side=SIDE)
        note(ax, (x - 0.14, y - (i + 0.5) * SIDE), str(i + 1), size=9)
        note(ax, (x + (i + 0.5) * SIDE, y + 0.13), str(i + 1), size=9)
    note(ax, (x - 0.5, y - n * SIDE / 2), "query", size=9)
    note(ax, (x + n * SIDE / 2, y + 0.3), "key", size=9)


def _cone(ax: Axes, left: float, n: int, window: int, layers: int) -> None:
    """Draw a row of tokens per layer, the output above, and arrows along which the last token hears."""
    note(ax, (left + 0.35 + n * SIDE / 2, 3.35), f"{layers} layers: what token {n} hears", bold=True)
    gap = 2.35 / layers
    reached = {n - 1}
    for level in range(layers, -1, -1):
        top = 0.45 + level * gap
        marked = [str(j + 1) if j in reached else None for j in range(n)]
        cells(ax, (left + 0.35, top), [marked], role="token", side=SIDE)
        note(ax, (left + 0.27, top - SIDE / 2), f"layer {level}" if level else "input", align="right", size=9)
        if level == 0:
            return
        below = set()
        for i in sorted(reached):
            for j in range(max(i - window + 1, 0), i + 1):
                below.add(j)
                start = (_middle(left, j), top - gap + 0.02)
                arrow(ax, start, (_middle(left, i), top - SIDE - 0.02), role="weight", thickness=0.8)
        reached = below


def _middle(left: float, j: int) -> float:
    return left + 0.35 + (j + 0.5) * SIDE


def ring_of_slots(*, n: int, window: int) -> Figure:
    """Draw what each slot of a ring holds after each of n positions; the slot just written has the colour of a key."""
    side = 0.36
    figure, ax = canvas(1.15 + side * window * 1.0 + 2.1, 0.62 + side * n)
    top, left = 0.2 + side * n, 1.15
    for slot in range(window):
        note(ax, (left + (slot + 0.5) * side, top + 0.16), str(slot), size=9)
    note(ax, (left - 0.12, top + 0.16), "slot", align="right", size=9)
    held: list[int | None] = [None] * window
    for p in range(n):
        over = held[p % window]
        held[p % window] = p
        y = top - p * side
        cells(ax, (left, y), [held], side=side)
        cells(ax, (left + (p % window) * side, y), [[p]], role="key", side=side)
        note(ax, (left - 0.12, y - side / 2), f"position {p}", align="right", size=9)
        if over is not None:
            note(ax, (left + window * side + 0.12, y - side / 2), f"written over {over}", align="left", size=9)
    return figure
