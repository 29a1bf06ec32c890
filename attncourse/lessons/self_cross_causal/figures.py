"""Pictures of who reads whom: the three kinds, a mask on numbers, weights, what moved what, and what a model's losses say."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.schematic import arrow, box, canvas, cells, note
from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS

MARKERS = ("o", "s", "^")

LINES = ("-", "--", ":")


def learning_curves(losses: dict[str, list[float]], *, span: int = 25) -> Axes:
    """Draw the training loss of each model, each point the mean of `span` steps."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), line, color in zip(losses.items(), LINES, COLORS, strict=False):
        starts = range(0, len(values) - span + 1, span)
        means = [sum(values[i : i + span]) / span for i in starts]
        ax.plot([i + span / 2 for i in starts], means, line, color=color, label=name)
    ax.set(yscale="log", xlabel="training step", ylabel="loss per character")
    ax.legend()
    return ax


def three_kinds(panels: dict[str, tuple[Tensor, list[str], list[str]]]) -> Figure:
    """Draw a panel per mask (t, s): where queries, keys and values come from, and which pairs count.

    Args:
        panels: by title the mask, the words that ask (a row each) and the words that are read (a column each).
    """
    figure, ax = canvas(2.15 * len(panels), 3.7)
    for place, (name, (mask, queries, keys)) in enumerate(panels.items()):
        left = 2.15 * place - 0.08
        note(ax, (left + 1.15, 3.52), name, size=11, bold=True)
        _sources(ax, left, one=queries == keys)
        _pairs(ax, left + 0.68, mask, queries, keys)
        note(ax, (left + 0.68 + 0.19 * len(keys), 0.15), f"{int(mask.sum())} of {mask.numel()} pairs")
    return figure


def _sources(ax: Axes, left: float, *, one: bool) -> None:
    """Draw the box from which queries, keys and values come, or two boxes."""
    tops = [(1.15, "X", 1.0)] if one else [(0.45, "X", 0.6), (1.5, "M", 1.0)]
    for x, text, width in tops:
        box(ax, (left + x, 3.15), text, width=width, height=0.3, role="token")
    starts = [0.85, 1.15, 1.45] if one else [0.45, 1.3, 1.7]
    for start, x, letter, role in zip(starts, (0.45, 1.15, 1.85), "QKV", ("query", "key", "value"), strict=True):
        arrow(ax, (left + start, 2.99), (left + x, 2.67))
        box(ax, (left + x, 2.5), letter, width=0.4, height=0.3, role=role)


def _pairs(ax: Axes, left: float, mask: Tensor, queries: list[str], keys: list[str]) -> None:
    """Draw the mask as squares: words that ask on its left, words that are read above it."""
    side, top = 0.38, 1.95
    cells(ax, (left, top), [["" if seen else None for seen in row] for row in mask.tolist()], role="weight", side=side)
    for i, word in enumerate(queries):
        note(ax, (left - 0.06, top - (i + 0.5) * side), word, align="right", size=9)
    for j, word in enumerate(keys):
        note(ax, (left + (j + 0.5) * side, top + 0.13), word, size=9)


def two_orders(paths: dict[str, list[tuple[str, list[list[str | None]]]]]) -> Figure:
    """Draw a row per path: small matrices of numbers, each under what it is, with an arrow from one to the next.

    Args:
        paths: by name the steps (what it is, rows of entries; None is an empty square).
    """
    figure, ax = canvas(6.3, 2.1 * len(paths))
    for place, (name, steps) in enumerate(paths.items()):
        top = 2.1 * (len(paths) - place) - 0.6
        note(ax, (0.1, top + 0.42), name, align="left", bold=True)
        left = 0.25
        for number, (what, rows) in enumerate(steps):
            width = 0.46 * len(rows[0])
            note(ax, (left + width / 2, top + 0.14), what, size=9)
            cells(ax, (left, top), rows, role="plain" if number == 0 else "weight", side=0.46)
            if number + 1 < len(steps):
                arrow(ax, (left + width + 0.08, top - 0.69), (left + 2.12, top - 0.69))
            left += 2.2
    return figure


