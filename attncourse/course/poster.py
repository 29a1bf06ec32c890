"""Every mechanism on one sheet of A3, drawn from what the rooms say and compute: `python -m attncourse poster OUT`."""

import argparse
import importlib
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse.plot.schematic import INK, ROLES
from attncourse.plot.style import use_style
from attncourse.rooms import Room, rooms, rooms_with

A3 = (420 / 25.4, 297 / 25.4)  # inches, landscape
COLUMNS = 4
LINE = 50  # characters of an idea
MOST_ROWS, MOST_WIDTH = 9, 64  # of the bars that a token leaves, the same scale in every panel

EXAMPLE = """\
examples:
  python -m attncourse poster poster.pdf
  python -m attncourse poster poster.svg
"""


def poster() -> Figure:
    """Return the sheet: a panel per room in the book's order, with its idea, its formula, and its own picture."""
    drawn = rooms_with("{}/picture.py")
    n_rows = -(-len(drawn) // COLUMNS)
    figure = plt.figure(figsize=A3, layout="none")
    figure.text(0.025, 0.957, "Attention, mechanism by mechanism", fontsize=26, weight="bold", color=INK)
    figure.text(
        0.025, 0.935, "Squares: who reads whom among 16 tokens, a row per query; the darker, the larger the weight. "
        "Bars: what one token leaves in the cache of a layer of width 512.", fontsize=11, color=INK,
    )  # fmt: skip
    wide, high = 0.955 / COLUMNS, 0.9 / n_rows
    for i, name in enumerate(drawn):
        row, column = divmod(i, COLUMNS)
        _panel(figure, name, left=0.025 + column * wide, top=0.905 - row * high, wide=wide, high=high)
    return figure


def _panel(figure: Figure, name: str, *, left: float, top: float, wide: float, high: float) -> None:
    room: Room = rooms()[name]
    papers = "; ".join(who for who, _ in room.papers)
    figure.text(left, top, room.title, fontsize=15, weight="bold", color=INK, va="top")
    figure.text(left, top - 0.021, papers, fontsize=9, color="#555555", va="top")
    figure.text(left, top - 0.042, f"${room.formula}$", fontsize=12.5, color=INK, va="top")
    figure.text(left, top - 0.068, textwrap.fill(room.idea, LINE), fontsize=10, color=INK, va="top", linespacing=1.35)
    ax = figure.add_axes((left, top - 0.92 * high, 0.85 * wide, 0.92 * high - 0.122))
    picture = importlib.import_module(f"attncourse.{name}.picture")
    if hasattr(picture, "reads"):
        draw_reads(ax, picture.reads())
    else:
        draw_kept(ax, picture.kept())


def draw_reads(ax: Axes, weights: Tensor) -> None:
    """Draw weights (t, s) as a square of cells; the colour follows the root of a weight, so that small ones are seen."""
    t, s = weights.shape
    ax.pcolormesh(weights.sqrt(), cmap="Purples", vmin=0, vmax=1, edgecolors="#d8d8d8", linewidth=0.4)
    ax.set(aspect="equal", xticks=[], yticks=[], xlim=(0, s), ylim=(t, 0), anchor="W")
    ax.set_xlabel("keys", fontsize=9)
    ax.set_ylabel("queries", fontsize=9)


def draw_kept(ax: Axes, shape: CacheShape) -> None:
    """Draw a bar per vector that a token leaves in the cache, as long as the vector is wide, and their sum in numbers."""
    shared = len(set(shape.widths)) > 1  # a latent and a rotated key, and not keys and values of heads
    named = (("latent", "state"), ("rotated key", "key")) if shared else (("keys", "key"), ("values", "value"))
    left, top = 0, 0
    for width, (name, role) in zip(shape.widths, named, strict=True):
        rows = range(top, top + shape.n_kv_heads)
        ax.barh(rows, width, height=0.72, left=left, color=ROLES[role], alpha=0.75)
        place = (left + width + 6, top) if shared else (left, top - 1)
        ax.text(*place, name, fontsize=10, color=INK, va="center")
        left, top = (0, top + 1) if shared else (left + width + 16, 0)
    below = top + (0 if shared else shape.n_kv_heads) + 0.5
    ax.text(
        0, below, f"{shape.n_kv_heads * sum(shape.widths):,} numbers per token", fontsize=11, color=INK, weight="bold"
    )
    ax.set(xlim=(0, 2 * MOST_WIDTH + 32), ylim=(MOST_ROWS, -1.6))
    ax.axis("off")


def add_parsers(commands) -> None:
    """Add the shell's `poster` to the commands."""
    parser = commands.add_parser(
        "poster",
        description="Draw every mechanism of the course on one sheet of A3: idea, formula, who reads whom, what is kept.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="the file to write; its ending says the format: .svg, .pdf or .png")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the sheet."""
    use_style()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    poster().savefig(args.out)
    print(f"written: {args.out}")
    return 0
