"""Pictures of who reads whom: lines between words, maps of what moved what, steps against distance, what each place costs."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.plot.style import COLORS


def connections(panels: dict[str, tuple[Tensor, list[str], list[str]]]) -> Figure:
    """Draw one panel per mask (t, s): queries above, keys below, a line where one reads the other."""
    lengths = [max(len(queries), len(keys)) for _, queries, keys in panels.values()]
    figure, axes = plt.subplots(1, len(panels), figsize=(0.9 * sum(lengths), 2.6), squeeze=False, width_ratios=lengths)
    for ax, (name, (mask, queries, keys)) in zip(axes.flat, panels.items(), strict=True):
        if mask.shape != (len(queries), len(keys)):
            raise ValueError(f"{len(queries)} queries and {len(keys)} keys for a mask of shape {tuple(mask.shape)}")
        for i, j in mask.nonzero().tolist():
            # A colour a query: what leads to one word can be followed.
            ax.plot([i, j], [0.86, 0.14], color=COLORS[i % len(COLORS)], linewidth=1.5, solid_capstyle="round")
        for words, height, color in ((queries, 1.0, COLORS), (keys, 0.0, ["black"])):
            for i, word in enumerate(words):
                ax.text(i, height, word, ha="center", va="center", fontsize=10, color=color[i % len(color)])
        longest = max(len(queries), len(keys))
        ax.set(title=name, xlim=(-0.6, longest - 0.4), ylim=(-0.15, 1.15))
        ax.axis("off")
    axes[0, 0].text(-0.62, 1.0, "reads", ha="right", va="center", fontsize=9, color="#555555")
    axes[0, 0].text(-0.62, 0.0, "is read", ha="right", va="center", fontsize=9, color="#555555")
    return figure


# Of a pair of a query and a token: 0 says neither seen nor allowed, and is white.
KINDS = {"seen": COLORS[0], "a leak": COLORS[1], "not seen, though it may": COLORS[4]}


def reach_maps(panels: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draw one map per layer: (what moved which output, what may), both (t, s) booleans;
    a row is a query, a column a token changed.

    Seen and allowed, seen and not allowed (a leak), allowed and not seen (blind) have colours of their own.
    """
    kinds = [torch.where(seen, torch.where(may, 1, 2), torch.where(may, 3, 0)) for seen, may in panels.values()]
    heights, widths = zip(*(kind.shape for kind in kinds), strict=True)
    size = sum(0.9 + 0.26 * s for s in widths), 1.3 + 0.26 * max(heights)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, width_ratios=widths)
    for ax, name, kind in zip(axes.flat, panels, kinds, strict=True):
        _reach_map(ax, kind)
        ax.set(title=name, xlabel="token replaced")
        ax.title.set_fontsize(10)
    axes[0, 0].set(ylabel="position that moved")
    drawn = torch.cat([kind.flatten() for kind in kinds]).unique()
    handles = [Patch(facecolor=c, label=name) for i, (name, c) in enumerate(KINDS.items(), start=1) if i in drawn]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS))
    return figure


def _reach_map(ax: Axes, kind: Tensor) -> None:
    t, s = kind.shape
    ax.imshow(kind, cmap=ListedColormap(["white", *KINDS.values()]), vmin=0, vmax=3)
    ax.set_xticks(range(s))
    ax.set_yticks(range(t), [str(s - t + i) for i in range(t)])
    ax.set_xticks([j + 0.5 for j in range(s - 1)], minor=True)
    ax.set_yticks([i + 0.5 for i in range(t - 1)], minor=True)
    ax.grid(which="minor", color="#bbbbbb", linewidth=0.6)
    ax.tick_params(which="both", length=0)


def steps_against_distance(distances: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw one line per layer: how many steps lie between two tokens at a distance."""
    _, ax = plt.subplots(figsize=(5.2, 3.0))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(distances, values, style, color=color, markersize=4, label=name)
    ax.set(xlabel="distance between the tokens", ylabel="steps between them", ylim=(0, None))
    ax.locator_params(integer=True)
    ax.legend()
    return ax


def loss_by_place(curves: dict[str, Tensor]) -> Axes:
    """Draw one line per model: the mean loss of the prediction made at each place of a row."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values.tolist(), style, color=color, markersize=3, label=name)
    ax.set(xlabel="place in the row", ylabel="loss, nats per character", ylim=(0, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax
