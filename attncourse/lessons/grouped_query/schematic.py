"""Schematic of the chapter: four query heads, and the heads of keys and values that they read in three designs."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note

PANEL, STEP, SIDE = 2.75, 0.6, 0.36  # width of a panel, distance of query heads, side of a square, in inches
QUERIES, KEPT = 2.15, 1.05  # heights at which query heads stand, and the tops of what is kept


def three_designs(panels: Mapping[str, int], *, heads: int) -> Figure:
    """Draw a panel per design: query heads above, below them the heads of keys and values in the cache.

    Args:
        panels: name -> number of key/value heads; it divides the query heads.
        heads: number of query heads.
    """
    figure, ax = canvas(PANEL * len(panels), 2.85)
    for panel, (name, shared) in enumerate(panels.items()):
        _panel(ax, PANEL * panel + 0.42, name, heads, shared)
    return figure


def _panel(ax: Axes, left: float, name: str, heads: int, shared: int) -> None:
    """Draw one design, whose first query head stands at `left`."""
    group, middle = heads // shared, left + STEP * (heads - 1) / 2
    note(ax, (middle, 2.65), name, bold=True, size=10.5)
    for i in range(heads):
        x = left + STEP * i
        box(ax, (x, QUERIES), f"q{i + 1}", role="query", width=0.46, height=0.42)
        below = left + STEP * (group * (i // group) + (group - 1) / 2)
        arrow(ax, (x, QUERIES - 0.22), (below + 0.06 * (x - below), KEPT + 0.03), thickness=1)
    for j in range(shared):
        x = left + STEP * (group * j + (group - 1) / 2)
        for row, role in enumerate(("key", "value")):
            cells(ax, (x - SIDE / 2, KEPT - SIDE * row), [[f"{role[0]}{j + 1}"]], role=role, side=SIDE, size=9.5)
    plural = "s" * (shared > 1)
    note(ax, (middle, 0.12), f"kept per token: {shared} key{plural}, {shared} value{plural}")
