"""Pictures of whole systems: who is connected with whom, how well each fares, where words look in pictures and texts."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.style import COLORS, WEIGHTS


def diagrams(panels: dict[str, tuple[Tensor, dict[str, int]]]) -> Figure:
    """Draw one square per system: a row is a token that reads, a column a token that is read, dark where it may.

    Args:
        panels: name -> the boolean matrix, and the tokens' groups in order: name -> how many.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 3.2), squeeze=False)
    for ax, (name, (visible, groups)) in zip(axes.flat, panels.items(), strict=True):
        if visible.shape != (sum(groups.values()),) * 2:
            raise ValueError(f"groups of {groups} for a matrix of shape {tuple(visible.shape)}")
        ax.imshow(visible.float().cpu(), cmap=WEIGHTS, vmin=0, vmax=1.3)
        ends = torch.tensor(list(groups.values())).cumsum(0).tolist()
        middles = [end - size / 2 - 0.5 for end, size in zip(ends, groups.values(), strict=True)]
        for end in ends[:-1]:
            ax.axhline(end - 0.5, color=COLORS[1], linewidth=1.5)
            ax.axvline(end - 0.5, color=COLORS[1], linewidth=1.5)
        ax.set_xticks(middles, list(groups))
        ax.set_yticks(middles, list(groups), rotation=90, va="center")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(True)
        ax.set_title(name)
    axes[0, 0].set_ylabel("reads")
    for ax in axes.flat:
        ax.set_xlabel("is read")
    return figure


def shares(bars: dict[str, tuple[float, float, float]], *, xlabel: str) -> Axes:
    """Draw a bar for each name: a share of right answers with the ends of its interval."""
    _, ax = plt.subplots(figsize=(6.4, 0.7 + 0.45 * len(bars)))
    share, low, high = (list(column) for column in zip(*bars.values(), strict=True))
    spread = [[s - b for s, b in zip(share, low, strict=True)], [t - s for s, t in zip(share, high, strict=True)]]
    ax.barh(list(bars), share, xerr=spread, color=COLORS[0], height=0.6, error_kw={"capsize": 3})
    ax.set(xlim=(0, 1), xlabel=xlabel)
    ax.invert_yaxis()
    return ax


def weight_by_distance(weights: Tensor, distances: list[int]) -> Axes:
    """Draw weights (h, n) of each head at each distance from the place that reads, averaged over sequences."""
    _, ax = plt.subplots(figsize=(6.4, 0.9 + 0.4 * len(weights)))
    names = [f"head {i}" for i in range(len(weights))]
    weights_heatmap(weights, queries=names, keys=[f"{d:+d}" if d else "?" for d in distances], ax=ax, numbers=True)
    ax.set_xlabel("characters to the left (-) or right (+) of the hidden one")
    return ax


def loss_and_baselines(losses: list[float], held_out: float, baselines: dict[str, float], *, span: int = 20) -> Axes:
    """Draw a training loss, each point the mean of `span` steps, with horizontal lines to beat."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    starts = range(0, len(losses) - span + 1, span)
    means = [sum(losses[i : i + span]) / span for i in starts]
    ax.plot([i + span / 2 for i in starts], means, color=COLORS[0], label="training batches")
    ax.plot([len(losses)], [held_out], "o", color=COLORS[0], label="held out, after training", clip_on=False)
    for (name, value), style, color in zip(baselines.items(), ("--", ":"), COLORS[1:], strict=False):
        ax.axhline(value, linestyle=style, color=color, label=name)
    ax.set(xlabel="training step", ylabel="nats per character", xlim=(0, len(losses)))
    ax.legend()
    return ax


def gaze(images: Tensor, weights: Tensor, boxes: Tensor, titles: list[str]) -> Figure:
    """Draw pictures (n, y, x) under the weights (n, rows, columns) of a word over their patches,
    with what is meant framed.

    Args:
        boxes: (n, y, x), True on the pixels of the thing that the word means.
        titles: what is written above each picture.
    """
    figure, axes = plt.subplots(2, len(images), figsize=(2.3 * len(images), 4.8), squeeze=False)
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
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=COLORS[1], linewidth=2))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(True)
        top.set_title(title)
    axes[0, 0].set_ylabel("picture")
    axes[1, 0].set_ylabel("weights")
    figure.colorbar(shown, ax=axes[1], fraction=0.03)
    return figure


def passages_read(passages: list[list[str]], weights: Tensor) -> Figure:
    """Draw weights (p, s) of one hidden word over the words of each passage, one row per passage."""
    figure, axes = plt.subplots(len(passages), 1, figsize=(10.5, 1.45 * len(passages)), squeeze=False)
    for i, (ax, words) in enumerate(zip(axes.flat, passages, strict=True)):
        weights_heatmap(weights[i, : len(words)][None], queries=[f"passage {i + 1}"], keys=words, ax=ax)
        ax.set_xticks(range(len(words)), words, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    return figure
