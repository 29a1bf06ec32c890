"""Pictures of alignments: what trained models look at while they write."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .heatmap import weights_heatmap


def alignment(ax: Axes, weights: Tensor, *, source: list[str], target: str, title: str = "") -> None:
    """Draw one heat map (t, s) on these axes: rows are the characters written, columns the words read."""
    weights_heatmap(weights, queries=list(target), keys=source, ax=ax, title=title)
    ax.set_xticks(range(len(source)), source, rotation=90)


def alignments(panels: dict[str, Tensor], *, source: list[str], target: str, columns: int = 3) -> Figure:
    """Draw one heat map (t, s) per model, side by side: rows are the characters written, columns the words read."""
    rows = -(-len(panels) // columns)
    size = (0.9 + 0.26 * len(source)) * columns, (1.0 + 0.2 * len(target)) * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, (name, weights) in zip(axes.flat, panels.items(), strict=False):
        alignment(ax, weights, source=source, target=target, title=name)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    figure.supxlabel("word read", fontsize=10)
    figure.supylabel("character written", fontsize=10)
    return figure
