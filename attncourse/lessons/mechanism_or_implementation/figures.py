"""Pictures of what changes a function and what changes its execution: differences, a running sum, traffic, a server's day."""

from statistics import mean

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from attncourse.plot.style import COLORS

from .serving_day import Day

MARKERS = ("o", "s", "^", "D")
STYLES = ("-", "--", ":", "-.")


def differences(values: dict[str, tuple[str, float]], *, tolerance: float, floor: float = 1e-17) -> Axes:
    """Draw a dot per item on a logarithmic axis: how far it is from what it replaces, coloured by the list it is from.

    Args:
        values: item -> its list, and the difference; 0 is drawn at the floor.
        tolerance: a line between the same function and another one.
    """
    lists = list(dict.fromkeys(name for name, _ in values.values()))
    looks = {name: (COLORS[i], MARKERS[i]) for i, name in enumerate(lists)}
    figure, ax = plt.subplots(figsize=(6.6, 0.9 + 0.25 * len(values)))
    for row, (name, value) in enumerate(values.values()):
        color, marker = looks[name]
        ax.plot([max(value, floor)], [row], marker, color=color)
    ax.axvline(tolerance, color=COLORS[-1], linewidth=1.2, linestyle=":")
    ax.set(
        xscale="log", xlim=(floor, 100), ylim=(len(values) - 0.5, -0.5), xlabel="largest relative difference, float64"
    )
    ax.set_yticks(range(len(values)), list(values))
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    handles = [Line2D([], [], color=color, marker=marker, linestyle="") for color, marker in looks.values()]
    handles.append(Line2D([], [], color=COLORS[-1], linestyle=":"))
    figure.legend(handles, [*lists, "tolerance"], loc="outside upper center", ncols=2)
    return ax


def terms_of_the_sum(scores: Tensor) -> Figure:
    """Draw a panel per key read: a bar per term of the running sum, exp(score - largest so far)."""
    figure, axes = plt.subplots(1, len(scores), figsize=(6.6, 2.5), sharey=True)
    for read, ax in enumerate(axes, start=1):
        terms = torch.exp(scores[:read] - scores[:read].max())
        bars = ax.bar(range(1, read + 1), terms.tolist(), color=COLORS[3], width=0.6)
        ax.bar_label(bars, [f"{x:g}" for x in terms.tolist()], fontsize=9, padding=2)
        ax.set(title=f"after key {read}: sum {float(terms.sum()):g}", xlabel="key", ylim=(0, 1.18))
        ax.set_xticks(range(1, len(scores) + 1))
        ax.set_xlim(0.4, len(scores) + 0.6)
    axes[0].set_ylabel("exp(score − largest)")
    return figure


def traffic_against_cache(capacities: list[int], counted: dict[str, dict[int, list[float]]]) -> Axes:
    """Draw megabytes moved against the cache's size, on logarithmic axes: a colour per algorithm, a style per length.

    Args:
        capacities: bytes.
        counted: algorithm -> length -> megabytes at each capacity.
    """
    figure, ax = plt.subplots(figsize=(6.6, 4.2))
    for (name, by_length), color, marker in zip(counted.items(), COLORS, MARKERS, strict=False):
        for (n, values), style in zip(by_length.items(), STYLES, strict=False):
            ax.plot(capacities, values, marker + style, color=color, markersize=4, label=f"{name}, n = {n:,}")
    ax.set(xscale="log", yscale="log", xlabel="cache, KiB", ylabel="moved to and from memory, MB")
    ax.set_xticks(capacities, [f"{c // 1024:,}" for c in capacities])
    ax.minorticks_off()
    figure.legend(loc="outside upper center", ncols=len(counted))
    return ax


def peak_and_time(lengths: list[int], peaks: dict[str, list[int]], seconds: dict[str, list[float]]) -> Figure:
    """Draw two panels against length, a line per form, on logarithmic axes: megabytes at the peak, and milliseconds."""
    figure, axes = plt.subplots(1, 2, figsize=(6.6, 3.3))
    panels = {"peak memory, MB": (peaks, 1e-6), "processor time, ms": (seconds, 1e3)}
    for ax, (ylabel, (curves, unit)) in zip(axes, panels.items(), strict=True):
        for (name, values), color, marker, style in zip(curves.items(), COLORS, MARKERS, STYLES, strict=False):
            ax.plot(lengths, [unit * x for x in values], marker + style, color=color, label=name)
        ax.set(xscale="log", yscale="log", xlabel="length", ylabel=ylabel)
        ax.set_xticks(lengths, [str(n) for n in lengths])
        ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(peaks))
    return figure


def day_of_requests(days: dict[str, Day], *, capacity: int, group: int = 6) -> Figure:
    """Draw a panel per quantity over the hours of a day, a line per way of giving out memory.

    Args:
        days: way -> what was seen at even intervals over 24 hours.
        capacity: of the memory, in tokens.
        group: looks per point, which is their mean.
    """
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 3.0))
    for (name, day), color, style in zip(days.items(), COLORS, STYLES, strict=False):
        share = [100 * tokens / capacity for tokens in day.tokens]
        for ax, values in zip(axes, (day.running, share, day.waiting), strict=True):
            whole = len(values) - len(values) % group
            means = [mean(values[i : i + group]) for i in range(0, whole, group)]
            hours = [24 * (i + 0.5) / len(means) for i in range(len(means))]
            ax.plot(hours, means, style, color=color, linewidth=1.3, label=name)
    for ax, quantity in zip(axes, ("requests running", "memory with tokens, %", "requests waiting"), strict=True):
        ax.set(xlabel="hour", title=quantity, xlim=(0, 24), ylim=(0, None), xticks=range(0, 25, 6))
        ax.title.set_fontsize(10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(days))
    return figure
