"""The schematic of the chapter: one computation as a matrix of weights, as a recurrence, and in chunks."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note

SIDE, TOP = 0.32, 2.38  # of a square and where the first row of squares begins, in inches
WIDTH, HEIGHT = 6.9, 2.95  # of the whole


def three_forms(*, tokens: int = 6, chunk: int = 3) -> Figure:
    """Draw the three forms side by side, a row per query: what stands at the same height gives the same output.

    Args:
        tokens: how many there are, a multiple of the chunk.
        chunk: tokens of a chunk.
    """
    figure, ax = canvas(WIDTH, HEIGHT)
    wide = tokens * SIDE
    matrix, chain, chunks = 0.42, wide + 0.62, WIDTH - wide - 0.22
    for left, middle, title, text in (
        (matrix, wide / 2, "matrix", "all weights at once"),
        (chain, 0.94, "recurrence", "a state, token by token"),
        (chunks, wide / 2, "chunks", "weights inside, a state before"),
    ):
        note(ax, (left + middle, HEIGHT - 0.15), title, size=11, bold=True)
        note(ax, (left + middle, TOP - wide - 0.25), text)
    _names(ax, matrix, tokens)
    _weights(ax, matrix, range(tokens))
    _chain(ax, chain, tokens)
    _names(ax, chunks, tokens)
    for start in range(0, tokens, chunk):
        _weights(ax, chunks, range(start, start + chunk))
        if start:
            middle = (chunks + start * SIDE / 2, TOP - (start + chunk / 2) * SIDE)
            size = dict(width=start * SIDE - 0.05, height=chunk * SIDE - 0.05)
            box(ax, middle, f"$S_{start}$", role="state", size=12, **size)
    return figure


def _middle(i: int) -> float:
    """Return the height of the middle of row i."""
    return TOP - (i + 0.5) * SIDE


def _names(ax: Axes, left: float, tokens: int) -> None:
    """Write queries beside the rows and keys above the columns."""
    for i in range(tokens):
        note(ax, (left - 0.18, _middle(i)), f"$q_{i + 1}$")
        note(ax, (left + (i + 0.5) * SIDE, TOP + 0.13), f"$k_{i + 1}$")


def _weights(ax: Axes, left: float, tokens: range) -> None:
    """Draw the causal weights among these tokens."""
    for i in tokens:
        corner = (left + tokens.start * SIDE, TOP - i * SIDE)
        cells(ax, corner, [[""] * (i + 1 - tokens.start)], role="weight", side=SIDE)


def _chain(ax: Axes, left: float, tokens: int) -> None:
    """Draw the states one below the other: a key and a value enter each, and its query reads it."""
    for i in range(tokens):
        y = _middle(i)
        note(ax, (left + 0.22, y), f"$k_{i + 1}, v_{i + 1}$")
        arrow(ax, (left + 0.45, y), (left + 0.72, y), role="key")
        box(ax, (left + 0.94, y), f"$S_{i + 1}$", width=0.42, height=0.23, role="state", size=9)
        arrow(ax, (left + 1.16, y), (left + 1.46, y), role="query")
        note(ax, (left + 1.6, y), f"$o_{i + 1}$")
        if i:
            arrow(ax, (left + 0.94, _middle(i - 1) - 0.11), (left + 0.94, y + 0.11), role="state", thickness=1)
