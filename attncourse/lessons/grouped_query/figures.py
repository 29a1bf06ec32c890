"""Figures of the chapter: heads on devices, times of a step, losses of designs and of converted models."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from attncourse.plot import COLORS, seed_dots
from attncourse.plot.schematic import INK, ROLES

from .devices import Part, parts_of, stored


def heads_on_devices(designs: Mapping[str, Sequence[int]], *, devices: int) -> Figure:
    """Draw who reads whom, a column per design: on one device above, on several below, where copies are pale.

    Args:
        designs: name -> for each query head the key/value head that it reads.
        devices: of the lower row; they divide the query heads.
    """
    figure, axes = plt.subplots(2, len(designs), figsize=(2.85 * len(designs), 3.9))
    for column, (name, reads) in enumerate(designs.items()):
        for ax, count in zip(axes[:, column], (1, devices), strict=True):
            parts = parts_of(reads, count)
            _draw_parts(ax, reads, parts)
            often = "once" if stored(parts) == 1 else f"{stored(parts):g} times"
            ax.set_title(f"{name}\none device" if count == 1 else f"{count} devices: the cache {often}", fontsize=10)
    return figure


def _draw_parts(ax: Axes, reads: Sequence[int], parts: Sequence[Part]) -> None:
    """Draw the devices as frames next to each other, in each its query heads above what they read."""
    query, key, seen = ROLES["query"], ROLES["key"], set()
    for part in parts:
        first, last = part.queries[0], part.queries[-1]
        ax.add_patch(
            Rectangle((first - 0.46, -0.55), last - first + 0.92, 2.1, facecolor="#f4f4f4", edgecolor="#999999")
        )
        own = [[i for i in part.queries if reads[i] == head] for head in part.kept]
        for head, readers in zip(part.kept, own, strict=True):
            place = sum(readers) / len(readers)
            copy = head in seen
            seen.add(head)
            for i in readers:
                ax.plot([i, place], [1, 0], color=INK, linewidth=1, zorder=1)
                ax.scatter(i, 1, s=130, marker="o", color=query, zorder=2)
                ax.annotate(f"{i + 1}", (i, 1), color="white", fontsize=9, ha="center", va="center")
            ax.scatter(
                place, 0, s=190, marker="s", facecolor="#fbe3d3" if copy else key, edgecolor=key, zorder=2,
                linestyle="--" if copy else "-",
            )  # fmt: skip
            ink = INK if copy else "white"
            ax.annotate(f"{head + 1}", (place, 0), color=ink, fontsize=9, ha="center", va="center")
    ax.set(xlim=(-0.6, len(reads) - 0.4), ylim=(-0.7, 1.7))
    ax.axis("off")


STYLES = {  # curve -> line and colour
    "copied to 8 heads": ("^-", COLORS[3]),
    "plain PyTorch": ("o-", COLORS[0]),
    "compiled": ("s-", COLORS[1]),
    "bound by bytes": ("--", COLORS[6]),
    "bound by operations": (":", COLORS[6]),
}


def step_times(groups: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Axes:
    """Draw milliseconds of a decode step against the number of key/value heads, a line per form or bound.

    Args:
        groups: numbers of key/value heads.
        seconds: a name of `STYLES` -> a time per number of heads; NaN is left out.
    """
    _, ax = plt.subplots(figsize=(7.2, 3.6))
    for name, values in seconds.items():
        style, color = STYLES[name]
        ax.plot(groups, [1e3 * x for x in values], style, color=color, markersize=5, label=name)
    ax.set(xscale="log", yscale="log", xlabel="key/value heads g of 8 query heads", ylabel="time of a step, ms")
    ax.set_xticks(groups, [str(g) for g in groups])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    ax.yaxis.set_minor_formatter("")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def losses_of_designs(
    recorded: Mapping[str, Sequence[float]], live: Mapping[str, float], *, kept: Mapping[str, int]
) -> Axes:
    """Draw held-out losses, a column per design with a dot per seed, and under its name what a token leaves in the cache.

    Args:
        recorded, live: as in `seed_dots`.
        kept: name of a design -> numbers per token.
    """
    _, ax = plt.subplots(figsize=(8.0, 3.6))
    names = {name: name.replace(", ", "\n") for name in recorded}
    seed_dots(ax, {names[x]: values for x, values in recorded.items()}, {names[x]: y for x, y in live.items()})
    ax.set_xticks(range(len(names)), [f"{label}\n{kept[name]} numbers" for name, label in names.items()])
    ax.set(ylabel="held-out loss, nats per character")
    ax.legend(loc="upper left")
    return ax


def losses_of_conversion(
    recorded: Mapping[str, Mapping[str, Sequence[float]]], live: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Draw losses of converted models, a panel per number of uptraining steps, a column per way with a dot per seed.

    Args:
        recorded: steps -> way -> a loss per seed.
        live: steps -> way -> the loss of the seed that ran here.
    """
    figure, axes = plt.subplots(1, len(recorded), figsize=(8.4, 3.4))
    for ax, (steps, ways) in zip(axes, recorded.items(), strict=True):
        names = {way: way.replace("not ", "not\n") for way in ways}
        here = {names[way]: loss for way, loss in live.get(steps, {}).items()}
        seed_dots(ax, {names[way]: losses for way, losses in ways.items()}, here)
        ax.set_title("right after conversion" if steps == "0" else f"after {steps} more steps")
        ax.tick_params(axis="x", labelsize=9)
    axes[0].set(ylabel="held-out loss, nats per character")
    axes[0].legend(loc="lower right")
    return figure
