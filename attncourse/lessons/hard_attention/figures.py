"""Pictures of hard attention: draws beside weights, samples at a temperature, estimators' quality, learning with bands."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.style import COLORS

MARKERS = ("o-", "s--", "^:", "d-.")


def draws_against_weights(weights: Tensor, shares: Tensor, *, draws: int, names: list[str]) -> Axes:
    """Draw softmax's weight of each key as a bar, and its share of so many draws as a point with three standard errors."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    ax.bar(names, weights.tolist(), color=COLORS[0], width=0.55, alpha=0.55, label="weight in the mixture")
    errors = (3 * (weights * (1 - weights) / draws).sqrt()).tolist()
    ax.errorbar(
        names, shares.tolist(), yerr=errors, fmt="o", color=COLORS[1], capsize=4, label=f"share of {draws:,} hard reads"
    )
    ax.set(xlabel="key", ylabel="share", ylim=(0, None))
    ax.legend()
    return ax


def soft_samples(weights: Tensor, samples: Tensor, *, keys: list[str], temperature: float) -> Figure:
    """Draw softmax's weights in one row above soft samples (n, s) at one temperature."""
    n = len(samples)
    figure, axes = plt.subplots(2, 1, figsize=(5.6, 4.4), height_ratios=(1, n), sharex=True)
    weights_heatmap(weights[None], queries=["softmax"], keys=keys, ax=axes[0])
    weights_heatmap(samples, queries=[f"draw {i + 1}" for i in range(n)], keys=keys, ax=axes[1])
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
    """Draw bias (with three standard errors) and standard deviation of estimators,
    relative to the exact gradient's length.

    Args:
        curves: (bias, its standard error, variance) at each temperature.
        levels: the same of what has no temperature, drawn as horizontal lines.
        exact: length of the exact gradient, which is 1 on both axes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
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
    axes[0].set(title="bias: how far the mean is off", ylabel="length / length of the gradient", ylim=(0, None))
    axes[1].set(title="standard deviation of one estimate", yscale="log")
    for ax in axes:
        ax.set(xscale="log", xlabel="temperature")
        ax.set_xticks(temperatures, [f"{x:g}" for x in temperatures])
        ax.minorticks_off()
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def accuracy_bands(curves: dict[str, Tensor], *, every: int) -> Axes:
    """Draw accuracy (points, models) against training steps: the mean over models as a line, their range as a band."""
    _, ax = plt.subplots(figsize=(6.8, 3.6))
    for (name, values), marker, color in zip(curves.items(), MARKERS, COLORS, strict=False):
        steps = [every * i for i in range(len(values))]
        ax.fill_between(steps, values.amin(dim=1).tolist(), values.amax(dim=1).tolist(), color=color, alpha=0.15)
        ax.plot(steps, values.mean(dim=1).tolist(), marker[1:], color=color, label=name)
    ax.set(xlabel="training step", ylabel="right answers, held out", ylim=(0, 1.03))
    ax.legend(loc="lower right")
    return ax
