"""Pictures of whole systems: who reads whom, how well each fares, and where words look in pictures, sounds and texts."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attncourse.plot.alignment import alignment
from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS, WEIGHTS

MEANT = COLORS[1]  # frames what is meant
SMALL = 9  # points


def diagrams(panels: dict[str, tuple[Tensor, dict[str, int]]]) -> Figure:
    """Draw one grid per system: a row is a token that reads, a column a token that is read, dark where it may.

    Args:
        panels: name -> the boolean matrix, and the tokens' groups in order: name -> how many.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(6.8, 0.9 + 6.2 / len(panels)), squeeze=False)
    for ax, (name, (visible, groups)) in zip(axes.flat, panels.items(), strict=True):
        if visible.shape != (sum(groups.values()),) * 2:
            raise ValueError(f"groups of {groups} for a matrix of shape {tuple(visible.shape)}")
        ax.imshow(visible.float().cpu(), cmap=WEIGHTS, vmin=0, vmax=1.3)
        _grid(ax, len(visible))
        _groups(ax, groups)
        ax.set(title=name, xlabel="is read")
    axes[0, 0].set_ylabel("reads")
    return figure


def _grid(ax: Axes, n: int) -> None:
    """Draw thin lines between the n rows and the n columns."""
    borders = [i + 0.5 for i in range(n - 1)]
    for axis in (ax.xaxis, ax.yaxis):
        axis.remove_overlapping_locs = False  # a line stays where a group's name stands below it
    ax.set_xticks(borders, minor=True)
    ax.set_yticks(borders, minor=True)
    ax.grid(which="minor", color="#999999", linewidth=0.7)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(True)


def _groups(ax: Axes, groups: dict[str, int]) -> None:
    """Name the groups of tokens on both axes, and draw a line where one ends."""
    ends = [0]
    for size in groups.values():
        ends.append(ends[-1] + size)
    for end in ends[1:-1]:
        ax.axhline(end - 0.5, color=MEANT, linewidth=2)
        ax.axvline(end - 0.5, color=MEANT, linewidth=2)
    middles = [(start + end) / 2 - 0.5 for start, end in pairwise(ends)]
    ax.set_xticks(middles, list(groups))
    ax.set_yticks(middles, list(groups), rotation=90, va="center")


def both_sides(results: dict, live: dict[str, float], tables: dict[str, float]) -> Figure:
    """Draw how many hidden characters each side finds, and what a decoder loses on the next one beside two tables.

    Args:
        results: of the recorded study, see `study.py`.
        live: shares of hidden characters by side, of what was trained here.
        tables: what each loses, in nats per character.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.0), width_ratios=[1.5, 1])
    seed_dots(left, results["hidden characters"], live)
    left.set(ylabel="hidden characters found", ylim=(0, 0.65))
    left.legend(loc="lower right")
    seed_dots(right, results["next character"], color=COLORS[2], label=None)
    for (name, loss), line, aside in zip(tables.items(), ("--", ":"), (0.06, 0.06), strict=True):
        right.axhline(loss, linestyle=line, color=COLORS[6], linewidth=1.2)
        right.text(-0.55, loss + aside, name, fontsize=SMALL)
    right.set(ylabel="nats per next character", ylim=(0, 3.8))
    return figure


def weight_by_distance(weights: Tensor, distances: list[int]) -> Axes:
    """Draw weights (h, n) of each head at each distance from the place that reads, averaged over sequences."""
    _, ax = plt.subplots(figsize=(6.6, 0.9 + 0.4 * len(weights)))
    names = [f"head {i}" for i in range(len(weights))]
    weights_heatmap(weights, queries=names, keys=[f"{d:+d}" if d else "?" for d in distances], ax=ax, numbers=True)
    for text in ax.texts:
        text.set_fontsize(SMALL)
    ax.set_xticks(range(len(distances)), ax.get_xticklabels(), rotation=0)
    ax.set(xlabel="characters to the left (-) or right (+) of the hidden one", ylabel="reads: the hidden place")
    return ax


def alignments_side_by_side(panels: dict[str, tuple[Tensor, Sequence[str], str]]) -> Figure:
    """Draw a map per sentence: its weights (t, s), the words read (columns), the characters written (rows)."""
    widths = [len(words) for _, words, _ in panels.values()]
    figure, axes = plt.subplots(1, len(panels), figsize=(6.8, 3.9), width_ratios=widths, squeeze=False)
    for ax, (name, (weights, words, target)) in zip(axes.flat, panels.items(), strict=True):
        alignment(ax, weights, source=list(words), target=target, title=name)
        ax.set_xlabel("word read")
    axes[0, 0].set_ylabel("character written")
    return figure


def gaze(images: Tensor, weights: Tensor, boxes: Tensor, titles: list[str]) -> Figure:
    """Draw pictures (n, y, x) over the weights (n, rows, columns) of a word on their patches, with what is meant framed.

    Args:
        boxes: (n, y, x), True on the pixels of the thing that the word means.
        titles: what is written above each picture.
    """
    figure, axes = plt.subplots(2, len(images), figsize=(1.15 * len(images), 2.9), squeeze=False)
    _, height, width = images.shape
    frame = (-0.5, width - 0.5, height - 0.5, -0.5)
    for i, title in enumerate(titles):
        top, bottom = axes[:, i]
        top.imshow(images[i].cpu(), cmap="Greys", extent=frame)
        shown = bottom.imshow(weights[i].cpu(), cmap=WEIGHTS, vmin=0, vmax=1, extent=frame)
        ys, xs = (places.tolist() for places in boxes[i].nonzero().T)
        for ax in (top, bottom):
            corner = min(xs) - 0.5, min(ys) - 0.5
            size = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=MEANT, linewidth=2))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(True)
        top.set_title(title, fontsize=SMALL)
    axes[0, 0].set_ylabel("picture")
    axes[1, 0].set_ylabel("weights")
    figure.colorbar(shown, ax=axes[1], fraction=0.03)
    return figure


def hearing(
    frames: Tensor, weights: Tensor, playing: Tensor, letters: Sequence[str], *, hertz: tuple[float, float]
) -> Figure:
    """Draw a spectrogram (n, bins) over the weights (t, n) with which its letters were written, its notes framed.

    Args:
        playing: (n,), which note sounds in each frame; -1 for none.
        letters: what was written, one per row of weights.
        hertz: the lowest and the highest frequency of the spectrogram.
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.6, 4.2), height_ratios=[1.3, 1])
    n = len(frames)
    top.imshow(frames.T.cpu(), cmap="Greys", origin="lower", aspect="auto", extent=(-0.5, n - 0.5, *hertz))
    top.set(ylabel="frequency, Hz", xticks=range(0, n, 4))
    weights_heatmap(weights, queries=list(letters), keys=[""] * n, ax=bottom)
    bottom.images[0].set_clim(0, 0.5)  # a note lasts some frames, which share its weight
    figure.colorbar(bottom.images[0], ax=bottom, label="weight", ticks=[0, 0.25, 0.5])
    bottom.set_xticks(range(0, n, 4), [str(i) for i in range(0, n, 4)], rotation=0)
    bottom.set(xlabel="frame read", ylabel="letter written")
    for note in range(int(playing.max()) + 1):
        at = (playing == note).nonzero()[:, 0].tolist()
        box = Rectangle((at[0] - 0.5, note - 0.5), len(at), 1, fill=False, edgecolor=MEANT, linewidth=2)
        bottom.add_patch(box)
    return figure


