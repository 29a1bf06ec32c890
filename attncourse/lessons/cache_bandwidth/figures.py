"""Pictures of decoding against a device's memory: predicted times, the bandwidth reached, overhead, a chip's use, whole models."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attncourse.plot.style import COLORS

MARKERS = "os^DvPX<>"


def _look(i: int) -> dict:
    """Return colour and marker of the i-th curve; colours come again with another line."""
    return dict(
        color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], ls="-" if i < len(COLORS) else "--", ms=4
    )


def _thousands(ax: Axes, values: Sequence[int], *, most: int = 6) -> None:
    """Put ticks at these values of a logarithmic axis, or at some of them."""
    shown = values[:: -(-len(values) // most)]
    ax.set_xticks(shown, [f"{n:,}" for n in shown])
    ax.minorticks_off()


def step_against_context(curves: Mapping[str, Mapping[int, float]], *, title: str) -> Axes:
    """Draw milliseconds of a step against the context, a curve per design.

    Args:
        curves: design -> context -> seconds.
    """
    _, ax = plt.subplots(figsize=(6.8, 3.9))
    for i, (name, seconds) in enumerate(curves.items()):
        ax.plot([*seconds], [1e3 * t for t in seconds.values()], label=name, **_look(i))
    ax.set(xscale="log", yscale="log", xlabel="tokens in the cache of each sequence", ylabel="milliseconds of a step")
    _thousands(ax, sorted({n for seconds in curves.values() for n in seconds}))
    ax.set_title(title, fontsize=8)
    ax.figure.legend(loc="outside right center")
    return ax


def _by_clock(ls: str = "-") -> list[Line2D]:
    """Return what marks mean where a graph's replay and a call from Python stand beside each other."""
    look = dict(color="#555555", marker="o", ms=4, ls=ls)
    return [
        Line2D([], [], **look, label="graph replayed"),
        Line2D([], [], **look, mfc="none", lw=0.7, alpha=0.6, label="call from Python"),
    ]


def bandwidth_reached(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    *,
    read: float,
    title: str,
    calls: Mapping[str, Mapping[str, Mapping[int, float]]] | None = None,
) -> Figure:
    """Draw GB per second that each design's step reads, against the context, beside what a plain read reaches;
    a panel per batch.

    Args:
        panels: panel's title -> design -> context -> bytes a second, by the clock that is held against the read.
        read: bytes a second of a plain read.
        calls: the same by calls from Python where `panels` is by replayed graphs, drawn thin with hollow marks.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels) + 1.2, 3.6), sharey=True, squeeze=False)
    looks = {
        design: _look(i) for i, design in enumerate(dict.fromkeys(d for curves in panels.values() for d in curves))
    }
    handles = {}
    for ax, (name, curves) in zip(axes[0], panels.items(), strict=True):
        handles["plain read"] = ax.axhline(read / 1e9, color="#999999", ls=":")
        for design, rates in curves.items():
            (handles[design],) = ax.plot([*rates], [rate / 1e9 for rate in rates.values()], **looks[design])
        for design, rates in (calls or {}).get(name, {}).items():
            look = looks[design] | dict(mfc="none", lw=0.7, alpha=0.6)
            ax.plot([*rates], [rate / 1e9 for rate in rates.values()], **look)
        ax.set(xscale="log", yscale="log", xlabel="tokens in the cache", title=name)
        _thousands(ax, sorted({n for rates in curves.values() for n in rates}), most=4)
    axes[0, 0].set_ylabel("GB a second")
    figure.suptitle(title, fontsize=8)
    named = {name: handles[name] for name in ("plain read", *looks)}
    if calls:
        named |= {line.get_label(): line for line in _by_clock()}
    figure.legend([*named.values()], [*named], loc="outside right center")
    return figure


def floor_and_wall(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    lines: Mapping[str, tuple[float, float]],
    *,
    title: str,
    calls: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> Axes:
    """Draw microseconds against the bytes that a step reads, measured as points,
    and overhead + bytes / bandwidth as lines.

    Args:
        points: design -> bytes, seconds, by the clock that the lines are fitted to.
        lines: design -> seconds of overhead, bytes a second, inf where sizes make no difference.
        calls: the same points by calls from Python where `points` is by replayed graphs, hollow.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    sizes = sorted(size for xs, _ in points.values() for size in xs)
    grid = [sizes[0] * (sizes[-1] / sizes[0]) ** (i / 60) for i in range(61)]
    for i, (name, (xs, seconds)) in enumerate(points.items()):
        overhead, bandwidth = lines[name]
        look = _look(i)
        ax.plot([x / 1e6 for x in xs], [1e6 * t for t in seconds], look["marker"], color=look["color"], label=name)
        ax.plot([x / 1e6 for x in grid], [1e6 * (overhead + x / bandwidth) for x in grid], color=look["color"], lw=1)
        if math.isfinite(bandwidth):
            ax.axvline(overhead * bandwidth / 1e6, color=look["color"], ls=":", lw=1)
        if calls and name in calls:
            xs, seconds = calls[name]
            us = [1e6 * t for t in seconds]
            ax.plot([x / 1e6 for x in xs], us, look["marker"], color=look["color"], mfc="none", alpha=0.6)
    ax.set(xscale="log", yscale="log", xlabel="MB that a step reads", ylabel="microseconds of a step")
    ax.set_title(title, fontsize=8)
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(handles=handles + (_by_clock("") if calls else []))
    return ax


def chip_use(groups: Sequence[int], curves: Mapping[str, Sequence[float]], *, title: str) -> Axes:
    """Draw the share of a chip that has work, against sequences times stored heads."""
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    for i, (name, shares) in enumerate(curves.items()):
        ax.plot(groups, [100 * share for share in shares], label=name, **_look(i))
    ax.set(xscale="log", xlabel="sequences x stored heads", ylabel="busy multiprocessors, %", ylim=(0, 105))
    _thousands(ax, groups, most=9)
    ax.set_title(title, fontsize=9)
    ax.legend()
    return ax


def tokens_against_batch(
    curves: Mapping[str, Mapping[int, float]],
    *,
    full: Mapping[str, int],
    turning: Mapping[str, int | None],
    title: str,
) -> Axes:
    """Draw tokens per second of whole models against the batch, drawn on as a thin line where memory is full.

    Args:
        curves: model -> batch -> tokens a second.
        full: model -> the largest batch that fits.
        turning: model -> the batch from which computing takes over, marked by a star, or None.
    """
    _, ax = plt.subplots(figsize=(6.8, 4.0))
    for i, (name, tokens) in enumerate(curves.items()):
        color = COLORS[i % len(COLORS)]
        fits = {b: t for b, t in tokens.items() if b <= full[name]}
        ax.plot([*tokens], [*tokens.values()], color=color, lw=0.7, ls=":")
        ax.plot([*fits], [*fits.values()], color=color, lw=2.2, label=name)
        if turning[name] in tokens:
            ax.plot(turning[name], tokens[turning[name]], "*", color=color, ms=11, mec="black", mew=0.6)
    ax.set(xscale="log", yscale="log", xlabel="sequences of a batch", ylabel="tokens a second, all together")
    _thousands(ax, [b for b in next(iter(curves.values())) if b & (b - 1) == 0], most=7)
    ax.set_title(title, fontsize=9)
    ax.figure.legend(loc="outside right center")
    return ax
