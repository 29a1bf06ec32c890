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
    ax.legend()
    return ax
