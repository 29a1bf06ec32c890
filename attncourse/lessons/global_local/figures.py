"""Pictures of global and local attention: its pattern, and how far news travels from layer to layer."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.plot.style import COLORS

KINDS = {"two ordinary tokens": COLORS[0], "a global token is read": COLORS[4], "a global token reads": COLORS[2]}


def hub_patterns(panels: dict[str, tuple[Tensor, list[int]]]) -> Figure:
    """Draw one map per panel, from (who reads whom as (t, t) booleans, positions of the global tokens):
    a row is a query.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.6), squeeze=False)
    for ax, (name, (seen, hubs)) in zip(axes.flat, panels.items(), strict=True):
        kind = seen.int()
        kind[:, hubs] = torch.where(seen[:, hubs], 2, 0).int()
        kind[hubs] = torch.where(seen[hubs], 3, 0).int()
        ax.imshow(kind, cmap=ListedColormap(["white", *KINDS.values()]), vmin=0, vmax=3)
        ax.set(title=f"{name}\n{int(seen.sum())} of {seen.numel()} pairs", xlabel="token that is read")
        ax.title.set_fontsize(10)
        ax.locator_params(integer=True, nbins=5)
    axes[0, 0].set(ylabel="token that reads")
    handles = [Patch(facecolor=color, label=name) for name, color in KINDS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS))
    return figure


def reach_against_layers(curves: dict[str, list[int]], *, length: int) -> Axes:
    """Draw one line per stack: how many of `length` tokens reach one output after 1, 2, ... layers."""
    _, ax = plt.subplots(figsize=(5.6, 3.0))
    for (name, counts), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(1, len(counts) + 1), counts, style, color=color, markersize=5, label=name)
    ax.axhline(length, color="#999999", linewidth=1, zorder=0)
    ax.annotate("all tokens", (0.99, 1.03 * length), xycoords=("axes fraction", "data"), ha="right", fontsize=9)
    ax.set(xlabel="layers", ylabel="tokens that reach the output", ylim=(0, 1.15 * length))
    ax.set_xticks(range(1, max(map(len, curves.values())) + 1))
    ax.legend(loc="center right")
    return ax
