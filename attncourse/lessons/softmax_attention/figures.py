"""Pictures of reading by similarity: a soft dictionary, the saturation of softmax, a sentence that reads itself."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.heatmap import signed_heatmap, weights_heatmap
from attncourse.plot.style import COLORS


def soft_lookup(
    keys: Tensor, values: Tensor, query: float, weights: Tensor, answer: float, *, names: list[str]
) -> Figure:
    """Draw a dictionary with keys on a line: each entry's weight for one query, and the mixture that is read."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.9), width_ratios=(3, 2))
    left.bar(keys.tolist(), weights.tolist(), width=0.35, color=COLORS[0])
    left.axvline(query, color=COLORS[1], linewidth=2)
    left.annotate("query", (query, 1.02), color=COLORS[1], ha="center", va="bottom", annotation_clip=False)
    left.set(ylim=(0, 1), xlabel="key", ylabel="weight")
    left.set_xticks(keys.tolist(), names)
    right.barh(names, values.tolist(), color="#cccccc", height=0.55)
    right.axvline(answer, color=COLORS[1], linewidth=2)
    right.annotate(
        f"read: {answer:.1f}", (answer, 1.02), xycoords=("data", "axes fraction"), color=COLORS[1], ha="center"
    )
    right.set(xlabel="value")
    return figure


def saturation(widths: list[int], curves: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw what happens to scores and softmax as vectors get wider:
    one panel per quantity, one line with and one without scale.
    """
    rows = -(-len(curves) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(8.5, 2.8 * rows), squeeze=False)
    for ax, (quantity, lines) in zip(axes.flat, curves.items(), strict=False):
        for (name, values), style, color in zip(lines.items(), ("o-", "s--"), COLORS, strict=False):
            ax.plot(widths, values, style, label=name, color=color, markersize=4)
        ax.set(xscale="log", title=quantity, xlabel="$d_k$")
        ax.set_xticks(widths, [str(w) for w in widths])
        ax.minorticks_off()
    axes[0, 0].set_yscale("log")
    axes[0, 0].legend(loc="best")
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    return figure


def reading(scores: Tensor, weights: Tensor, output: Tensor, *, words: list[str], outputs: list[str]) -> Figure:
    """Draw scores, weights and what each word has read, side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    signed_heatmap(scores, rows=words, columns=words, ax=axes[0], title="scores", numbers=True)
    weights_heatmap(weights, queries=words, keys=words, ax=axes[1], title="weights", numbers=True)
    weights_heatmap(output, queries=words, keys=outputs, ax=axes[2], title="probability of each colour", numbers=True)
    for ax in axes[:2]:
        ax.set(xlabel="key")
    axes[0].set(ylabel="query")
    return figure
