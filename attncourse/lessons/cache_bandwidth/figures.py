"""Pictures of decoding against a device's memory: times, the bandwidth reached, overhead, a chip's use, whole models."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from attncourse.plot.style import COLORS

# Designs side by side, by what they change. The same design stands in each as the line to compare with.
FAMILIES = {
    "fewer stored heads": ("MHA", "GQA, 2 share", "GQA, 4 share", "MQA"),
    "other contents": ("GQA, 4 share", "latent", "window"),
    "other storage": ("GQA, 4 share", "int8", "fp8", "paged"),
}
_NAMES = ("MHA", "GQA, 2 share", "MQA", "latent", "window", "int8", "GQA, 4 share", "fp8", "paged")
_LOOKS = {
    name: dict(color=color, marker=marker, ms=5)
    for name, color, marker in zip(_NAMES, [*COLORS, "#7A4A00", "#6A3D9A"], "os^DvPX<>", strict=True)
}
GREY = "#777777"

Curves = Mapping[str, Mapping[int, float]]  # design -> context -> a number


def _plain_numbers(axis: Axis, *, minor: bool = False) -> None:
    """Label a logarithmic axis with numbers as they are read, not with powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if minor:  # few powers of ten are in sight
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_formatter(NullFormatter())


def _thousands(ax: Axes, values: Sequence[int], *, most: int = 6) -> None:
    """Put ticks at these values of a logarithmic axis, or at some of them."""
    shown = values[:: -(-len(values) // most)]
    ax.set_xticks(shown, [f"{n:,}" for n in shown])
    ax.minorticks_off()


def _families(rows: int, *, height: float) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a column per family and shared axes."""
    shape = dict(figsize=(9.2, height * rows), sharex=True, sharey=True, squeeze=False)
    figure, axes = plt.subplots(rows, len(FAMILIES), **shape)
    for ax, family in zip(axes[0], FAMILIES, strict=True):
        ax.set_title(family)
    return figure, axes


def _draw(ax: Axes, family: str, curves: Curves, *, unit: float, **look) -> None:
    """Draw the curves of a family's designs, in multiples of a unit."""
    for name in FAMILIES[family]:
        if name in curves:
            y = [value / unit for value in curves[name].values()]
            ax.plot([*curves[name]], y, **({"label": name} | _LOOKS[name] | look))


def step_panels(predicted: Curves, measured: Curves | None = None) -> Figure:
    """Draw milliseconds of a step against the context, a panel per family of designs: the least as dashed lines, what
    was measured as lines with marks.

    Args:
        predicted, measured: design -> context -> seconds.
    """
    figure, axes = _families(1, height=3.5)
    for ax, family in zip(axes[0], FAMILIES, strict=True):
        least = dict(marker="", ls="--", lw=1.2) if measured else dict(ls="--")
        _draw(ax, family, predicted, unit=1e-3, **(least | ({"label": None} if measured else {})))
        if measured:
            _draw(ax, family, measured, unit=1e-3)
        ax.set(xscale="log", yscale="log", xlabel="tokens in the cache")
        _thousands(ax, sorted({n for seconds in predicted.values() for n in seconds}))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper left")
    axes[0][0].set_ylabel("milliseconds per step")
    _plain_numbers(axes[0][0].yaxis)
    _headroom(axes[0][0])
    return figure


def _headroom(ax: Axes) -> None:
    """Leave room above the curves for a legend of four lines."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.45)


def _by_clock(ls: str = "-") -> list[Line2D]:
    """Return what marks mean where a graph's replay and a call from Python stand beside each other."""
    look = dict(color=GREY, marker="o", ms=5, ls=ls)
    return [
        Line2D([], [], **look, label="graph replayed"),
        Line2D([], [], **look, mfc="none", lw=0.7, alpha=0.6, label="call from Python"),
    ]


def bandwidth_reached(rows: Mapping[str, Curves], *, read: float, calls: Mapping[str, Curves] | None = None) -> Figure:
    """Draw GB per second that each design's step reads, against the context, beside what a plain read reaches; a row
    per batch, a column per family of designs.

    Args:
        rows: row's name -> design -> context -> bytes per second, by the clock that is held against the read.
        read: bytes per second of a plain read.
        calls: the same by calls from Python where `rows` is by replayed graphs, drawn thin with hollow marks.
    """
    figure, axes = _families(len(rows), height=2.5)
    contexts = sorted({n for curves in rows.values() for steps in curves.values() for n in steps})
    for line, (name, curves) in zip(axes, rows.items(), strict=True):
        for ax, family in zip(line, FAMILIES, strict=True):
            ax.axhline(read / 1e9, color=GREY, ls=":", label="plain read")
            _draw(ax, family, curves, unit=1e9)
            _draw(ax, family, (calls or {}).get(name, {}), unit=1e9, mfc="none", lw=0.7, alpha=0.6, label=None)
            ax.set(xscale="log", yscale="log")
            _thousands(ax, contexts, most=4)
        line[0].set_ylabel(f"GB per second,\n{name}")
        _plain_numbers(line[0].yaxis, minor=True)
    for ax in axes[-1]:
        ax.set_xlabel("tokens in the cache")
    found: dict[str, Line2D] = {}
    for ax in axes.flat:
        found |= {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    for line in _by_clock() if calls else []:
        found[line.get_label()] = line
    figure.legend([*found.values()], [*found], loc="outside right center")
    return figure


def floor_and_wall(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    lines: Mapping[str, tuple[float, float]],
    *,
    calls: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> Axes:
    """Draw microseconds against the bytes that a step reads, measured as points, and overhead + bytes / bandwidth as
    lines, with the size at which both parts are equal.

    Args:
        points: design -> bytes, seconds, by the clock that the lines are fitted to.
        lines: for some of the designs, seconds of overhead and bytes per second, inf where sizes make no difference.
        calls: the same points by calls from Python where `points` is by replayed graphs, hollow.
    """
    _, ax = plt.subplots(figsize=(6.8, 4.0))
    sizes = sorted(size for xs, _ in points.values() for size in xs)
    grid = [sizes[0] * (sizes[-1] / sizes[0]) ** (i / 60) for i in range(61)]
    for name, (xs, seconds) in points.items():
        look = _LOOKS[name] | dict(ls="")
        ax.plot([x / 1e6 for x in xs], [1e6 * t for t in seconds], **look, label=name)
        if name in lines:
            overhead, bandwidth = lines[name]
            color = look["color"]
            ax.plot([x / 1e6 for x in grid], [1e6 * (overhead + x / bandwidth) for x in grid], color=color, lw=1)
            if math.isfinite(bandwidth):
                ax.axvline(overhead * bandwidth / 1e6, color=color, ls=":", lw=1)
        if calls and name in calls:
            xs, seconds = calls[name]
            ax.plot([x / 1e6 for x in xs], [1e6 * t for t in seconds], **look, mfc="none", alpha=0.6)
    ax.set(xscale="log", yscale="log", xlabel="MB that a step reads", ylabel="microseconds per step")
    _plain_numbers(ax.xaxis)
    _plain_numbers(ax.yaxis)
    handles, _ = ax.get_legend_handles_labels()
    ax.figure.legend(handles=handles + (_by_clock("") if calls else []), loc="outside right center")
    return ax


def two_programs(seconds: Mapping[str, tuple[float, float]]) -> Axes:
    """Draw milliseconds of one step by two programs on the same storage, two dots per design joined by a line.

    Args:
        seconds: design -> seconds with a copy first, seconds of the kernel that reads in place.
    """
    _, ax = plt.subplots(figsize=(6.8, 0.42 * len(seconds) + 1.1))
    rows = range(len(seconds))
    before, after = ([1e3 * pair[i] for pair in seconds.values()] for i in (0, 1))
    ax.hlines(rows, after, before, color=GREY, lw=1)
    ax.plot(before, rows, "s", color=COLORS[1], ms=7, label="plain PyTorch")
    ax.plot(after, rows, "o", color=COLORS[0], ms=7, label="kernel that reads in place")
    ax.set_yticks(rows, [*seconds])
    ax.set(xscale="log", xlabel="milliseconds per step", ylim=(len(seconds) - 0.5, -0.5))
    _plain_numbers(ax.xaxis, minor=True)
    ax.figure.legend(loc="outside upper right", ncols=2)
    return ax


def chip_use(groups: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Axes:
    """Draw the share of a chip that has work, against sequences times stored heads."""
    _, ax = plt.subplots(figsize=(6.8, 3.6))
    for (name, shares), color, marker in zip(curves.items(), COLORS, "os^D", strict=False):
        ax.plot(groups, [100 * share for share in shares], color=color, marker=marker, ms=4, label=name)
    ax.set(xscale="log", xlabel="sequences × stored heads", ylabel="busy multiprocessors, %", ylim=(0, 105))
    _thousands(ax, [n for n in groups if n & (n - 1) == 0], most=9)
    ax.legend(loc="lower right")
    return ax


def splits_saw(shares: Mapping[int, float], marks: Mapping[str, int]) -> Axes:
    """Draw the share of a chip that has work against the number of splits, and mark the splits that rules choose.

    Args:
        shares: splits -> share, of 1.
        marks: rule -> splits.
    """
    _, ax = plt.subplots(figsize=(6.8, 3.4))
    ax.plot([*shares], [100 * share for share in shares.values()], ".-", color=GREY, lw=0.8, ms=4)
    for (name, splits), color, marker in zip(marks.items(), COLORS[1:], "sDo", strict=False):
        ax.plot(splits, 100 * shares[splits], marker, color=color, ms=9, label=f"{name}: {splits}")
    ax.set(xlabel="splits per sequence and stored head", ylabel="busy multiprocessors, %", ylim=(0, 105))
    ax.legend(loc="lower right")
    return ax


def tokens_against_batch(
    curves: Mapping[str, Mapping[int, float]], *, full: Mapping[str, int], turning: Mapping[str, int | None]
) -> Axes:
    """Draw tokens per second of whole models against the batch, drawn on as a thin line where memory is full.

    Args:
        curves: model -> batch -> tokens per second.
        full: model -> the largest batch that fits.
        turning: model -> the batch from which computing takes over, marked by a star, or None.
    """
    _, ax = plt.subplots(figsize=(8.4, 4.0))
    for i, (name, tokens) in enumerate(curves.items()):
        color = COLORS[i % len(COLORS)]
        fits = {b: t for b, t in tokens.items() if b <= full[name]}
        ax.plot([*tokens], [*tokens.values()], color=color, lw=0.7, ls=":")
        ax.plot([*fits], [*fits.values()], color=color, lw=2.2, label=name)
        if turning[name] in tokens:
            ax.plot(turning[name], tokens[turning[name]], "*", color=color, ms=11, mec="black", mew=0.6)
    ax.set(xscale="log", yscale="log", xlabel="sequences in the batch", ylabel="tokens per second, all together")
    _plain_numbers(ax.yaxis)
    _thousands(ax, [b for b in next(iter(curves.values())) if b & (b - 1) == 0], most=7)
    ax.figure.legend(loc="outside right center")
    return ax
