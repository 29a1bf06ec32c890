"""Pictures for a choice: the least time of each design, two weightings with one output, what each design saves."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from torch import Tensor

from attncourse.plot.heatmap import weights_heatmap
from attncourse.plot.style import COLORS, SIGNED

STYLES = ("-", "--", ":", "-.")


def least_times(lengths: list[int], panels: dict[str, dict[str, list[float]]]) -> list[Axes]:
    """Draw one panel per job: milliseconds of a step of each design against the length, on logarithmic axes.

    Args:
        panels: title -> design -> seconds at each length; a design has the same colour everywhere.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    look = {name: (STYLES[i % len(STYLES)], COLORS[i % len(COLORS)]) for i, name in enumerate(names)}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.7 * len(panels), 3.9), squeeze=False)
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, seconds in curves.items():
            style, color = look[name]
            ax.plot(lengths, [1e3 * s for s in seconds], style, color=color, label=name)
        ax.set(xscale="log", yscale="log", xlabel="tokens of a sequence", title=title)
        ticks = lengths[:: max(1, len(lengths) // 4)]
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        ax.minorticks_off()
    axes[0, 0].set(ylabel="least milliseconds of a step")
    handles = {line.get_label(): line for ax in axes[0] for line in ax.lines}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return list(axes[0])


def weightings(labels: list[str], weights: dict[str, Tensor]) -> Axes:
    """Draw bars side by side at each token: one weighting beside another."""
    _, ax = plt.subplots(figsize=(0.8 + 0.3 * len(labels), 2.6))
    width = 0.8 / len(weights)
    for i, (name, values) in enumerate(weights.items()):
        places = [place + width * (i - (len(weights) - 1) / 2) for place in range(len(labels))]
        ax.bar(places, values.tolist(), width=width, color=COLORS[i], label=name)
    ax.set_xticks(range(len(labels)), labels)
    ax.set(ylabel="weight")
    ax.legend()
    return ax


def attributions(rows: dict[str, Tensor], *, labels: list[str], marked: int) -> Axes:
    """Draw one row per method, its values (t,) as shares of its sum; the token that decides is framed."""
    shares = torch.stack([values.clamp_min(0) / values.clamp_min(0).sum() for values in rows.values()])
    _, ax = plt.subplots(figsize=(1.8 + 0.36 * len(labels), 0.8 + 0.42 * len(rows)))
    weights_heatmap(shares, queries=[*rows], keys=labels, ax=ax)
    frame = plt.Rectangle(
        (marked - 0.5, -0.5), 1, len(rows), fill=False, edgecolor=COLORS[1], linewidth=2, clip_on=False
    )
    ax.add_patch(frame)
    return ax


def savings(ratios: dict[str, dict[str, float]]) -> Axes:
    """Draw a cell for each design and cost, with the factor against the first design: blue is less, red is more."""
    designs, costs = [*ratios], [*next(iter(ratios.values()))]
    _, ax = plt.subplots(figsize=(2.2 + 1.15 * len(costs), 0.7 + 0.36 * len(designs)))
    logs = [[math.log10(ratios[design][cost]) for cost in costs] for design in designs]
    ax.imshow(logs, cmap=SIGNED, vmin=-3, vmax=3, aspect="auto")
    for i, row in enumerate(logs):
        for j, value in enumerate(row):
            factor = ratios[designs[i]][costs[j]]
            text = "same" if abs(factor - 1) < 0.005 else f"x {factor:.2g}"
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if abs(value) > 2 else "black")
    ax.set_xticks(range(len(costs)), [cost.replace(" ", "\n", 1) for cost in costs])
    ax.set_yticks(range(len(designs)), designs)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    return ax
