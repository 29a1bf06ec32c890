"""Pictures of what a cache costs: bytes by model, growth with the context, the time of a step, and what bounds it."""

from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from attncourse.plot.style import COLORS

STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
DESIGNS = ("MHA", "GQA", "MQA", "MLA", "GQA, windows", "MLA, indexer")
LOOK = {name: (color, marker) for name, color, marker in zip(DESIGNS, COLORS, "os^DvP", strict=False)}
BOUNDS = {"reading, predicted": COLORS[0], "computing, predicted": COLORS[4], "measured": COLORS[6]}


def dots_by_design(values: dict[str, tuple[str, float]], *, xlabel: str, digits: int = 0) -> Axes:
    """Draw a dot per model on a logarithmic axis, with its design's colour and mark, and its value beside it.

    Args:
        values: model -> its design, one of `DESIGNS`, and a positive number.
        digits: of the values, after the point.
    """
    figure, ax = plt.subplots(figsize=(7, 1.0 + 0.22 * len(values)))
    sizes = [value for _, value in values.values()]
    for design in DESIGNS:
        rows = [i for i, (found, _) in enumerate(values.values()) if found == design]
        color, marker = LOOK[design]
        if rows:
            ax.plot([sizes[i] for i in rows], rows, marker, color=color, label=design, markersize=7)
    for i, size in enumerate(sizes):
        ax.annotate(
            f"{size:,.{digits}f}", (size, i), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9
        )
    ax.set_yticks(range(len(values)), [*values])
    ax.set(xlabel=xlabel, xlim=(0.7 * min(sizes), 2.2 * max(sizes)))
    _logarithmic(ax.set_xscale, ax.xaxis)
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    ax.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(DESIGNS), columnspacing=1.2, handletextpad=0.2)
    return ax


def cache_against_context(contexts: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw gigabytes of one sequence against its length, both on logarithmic axes."""
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(
            contexts,
            [v / 1e9 for v in values],
            linestyle=STYLES[i % len(STYLES)],
            color=COLORS[i % len(COLORS)],
            label=name,
        )
    ax.set(xlabel="tokens of one sequence", ylabel="its cache, GB")
    _logarithmic(ax.set_yscale, ax.yaxis)
    _token_ticks(ax, contexts)
    ax.legend()
    return ax


def _logarithmic(set_scale: Callable[[str], None], axis: Axis) -> None:
    """Make an axis logarithmic, and write its ticks as whole numbers: exponents would be too small to read."""
    set_scale("log")
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _token_ticks(ax: Axes, contexts: list[int], *, most: int = 6) -> None:
    ax.set_xscale("log")
    ticks = contexts[:: -(-len(contexts) // most)]
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def step_times(parts: dict[str, dict[str, float]], *, longest: float, title: str) -> Figure:
    """Draw milliseconds of one decoding step of each model as stacked bars, on an axis that ends at `longest` seconds.

    Args:
        parts: model -> part of the step -> seconds; the same parts everywhere.
    """
    figure, ax = plt.subplots(figsize=(7, 0.9 + 0.4 * len(parts)))
    names, left = [*parts], [0.0] * len(parts)
    for part, color in zip(next(iter(parts.values())), COLORS, strict=False):
        values = [1e3 * parts[name][part] for name in names]
        ax.barh(names, values, left=left, color=color, height=0.6, label=part)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for i, total in enumerate(left):
        ax.text(total, i, f" {total:,.1f}", va="center", fontsize=9)
    ax.set(xlabel="milliseconds of one step, predicted", xlim=(0, 1.12e3 * longest), title=title)
    ax.invert_yaxis()
    figure.legend(loc="outside right upper")
    return figure


def decode_roofline(intensities: dict[str, tuple[str, float]], *, ridge: float) -> Axes:
    """Draw the share of a device's operations that each model's attention can reach while it decodes.

    Args:
        intensities: model -> its design, and its operations per byte read.
        ridge: the device's operations per second over its bytes per second.
    """
    _, ax = plt.subplots(figsize=(7, 3.8))
    line = [0.3, ridge, 4 * ridge]
    ax.plot(line, [min(1.0, x / ridge) for x in line], color="#999999", linewidth=3, zorder=0)
    ax.axvline(ridge, color="#999999", linestyle=":", linewidth=1)
    ax.text(0.93 * ridge, 1.2, f"ridge: {ridge:.0f} operations per byte", ha="right", va="bottom", fontsize=9)
    seen = []
    for name, (design, x) in intensities.items():
        (color, marker), y = LOOK[design], min(1.0, x / ridge)
        ax.plot(x, y, marker, color=color, label=None if design in seen else design)
        ax.annotate(name, (x, y), xytext=(7, -9), textcoords="offset points", fontsize=9)
        seen.append(design)
    _logarithmic(ax.set_xscale, ax.xaxis)
    _logarithmic(ax.set_yscale, ax.yaxis)
    ax.set(xlabel="operations per byte of cache", ylabel="share of the peak", ylim=(0.2 / ridge, 2.2))
    ax.legend(loc="upper left")
    return ax


def bounds_and_measured(
    designs: dict[str, tuple[float, float, float]], heads: dict[int, tuple[float, float, float]]
) -> Figure:
    """Draw two panels of the time of a step: four designs, and one latent cache read by more and more heads.

    Args:
        designs: design -> seconds that reading takes and that computing takes, both predicted, and measured seconds.
        heads: number of heads -> the same three.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    for i, (what, color) in enumerate(BOUNDS.items()):
        places = [place + 0.27 * (i - 1) for place in range(len(designs))]
        left.bar(places, [1e3 * found[i] for found in designs.values()], width=0.25, color=color, label=what)
        marker, style = ("o", "-") if what == "measured" else (None, STYLES[i])
        times = [1e3 * found[i] for found in heads.values()]
        right.plot([*heads], times, marker=marker, linestyle=style, color=color, label=what)
    left.set_xticks(range(len(designs)), [*designs])
    left.set(ylabel="ms of processor time", title="four designs, 16 query heads")
    right.set(xlabel="query heads", ylabel="ms of processor time", title="MLA, one cache")
    _logarithmic(right.set_yscale, right.yaxis)
    right.set_xscale("log")
    right.set_xticks([*heads], [str(h) for h in heads])
    right.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def sparse_against_dense(contexts: list[int], panels: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw a panel per quantity of one step in one layer, a line per way to attend, against the length of the text.

    Args:
        panels: what an axis shows -> way -> its values.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.4, 3.6))
    for ax, (what, ways) in zip(axes, panels.items(), strict=True):
        for i, (name, values) in enumerate(ways.items()):
            ax.plot(contexts, values, linestyle=STYLES[i % len(STYLES)], color=COLORS[i], label=name)
        ax.set(xlabel="tokens in the cache", ylabel=what)
        _logarithmic(ax.set_yscale, ax.yaxis)
        _token_ticks(ax, contexts, most=4)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
