"""What a computation takes against the length of its input, both on logarithmic axes. A curve may stop early."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .style import COLORS


def memory_against_length(lengths: list[int], peaks: dict[str, list[int]], *, device: str) -> Axes:
    """Draw the peak bytes of each form against length."""
    curves = {name: [peak / 1e6 for peak in values] for name, values in peaks.items()}
    return _against_length(lengths, curves, ylabel="peak memory, MB", device=device)


def seconds_against_length(lengths: list[int], seconds: dict[str, list[float]], *, device: str) -> Axes:
    """Draw the time of each form against length."""
    curves = {name: [1e3 * second for second in values] for name, values in seconds.items()}
    return _against_length(lengths, curves, ylabel="time, ms", device=device)


def _against_length(lengths, curves, *, ylabel, device) -> Axes:
    _, ax = plt.subplots(figsize=(5.2, 3.4))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(lengths[: len(values)], values, style, label=name, color=color)
    ax.set(xscale="log", yscale="log", xlabel="length", ylabel=ylabel, title=device)
    ax.title.set_fontsize(9)
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.minorticks_off()
    _name_heights(ax)
    ax.legend()
    return ax


def _name_heights(ax: Axes) -> None:
    """Name several heights of each power of ten where the axis spans few of them: it would name one or two alone."""
    low, high = ax.get_ylim()
    digits = (1, 2, 5) if high < 50 * low else (1, 3)
    if high < 3000 * low:
        ticks = [digit * 10.0**power for power in range(-6, 7) for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
