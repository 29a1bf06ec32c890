"""Figures of hard attention: shares of draws, a choice that jumps, soft samples, estimators, and readers that learn."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS

MARKERS = ("o-", "s--", "^:", "d-.")


def draws_against_weights(weights: Tensor, shares: dict[str, Tensor], *, draws: int) -> Axes:
    """Draw softmax's weight of each key as a bar, and its share of so many draws as a point per kind of noise.

    Error bars are three standard errors of such a share, if the weight is right.
    """
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    keys = torch.arange(1, len(weights) + 1)
    ax.bar(keys.tolist(), weights.tolist(), color=COLORS[3], width=0.6, alpha=0.55, label="softmax's weight")
    errors = (3 * (weights * (1 - weights) / draws).sqrt()).tolist()
    for i, (name, share) in enumerate(shares.items()):
        ax.errorbar(
            (keys + 0.2 * i - 0.1).tolist(), share.tolist(), yerr=errors, fmt="os"[i], color=COLORS[i], capsize=4, markersize=5,
            label=f"{name}: share of {draws:,} draws",
        )  # fmt: skip
    ax.set(xlabel="key", ylabel="share", ylim=(0, None), xticks=keys.tolist())
    ax.legend()
    return ax


def choice_and_expectation(scores: Tensor, chosen: Tensor, mean: Tensor, expected: Tensor, *, at: float) -> Figure:
    """Draw the cost of a choice against one key's score: of one draw, of many draws on average, and as it is expected.

    Args:
        scores: of the one key, a point each.
        chosen, mean, expected: the cost at each of them.
        at: the score that the key has; the slope of `expected` there is drawn as a line.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.6, 2.8), sharey=True)
    axes[0].plot(scores, chosen, color=COLORS[0], label="one draw")
    axes[1].plot(scores, expected, color=COLORS[1], label="expected cost")
    axes[1].plot(scores[::8], mean[::8], "o", color=COLORS[6], markersize=3, label="mean of many draws")
    i = int((scores - at).abs().argmin())
    slope = (expected[i + 1] - expected[i - 1]) / (scores[i + 1] - scores[i - 1])
    near = torch.tensor([at - 1.2, at + 1.2])
    axes[1].plot(near, expected[i] + slope * (near - at), "--", color=COLORS[2], label=f"slope {slope:.2f}")
    axes[0].set_title("the choice jumps: slope 0")
    axes[1].set_title("its average is smooth")
    for ax in axes:
        ax.set(xlabel="score of key 2", ylim=(-0.4, 8))
        ax.legend(loc="upper right")
    axes[0].set_ylabel("cost")
    return figure


def soft_samples(weights: Tensor, samples: Tensor, *, keys: list[str], temperature: float) -> Figure:
    """Draw softmax's weights in one row above soft samples (n, s) at one temperature, with their numbers."""
    n = len(samples)
    figure, axes = plt.subplots(2, 1, figsize=(4.6, 4.2), height_ratios=(1, n), sharex=True)
    weights_heatmap(weights[None], queries=["softmax"], keys=keys, ax=axes[0])
    weights_heatmap(samples, queries=[f"draw {i + 1}" for i in range(n)], keys=keys, ax=axes[1])
    for ax, rows in zip(axes, (weights[None], samples), strict=True):
        for i, j in ((i, j) for i in range(len(rows)) for j in range(len(keys))):
            ax.text(j, i, f"{rows[i, j]:.2f}", ha="center", va="center", color="white" if rows[i, j] > 0.6 else "black")
    axes[0].set(xlabel="", ylabel="", title=f"temperature {temperature:g}")
    axes[0].tick_params(labelbottom=False)
    axes[1].set(xlabel="key", ylabel="")
    return figure


