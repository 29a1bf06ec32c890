"""Pictures of next-token prediction: loss by place in the row, one call against many."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from .style import COLORS

STYLES = ("o-", "s--", "^:")


def loss_by_place(curves: dict[str, Tensor]) -> Axes:
    """One line a model: the mean loss of the prediction made at each place of a row."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), style, color in zip(curves.items(), STYLES, COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values.tolist(), style, color=color, markersize=3, label=name)
    ax.set(xlabel="place in the row", ylabel="loss, nats per character", ylim=(0, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def seconds_against_length(lengths: list[int], curves: dict[str, list[float]], *, device: str) -> Axes:
    """One line a way to compute the same: milliseconds against length, both axes logarithmic."""
    _, ax = plt.subplots(figsize=(5.2, 3.2))
    for (name, values), style, color in zip(curves.items(), STYLES, COLORS, strict=False):
        ax.plot(lengths, [1e3 * value for value in values], style, color=color, markersize=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="length", ylabel="time, ms", title=device)
    ax.title.set_fontsize(8)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.minorticks_off()
    ax.legend()
    return ax