def weight_maps(
    panels: dict[str, Tensor], *, queries: list[str], keys: list[str], numbers: bool = True, width: float = 6.6
) -> Figure:
    """Draw a map of weights (t, s) per panel, white 0 and dark 1: a row per query, a column per key.

    Only a weight of exactly 0 has no number.
    """
    height = 0.9 + 0.34 * len(queries)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, height), squeeze=False, sharey=True)
    for ax, (name, weights) in zip(axes[0], panels.items(), strict=True):
        weights_heatmap(weights, queries=queries, keys=keys, ax=ax, title=name, numbers=numbers)
        ax.set_xlabel("key")
        ax.set_xticks(range(len(keys)), keys, rotation=0)
        for text, weight in zip(ax.texts, weights.flatten().tolist(), strict=False):
            text.set(fontsize=9, text="" if weight == 0 else text.get_text())
    axes[0, 0].set_ylabel("query")
    return figure


# Of a pair of a query and a token: 0 says neither seen nor allowed, and is white.
KINDS = {"seen": COLORS[0], "a leak": COLORS[1], "not seen, though it may": COLORS[4]}


def reach_maps(panels: dict[str, tuple[Tensor, Tensor]], *, columns: int = 3) -> Figure:
    """Draw a map per layer: (what moved which output, what may), both (t, s) booleans.

    A row is a query, a column a token that was replaced.

    Seen and allowed, seen and not allowed (a leak), allowed and not seen (blind) have colours of their own.
    """
    kinds = [torch.where(seen, torch.where(may, 1, 2), torch.where(may, 3, 0)) for seen, may in panels.values()]
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.6, 0.5 + 2.3 * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, name, kind in zip(axes.flat, panels, kinds, strict=False):
        _reach_map(ax, kind)
        ax.set(title=name, xlabel="token replaced", ylabel="output that moved")
        ax.title.set_fontsize(10)
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)
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


def influence_against_distance(distances: Sequence[int], layers: dict[str, list[list[float]]]) -> Axes:
    """Draw a line per layer and seed: how strongly a token so far back moves the last output, on a logarithmic axis."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    for (name, seeds), marker, color in zip(layers.items(), MARKERS, COLORS, strict=False):
        for i, values in enumerate(seeds):
            label = f"{name}, {len(seeds)} seeds" if i == 0 else None
            ax.plot(distances, values, marker + "-", color=color, markersize=3, linewidth=0.8, label=label)
    ax.set(yscale="log", xlabel="tokens back", ylabel="influence on the last output")
    ax.legend()
    return ax


def loss_by_place(curves: dict[str, Tensor]) -> Axes:
    """Draw a line per model: the mean loss of the prediction made at each place of a row."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values.tolist(), style, color=color, markersize=3, label=name)
    ax.set(xlabel="place in the row", ylabel="loss, nats per character", ylim=(0, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def cheating_by_seed(results: dict, live: dict[str, dict[str, float]]) -> Figure:
    """Draw what both decoders reached, a small dot per recorded seed and a large ring for the one that ran live.

    Args:
        results: of the recorded study, see `study.py`.
        live: the same measures by model, of one seed.
    """
    losses = {"training": "training", "one call": "held out,\none call", "no future": "held out,\nno future"}
    words = {"known words": "held out,\nwritten"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), width_ratios=[3, 1.3])
    for aside, color, (model, here) in zip((-0.18, 0.18), COLORS, live.items(), strict=False):
        for ax, measures in ((left, losses), (right, words)):
            recorded = {name: results[model][what] for what, name in measures.items()}
            seed_dots(
                ax, recorded, {name: here[what] for what, name in measures.items()},
                color=color, aside=aside, label=model if ax is left else None,
            )  # fmt: skip
    yardsticks = (left, "by frequency", "frequency table"), (right, "held-out text", "held-out text")
    for ax, key, name in yardsticks:
        ax.axhline(results[key], color=COLORS[6], linestyle=":", linewidth=1.2, label=name)
    left.set(ylabel="loss, nats per character", ylim=(-0.15, 4.9))
    left.legend(loc="upper left", ncols=2)
    right.set(ylabel="words that training knows", ylim=(-0.03, 1.25))
    right.legend(loc="upper left")
    return figure
