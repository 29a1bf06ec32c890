"""Pictures of alignments: what trained models look at, how a local window weighs, what scores cost."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .heatmap import weights_heatmap
from .style import COLORS


def alignments(panels: dict[str, Tensor], *, source: list[str], target: str, columns: int = 3) -> Figure:
    """Draw one heat map (t, s) per model, side by side: rows are the characters written, columns the words read."""
    rows = -(-len(panels) // columns)
    size = (0.9 + 0.26 * len(source)) * columns, (1.0 + 0.2 * len(target)) * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, (name, weights) in zip(axes.flat, panels.items(), strict=False):
        weights_heatmap(weights, queries=list(target), keys=source, ax=ax, title=name)
        ax.set_xticks(range(len(source)), source, rotation=90, fontsize=8)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    return figure


def local_windows(scores: Tensor, truncated: Tensor, weighted: Tensor, *, position: float, radius: int) -> Figure:
    """Draw one query's weights over all keys, over a window, and over a window under a Gaussian."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True)
    keys = torch.arange(len(scores))
    panels = {
        "global": torch.softmax(scores, dim=0),
        "window alone (local-m)": truncated,
        "times a Gaussian (local-p)": weighted,
    }
    for ax, (name, weights) in zip(axes, panels.items(), strict=True):
        ax.bar(keys.tolist(), weights.tolist(), color=COLORS[0])
        ax.set(title=name, xlabel="key")
        ax.annotate(f"sum {weights.sum():.2f}", (0.98, 0.9), xycoords="axes fraction", ha="right", fontsize=9)
    for ax in axes[1:]:
        ax.axvspan(position - radius - 0.5, position + radius + 0.5, color="#dddddd", zorder=0)
        ax.axvline(position, color=COLORS[1], linewidth=1.5)
    axes[0].set(ylabel="weight")
    return figure


def predicted_and_measured(
    sizes: list[int], measured: dict[str, list[int]], predicted: list[int], *, xlabel: str, label: str
) -> Axes:
    """Draw measured peaks of each form as points on lines, and the bytes that a formula predicts as a grey line."""
    _, ax = plt.subplots(figsize=(5.6, 3.5))
    ax.plot(sizes, [p / 1e6 for p in predicted], color="#999999", linewidth=4, alpha=0.6, label=label)
    for (name, values), style, color in zip(measured.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(sizes, [v / 1e6 for v in values], style, color=color, label=name)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="peak memory, MB")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.legend()
    return ax


def accuracy_and_time(accuracy: dict[str, float], errors: dict[str, float], milliseconds: dict[str, float]) -> Figure:
    """Draw bars of exact matches with their standard errors, beside bars of a score's time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    names = list(accuracy)
    left.barh(names, list(accuracy.values()), xerr=[errors[n] for n in names], color=COLORS[0], height=0.6)
    left.set(xlim=(0, 1), xlabel="exact match, held out")
    left.invert_yaxis()
    right.barh(list(milliseconds), list(milliseconds.values()), color=COLORS[1], height=0.6)
    right.set(xscale="log", xlabel="scores of 128 x 128 pairs, ms (logarithmic)")
    right.invert_yaxis()
    return figure
