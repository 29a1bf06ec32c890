"""Pictures of what one vector loses: influence by place, accuracy by length, where each character's influence falls."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import COLORS, WEIGHTS

MARKERS = ("o-", "s--", "^:")


def influence_by_place(curves: dict[str, Tensor]) -> Axes:
    """Draw one line per model: how strongly the word at each place of the source reaches the output,
    on a logarithmic axis.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    for (name, values), marker, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values, marker, color=color, markersize=4, label=name)
    ax.set(yscale="log", xlabel="place of the word in the source", ylabel="influence on the output")
    ax.set_xticks([1, *range(5, len(values) + 1, 5)])
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def decay(distances: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw one line per weight: what is left of a change after so many steps of a recurrence."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    for (name, values), marker, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(distances, values, marker, color=color, markersize=3, label=name)
    ax.set(yscale="log", xlabel="steps since the word was read", ylabel="largest influence")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def learning_curves(losses: dict[str, list[float]], *, span: int = 25) -> Axes:
    """Draw the training loss of each model, each point the mean of `span` steps."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), marker, color in zip(losses.items(), MARKERS, COLORS, strict=False):
        starts = range(0, len(values) - span + 1, span)
        means = [sum(values[i : i + span]) / span for i in starts]
        ax.plot([i + span / 2 for i in starts], means, marker[1:], color=color, label=name)
    ax.set(yscale="log", xlabel="training step", ylabel="loss per character")
    ax.legend()
    return ax


def accuracy_against_length(
    buckets: list[str], counts: list[int], curves: dict[str, list[tuple[float, float, float]]], *, xlabel: str
) -> Axes:
    """Draw the share of right answers in each bucket of lengths:
    (share, lowest, highest) per bucket and model, with counts.
    """
    _, ax = plt.subplots(figsize=(6.8, 3.6))
    for i, ((name, points), marker, color) in enumerate(zip(curves.items(), MARKERS, COLORS, strict=False)):
        share, low, high = (list(column) for column in zip(*points, strict=True))
        # A small step aside, so that error bars do not hide each other.
        x = [j + 0.08 * (i - (len(curves) - 1) / 2) for j in range(len(buckets))]
        below = [s - b for s, b in zip(share, low, strict=True)]
        above = [t - s for s, t in zip(share, high, strict=True)]
        ax.errorbar(x, share, yerr=[below, above], fmt=marker, color=color, capsize=3, markersize=5, label=name)
    ax.set_xticks(range(len(buckets)), [f"{bucket}\n{n} sources" for bucket, n in zip(buckets, counts, strict=True)])
    ax.set(ylim=(-0.03, 1.03), xlabel=xlabel, ylabel="exact match, held out")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def influence_maps(
    panels: dict[str, Tensor], *, source: list[str], target: str, blocks: list[tuple[int, int, int, int]]
) -> Figure:
    """Draw one map (t, s) per model on one colour scale:
    rows are characters written, columns words, each row sums to 1.

    Args:
        blocks: (first row, rows, first column, columns) of each part of the target and of the words that it writes.
    """
    width, height = 0.7 + 0.27 * len(source), 1.2 + 0.19 * len(target)
    figure, axes = plt.subplots(1, len(panels), figsize=(width * len(panels) + 0.6, height), sharey=True)
    high = max(float(shares.max()) for shares in panels.values())
    for ax, (name, shares) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(shares.detach().cpu(), cmap=WEIGHTS, vmin=0, vmax=high, aspect="auto")
        ax.set_xticks(range(len(source)), source, rotation=90, fontsize=8)
        ax.set_yticks(range(len(target)), list(target), fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(name)
        for row, rows, column, columns in blocks:
            ax.add_patch(
                Rectangle((column - 0.5, row - 0.5), columns, rows, fill=False, edgecolor=COLORS[1], linewidth=1.5)
            )
    figure.colorbar(image, ax=axes, label="share of the row's influence", fraction=0.03)
    return figure
