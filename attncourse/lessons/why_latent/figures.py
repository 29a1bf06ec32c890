"""Pictures of what a cache costs: bytes by model, growth with the context, the time of a step, and what bounds it."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from attncourse.plot.style import COLORS

STYLES = ("-", "--", ":", "-.")


def bars_by_design(values: dict[str, tuple[str, float]], *, xlabel: str, digits: int = 0) -> Axes:
    """Draw a horizontal bar per model on a logarithmic axis, coloured by its design, with its value beside it.

    Args:
        values: model -> its design, and a positive number.
        digits: of the values, after the point.
    """
    designs = list(dict.fromkeys(design for design, _ in values.values()))
    colors = dict(zip(designs, COLORS, strict=False))
    figure, ax = plt.subplots(figsize=(7, 1.0 + 0.24 * len(values)))
    sizes = [value for _, value in values.values()]
    bars = ax.barh([*values], sizes, color=[colors[name] for name, _ in values.values()], height=0.7)
    ax.bar_label(bars, [f"{size:,.{digits}f}" for size in sizes], padding=3, fontsize=8)
    ax.set(xscale="log", xlabel=xlabel, xlim=(0.5 * min(sizes), 2.5 * max(sizes)))
    ax.margins(y=0.01)
    ax.invert_yaxis()
    figure.legend(
        [Patch(color=colors[name]) for name in designs], designs, loc="outside upper center", ncols=len(designs)
    )
    return ax


def cache_against_context(contexts: list[int], curves: dict[str, list[float]]) -> Axes:
    """Draw gigabytes of one sequence against its length, both on logarithmic axes."""
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(contexts, [v / 1e9 for v in values], STYLES[i % 4], color=COLORS[i % len(COLORS)], label=name)
    ax.set(xscale="log", yscale="log", xlabel="tokens of one sequence", ylabel="its cache, GB")
    ticks = contexts[:: max(1, len(contexts) // 6)]
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.minorticks_off()
    ax.legend()
    return ax


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
        ax.text(total, i, f" {total:,.1f}", va="center", fontsize=8)
    ax.set(xlabel="milliseconds of one step", xlim=(0, 1.12e3 * longest), title=title)
    ax.invert_yaxis()
    ax.legend(loc="lower right")
    return figure


def decode_roofline(intensities: dict[str, tuple[str, float]], *, ridge: float, device: str) -> Axes:
    """Draw the share of a device's operations that each model's attention can reach while it decodes.

    Args:
        intensities: model -> its design, and its operations a byte read.
        ridge: the device's operations a second over its bytes a second.
    """
    designs = list(dict.fromkeys(design for design, _ in intensities.values()))
    _, ax = plt.subplots(figsize=(7, 3.8))
    line = [0.5, ridge, 4 * ridge]
    ax.plot(line, [min(1.0, x / ridge) for x in line], color="#999999", linewidth=3, zorder=0)
    ax.axvline(ridge, color="#999999", linestyle=":", linewidth=1)
    ax.text(0.93 * ridge, 1.2, f"ridge: {ridge:.0f} operations a byte", ha="right", va="bottom", fontsize=8)
    seen = []
    for name, (design, x) in intensities.items():
        color, y = COLORS[designs.index(design)], min(1.0, x / ridge)
        ax.plot(x, y, "os^D"[designs.index(design) % 4], color=color, label=None if design in seen else design)
        ax.annotate(name, (x, y), xytext=(7, -9), textcoords="offset points", fontsize=8)
        seen.append(design)
    ax.set(
        xscale="log", yscale="log", xlabel="operations a byte of cache", ylabel="share of the peak", ylim=(None, 2.2)
    )
    ax.set_title(device, fontsize=8)
    ax.legend(loc="upper left")
    return ax


def bounds_and_measured(bounds: dict[str, tuple[float, float]], measured: dict[str, float], *, device: str) -> Axes:
    """Draw for each design the time that reading takes, the time that computing takes, and the measured time of a step.

    Args:
        bounds: design -> seconds of reading, seconds of computing.
        measured: design -> seconds.
    """
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    groups = {
        "reading, predicted": [bounds[name][0] for name in bounds],
        "computing, predicted": [bounds[name][1] for name in bounds],
        "measured": [measured[name] for name in bounds],
    }
    for i, (what, seconds) in enumerate(groups.items()):
        places = [place + 0.27 * (i - 1) for place in range(len(bounds))]
        ax.bar(places, [1e3 * s for s in seconds], width=0.25, color=(COLORS[0], COLORS[4], COLORS[6])[i], label=what)
    ax.set_xticks(range(len(bounds)), [*bounds])
    ax.set(ylabel="milliseconds of processor time")
    ax.set_title(device, fontsize=8)
    ax.legend()
    return ax
