"""Pictures of heads: what each looks at, what two can do together, what is lost when some go."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.style import COLORS

MARKERS = ("o-", "s--", "^:")


def head_maps(panels: dict[str, Tensor], *, tokens: list[str], columns: int = 4) -> Figure:
    """Draw one map (t, t) per head over the same tokens: rows look, columns are looked at."""
    rows, side = -(-len(panels) // columns), 0.5 + 0.1 * len(tokens)
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns, (side + 0.15) * rows), squeeze=False)
    for ax, (name, weights) in zip(axes.flat, panels.items(), strict=False):
        weights_heatmap(weights, queries=tokens, keys=tokens, ax=ax, title=name)
        ax.tick_params(labelsize=6, pad=1)
        ax.set_aspect("equal")
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    return figure


def two_heads(
    cases: list[str], reads: dict[str, list[float]], accuracy: dict[str, list[float]], bound: float
) -> Figure:
    """Draw left, what heads read in each case, a line per head;
    right, a dot per trained model, and what one head can reach.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.9))
    for (name, values), marker, color in zip(reads.items(), MARKERS, COLORS, strict=False):
        left.plot(range(len(cases)), values, marker, color=color, label=name)
    left.set_xticks(range(len(cases)), cases)
    left.set(ylabel="what is read")
    left.legend()
    right.axhline(bound, color="#999999", linewidth=1)
    right.annotate(
        "the most that one head can",
        (0.98, bound),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="top",
        fontsize=9,
    )
    for i, (values, color) in enumerate(zip(accuracy.values(), COLORS, strict=False)):
        # Side by side, since models of several seeds may be equally right.
        right.plot([i + 0.12 * (j - (len(values) - 1) / 2) for j in range(len(values))], values, "o", color=color)
    right.set_xticks(range(len(accuracy)), list(accuracy))
    right.set(ylim=(0.45, 1.04), xlim=(-0.6, len(accuracy) - 0.4), ylabel="share right")
    return figure


def ablation(curves: dict[str, list[float]]) -> Axes:
    """Draw loss against the number of heads removed, a line per order of removal."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    for (name, values), marker, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(range(len(values)), values, marker, color=color, markersize=4, label=name)
    ax.set(xlabel="heads removed", ylabel="loss per character, held out")
    ax.legend()
    return ax
