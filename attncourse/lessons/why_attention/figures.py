"""Pictures of what one vector loses: the two networks, influence by place, accuracy by length, who moves which character."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attncourse.plot.schematic import arrow, box, canvas, note
from attncourse.plot.style import COLORS, WEIGHTS

LINES = ("-", "--", ":", "-.")
# Marker, line and colour of each design, the same in every figure of the chapter.
DESIGNS = {
    "one vector": ("o", "-", COLORS[0]),
    "mean vector": ("s", "--", COLORS[1]),
    "attention": ("^", ":", COLORS[2]),
    "one vector, twice as wide": ("D", "-.", COLORS[3]),
}


def two_networks(words: list[str], answer: str, weights: list[float], *, writing: int) -> Figure:
    """Draw a decoder that gets one vector, beside one that looks back at every state.

    Args:
        words: the source.
        answer: its characters, a box of the decoder each.
        weights: one per word: how thick its arrow is, and the number above its state.
        writing: the place of the character that is being written.
    """
    figure, ax = canvas(8.8, 3.9)
    for left, title in ((0.1, "one vector"), (4.6, "attention")):
        note(ax, (left + 2.05, 3.7), title, bold=True, size=11)
        states = [left + 0.34 + 0.68 * j for j in range(len(words))]
        characters = [left + 0.2 + 0.41 * i for i in range(len(answer))]
        _encoder(ax, states, words)
        for i, (x, character) in enumerate(zip(characters, answer, strict=True)):
            box(ax, (x, 3.2), character, width=0.31, role="query" if i == writing else "plain", size=10)
        if title == "one vector":
            _through_one_vector(ax, states, characters[writing])
        else:
            _looking_back(ax, states, characters[writing], weights)
    return figure


def _encoder(ax, states, words):
    for j, (x, word) in enumerate(zip(states, words, strict=True)):
        box(ax, (x, 0.3), word, width=0.64, height=0.36, role="token", size=9)
        arrow(ax, (x, 0.49), (x, 0.78))
        box(ax, (x, 1.0), f"$h_{j + 1}$", width=0.42, height=0.42, role="state", size=10)
        if j:
            arrow(ax, (states[j - 1] + 0.22, 1.0), (x - 0.22, 1.0))


def _through_one_vector(ax, states, target):
    first, last = states[0], states[-1]
    box(ax, (last, 1.95), "$c$", width=0.42, height=0.42, role="state")
    arrow(ax, (last, 1.22), (last, 1.73), thickness=3)
    arrow(ax, (last, 2.17), (target, 2.96), thickness=3)
    note(ax, (last - 0.3, 1.95), "all that the decoder gets,\nthe same at every step", align="right")
    note(ax, (first - 0.3, 2.75), "decoder: a step per character", align="left")
    note(ax, (first - 0.3, 1.42), "encoder: a state per word", align="left")


def _looking_back(ax, states, target, weights):
    for x, weight in zip(states, weights, strict=True):
        arrow(ax, (x, 1.48), (target, 2.96), role="weight", thickness=0.3 + 5 * weight)
        note(ax, (x, 1.34), f"{weight:.2f}", size=9)


def influence_of_cells(curves: dict[str, list[Tensor]]) -> Axes:
    """Draw how much the last state moves with the word read n steps earlier, relative to the last word's.

    Args:
        curves: a line per seed for each cell, from n = 0 on.
    """
    _, ax = plt.subplots(figsize=(6.6, 3.4))
    for (name, lines), line, color in zip(curves.items(), LINES, COLORS, strict=False):
        for seed, values in enumerate(lines):
            ax.plot(values / values[0], line, color=color, linewidth=1.2, label=None if seed else name)
    ax.set(yscale="log", xlabel="steps since the word was read", ylabel="influence, last word = 1")
    ax.legend(loc="lower left")
    return ax


def influence_by_place(curves: dict[str, list[Tensor]]) -> Axes:
    """Draw how strongly the word at each place of the source moves the output, on a logarithmic axis.

    Args:
        curves: a line per seed for each design.
    """
    _, ax = plt.subplots(figsize=(6.6, 3.4))
    for design, lines in curves.items():
        marker, line, color = DESIGNS[design]
        for seed, values in enumerate(lines):
            label = None if seed else design
            places = range(1, len(values) + 1)
            ax.plot(places, values, marker + line, color=color, markersize=3.5, linewidth=1, label=label)
    ax.set(yscale="log", xlabel="place of the word in the source", ylabel="influence on the output")
    ax.set_xticks([1, *range(5, len(values) + 1, 5)])
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax


def right_by_length(buckets: list[str], counts: list[int], panels: dict[str, dict[str, list[list[float]]]]) -> Figure:
    """Draw panels of exact match against source length: a dot per seed, and a line through the seeds' mean.

    Args:
        buckets, counts: the words of each bucket's sources, and how many sources there are.
        panels: by title, for each design a list of shares per seed.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 4), sharey=True, squeeze=False)
    for ax, (title, shares) in zip(axes[0], panels.items(), strict=True):
        for i, (design, seeds) in enumerate(shares.items()):
            marker, line, color = DESIGNS[design]
            # A small step aside, so that dots do not hide each other.
            x = [j + 0.14 * (i - (len(shares) - 1) / 2) for j in range(len(buckets))]
            for values in seeds:
                ax.plot(x, values, marker, color=color, markersize=5, alpha=0.7)
            means = [sum(column) / len(column) for column in zip(*seeds, strict=True)]
            ax.plot(x, means, line, color=color, linewidth=1.3)
            ax.plot([], [], marker + line, color=color, markersize=5, label=design)
        ax.set_xticks(range(len(buckets)), [f"{bucket}\nn = {n}" for bucket, n in zip(buckets, counts, strict=True)])
        ax.set(ylim=(-0.03, 1.03), xlabel="words in the source", title=title)
        ax.legend(loc="lower left")
    axes[0, 0].set(ylabel="exact match, held out")
    return figure


def maps(
    panels: dict[str, Tensor], *, source: list[str], target: str, boxes: list[tuple[int, int, int, int]], label: str
) -> Figure:
    """Draw maps (t, s) on one colour scale: a row per character, a column per word.

    Args:
        boxes: (first row, rows, first column, columns) of each part of the target and of the words that it writes.
        label: what a square's colour says.
    """
    width, height = 0.55 + 0.25 * len(source), 1.5 + 0.19 * len(target)
    figure, axes = plt.subplots(1, len(panels), figsize=(width * len(panels) + 0.8, height), sharey=True, squeeze=False)
    high = max(float(values.max()) for values in panels.values())
    for ax, (name, values) in zip(axes[0], panels.items(), strict=True):
        image = ax.imshow(values.detach().cpu(), cmap=WEIGHTS, vmin=0, vmax=high, aspect="auto")
        ax.set_xticks(range(len(source)), source, rotation=90)
        ax.set_yticks(range(len(target)), list(target))
        ax.set(title=name, xlabel="word of the source")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        for row, rows, column, columns in boxes:
            corner = column - 0.5, row - 0.5
            ax.add_patch(Rectangle(corner, columns, rows, fill=False, edgecolor=COLORS[1], linewidth=1.5))
    axes[0, 0].set_ylabel("character written", labelpad=8)
    figure.colorbar(image, ax=axes, label=label, fraction=0.03)
    return figure
