"""Schematics of the chapter: two hops through a global token, and the funnel that such a token is."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from attncourse.plot.schematic import ROLES, arrow, box, canvas, note

from .figures import KINDS, kinds_of_pairs

GREY = "#bbbbbb"
STEP = 0.74  # from one token to the next, in inches


def two_hops(words: list[str], seen: Tensor, *, global_token: int, start: int, goal: int) -> Figure:
    """Draw a pattern as squares, and beside it two layers of it: what `goal` learns of `start` through the global token.

    Args:
        words: the tokens.
        seen: who reads whom, (n, n) booleans.
        global_token, start, goal: positions.
    """
    n = len(words)
    side, left = 0.3, 0.62
    figure, ax = canvas(left + side * n + 0.62 + STEP * n, 3.0)
    kinds, colors = kinds_of_pairs(seen, [global_token]).tolist(), [None, *KINDS.values()]
    top = 2.2
    for i, row in enumerate(kinds):
        note(ax, (left - 0.06, top - (i + 0.5) * side), words[i], align="right")
        note(ax, (left + (i + 0.5) * side, top + 0.13), str(i))
        for j, kind in enumerate(row):
            place = (left + j * side, top - (i + 1) * side)
            ax.add_patch(Rectangle(place, side, side, facecolor=colors[kind] or "white", edgecolor=GREY))
    note(ax, (left + n * side / 2, 2.75), "Who reads whom", size=11, bold=True)
    note(ax, (left + n * side / 2, 2.5), f"{int(seen.sum())} of {n * n} pairs")

    first = left + side * n + 0.9
    heights = (0.35, 1.35, 2.35)
    note(ax, (first + STEP * (n - 1) / 2, 2.8), "Two layers", size=11, bold=True)
    path = {(global_token, start, 0), (goal, global_token, 1)}
    for layer in (0, 1):
        for i, j in seen.nonzero().tolist():
            below, above = heights[layer] + 0.17, heights[layer + 1] - 0.17
            ends = (first + STEP * j, below), (first + STEP * i, above)
            if (i, j, layer) not in path:
                ax.plot(*zip(*ends, strict=True), color=GREY, linewidth=0.8, zorder=0)
        for i, j, of in path:
            if of == layer:
                role = "query" if i == global_token else "state"
                arrow(ax, (first + STEP * j, below), (first + STEP * i, above), role=role, thickness=2.6)
    for height in heights:
        for i, word in enumerate(words):
            role = "state" if i == global_token else "token"
            box(ax, (first + STEP * i, height), word, role=role, width=0.64, height=0.34, size=9.5)
    return figure


def funnel(tokens: int, *, width: int) -> Figure:
    """Draw what passes from tokens to as many far ones: through one global token, and by full attention."""
    figure, ax = canvas(6.6, 2.9)
    side, low, high = 2.7, 0.55, 2.0
    for left, name, ordinary in ((0.35, "Through one global token", False), (3.55, "Full attention", True)):
        places = [left + side * (i + 0.5) / tokens for i in range(tokens)]
        middle = left + side / 2
        note(ax, (middle, 2.75), name, size=11, bold=True)
        note(ax, (middle, 2.42), f"{tokens} tokens hold {tokens} × {width} numbers")
        note(ax, (middle, 0.12), f"rank of what arrives: {tokens * width if ordinary else f'{width} at most'}")
        for x in places:
            if ordinary:
                for y in places:
                    ax.plot([x, y], [high, low], color=ROLES["plain"], linewidth=0.5, alpha=0.6, zorder=0)
            else:
                neck = 0.5 * (high + low)
                ax.plot([x, middle], [high, neck], color=ROLES["query"], linewidth=1.2, zorder=0)
                ax.plot([middle, x], [neck, low], color=ROLES["state"], linewidth=1.2, zorder=0)
            for height in (high, low):
                box(ax, (x, height), width=0.7 * side / tokens, height=0.26, role="token")
        if not ordinary:
            box(ax, (middle, 0.5 * (high + low)), f"{width} numbers", role="state", width=1.0, height=0.36)
    return figure
