"""Pictures of sparse patterns: the blocks that are computed, the layers that a path takes, what was found where."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.block_sparse import BlockPattern
from attncourse.plot import seed_dots
from attncourse.plot.style import COLORS

# What becomes of a pair; a pair of a dead block is white.
KINDS = {
    "computed, not wanted": "#dddddd",
    "wanted, in a partial block": COLORS[5],
    "wanted, in a whole block": COLORS[0],
}


def block_pattern_maps(patterns: dict[str, BlockPattern], *, columns: int = 3) -> Figure:
    """Draw one map per pattern, a row per query and a column per key,
    with the grid of its blocks where that is coarse enough.
    """
    kinds = {name: pair_kinds(pattern) for name, pattern in patterns.items()}
    figure, axes = _panels(kinds, columns, below=0.3)
    for ax, (name, pattern) in zip(axes, patterns.items(), strict=True):
        ax.imshow(kinds[name], cmap=ListedColormap(["white", *KINDS.values()]), vmin=0, vmax=3)
        if pattern.n_blocks <= 32:  # finer than that, lines hide what lies between them
            edges = [i * pattern.block - 0.5 for i in range(pattern.n_blocks + 1)]
            ax.set_xticks(edges, minor=True)
            ax.set_yticks(edges, minor=True)
            ax.grid(which="minor", color="#bbbbbb", linewidth=0.3)
        ax.tick_params(which="both", length=0)
        ax.set(xlabel="key", ylabel="query")
    drawn = torch.cat([x.flatten() for x in kinds.values()]).unique()
    handles = [Patch(facecolor=c, label=kind) for i, (kind, c) in enumerate(KINDS.items(), start=1) if i in drawn]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS))
    return figure


def _panels(titles, columns: int, *, beside: float = 0.0, below: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return a figure with a square panel per title, so many in a row, and room for a legend, in inches."""
    rows, columns = math.ceil(len(titles) / columns), min(columns, len(titles))
    size = (2.3 * columns + beside, 2.55 * rows + below)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(titles) :]:
        ax.axis("off")
    for ax, title in zip(axes.flat, titles, strict=False):
        ax.set(title=title, xticks=[], yticks=[])
        ax.title.set_fontsize(10)
    return figure, list(axes.flat[: len(titles)])


def pair_kinds(pattern: BlockPattern) -> Tensor:
    """Return of each pair 0 dead, 1 computed and hidden, 2 visible in a partial block, 3 visible in a whole one, (n, n)."""
    blocks = torch.zeros(pattern.n_blocks, pattern.n_blocks, dtype=torch.long)
    blocks[pattern.rows, pattern.columns] = torch.where(pattern.mask_of < 0, 3, 2)
    side = torch.arange(pattern.n) // pattern.block
    kinds = blocks[side[:, None], side]
    return torch.where((kinds > 0) & ~pattern.dense_mask(), 1, kinds)


def layers_maps(layers: dict[str, Tensor], *, causal: bool = True, columns: int = 2) -> Figure:
    """Draw one map per pattern of the layers (n, n) that a path takes, -1 where there is none;
    if causal, of the past alone.
    """
    most = max(int(x.max()) for x in layers.values())
    figure, axes = _panels(layers, columns, beside=1.0)
    colors = plt.get_cmap("viridis_r", most + 1)([i / max(most, 1) for i in range(most + 1)])
    for ax, values in zip(axes, layers.values(), strict=True):
        shown = values.masked_fill(~torch.ones_like(values).tril().bool(), -2) if causal else values
        ax.imshow(shown, cmap=ListedColormap(["white", COLORS[1], *colors]), vmin=-2, vmax=most)
        ax.set(xlabel="key", ylabel="query")
    handles = [Patch(facecolor=color, label=str(i)) for i, color in enumerate(colors)]
    if any((x < 0).tril().any() for x in layers.values()):
        handles.append(Patch(facecolor=COLORS[1], label="never"))
    figure.legend(handles=handles, loc="outside right center", title="layers")
    return figure


def accuracy_by_place(curves: dict[str, Tensor], seen: Tensor, *, chance: float) -> Axes:
    """Draw one line per model: how often it found what stood at each place;
    ticks below mark the places that one layer sees.
    """
    _, ax = plt.subplots(figsize=(6.8, 2.8))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(len(values)), values.tolist(), style, color=color, markersize=4, linewidth=1, label=name)
    places = seen.nonzero()[:, 0].tolist()
    ax.plot(places, [-0.07] * len(places), "|", color=COLORS[-1], label="seen by the last position")
    ax.axhline(chance, color="#999999", linewidth=0.8, linestyle=":")
    ax.set(xlabel="place of the marked token", ylabel="accuracy", ylim=(-0.14, 1.08))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves) + 1)
    return ax


def losses_by_steps(recorded: dict[str, dict[str, list[float]]], live: dict[str, float]) -> Figure:
    """Draw the held-out loss of each pattern, a dot per seed, a panel per number of training steps.

    Args:
        recorded: by number of steps, then by pattern.
        live: by pattern, of the seed that was trained here, with the first number of steps.
    """
    figure, axes = plt.subplots(1, len(recorded), figsize=(6.8, 3.0), sharey=True)
    for i, (ax, (steps, losses)) in enumerate(zip(axes, recorded.items(), strict=True)):
        names = {name: name.replace(" ", "\n") for name in losses}
        seed_dots(
            ax, {names[name]: x for name, x in losses.items()}, {} if i else {names[x]: y for x, y in live.items()}
        )
        ax.set(title=f"{steps} training steps")
    axes[0].set_ylabel("held-out loss, nats per character")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def accuracy_by_seed(recorded: dict[str, list[float]], live: dict[str, float], *, chance: float) -> Axes:
    """Draw the accuracy of each depth at seen and unseen places, a dot per seed, above a line at chance."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    broken = {name: name.replace(", ", ",\n") for name in recorded}
    seed_dots(ax, {broken[name]: x for name, x in recorded.items()}, {broken[name]: x for name, x in live.items()})
    ax.axhline(chance, color="#999999", linewidth=1, linestyle=":", label="guessing")
    ax.set(ylabel="accuracy", ylim=(0, 1.08))
    ax.legend(loc="center left")
    return ax


def costs_and_crossing(
    lengths: list[int], seconds: dict[str, list[float]], peaks: dict[str, list[int]], *, crossing: float | None
) -> Figure:
    """Draw time and memory of each form against length; a vertical line marks where two curves of time cross.

    Args:
        lengths: a curve may stop before the last.
        seconds, peaks: by form, processor time and bytes.
        crossing: the length; None where the curves do not meet.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.5))
    for ax, curves, factor, label in ((axes[0], seconds, 1e3, "time, ms"), (axes[1], peaks, 1e-6, "peak memory, MB")):
        for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
            ax.plot(lengths[: len(values)], [factor * x for x in values], style, label=name, color=color, markersize=5)
        ax.set(xscale="log", yscale="log", xlabel="length", ylabel=label)
        ax.set_xticks(lengths, [str(n) for n in lengths], rotation=45)
        ax.minorticks_off()
    if crossing is not None:
        axes[0].axvline(crossing, color=COLORS[6], linewidth=0.8)
        axes[0].text(crossing, axes[0].get_ylim()[0] * 1.2, f" {crossing:.0f}", fontsize=9, color=COLORS[6])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(seconds))
    return figure
