"""Pictures for a choice: relative times, what families recall, other weightings, parts of an output, what each design saves."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS, SIGNED

STYLES = ("-", "--", ":", "-.")


def relative_times(lengths: list[int], panels: dict[str, dict[str, list[float]]], *, reference: str) -> list[Axes]:
    """Draw one panel per job: the least time of each design's step as a share of the reference's, against the length.

    Args:
        panels: title -> design -> seconds at each length; a design has the same colour everywhere.
        reference: the design whose step is 1.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    look = {name: (STYLES[i % len(STYLES)], COLORS[i % len(COLORS)]) for i, name in enumerate(names)}
    figure, axes = plt.subplots(1, len(panels), figsize=(2.75 * len(panels), 3.9), squeeze=False)
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, seconds in curves.items():
            style, color = look[name]
            shares = [s / whole for s, whole in zip(seconds, curves[reference], strict=True)]
            ax.plot(lengths, shares, style, color=color, label=name, linewidth=1.8)
        ax.set(xscale="log", yscale="log", xlabel="tokens of a sequence", title=title)
        ticks = lengths[:: max(1, len(lengths) // 3)]
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        ax.minorticks_off()
    axes[0, 0].set(ylabel=f"least time of a step, {reference} = 1")
    handles = {line.get_label(): line for ax in axes[0] for line in ax.lines}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return list(axes[0])


def family_dots(
    recorded: dict[str, dict[str, list[float]]],
    live: dict[str, dict[str, float]],
    *,
    columns: dict[str, str],
    chance: float,
) -> list[Axes]:
    """Draw a panel per question: a column per family, a dot per seed, the seeds that ran here ringed, chance as a line.

    Args:
        recorded: family -> question -> a share per seed.
        live: family -> question -> the share of the seed that ran here.
        columns: question -> title of its panel.
    """
    _, axes = plt.subplots(len(columns), 1, figsize=(7.2, 1.9 * len(columns) + 0.9), sharex=True)
    for ax, (question, title) in zip(axes, columns.items(), strict=True):
        seed_dots(
            ax,
            {name.replace("_attention", ""): found[question] for name, found in recorded.items()},
            {name.replace("_attention", ""): found[question] for name, found in live.items()},
        )
        ax.axhline(chance, color=COLORS[6], linestyle=":", linewidth=1, label="guessing")
        ax.set(ylim=(-0.03, 1.08), ylabel="share right", title=title)
    axes[-1].tick_params(axis="x", rotation=40)
    for label in axes[-1].get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    axes[0].legend(loc="center right")
    return list(axes)


def by_place(right: dict[str, list[Tensor]], *, trained: int) -> Axes:
    """Draw the share of right answers against the place that is asked for, a thin line per seed.

    Args:
        right: what the rows are -> a tensor of shares by place, for each seed.
        trained: places below this one were asked in training; they are shaded.
    """
    _, ax = plt.subplots(figsize=(7.0, 3.0))
    for color, (name, seeds) in zip(COLORS, right.items(), strict=False):
        for i, shares in enumerate(seeds):
            ax.plot(range(len(shares)), shares, ".-", color=color, linewidth=0.9, label=None if i else name)
    ax.axvspan(-0.5, trained - 0.5, color=COLORS[6], alpha=0.08, label="places asked in training")
    ax.set(xlabel="place that is asked for", ylabel="share right", ylim=(0, 1.05))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return ax


def part_dots(shares: dict[str, list[float]], without: dict[str, list[float]]) -> list[Axes]:
    """Draw a dot per seed: above, what each part adds to the answer's margin; below, what is right without a part."""
    _, axes = plt.subplots(2, 1, figsize=(7.0, 5.0))
    texts = (shares, "share of the margin", "what each part adds"), (without, "share right", "answers without a part")
    for ax, color, (columns, label, title) in zip(axes, COLORS, texts, strict=False):
        seed_dots(ax, {name.replace(" ", "\n"): values for name, values in columns.items()}, color=color)
        ax.axhline(0, color=COLORS[6], linewidth=0.8)
        ax.set(ylabel=label, title=title)
    axes[1].set(ylim=(-0.05, 1.08))
    return list(axes)


def weightings(labels: list[str], weights: dict[str, Tensor]) -> Axes:
    """Draw bars side by side at each token: one weighting beside another."""
    _, ax = plt.subplots(figsize=(0.8 + 0.3 * len(labels), 2.6))
    width = 0.8 / len(weights)
    for i, (name, values) in enumerate(weights.items()):
        places = [place + width * (i - (len(weights) - 1) / 2) for place in range(len(labels))]
        ax.bar(places, values.tolist(), width=width, color=COLORS[i], label=name)
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlabel="token", ylabel="weight")
    ax.legend()
    return ax


def attributions(rows: dict[str, Tensor], *, labels: list[str], marked: int) -> Axes:
    """Draw one row per method, its values (t,) as shares of its sum; the token that decides is framed."""
    shares = torch.stack([values.clamp_min(0) / values.clamp_min(0).sum() for values in rows.values()])
    _, ax = plt.subplots(figsize=(1.8 + 0.36 * len(labels), 0.8 + 0.42 * len(rows)))
    weights_heatmap(shares, queries=[*rows], keys=labels, ax=ax)
    ax.figure.colorbar(ax.images[0], ax=ax, label="share", fraction=0.05, pad=0.02)
    ax.set(xlabel="token", ylabel="method")
    frame = plt.Rectangle(
        (marked - 0.5, -0.5), 1, len(rows), fill=False, edgecolor=COLORS[1], linewidth=2, clip_on=False
    )
    ax.add_patch(frame)
    return ax


def savings(ratios: dict[str, dict[str, float]]) -> Axes:
    """Draw a cell for each design and cost, with the factor against the first design: blue is less, red is more."""
    designs, costs = [*ratios], [*next(iter(ratios.values()))]
    _, ax = plt.subplots(figsize=(2.6 + 1.05 * len(costs), 0.9 + 0.36 * len(designs)))
    logs = [[math.log10(ratios[design][cost]) for cost in costs] for design in designs]
    image = ax.imshow(logs, cmap=SIGNED, vmin=-3, vmax=3, aspect="auto")
    bar = ax.figure.colorbar(image, ax=ax, label="factor", ticks=range(-3, 4), fraction=0.05, pad=0.02)
    bar.ax.set_yticklabels([f"{10.0**power:g}" for power in range(-3, 4)])
    for i, row in enumerate(logs):
        for j, value in enumerate(row):
            factor = ratios[designs[i]][costs[j]]
            text = "same" if abs(factor - 1) < 0.005 else f"x {factor:.2g}"
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if abs(value) > 2 else "black")
    ax.set_xticks(range(len(costs)), [cost.replace(" ", "\n", 1) for cost in costs])
    ax.set_yticks(range(len(designs)), designs)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    return ax