def changes(shares: Tensor) -> Axes:
    """Draw how often each letter (rows) changes when one note (columns) is replaced, with numbers."""
    _, ax = plt.subplots(figsize=(4.4, 2.6))
    names = [str(i + 1) for i in range(len(shares))]
    weights_heatmap(shares, queries=names, keys=names, ax=ax, numbers=True)
    for text in ax.texts:
        text.set_fontsize(SMALL)
    ax.set(xlabel="note replaced in the sound", ylabel="letter written")
    return ax


def two_ways(results: dict, live: dict[str, float]) -> Figure:
    """Draw how well pictures and sounds are read by cross-attention and in one sequence.

    Args:
        results: of the recorded study, see `study.py`.
        live: what was reached here by cross-attention, by "pictures" and "melodies".
    """
    figure, axes = plt.subplots(1, 3, figsize=(6.8, 3.0), sharey=True)
    panels = {
        "pictures, 250 steps": ("pictures, {}", "digits", "pictures"),
        "pictures, 750 steps": ("pictures, {}, longer", "digits", ""),
        "melodies, 150 steps": ("melodies, {}", "right", "melodies"),
    }
    names = {"cross-attention": "cross-\nattention", "one sequence": "one\nsequence"}
    for ax, (title, (system, what, here)) in zip(axes, panels.items(), strict=True):
        recorded = {name: results[system.format(way)][what] for way, name in names.items()}
        seed_dots(ax, recorded, {names["cross-attention"]: live[here]} if here else None)
        ax.set(title=title, ylim=(0, 1.05))
        ax.title.set_fontsize(10)
    axes[0].set_ylabel("right answers")
    axes[0].legend(loc="lower left")
    return figure


def books(recorded: Mapping[str, Sequence[float]], live: Mapping[str, float]) -> Axes:
    """Draw the share of hidden words found with each book, a dot per seed."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    seed_dots(ax, recorded, live)
    ax.set(ylabel="hidden words found", ylim=(-0.03, 1))
    ax.legend(loc="upper left")
    return ax


def passages_read(passages: list[list[str]], weights: Tensor) -> Figure:
    """Draw weights (p, s) of one hidden word over the words of each passage, one row per passage."""
    figure, axes = plt.subplots(len(passages), 1, figsize=(6.8, 1.5 * len(passages)), squeeze=False)
    for i, (ax, words) in enumerate(zip(axes.flat, passages, strict=True)):
        weights_heatmap(weights[i, : len(words)][None], queries=[f"passage {i + 1}"], keys=words, ax=ax)
        ax.set_xticks(range(len(words)), words, rotation=60, ha="right", rotation_mode="anchor", fontsize=SMALL)
    return figure


def more_passages(found: dict[str, float], results: dict, live: dict[str, float]) -> Axes:
    """Draw against the number of passages: how often the search found the right one, and the words that a reader found.

    Args:
        found: by number of passages.
        results: of the recorded study, see `study.py`.
        live: words found by the reader trained here, by number of passages.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    ax.plot(range(len(found)), list(found.values()), "s--", color=COLORS[1], label="search: right passage among them")
    recorded = {p: results["open book"][f"passages read: {p}"] for p in found}
    seed_dots(ax, recorded, live, label="reader: word found, recorded seeds")
    ax.set(xlabel="passages read at once", ylabel="share of questions", ylim=(0, 1.25))
    ax.legend(loc="upper right", ncols=2)
    return ax
