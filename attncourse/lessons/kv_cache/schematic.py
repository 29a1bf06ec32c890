"""Schematic of the chapter: a new token is projected, appended to the cache of two heads, and reads it."""

from fractions import Fraction

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.schematic import arrow, box, canvas, cells, note

SIDE = 0.52  # of a square, in inches
KEPT, NEW = 3.75, 5.55  # where the slots of the earlier tokens begin, and the new one


def cached_step(k: Tensor, v: Tensor, weights: Tensor, queries: list[str]) -> Figure:
    """Draw one step of decoding in numbers: what two heads hold, what the new token adds, and what its query reads.

    Args:
        k, v: (2, s), keys and values of width 1; the last token is the new one.
        weights: (2, s), the new token's.
        queries: of the new token, as text, one per head.
    """
    figure, ax = canvas(8.3, 4.9)
    s = k.shape[1]
    note(ax, (KEPT - 0.1, 4.6), "token", align="right")
    for j in range(s):
        note(ax, (_middle(j, s), 4.6), f"{j + 1}" if j < s - 1 else f"{j + 1}, new", bold=j == s - 1)
    for head, top in enumerate((4.4, 2.5)):
        _head(ax, head, top, k[head], v[head], weights[head], queries[head])
    box(ax, (0.75, 2.45), "token 4: x", role="token", width=1.1)
    arrow(ax, (0.95, 2.7), (1.5, 3.3), role="query")
    arrow(ax, (0.95, 2.2), (1.5, 1.75), role="query")
    note(ax, (0.62, 3.05), "x W$_Q$")
    arrow(ax, (0.75, 2.2), (0.75, 0.62))
    box(ax, (0.75, 0.35), "x W$_K$,  x W$_V$", width=1.3, height=0.5)
    arrow(ax, (1.42, 0.35), (_middle(s - 1, s) - 0.85, 0.35))
    box(ax, (_middle(s - 1, s), 0.35), "append k and v", width=1.6, height=0.42)
    arrow(ax, (_middle(s - 1, s), 0.58), (_middle(s - 1, s), 0.9))
    return figure


def _middle(j: int, s: int) -> float:
    """Return where the middle of slot j of s is."""
    return (NEW if j == s - 1 else KEPT + j * SIDE) + SIDE / 2


def _head(ax: Axes, head: int, top: float, k: Tensor, v: Tensor, weights: Tensor, query: str) -> None:
    """Draw keys, weights and values of one head, its query on the left and what it reads on the right."""
    rows = {
        "keys, kept": ("key", [f"{x:g}" for x in k.tolist()]),
        "weights, now": ("weight", [_share(x) for x in weights.tolist()]),
        "values, kept": ("value", [f"{x:g}" for x in v.tolist()]),
    }
    for row, (name, (role, texts)) in enumerate(rows.items()):
        y = top - row * SIDE
        cells(ax, (KEPT, y), [texts[:-1]], role=role, side=SIDE, size=10)
        cells(ax, (NEW, y), [texts[-1:]], role=role, side=SIDE, size=10)
        note(ax, (KEPT - 0.1, y - SIDE / 2), name, align="right", size=9)
    middle = top - 1.5 * SIDE
    box(ax, (1.95, middle), f"q = {query}", role="query", width=0.85)
    note(ax, (1.95, middle + 0.42), f"head {head + 1}", bold=True)
    arrow(ax, (2.4, middle), (KEPT - 1.08, middle), role="query")
    arrow(ax, (NEW + SIDE + 0.08, middle), (6.75, middle), role="value")
    read = float(weights @ v)
    box(ax, (7.4, middle), f"output {read:g}", role="value", width=1.2)


def _share(weight: float) -> str:
    return str(Fraction(weight).limit_denominator(100))
