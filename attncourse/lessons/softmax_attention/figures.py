"""Pictures of reading by similarity: a soft dictionary, what scale does to softmax, a sentence, positions."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.heatmap import signed_heatmap, weights_heatmap
from attncourse.plot.schematic import INK, ROLES
from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS

SCALED, PLAIN = ("o", COLORS[0]), ("s", COLORS[1])
SMALLEST_TEXT = 9


def soft_lookup(
    keys: Tensor, values: Tensor, query: float, weights: Tensor, answer: float, *, names: list[str]
) -> Figure:
    """Draw a dictionary with keys on a line: each entry's weight for one query, and the mixture that is read."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.9), width_ratios=(3, 2))
    left.bar(keys.tolist(), weights.tolist(), width=0.35, color=ROLES["weight"])
    left.axvline(query, color=ROLES["query"], linewidth=2)
    left.annotate("query", (query, 1.02), color=ROLES["query"], ha="center", va="bottom", annotation_clip=False)
    left.set(ylim=(0, 1), xlabel="key", ylabel="weight")
    left.set_xticks(keys.tolist(), names)
    right.barh(names, values.tolist(), color=ROLES["value"], height=0.55)
    right.axvline(answer, color=INK, linewidth=2)
    right.annotate(f"read: {answer:.0f}", (answer, 1.02), xycoords=("data", "axes fraction"), color=INK, ha="center")
    right.set(xlabel="value")
    return figure


def saturation(widths: list[int], curves: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw one panel per quantity: what becomes of softmax as vectors get wider, scaled and plain."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3.1 * len(curves), 3.0), squeeze=False)
    for ax, (quantity, lines) in zip(axes.flat, curves.items(), strict=True):
        for (name, values), (marker, color), style in zip(lines.items(), (PLAIN, SCALED), ("--", "-"), strict=True):
            ax.plot(widths, values, style, marker=marker, label=name, color=color, markersize=5, clip_on=False)
        ax.set(xscale="log", title=quantity, xlabel="width $d_k$", ylim=(0, None))
        ax.set_xticks(widths, [str(w) for w in widths])
        ax.minorticks_off()
    axes[0, 0].legend(loc="best")
    return figure


def reading(scores: Tensor, weights: Tensor, output: Tensor, *, words: list[str], outputs: list[str]) -> Figure:
    """Draw scores, weights and what each word has read, side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    signed_heatmap(scores, rows=words, columns=words, ax=axes[0], title="scores $s_{ij}$", numbers=True)
    weights_heatmap(weights, queries=words, keys=words, ax=axes[1], title="weights $a_{ij}$", numbers=True)
    title = "probability of each colour"
    weights_heatmap(output, queries=words, keys=outputs, ax=axes[2], title=title, numbers=True)
    for ax in axes:
        ax.set(ylabel="query $i$", xlabel="key $j$")
        for text in ax.texts:
            text.set_fontsize(SMALLEST_TEXT)
    axes[2].set(ylabel="word", xlabel="colour")
    return figure


def right_by_scale(right: dict[str, dict[str, list[float]]], *, live: dict[str, float], live_width: int) -> Axes:
    """Draw a dot per trained reader over the width of its head, plain beside scaled, and rings round those run here.

    Args:
        right: "plain" and "scaled" -> width of the head -> the share of nouns that are right, per seed.
        live: "plain" and "scaled" -> the share found here, at `live_width`.
    """
    _, ax = plt.subplots(figsize=(7.5, 3.1))
    for name, (marker, color), aside in (("plain", PLAIN, -0.2), ("scaled", SCALED, 0.2)):
        here = {str(live_width): live[name]}
        seed_dots(ax, right[name], here, color=color, marker=marker, aside=aside, label=name)
    ax.axhline(0.2, color="#999999", linewidth=1, linestyle=":")
    ax.annotate("guessing", (len(right["plain"]) - 0.45, 0.2), ha="right", va="bottom", fontsize=SMALLEST_TEXT)
    ax.set(ylim=(0, 1.08), xlabel="width $d_k$", ylabel="share of nouns right")
    ax.legend(loc="lower left")
    return ax


def sinusoid_map(positions: Tensor) -> Axes:
    """Draw the sinusoidal vectors (n, d) as a map: a row per place, a column per entry."""
    n, d = positions.shape
    _, ax = plt.subplots(figsize=(5.2, 3.2))
    image = ax.imshow(positions, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.set(xlabel=f"entry, 0 to {d - 1}", ylabel=f"place, 0 to {n - 1}")
    ax.figure.colorbar(image, ax=ax, label="value")
    return ax


def rotation(pairs: dict[str, tuple[Tensor, Tensor]], scores: Tensor) -> Figure:
    """Draw rotated pairs of a query and a key in the plane, and the scores (n, n) of one query and key at all places.

    Args:
        pairs: what a panel is called -> (query, key), two numbers each, as they stand after rotation.
    """
    figure, axes = plt.subplots(1, len(pairs) + 1, figsize=(3.0 * len(pairs) + 3.6, 3.2))
    for ax, (title, vectors) in zip(axes[:-1], pairs.items(), strict=True):
        for name, vector in zip(("query", "key"), vectors, strict=True):
            x, y = vector.tolist()
            ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": ROLES[name], "linewidth": 2})
            ax.annotate(name, (1.14 * x, 1.14 * y), color=ROLES[name], ha="center", va="center")
        ax.axhline(0, color="#cccccc", linewidth=0.8, zorder=0)
        ax.axvline(0, color="#cccccc", linewidth=0.8, zorder=0)
        ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", title=title, xlabel="entry 0", ylabel="entry 1")
    bound = float(scores.abs().max())
    axes[-1].imshow(scores, cmap="RdBu_r", vmin=-bound, vmax=bound)
    axes[-1].locator_params(integer=True)
    axes[-1].set(title="score at all places", xlabel="place $j$ of the key", ylabel="place $i$ of the query")
    return figure


def loss_by_positions(loss: dict[str, dict[str, list[float]]], *, live: dict[str, float], live_steps: int) -> Figure:
    """Draw a panel per number of steps and a dot per seed: the loss with each way to tell positions.

    Args:
        loss: steps -> way -> the loss on held-out text, per seed.
        live: way -> the loss found here after `live_steps`, ringed.
    """
    figure, axes = plt.subplots(1, len(loss), figsize=(4.2 * len(loss), 3.0), sharey=True)
    for ax, (steps, by_way) in zip(axes, loss.items(), strict=True):
        seed_dots(ax, by_way, live if steps == str(live_steps) else None)
        ax.set(title=f"{steps} steps")
    axes[0].set(ylabel="loss, nats per character")
    return figure
