"""Pictures of memories of fixed size: whose weights they make, what they recall, how features err, how reading goes on."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from attncourse.plot.schematic import INK
from attncourse.plot.style import COLORS, WEIGHTS

MARKERS = ("o-", "s--", "^:", "D-.")
Seeds = Mapping[str, Sequence[Sequence[float]]]  # by name a row of values per seed


def weights_by_rule(panels: dict[str, Tensor], *, matches: Sequence[int]) -> Figure:
    """Draw a map of weights (t, s) per rule, the last t of s tokens asking; each map's darkest value is in its title.

    Args:
        matches: the key that each query looks for, which is ringed.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(6.8, 2.6), sharey=True)
    for ax, (name, weights) in zip(axes, panels.items(), strict=True):
        (t, s), darkest = weights.shape, float(weights.max())
        ax.imshow(
            weights, cmap=WEIGHTS, vmin=0, vmax=darkest, extent=(-0.5, s - 0.5, s - 0.5, s - t - 0.5), aspect="auto"
        )
        ax.plot(matches, range(s - t, s), "o", markersize=7, markerfacecolor="none", markeredgecolor=COLORS[1])
        ax.set(title=f"{name}\ndarkest: {darkest:.2f}", xlabel="key")
        ax.set_xticks(range(0, s, 5))
    axes[0].set(ylabel="query")
    return figure


def accuracy_against_pairs(
    pairs: list[int],
    recorded: Seeds,
    live: Mapping[str, Sequence[float]],
    *,
    width: int | None = None,
    among: Sequence[str] | None = None,
) -> Axes:
    """Draw the share of right answers of each memory against how many pairs it holds.

    Args:
        recorded: a row of shares per seed, drawn as small dots.
        live: those of the seed that was trained here, drawn as a line with ringed marks.
        width: of the head; a line stands where the pairs outnumber it.
        among: all names of another figure whose colours are kept (default: these alone).
    """
    _, ax = plt.subplots(figsize=(6.4, 3.3))
    _seeds(ax, pairs, recorded, live, among)
    if width is not None:
        ax.axvline(width, color="#999999", linewidth=1, zorder=0)
        ax.annotate(f"head width {width}", (width, 0.03), xytext=(4, 0), textcoords="offset points", fontsize=9)
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="pairs", ylabel="right answers")
    _name_ticks(ax, pairs)
    return ax


def error_against_features(counts: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw the relative error of an approximation against its number of features, both logarithmic."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    for (name, values), style, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        ax.plot(counts, values, style, color=color, markersize=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="random features", ylabel="relative error")
    _name_ticks(ax, counts)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if ax.get_ylim()[0] < tick < ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend()
    return ax


def loss_by_position(edges: list[int], recorded: Seeds, live: Mapping[str, Sequence[float]], *, trained: int) -> Axes:
    """Draw the mean loss of each model between neighbouring edges; grey where it was trained.

    Args:
        recorded: a row of losses per seed, drawn as small dots.
        live: those of the seed that was trained here, drawn as a line with ringed marks.
        trained: the length of the pieces that it was trained on.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    _seeds(ax, [(a * b) ** 0.5 for a, b in itertools.pairwise(edges)], recorded, live)
    ax.axvspan(edges[0], trained, color="#eeeeee", zorder=0)
    ax.annotate("trained", (edges[0], 0), xytext=(4, 4), textcoords="offset points", fontsize=9)
    ax.set(xscale="log", ylim=(0, None), xlabel="position", ylabel="loss, nats per character")
    _name_ticks(ax, edges)
    return ax


def _seeds(
    ax: Axes,
    x: Sequence[float],
    recorded: Seeds,
    live: Mapping[str, Sequence[float]],
    among: Sequence[str] | None = None,
) -> None:
    """Draw a line per name through the seed trained here, and dots of the recorded ones."""
    looks = dict(zip(among or recorded, zip(MARKERS, COLORS, strict=False), strict=False))
    for place, (name, rows) in enumerate(recorded.items()):
        style, color = looks[name]
        aside = 1.07 ** (place - (len(recorded) - 1) / 2)  # columns of dots stand beside each other
        at = [aside * value for value in x]
        ax.plot(at, live[name], style, color=color, markersize=7, markeredgecolor=INK, linewidth=1.2, label=name)
        for row in rows:
            ax.plot(at, row, style[0], color=color, markersize=3.5)
    ax.legend()


def _name_ticks(ax: Axes, x: list[int]) -> None:
    ax.set_xticks(x, [str(n) for n in x])
    ax.xaxis.set_minor_locator(NullLocator())
