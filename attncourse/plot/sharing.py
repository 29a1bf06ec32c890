"""Pictures of shared keys and values: who reads whose, what it costs in loss, what conversion keeps, how long a step takes."""

import statistics

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .style import COLORS


def head_sharing(panels: dict[str, list[int]]) -> Figure:
    """Draw a panel per design: query heads above, key/value heads below,
    a line from each query head to the one it reads.

    Args:
        panels: name -> for each query head the key/value head that it reads.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 1.9))
    for ax, (name, reads) in zip(axes, panels.items(), strict=True):
        h, g = len(reads), max(reads) + 1
        places = [(head + 0.5) * h / g - 0.5 for head in range(g)]
        for i, head in enumerate(reads):
            color = COLORS[head % len(COLORS)]
            ax.plot([i, places[head]], [1, 0], color=color, linewidth=1.2, zorder=1)
            ax.scatter(i, 1, s=150, marker="o", color=color, zorder=2)
            ax.annotate("q", (i, 1), color="white", fontsize=8, ha="center", va="center")
        for head, place in enumerate(places):
            ax.scatter(place, 0, s=330, marker="s", color=COLORS[head % len(COLORS)], zorder=2)
            ax.annotate("k v", (place, 0), color="white", fontsize=7, ha="center", va="center")
        ax.set(title=name, xlim=(-0.8, h - 0.2), ylim=(-0.45, 1.4))
        ax.axis("off")
    return figure


def loss_against_cache(nbytes: dict[str, int], losses: dict[str, list[float]]) -> Axes:
    """Draw a model's loss against the bytes a token takes in its cache: a point per seed, a bar at their mean."""
    _, ax = plt.subplots(figsize=(5.4, 3.3))
    for (name, values), color in zip(losses.items(), COLORS, strict=False):
        ax.plot([nbytes[name]] * len(values), values, "o", color=color, alpha=0.5, markersize=5)
        ax.plot(
            nbytes[name], statistics.fmean(values), "_", color=color, markersize=26, markeredgewidth=2.5, label=name
        )
    ax.set(xscale="log", xlabel="cache, bytes a token", ylabel="held-out loss, nats per character")
    ticks = sorted(set(nbytes.values()))
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.minorticks_off()
    ax.margins(x=0.18)
    ax.legend()
    return ax


def conversion_losses(before: dict[str, list[float]], after: dict[str, list[float]], *, original: float) -> Figure:
    """Draw the loss of each way to convert, right away and after uptraining: a point per seed, a bar at their mean."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.2))
    for ax, losses, title in zip(axes, (before, after), ("converted", "and uptrained"), strict=True):
        for place, (values, color) in enumerate(zip(losses.values(), COLORS, strict=False)):
            ax.plot([place] * len(values), values, "o", color=color, alpha=0.5, markersize=5)
            ax.plot(place, statistics.fmean(values), "_", color=color, markersize=30, markeredgewidth=2.5)
        ax.axhline(original, color="#666666", linewidth=1, linestyle="--")
        ax.annotate("before conversion", (-0.45, original), xytext=(0, 3), textcoords="offset points", fontsize=8)
        ax.set(title=title, xlim=(-0.5, len(losses) - 0.5))
        ax.set_xticks(range(len(losses)), list(losses))
    axes[0].set(ylabel="held-out loss, nats per character")
    return figure


def step_against_heads(heads: list[int], seconds: dict[str, list[float]], *, device: str) -> Axes:
    """Draw milliseconds of a decode step against the number of key/value heads: a line per measure or prediction."""
    _, ax = plt.subplots(figsize=(7.4, 3.4))
    for (name, values), style, color in zip(seconds.items(), ("o-", "s-", "--", ":"), COLORS, strict=False):
        ax.plot(heads, [1e3 * second for second in values], style, color=color, markersize=5, label=name)
    ax.set(xscale="log", yscale="log", xlabel="key/value heads g", ylabel="time of a step, ms", title=device)
    ax.title.set_fontsize(8)
    ax.set_xticks(heads, [str(g) for g in heads])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax
