"""Pictures of memories of fixed size: whose weights they make, what they recall, how features err, how reading goes on."""

import itertools

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.style import COLORS

MARKERS = ("o-", "s--", "^:", "D-.")


def weights_by_rule(panels: dict[str, Tensor]) -> Figure:
    """Draw one map of causal weights (t, t) per rule, all on one scale."""
    t = len(next(iter(panels.values())))
    figure, axes = plt.subplots(1, len(panels), figsize=(0.8 + 0.115 * t * len(panels), 0.9 + 0.105 * t), sharey=True)
    places = [str(i) if i % 5 == 0 else "" for i in range(t)]
    for ax, (name, weights) in zip(axes, panels.items(), strict=True):
        weights_heatmap(weights, queries=places, keys=places, ax=ax, title=name)
        ax.set(xlabel="key")
    axes[0].set(ylabel="query")
    return figure


def accuracy_against_pairs(
    pairs: list[int], curves: dict[str, list[float]], *, width: int | None = None, title: str = ""
) -> Axes:
    """Draw the share of right answers of each memory against how many pairs it holds;
    a line where they outnumber its width.
    """
    _, ax = plt.subplots(figsize=(5.4, 3.2))
    _lines(ax, pairs, curves)
    if width is not None:
        ax.axvline(width, color="#999999", linewidth=1, zorder=0)
        ax.annotate(f"head width {width}", (width, 0.03), xytext=(4, 0), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="pairs", ylabel="right answers", title=title)
    _name_ticks(ax, pairs)
    return ax


def error_against_features(counts: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw the relative error of an approximation against its number of features, both logarithmic."""
    _, ax = plt.subplots(figsize=(5.4, 3.2))
    _lines(ax, counts, curves)
    ax.set(xscale="log", yscale="log", xlabel="random features", ylabel="relative error")
    _name_ticks(ax, counts)
    return ax


def loss_by_position(edges: list[int], curves: dict[str, list[float]], *, trained: int) -> Axes:
    """Draw the mean loss of each model between neighbouring edges; grey where it was trained."""
    _, ax = plt.subplots(figsize=(6.0, 3.2))
    middles = [(a * b) ** 0.5 for a, b in itertools.pairwise(edges)]
    _lines(ax, middles, curves)
    ax.axvspan(edges[0], trained, color="#eeeeee", zorder=0)
    ax.annotate("trained", (edges[0], 0), xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", ylim=(0, None), xlabel="position", ylabel="loss, nats per character")
    _name_ticks(ax, edges)
    return ax


def _lines(ax: Axes, x: list[float], curves: dict[str, list[float]]) -> None:
    for (name, values), style, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(x, values, style, color=color, markersize=4, label=name)
    ax.legend()


def _name_ticks(ax: Axes, x: list[int]) -> None:
    ax.set_xticks(x, [str(n) for n in x])
    ax.xaxis.set_minor_locator(NullLocator())
