"""Pictures of global and local attention: its pattern, how far news travels, what passes, and what was learned."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.plot import seed_dots
from attncourse.plot.schematic import ROLES
from attncourse.plot.style import COLORS

KINDS = {
    "two ordinary tokens": ROLES["token"],
    "a global token is read": ROLES["state"],
    "a global token reads": ROLES["query"],
}


def kinds_of_pairs(seen: Tensor, global_tokens: list[int]) -> Tensor:
    """Return of every pair 0 where it is not seen, else 1, 2 or 3: which of `KINDS` it is."""
    kind = seen.int()
    kind[:, global_tokens] = torch.where(seen[:, global_tokens], 2, 0).int()
    kind[global_tokens] = torch.where(seen[global_tokens], 3, 0).int()
    return kind


def pattern_maps(panels: dict[str, tuple[Tensor, list[int]]]) -> Figure:
    """Draw one map per panel, from (who reads whom as (n, n) booleans, positions of the global tokens):
    a row is a query.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2.4 * len(panels), 3.2), squeeze=False)
    for ax, (name, (seen, global_tokens)) in zip(axes.flat, panels.items(), strict=True):
        kinds = kinds_of_pairs(seen, global_tokens)
        ax.imshow(kinds, cmap=ListedColormap(["white", *KINDS.values()]), vmin=0, vmax=3)
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


def rank_against_tokens(parts: list[int], ranks: dict[str, list[int]], bounds: dict[str, list[int]]) -> Axes:
    """Draw the rank of what arrives as points against the tokens on either side, and what was predicted as lines."""
    _, ax = plt.subplots(figsize=(5.6, 3.2))
    for (name, found), marker, color in zip(ranks.items(), "osD^", COLORS, strict=False):
        ax.plot(parts, bounds[name], "-", color=color, linewidth=1)
        ax.plot(parts, found, marker, color=color, markersize=5, label=name)
    ax.plot([], [], "-", color=COLORS[6], linewidth=1, label="predicted")
    ax.set(xlabel="tokens on either side", ylabel="rank of what arrives", xticks=parts)
    ax.legend()
    return ax


def topics_by_seed(recorded: dict[str, list[float]], live: dict[str, float], *, guessing: float) -> Axes:
    """Draw the share of documents whose topic each reader names, a dot per seed, above the share of a guess."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    seed_dots(ax, _wrapped(recorded), _wrapped(live))
    ax.axhline(guessing, color=COLORS[1], linestyle="--", linewidth=1, label="a guess")
    ax.set(ylabel="topics right", ylim=(0, 1.05))
    ax.legend(loc="center right")
    return ax


def values_by_seed(
    recorded: dict[str, dict[str, list[float]]], live: dict[str, dict[str, float]], most_common: list[float]
) -> Axes:
    """Draw the share of values that each reader gives right, a column per number of pairs and a dot per seed.

    Args:
        recorded, live: by reader, then by the number of pairs.
        most_common: what saying the most common value gives, for each number of pairs.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    for i, (name, by_pairs) in enumerate(recorded.items()):
        seed_dots(
            ax, by_pairs, live.get(name), color=COLORS[i * 2], marker="os^"[i], aside=0.3 * (i - 1), label=name
        )  # fmt: skip
    for column, share in enumerate(most_common):
        ax.plot(
            [column - 0.45, column + 0.45], [share, share], "--", color=COLORS[1], linewidth=1.2,
            label="most common value told" if column == 0 else None,
        )  # fmt: skip
    ax.set(xlabel="pairs told and asked for", ylabel="values right", ylim=(0, 1.05))
    ax.figure.legend(loc="outside upper center", ncols=3)
    return ax


def _wrapped(by_name: dict) -> dict:
    """Return the same with names that break into lines of two words."""
    broken = {name: name.split(" ") for name in by_name}
    return {
        "\n".join(" ".join(words[i : i + 2]) for i in range(0, len(words), 2)): by_name[name]
        for name, words in broken.items()
    }
