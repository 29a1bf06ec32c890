"""Schematics of the chapter: a soft read beside a hard one, and a sequence in which one token is marked."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.schematic import arrow, box, canvas, cells, note

SIDE = 0.5  # of a square, in inches
FIRST, LANE = 0.85, 2.52  # where a panel's squares begin, and where its gradient runs, from the panel's left


def soft_and_hard(scores: Tensor, values: Tensor, *, drawn: int, target: float) -> Figure:
    """Draw both reads of a few keys: what flows down to the cost, and how far a gradient flows back.

    Args:
        scores, values: a number per key.
        drawn: the key that the hard read takes.
        target: a read costs its squared distance from it.
    """
    figure, ax = canvas(6.6, 4.9)
    weights, hard = scores.softmax(dim=0), 3.05
    _panel(ax, 0.0, "Soft read: a mixture", scores, values, float(weights @ values), target)
    for j, weight in enumerate(weights.tolist()):
        arrow(ax, (_middle(0.0, j), 3.1), (_middle(0.0, j), 2.0), role="weight", thickness=0.5 + 6 * weight)
        arrow(ax, (_middle(0.0, j), 1.5), (_middle(0.0, 1), 1.16), role="value", thickness=0.5 + 6 * weight)
    arrow(ax, (LANE, 0.25), (LANE, 4.1), dashed=True)
    note(ax, (LANE + 0.05, 2.55), "gradient", align="left")

    _panel(ax, hard, "Hard read: one draw", scores, values, float(values[drawn]), target)
    arrow(ax, (_middle(hard, 1), 3.1), (_middle(hard, 1), 2.82))
    cells(ax, (hard + FIRST, 2.8), [[int(j == drawn) for j in range(len(scores))]], side=SIDE, size=10)
    note(ax, (hard + FIRST - 0.08, 2.55), "draw", align="right")
    arrow(ax, (_middle(hard, drawn), 2.3), (_middle(hard, drawn), 2.0), thickness=4)
    arrow(ax, (_middle(hard, drawn), 1.5), (_middle(hard, 1), 1.16), role="value", thickness=4)
    arrow(ax, (hard + LANE, 0.25), (hard + LANE, 2.42), dashed=True)
    note(ax, (hard + LANE, 2.55), "×", size=18, bold=True)
    note(ax, (hard + LANE + 0.12, 2.55), "a draw has\nno slope", align="left")
    arrow(ax, (hard + LANE, 2.72), (hard + LANE, 4.1), role="state", dashed=True)
    note(ax, (hard + LANE + 0.08, 3.45), "score\nfunction or\nstraight-\nthrough", align="left")
    return figure


def _middle(left: float, j: int) -> float:
    """Return where the middle of a row's square j is."""
    return left + FIRST + (j + 0.5) * SIDE


def _panel(ax: Axes, left: float, title: str, scores: Tensor, values: Tensor, out: float, target: float) -> None:
    """Draw what both reads have alike: scores, weights, values, what is read and its cost, from above to below."""
    rows = {
        "scores": (4.35, "key", [f"{x:.2f}" for x in scores.tolist()]),
        "weights": (3.6, "weight", [f"{x:.1f}" for x in scores.softmax(dim=0).tolist()]),
        "values": (2.0, "value", [f"{x:g}" for x in values.tolist()]),
    }
    note(ax, (_middle(left, 1), 4.65), title, size=11.5, bold=True)
    for name, (top, role, texts) in rows.items():
        cells(ax, (left + FIRST, top), [texts], role=role, side=SIDE, size=10)
        note(ax, (left + FIRST - 0.08, top - SIDE / 2), name, align="right")
    arrow(ax, (_middle(left, 1), 3.85), (_middle(left, 1), 3.62))
    note(ax, (_middle(left, 1) + 0.1, 3.73), "softmax", align="left")
    box(ax, (_middle(left, 1), 0.95), f"read: {out:g}", role="value", width=1.3, height=0.4)
    arrow(ax, (_middle(left, 1), 0.75), (_middle(left, 1), 0.47))
    box(ax, (_middle(left, 1), 0.25), f"cost: {round((out - target) ** 2, 4):g}", width=1.3, height=0.4)


def marked_sequence(symbols: str, *, place: int) -> Figure:
    """Draw the tokens of a sequence, the mark of the one at this place, and the answer that stands there."""
    side, left = 0.42, 0.85
    figure, ax = canvas(left + side * len(symbols) + 0.1, 1.75)
    marks = ["★" if j == place else None for j in range(len(symbols))]
    for top, name, role, row in ((1.72, "mark", "query", marks), (1.27, "symbol", "token", list(symbols))):
        cells(ax, (left, top), [row], role=role, side=side, size=10)
        note(ax, (left - 0.08, top - side / 2), name, align="right")
    middle = left + (place + 0.5) * side
    arrow(ax, (middle, 0.83), (middle, 0.5))
    box(ax, (middle, 0.26), f"answer: {symbols[place]}", role="value", width=1.2, height=0.44)
    return figure
