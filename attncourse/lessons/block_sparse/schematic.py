"""Schematics of the chapter: who reads whom in four patterns and what becomes of the blocks; a sentence read by one word."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attncourse.block_sparse import BlockPattern
from attncourse.plot.schematic import INK, arrow, box, canvas, cells, note

from .figures import KINDS, pair_kinds

WHITE, WANTED = "white", "#777777"
KIND_COLORS = [WHITE, *KINDS.values()]


def patterns_and_blocks(patterns: dict[str, BlockPattern], cut: BlockPattern, *, query: int) -> Figure:
    """Draw small patterns with one query's row picked out, and below them one pattern cut into blocks.

    Args:
        patterns: by name, as many as fit side by side, all over as many positions.
        cut: the pattern below, coloured by what becomes of each pair.
        query: the row that is picked out, counted from 0.
    """
    figure, ax = canvas(6.8, 5.0)
    side = 0.165
    for place, (name, pattern) in enumerate(patterns.items()):
        left, top, mask = 0.3 + 1.65 * place, 4.5, pattern.dense_mask()
        middle = left + side * pattern.n / 2
        note(ax, (middle, top + 0.3), name, bold=True)
        note(ax, (middle, top + 0.11), "keys 0 to 7", size=9)
        _squares(ax, (left, top), [[WANTED if seen else WHITE for seen in row] for row in mask.tolist()], side)
        row = Rectangle(
            (left, top - (query + 1) * side), pattern.n * side, side, fill=False, edgecolor=INK, linewidth=2
        )
        ax.add_patch(row)
        read = ", ".join(str(j) for j in mask[query].nonzero()[:, 0].tolist())
        note(ax, (middle, top - side * pattern.n - 0.2), f"query {query} reads\n{read}", size=9)
    ax.text(0.17, 4.5 - 4 * side, "queries 0 to 7", rotation=90, ha="center", va="center", fontsize=9, color=INK)

    side, left, top = 0.27, 0.3, 2.4
    kinds = pair_kinds(cut)
    note(ax, (left + 4 * side, top + 0.15), "eight tokens, blocks of 2", bold=True)
    _squares(ax, (left, top), [[KIND_COLORS[kind] for kind in row] for row in kinds.tolist()], side)
    for edge in range(0, cut.n + 1, cut.block):
        for xs, ys in (((0, cut.n), (edge, edge)), ((edge, edge), (0, cut.n))):
            ax.plot([left + side * x for x in xs], [top - side * y for y in ys], color=INK, linewidth=1.6)
    legend = {
        "whole: every pair wanted, no mask needed": KINDS["wanted, in a whole block"],
        "partial: some pairs wanted (blue), the others\ncomputed and thrown away (grey)": KINDS[
            "wanted, in a partial block"
        ],
        "dead: no pair wanted, never touched": WHITE,
    }
    for place, (text, color) in enumerate(legend.items()):
        y = top - 0.3 - 0.55 * place
        _squares(ax, (2.95, y + 0.16), [[color] * 2] * 2, 0.16)
        if color == KINDS["wanted, in a partial block"]:
            _squares(ax, (2.95 + 0.16, y + 0.16), [[KINDS["computed, not wanted"]]], 0.16)
        note(ax, (3.42, y), text, align="left")
    dead, live = cut.n_blocks**2 - len(cut.columns), len(cut.columns)
    box(ax, (4.65, 0.45), f"{live} live blocks are computed, {dead} are not", width=3.4, height=0.4)
    arrow(ax, (left + side * cut.n + 0.1, 0.45), (2.92, 0.45))
    return figure


def _squares(ax: Axes, corner: tuple[float, float], colors: Sequence[Sequence[str]], side: float) -> None:
    """Draw a matrix of filled squares from its upper left corner on."""
    left, top = corner
    for i, row in enumerate(colors):
        for j, color in enumerate(row):
            place = (left + j * side, top - (i + 1) * side)
            ax.add_patch(Rectangle(place, side, side, facecolor=color, edgecolor="#999999", linewidth=0.5))


def sentence_reads(words: Sequence[str], layers: dict[str, Tensor], *, query: int) -> Figure:
    """Draw a sentence, and below it per pattern after how many layers one of its words can know of each other word.

    Args:
        words: of the sentence, in order.
        layers: by pattern, the layers (n, n) that a path takes, -1 where there is none.
        query: the word that reads.
    """
    side, left = 0.46, 1.15
    figure, ax = canvas(left + side * len(words) + 0.15, 1.05 + 0.62 * len(layers))
    top = 0.62 * len(layers)
    for j, word in enumerate(words):
        weight = "bold" if j == query else "normal"
        place = (left + (j + 0.5) * side, top + 0.12)
        ax.text(
            *place,
            word,
            rotation=55,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
            fontsize=10,
            weight=weight,
            color=INK,
        )
    for place, (name, paths) in enumerate(layers.items()):
        y = top - 0.62 * place
        note(ax, (left - 0.1, y - side / 2), name, align="right")
        for j, depth in enumerate(paths[query].tolist()):
            text = words[query] if j == query else (str(depth) if depth > 0 else None)
            role = {0: "query", 1: "key"}.get(depth, "plain")
            cells(ax, (left + j * side, y), [[text]], role=role, side=side, size=10)
    return figure
