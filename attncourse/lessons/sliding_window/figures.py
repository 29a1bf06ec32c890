"""Pictures of local attention: patterns of who sees whom, how far a stack of layers hears, right answers by distance."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.style import COLORS


def pattern_maps(panels: dict[str, Tensor], *, columns: int = 3) -> Figure:
    """Draw one map per pattern, a boolean (t, s):
    a row is a query, a column a key, filled where the query sees the key.
    """
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 3.0 * rows), squeeze=False)
    for ax, (name, seen) in zip(axes.flat, panels.items(), strict=False):
        ax.imshow(seen.cpu().numpy(), cmap=ListedColormap(["white", COLORS[0]]), vmin=0, vmax=1)
        for axis, count in ((ax.set_xticks, seen.shape[1]), (ax.set_yticks, seen.shape[0])):
            axis([i + 0.5 for i in range(count - 1)], minor=True)
            axis(range(0, count, 5))
        ax.grid(which="minor", color="#dddddd", linewidth=0.5)
        ax.tick_params(which="both", length=0)
        ax.set(title=f"{name}\n{int(seen.sum())} pairs", xlabel="key")
    for ax in axes[:, 0]:
        ax.set(ylabel="query")
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    return figure


def reach_by_layers(curves: dict[int, Tensor], reaches: dict[int, int]) -> Axes:
    """Draw one line per number of layers:
    the influence of each distance on the output, with the predicted reach as a mark.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    for (layers, values), style, color in zip(curves.items(), ("-", "--", "-.", ":"), COLORS, strict=False):
        heard = values > 0
        distances = heard.nonzero()[:, 0]
        name = f"{layers} layer{'s' * (layers > 1)}"
        ax.plot(distances, values[heard], style, color=color, label=name)
        ax.axvline(reaches[layers] - 1, color=color, linewidth=0.8, ymax=0.12)
    ax.set(yscale="log", xlabel="distance of the token", ylabel="influence on the output")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def accuracy_by_distance(curves: dict[str, list[float]], *, chance: float, reach: int) -> Axes:
    """Draw one line per model: the share of right answers when what is asked for stands so far back (from distance 1)."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.axvspan(0.5, reach + 0.5, color="#eeeeee", zorder=0)
    ax.axhline(chance, color="#999999", linewidth=1)
    ax.annotate("chance", (1, chance + 0.02), fontsize=8, color="#555555")
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values, style, color=color, markersize=4, label=name)
    ax.set(ylim=(-0.03, 1.05), xlabel="distance between the question and the answer", ylabel="right answers")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax
