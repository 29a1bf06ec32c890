"""Pictures of what changes a function and what changes its execution: differences, traffic, memory over a day, bits."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attncourse.plot.style import COLORS

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
    figure, ax = plt.subplots(figsize=(7.2, 0.9 + 0.25 * len(values)))
    for row, (name, value) in enumerate(values.values()):
        color, marker = looks[name]
        ax.plot([max(value, floor)], [row], marker, color=color)
        ax.plot([floor, max(value, floor)], [row, row], color=color, linewidth=0.8, alpha=0.5)
    ax.axvline(tolerance, color=COLORS[-1], linewidth=1, linestyle=":")
    ax.set(
        xscale="log", xlim=(floor, 100), ylim=(len(values) - 0.5, -0.5), xlabel="largest relative difference, float64"
    )
    ax.set_yticks(range(len(values)), list(values))
    handles = [Line2D([], [], color=color, marker=marker, linestyle="") for color, marker in looks.values()]
    figure.legend(handles, lists, loc="outside upper center", ncols=len(lists))
    return ax


def traffic_against_cache(capacities: list[int], counted: dict[str, dict[int, list[float]]]) -> Axes:
    """Draw megabytes moved against the cache's size, on logarithmic axes: a colour per algorithm, a style per length.

    Args:
        capacities: bytes.
        counted: algorithm -> length -> megabytes at each capacity.
    """
    figure, ax = plt.subplots(figsize=(7.6, 3.6))
    for (name, by_length), color, marker in zip(counted.items(), COLORS, MARKERS, strict=False):
        for (n, values), style in zip(by_length.items(), STYLES, strict=False):
            ax.plot(capacities, values, marker + style, color=color, markersize=4, label=f"{name}, n = {n:,}")
    ax.set(xscale="log", yscale="log", xlabel="cache, KiB", ylabel="moved to and from memory, MB")
    ax.set_xticks(capacities, [f"{c // 1024:,}" for c in capacities])
    ax.minorticks_off()
    figure.legend(loc="outside right center", fontsize=8)
    return ax


def day_of_requests(hours: list[float], days: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw a panel per quantity, a line per way of giving out memory, over the hours of a day.

    Args:
        days: way -> quantity -> its value at each hour; the same quantities everywhere.
    """
    quantities = list(next(iter(days.values())))
    figure, axes = plt.subplots(1, len(quantities), figsize=(4.2 * len(quantities), 3.2), squeeze=False)
    for ax, quantity in zip(axes.flat, quantities, strict=True):
        for (name, values), color, style in zip(days.items(), COLORS, STYLES, strict=False):
            ax.plot(hours, values[quantity], style, color=color, linewidth=1.2, label=name)
        ax.set(xlabel="hour", ylabel=quantity, xlim=(0, 24), ylim=(0, None), xticks=range(0, 25, 6))
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(days))
    return figure


def against_bits(bits: list[int], panels: dict[str, dict[str, list[float]]], *, ylabels: dict[str, str]) -> Figure:
    """Draw a panel per quantity, a line per way of grouping, against the bits of a code, on a logarithmic axis.

    Args:
        panels: title -> way -> a positive value at each number of bits.
        ylabels: of each panel.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.9 * len(panels), 3.2), squeeze=False)
    for ax, (title, curves) in zip(axes.flat, panels.items(), strict=True):
        for (name, values), color, marker, style in zip(curves.items(), COLORS, MARKERS, STYLES, strict=False):
            ax.plot(bits, values, marker + style, color=color, markersize=4, label=name)
        ax.set(yscale="log", xlabel="bits of a code", ylabel=ylabels[title], title=title, xticks=bits)
        ax.legend(fontsize=8)
    return figure