def estimator_quality(
    temperatures: list[float],
    curves: dict[str, list[tuple[float, float, float]]],
    levels: dict[str, tuple[float, float, float]],
    *,
    exact: float,
) -> Figure:
    """Draw bias (with three standard errors) and standard deviation of estimators, relative to the exact gradient.

    Args:
        curves: (bias, its standard error, variance) at each temperature.
        levels: the same of what has no temperature, drawn as horizontal lines.
        exact: length of the exact gradient, which is 1 on both axes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.4))
    for (name, points), marker, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        bias, error, variance = (list(column) for column in zip(*points, strict=True))
        axes[0].errorbar(
            temperatures, [b / exact for b in bias], yerr=[3 * e / exact for e in error], fmt=marker, color=color,
            capsize=3, markersize=4, label=name,
        )  # fmt: skip
        axes[1].plot(temperatures, [v**0.5 / exact for v in variance], marker, color=color, markersize=4, label=name)
    for (name, (bias, _, variance)), style, color in zip(levels.items(), ("-", "--", ":"), COLORS[2:], strict=False):
        axes[0].axhline(bias / exact, color=color, linestyle=style, label=name)
        axes[1].axhline(variance**0.5 / exact, color=color, linestyle=style, label=name)
    axes[0].set(title="bias", ylabel="in lengths of the gradient", ylim=(0, None))
    axes[1].set(title="standard deviation of one estimate", yscale="log")
    for ax in axes:
        ax.set(xscale="log", xlabel="temperature")
        ax.set_xticks(temperatures, [f"{x:g}" for x in temperatures])
        ax.minorticks_off()
    ticks = [0.1, 0.3, 1, 3, 10]
    axes[1].set_yticks(ticks, [f"{x:g}" for x in ticks])
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def learning_panels(curves: dict[str, Tensor], *, every: int) -> Figure:
    """Draw accuracy (points, models) against training steps, a panel per way to train and a line per model."""
    figure, axes = plt.subplots(2, 2, figsize=(6.6, 4.4), sharex=True, sharey=True)
    for ax, (name, values) in zip(axes.flat, curves.items(), strict=True):
        steps = [every * i for i in range(len(values))]
        ax.plot(steps, values, color=COLORS[0], linewidth=0.9, alpha=0.8)
        ax.set(title=name, ylim=(0, 1.03))
    for ax in axes[:, 0]:
        ax.set_ylabel("right answers")
    for ax in axes[1]:
        ax.set_xlabel("training step")
    return figure


def steps_of_readers(steps: dict[str, list[int | None]], live: dict[str, list[int | None]], *, last: int) -> Axes:
    """Draw after how many steps each reader had learned, a column per way to train and a dot per reader.

    Args:
        steps: of recorded readers; None for one that had not learned after the last step, drawn on a line above it.
        live: the same of readers that were trained just now, drawn larger.
        last: how many steps there were.
    """
    _, ax = plt.subplots(figsize=(6.6, 3.6))
    never, rng = 1.12 * last, torch.Generator().manual_seed(0)
    for readers, size, color, label in (
        (steps, 7, COLORS[5], "recorded"),
        (live, 26, COLORS[1], "trained just now"),
    ):
        for i, values in enumerate(readers.values()):
            places = i + 0.6 * (torch.rand(len(values), generator=rng) - 0.5)
            heights = [never if value is None else value for value in values]
            ax.scatter(places, heights, s=size, color=color, label=label if i == 0 else None)
            if readers is steps:
                stuck = sum(value is None for value in values)
                ax.text(i, 1.17 * last, f"{stuck} of {len(values)}", ha="center", va="bottom", fontsize=9)
    ax.axhline(1.06 * last, color=COLORS[6], linewidth=0.6)
    ax.set_xticks(range(len(steps)), [name.replace(", ", ",\n") for name in steps])
    ticks = list(range(0, last + 1, 200))
    ax.set_yticks([*ticks, never], [*map(str, ticks), "never"])
    ax.set(ylabel="steps until 95 % are right", ylim=(0, 1.27 * last))
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.78))
    return ax


def seeds_as_dots(values: dict[str, Sequence[float]], *, ylabel: str, bound: tuple[float, str] | None = None) -> Axes:
    """Draw a column of dots per name, a dot per seed, and where there is one a bound as a line with what it is."""
    _, ax = plt.subplots(figsize=(6.4, 2.9))
    seed_dots(ax, {name.replace(", ", ",\n"): seeds for name, seeds in values.items()})
    if bound:
        ax.axhline(bound[0], color=COLORS[1], linestyle="--", linewidth=1)
        ax.text(len(values) - 0.55, bound[0] + 0.02, bound[1], ha="right", fontsize=9, color=COLORS[1])
    ax.set(ylabel=ylabel, ylim=(0, 1.05))
    return ax
