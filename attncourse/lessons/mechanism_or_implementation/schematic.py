"""Schematics of the chapter: a test with three answers, and a block of queries that walks over tiles of scores."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note


def three_places() -> Figure:
    """Draw how an optimization is placed: two forms get the same inputs, and their difference has one of three sizes."""
    figure, ax = canvas(6.6, 4.9)
    middle = 3.3
    box(ax, (middle, 4.6), "same inputs Q, K, V", role="query", width=2.2)
    for name, x in {"standard form": 1.9, "candidate": 4.7}.items():
        arrow(ax, (middle, 4.37), (x, 4.07))
        box(ax, (x, 3.84), name, width=1.6)
        arrow(ax, (x, 3.61), (middle, 3.34))
    box(ax, (middle, 3.1), "test: compare outputs and their gradients", role="weight", width=3.9)
    places = (
        ("zero, up to rounding", "IMPLEMENTATION", "same function,\ncomputed otherwise", "tiles, fused kernels,\npages, ring cache"),
        ("small, with a bound", "APPROXIMATION", "a near function,\nfor a price", "int8, fp8, int4"),
        ("as large as the result", "MECHANISM", "another function:\ntrain it as such", "window, linear,\nMQA, GQA, MLA"),
    )  # fmt: skip
    for i, (size, name, what, examples) in enumerate(places):
        _place(ax, middle + 2.18 * (i - 1), size, name, what, examples)
    return figure


def _place(ax: Axes, x: float, size: str, name: str, what: str, examples: str) -> None:
    """Draw one answer of the test: the size of the difference, the name of the place, and what stands there."""
    arrow(ax, (3.3, 2.87), (x, 2.14), role="weight")
    note(ax, (x, 1.95), size, size=9.5)
    box(ax, (x, 1.2), f"{name}\n{what}", width=2.0, height=1.1)
    note(ax, (x, 0.33), examples, size=9.5)


def tile_walk(*, rows: int = 3, columns: int = 4, at: tuple[int, int] = (1, 2)) -> Figure:
    """Draw the scores as a grid of tiles, of which one exists: that of the block of queries and the block of keys `at`.

    Beside it stands the state that the block of queries carries on, and its output.
    """
    side, left, top = 0.7, 1.3, 2.65
    figure, ax = canvas(6.3, 3.15)
    i, j = at
    names = [[None] * columns for _ in range(rows)]
    cells(ax, (left, top), names, side=side)
    cells(ax, (left + j * side, top - i * side), [["scores"]], role="weight", side=side)
    for row in range(rows):
        role = "query" if row == i else "plain"
        box(ax, (left - 0.5, _middle(top, row, side)), f"$Q_{row + 1}$", role=role, width=0.55, height=0.5)
    for column in range(columns):
        role = "key" if column == j else "plain"
        x = left + (column + 0.5) * side
        box(ax, (x, top + 0.29), f"$K_{column + 1}, V_{column + 1}$", role=role, width=0.64, height=0.36, size=9)
    y = _middle(top, i, side)
    right = left + columns * side
    arrow(ax, (left + 0.06, y), (left + j * side - 0.04, y), role="query", thickness=2)
    arrow(ax, (left + (j + 1) * side + 0.04, y), (right + 0.12, y), role="state", thickness=2)
    box(ax, (right + 0.75, y), "state\n$m,\\ \\ell,\\ u$", role="state", width=1.2, height=0.66)
    arrow(ax, (right + 0.75, y - 0.35), (right + 0.75, y - 0.74))
    box(ax, (right + 0.75, y - 0.98), f"$O_{i + 1} = u / \\ell$", role="value", width=1.2, height=0.44)
    note(ax, (left + columns * side / 2, 0.25), "white tiles: passed, or still to come; none is stored", size=9.5)
    note(ax, (right + 0.75, y + 0.52), "on the chip", size=9.5)
    return figure


def _middle(top: float, row: int, side: float) -> float:
    return top - (row + 0.5) * side
