"""Pictures of the key-value cache: its slots, its pages, its bytes, who uses them when, and what a step costs."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attncourse.plot import seed_dots
from attncourse.plot.style import COLORS
from attncourse.profile.device_facts import KIB, MIB

MARKERS = ("o", "s", "^", "D", "v", "P")
EMPTY = "#f2f2f2"


def cache_slots(positions: Tensor, texts: list[str], *, capacity: int, fresh: list[int]) -> Figure:
    """Draw a row per sequence, a box per slot: the character that stands there, strong where the last pass wrote it.

    Args:
        positions: (b, s), where the tokens of the first s slots stand in their texts; -1 for an empty slot.
        texts: what each row reads and writes, a character a token.
        capacity: slots of a row.
        fresh: how many tokens of each row the last pass wrote.
    """
    b, s = positions.shape
    figure, ax = plt.subplots(figsize=(0.7 + 0.2 * capacity, 0.7 + 0.3 * b))
    for row, (places, text) in enumerate(zip(positions.tolist(), texts, strict=True)):
        newest = max(places, default=-1) - fresh[row]
        for slot, place in enumerate([*places, *[-1] * (capacity - s)]):
            color = COLORS[row % len(COLORS)] if place >= 0 else EMPTY
            box = dict(facecolor=color, alpha=1.0 if place > newest or place < 0 else 0.35, edgecolor="white")
            ax.add_patch(Rectangle((slot, row), 1, 1, **box))
            if place >= 0:
                strong = place > newest
                ax.text(
                    slot + 0.5, row + 0.5, text[place].replace("\n", "¶"), ha="center", va="center", fontsize=9,
                    color="white" if strong else "black", family="monospace",
                )  # fmt: skip
    ax.set(xlim=(0, capacity), ylim=(b, 0), xlabel="slot")
    ax.set_yticks([row + 0.5 for row in range(b)], [f"row {row}" for row in range(b)])
    ax.set_xticks([i + 0.5 for i in range(0, capacity, 8)], [str(i) for i in range(0, capacity, 8)])
    _bare(ax)
    return figure


def step_time(
    positions: list[int], measured: Mapping[str, list[float]], fitted: Mapping[str, Callable[[np.ndarray], np.ndarray]]
) -> Axes:
    """Draw seconds of one step against how many tokens stand before it: points, and the fitted growth as a line."""
    _, ax = plt.subplots(figsize=(6.2, 3.4))
    places = np.linspace(positions[0], positions[-1], 100)
    for (name, seconds), marker, color in zip(measured.items(), MARKERS, COLORS, strict=False):
        ax.plot(positions, [1e3 * t for t in seconds], marker, color=color, label=name)
        ax.plot(places, 1e3 * fitted[name](places), color=color, linewidth=1)
    ax.set(xlabel="position of the token", ylabel="time of a step, ms", ylim=(0, None))
    ax.legend()
    return ax


def slot_timeline(panels: dict[str, Sequence[Sequence]], *, slots: int) -> Figure:
    """Draw a panel per way of batching: a row is a slot, a column a pass,
    a colour a prompt, strong and numbered where it begins.

    Args:
        panels: name -> what each slot read in each pass (`Read`), as `generate` tells `on_pass`.
        slots: rows of each panel.
    """
    longest = max(map(len, panels.values()))
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, (0.55 + 0.3 * slots) * len(panels) + 0.4), sharex=True, squeeze=False
    )
    colors = COLORS[:-1]  # the last is a grey, as a slot that idles is
    for ax, (name, passes) in zip(axes.flat, panels.items(), strict=True):
        ax.add_patch(Rectangle((0, 0), len(passes), slots, facecolor=EMPTY))
        for i, reads in enumerate(passes):
            for slot, read in enumerate(reads):
                if read.stop > read.start:
                    color, alpha = colors[read.prompt % len(colors)], 1.0 if read.start == 0 else 0.55
                    ax.add_patch(Rectangle((i, slot + 0.05), 1, 0.9, facecolor=color, alpha=alpha))
                    if read.start == 0:
                        ax.text(i + 0.5, slot + 0.5, str(read.prompt), ha="center", va="center", color="white")
        ax.set(xlim=(0, longest), ylim=(slots, 0), title=f"{name}: {len(passes)} passes")
        ax.set_yticks([slot + 0.5 for slot in range(slots)], [f"slot {slot}" for slot in range(slots)])
        _bare(ax)
    axes[-1, 0].set_xlabel("pass of the model")
    return figure


def block_tables(tables: dict[str, tuple[list[int], int]], *, n_pages: int, page_size: int) -> Figure:
    """Draw left each sequence's table of pages; right the pool, each page in the colours of all who hold it.

    Args:
        tables: sequence -> its pages in order, and how many tokens it has.
        n_pages, page_size: of the pool.
    """
    most = max(len(pages) for pages, _ in tables.values())
    colors = dict(zip(tables, COLORS, strict=False))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.6, 0.8 + 0.28 * max(n_pages, len(tables))), width_ratios=(0.55 * most + 0.5, 5)
    )
    for row, (name, (pages, _)) in enumerate(tables.items()):
        for i, page in enumerate(pages):
            left.add_patch(Rectangle((i, row + 0.1), 1, 0.8, facecolor=colors[name], edgecolor="white"))
            left.text(i + 0.5, row + 0.5, str(page), ha="center", va="center", color="white", fontsize=9)
    left.set(xlim=(0, most), ylim=(max(n_pages, len(tables)), 0), title="block table")
    left.set_yticks([row + 0.5 for row in range(len(tables))], list(tables))
    left.set_xticks([])
    for page in range(n_pages):
        filled = {
            name: min(page_size, length - i * page_size)
            for name, (pages, length) in tables.items()
            for i, held in enumerate(pages)
            if held == page
        }
        for slot in range(page_size):
            holders = [name for name, count in filled.items() if slot < count]
            height = 0.8 / max(len(holders), 1)
            right.add_patch(Rectangle((slot, page + 0.1), 1, 0.8, facecolor=EMPTY, edgecolor="white"))
            for i, name in enumerate(holders):
                corner = (slot, page + 0.1 + i * height)
                right.add_patch(Rectangle(corner, 1, height, facecolor=colors[name], edgecolor="white"))
    right.set(xlim=(0, page_size), ylim=(n_pages, 0), title="pool", xlabel="slot of the page")
    right.set_yticks([page + 0.5 for page in range(n_pages)], [f"page {page}" for page in range(n_pages)])
    right.set_xticks([])
    for ax in (left, right):
        _bare(ax)
    return figure


def bytes_over_passes(curves: dict[str, list[int]]) -> Axes:
    """Draw bytes after each pass, one line per way of counting them."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    for (name, values), style, color in zip(curves.items(), ("-", "--", ":"), COLORS, strict=False):
        ax.step(range(1, len(values) + 1), [v / 1000 for v in values], style, where="mid", color=color, label=name)
    ax.set(xlabel="pass of the model", ylabel="KB", ylim=(0, None))
    ax.legend()
    return ax


