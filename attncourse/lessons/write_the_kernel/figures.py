"""Pictures of kernels: tiles visited, weights that a broken one used, tests that caught it."""

from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.plot.style import COLORS, WEIGHTS

# What a kernel does with a tile of scores.
TILES = {"skipped": "#ffffff", "computed, every pair visible": COLORS[5], "computed, then tested": COLORS[0]}
OUTCOMES = {True: ("#d9ede5", "holds"), False: (COLORS[1], "fails"), None: ("#ffffff", "–")}


def tile_maps(panels: dict[str, Tensor], *, blocks: dict[str, tuple[int, int]]) -> Figure:
    """Draw one map per case, of integers (t, s):
    a pair's tile is 0 skipped, 1 computed without a test, 2 computed and tested.

    `blocks` are the tiles' heights and widths; their edges and the diagonal are drawn.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2.35 * len(panels), 2.9), squeeze=False)
    for ax, (name, kinds) in zip(axes.flat, panels.items(), strict=True):
        t, s = kinds.shape
        ax.imshow(kinds.cpu().numpy(), cmap=ListedColormap([*TILES.values()]), vmin=0, vmax=2)
        for axis, size, count in ((ax.axhline, blocks[name][0], t), (ax.axvline, blocks[name][1], s)):
            for edge in range(size, count, size):
                axis(edge - 0.5, color="#555555", linewidth=0.8)
        ax.plot([s - t - 0.5, s - 0.5], [-0.5, t - 0.5], color=COLORS[1], linewidth=1.2)
        ax.set_title(fill(name, 18), fontsize=10)
        ax.set(xlabel="key", xlim=(-0.5, s - 0.5), ylim=(t - 0.5, -0.5))
    axes[0, 0].set(ylabel="query")
    handles = [Patch(facecolor=color, edgecolor="#999999", label=kind) for kind, color in TILES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(TILES))
    return figure


def weight_maps(got: dict[str, Tensor], right: dict[str, Tensor], *, columns: int = 3) -> Figure:
    """Draw one map per attention of the weights (t, s) it used; where they are wrong, orange, and black for NaN."""
    rows = -(-len(got) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.8 * columns, 2.4 * rows), squeeze=False)
    for ax, (name, weights) in zip(axes.flat, got.items(), strict=False):
        colors = plt.get_cmap(WEIGHTS)(weights.cpu().nan_to_num().sqrt().numpy())  # the root shows small weights too
        colors[differing(weights, right[name]).numpy()] = to_rgba(COLORS[1])
        colors[weights.isnan().cpu().numpy()] = (0, 0, 0, 1)
        ax.imshow(colors)
        ax.set_title(fill(name, 20), fontsize=9.5)
        ax.set(xlabel="key", xticks=[0, 10, 20, 30], yticks=[0, 10, 20, 30])
    for ax in axes[:, 0]:
        ax.set(ylabel="query")
    for ax in axes.flat[len(got) :]:
        ax.axis("off")
    handles = [
        Patch(facecolor=plt.get_cmap(WEIGHTS)(0.6), label="right"),
        Patch(facecolor=COLORS[1], label="not right"),
    ]
    figure.legend(handles=[*handles, Patch(facecolor="black", label="NaN")], loc="outside lower center", ncols=3)
    return figure


def differing(weights: Tensor, right: Tensor) -> Tensor:
    """Return where weights are off by more than rounding, NaN included."""
    return ~((weights - right).abs().cpu() <= 1e-3)  # NaN compares as False


def verdict_grid(verdicts: dict[str, dict[str, bool | None]]) -> Axes:
    """Draw a row per attention, a column per test: whether the test's property holds of it;
    a dash where it does not apply.
    """
    tests = list(next(iter(verdicts.values())))
    _, ax = plt.subplots(figsize=(0.55 * len(tests) + 3.0, 0.38 * len(verdicts) + 2.1))
    for row, found in enumerate(verdicts.values()):
        for column, test in enumerate(tests):
            color, mark = OUTCOMES[found[test]]
            ax.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=color, edgecolor="white", linewidth=2))
            ax.text(column + 0.5, row + 0.5, mark, ha="center", va="center", fontsize=9)
    ax.set(xlim=(0, len(tests)), ylim=(len(verdicts), 0))
    ax.set_xticks([i + 0.5 for i in range(len(tests))], tests, rotation=45, ha="left", rotation_mode="anchor")
    ax.set_yticks([i + 0.5 for i in range(len(verdicts))], verdicts)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax
