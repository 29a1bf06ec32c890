"""Pictures of sparse patterns: the blocks that are computed, the layers that a path takes, what was found where."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.block_sparse import BlockPattern
from attncourse.plot.style import COLORS

# What becomes of a pair; a pair of a dead block is white.
KINDS = {
    "computed, not wanted": "#dddddd",
    "wanted, in a partial block": COLORS[5],
    "wanted, in a whole block": COLORS[0],
}


def block_pattern_maps(patterns: dict[str, BlockPattern]) -> Figure:
    """Draw one map per pattern, a row per query and a column per key,
    with the grid of its blocks where that is coarse enough.
    """
    kinds = {name: _kinds(pattern) for name, pattern in patterns.items()}
    figure, axes = plt.subplots(1, len(patterns), figsize=(2.6 * len(patterns), 3.1), squeeze=False)
    for ax, (name, pattern) in zip(axes.flat, patterns.items(), strict=True):
        ax.imshow(kinds[name], cmap=ListedColormap(["white", *KINDS.values()]), vmin=0, vmax=3)
        if pattern.n_blocks <= 32:  # finer than that, lines hide what lies between them
            edges = [i * pattern.block - 0.5 for i in range(pattern.n_blocks + 1)]
            ax.set_xticks(edges, minor=True)
            ax.set_yticks(edges, minor=True)
            ax.grid(which="minor", color="#999999", linewidth=0.4)
        ax.tick_params(which="both", length=0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set(title=name, xlabel="key")
        ax.title.set_fontsize(10)
    axes[0, 0].set(ylabel="query")
    drawn = torch.cat([x.flatten() for x in kinds.values()]).unique()
    handles = [Patch(facecolor=c, label=kind) for i, (kind, c) in enumerate(KINDS.items(), start=1) if i in drawn]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS))
    return figure


def _kinds(pattern: BlockPattern) -> Tensor:
    """Return 0 dead, 1 computed and hidden, 2 visible in a partial block, 3 visible in a whole one, (n, n)."""
    blocks = torch.zeros(pattern.n_blocks, pattern.n_blocks, dtype=torch.long)
    blocks[pattern.rows, pattern.columns] = torch.where(pattern.mask_of < 0, 3, 2)
    side = torch.arange(pattern.n) // pattern.block
    kinds = blocks[side[:, None], side]
    return torch.where((kinds > 0) & ~pattern.dense_mask(), 1, kinds)


def layers_maps(layers: dict[str, Tensor], *, causal: bool = True) -> Figure:
    """Draw one map per pattern of the layers (n, n) that a path takes, -1 where there is none;
    if causal, of the past alone.
    """
    most = max(int(x.max()) for x in layers.values())
    figure, axes = plt.subplots(1, len(layers), figsize=(2.6 * len(layers), 3.1), squeeze=False)
    colors = plt.get_cmap("viridis_r", most + 1)([i / max(most, 1) for i in range(most + 1)])
    for ax, (name, values) in zip(axes.flat, layers.items(), strict=True):
        shown = values.masked_fill(~torch.ones_like(values).tril().bool(), -2) if causal else values
        ax.imshow(shown, cmap=ListedColormap(["white", COLORS[1], *colors]), vmin=-2, vmax=most)
        ax.set(title=name, xlabel="is reached", xticks=[], yticks=[])
        ax.title.set_fontsize(10)
    axes[0, 0].set(ylabel="position")
    handles = [Patch(facecolor=color, label=str(i)) for i, color in enumerate(colors)]
    if any((x < 0).tril().any() for x in layers.values()):
        handles.append(Patch(facecolor=COLORS[1], label="never"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="layers")
    return figure


def accuracy_by_place(curves: dict[str, Tensor], seen: Tensor, *, chance: float) -> Axes:
    """Draw one line per model: how often it found what stood at each place;
    ticks below mark the places that one layer sees.
    """
    _, ax = plt.subplots(figsize=(7.2, 2.8))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(len(values)), values.tolist(), style, color=color, markersize=3, linewidth=1, label=name)
    places = seen.nonzero()[:, 0].tolist()
    ax.plot(places, [-0.07] * len(places), "|", color=COLORS[-1], label="seen by the last position")
    ax.axhline(chance, color="#999999", linewidth=0.8, linestyle=":")
    ax.set(xlabel="place of the marked token", ylabel="accuracy", ylim=(-0.14, 1.08))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves) + 1)
    return ax