def leaks(found: Mapping[str, Sequence[float]], *, chance: float) -> Axes:
    """Draw, for each question that was put to several clerks, the share of what was asked for, a dot per clerk."""
    _, ax = plt.subplots(figsize=(6.4, 3.0))
    seed_dots(ax, found, label=None)
    ax.axhline(chance, color=COLORS[-1], linewidth=1, linestyle="--", zorder=0)
    ax.text(-0.55, chance + 0.02, "a guess", fontsize=9)
    ax.set(ylabel="share of answers", ylim=(0, 1.05))
    return ax


def error_and_loss(
    recorded: Mapping[str, Mapping[str, Sequence[float]]], live: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Draw for each way to store how far keys and values are off, and below how much the loss changes, a dot per model.

    Args:
        recorded: "error" and "change of the loss" -> way to store -> a number per seed.
        live: the same, of the seed that was trained here.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.4, 5.0), sharex=True)
    seed_dots(above, recorded["error"], live["error"])
    above.set(yscale="log", ylabel="relative error of\nkeys and values", ylim=(0.001, 0.3))
    above.set_yticks([0.001, 0.003, 0.01, 0.03, 0.1, 0.3], ["0.1%", "0.3%", "1%", "3%", "10%", "30%"])
    above.minorticks_off()
    above.legend(loc="upper left")
    seed_dots(below, recorded["change of the loss"], live["change of the loss"])
    below.axhline(0, color=COLORS[-1], linewidth=0.8, zorder=0)
    below.set(ylabel="change of the loss,\nnats per character")
    below.set_xticks(range(len(live["error"])), [name.replace(", ", ",\n") for name in live["error"]])
    return figure


def read_ladder(rates: Mapping[int, float], caches: Mapping[str, int]) -> Axes:
    """Draw bytes per second against the bytes of the set that is read again and again; dotted where a cache is full."""
    _, ax = plt.subplots(figsize=(6.4, 3.2))
    ax.plot(list(rates), [rate / 1e9 for rate in rates.values()], "o-", color=COLORS[0])
    for name, size in caches.items():
        ax.axvline(size, color=COLORS[-1], linewidth=1, linestyle=":", zorder=0)
        ax.text(size, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", fontsize=9)
    ax.set_xscale("log", base=2)
    ticks = [size for i, size in enumerate(rates) if i % 2 == 0]
    ax.set_xticks(ticks, [f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB" for size in ticks])
    ax.minorticks_off()
    ax.set(xlabel="size of what is read", ylabel="GB/s", ylim=(0, None))
    return ax


def roofline(points: Mapping[str, tuple[float, float]], *, bandwidth: float, rate: float) -> Axes:
    """Draw operations per second against operations per byte:
    what a machine allows as a line, what was reached as points.

    Williams et al. 2009, https://doi.org/10.1145/1498765.1498785.

    Args:
        points: name -> (operations per byte, operations per second).
        bandwidth: bytes per second that the machine reads.
        rate: operations per second that it does.
    """
    _, ax = plt.subplots(figsize=(6.2, 3.8))
    ridge = rate / bandwidth
    ends = [min(ridge, *(x for x, _ in points.values())) / 2, max(ridge, *(x for x, _ in points.values())) * 2]
    roof = [ends[0], ridge, ends[1]]
    ax.plot(roof, [min(rate, bandwidth * x) / 1e9 for x in roof], color=COLORS[-1], label="roof")
    ax.axvline(ridge, color="#999999", linewidth=1, linestyle=":", zorder=0)
    for name, (intensity, reached) in points.items():
        ax.plot([intensity], [reached / 1e9], "o", color=COLORS[0])
        ax.annotate(
            name, (intensity, reached / 1e9), xytext=(0, -15), textcoords="offset points", ha="center", fontsize=9
        )
    ax.set(xscale="log", yscale="log", xlabel="FLOP per byte read", ylabel="GFLOP per second")
    ax.set_ylim(min(y for _, y in points.values()) / 3e9, 2 * rate / 1e9)
    return ax


def _bare(ax: Axes) -> None:
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
