"""The chapter's first picture: from tokens to queries, keys and values, to scores, weights and the mixture."""

from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note

WORDS = ["The", "flag", "is", "blue"]
WEIGHTS = [[""] * 4, [".01", ".01", ".01", ".97"], [""] * 4, [""] * 4]
SIDE = 0.34


def attention_flow() -> Figure:
    """Draw how four tokens become queries, keys and values, how these give weights, and how weights mix the values."""
    figure, ax = canvas(9.4, 5.3)
    n, d, dk = len(WORDS), 3, 2
    for i, word in enumerate(WORDS):
        note(ax, (0.62, 3.26 - i * SIDE), word, align="right")
        note(ax, (8.83, 3.98 - i * SIDE), word, align="left")
    _matrix(ax, (0.7, 3.43), n, d, "token", "tokens $X$\n$(n, d)$")
    for name, symbol, top in (("query", "Q", 5.0), ("key", "K", 3.3), ("value", "V", 1.6)):
        width = f"d_{'v' if name == 'value' else 'k'}"
        _matrix(ax, (3.0, top), n, dk, name, "")
        note(ax, (3.34, top + 0.14), f"{name} $\\,{symbol} = X W_{symbol}$  $(n, {width})$", size=9)
        arrow(ax, (1.8, 2.75), (2.94, top - 0.68), role=name)
    _matrix(ax, (5.0, 4.15), n, n, "plain", "scores\n$QK^\\top / \\sqrt{d_k}$")
    arrow(ax, (3.75, 4.32), (4.93, 3.7), role="query")
    arrow(ax, (3.75, 2.62), (4.93, 3.25), role="key")
    cells(ax, (7.4, 4.15), WEIGHTS, role="weight", side=SIDE)
    note(ax, (8.08, 4.45), "weights $A$\neach row sums to 1")
    arrow(ax, (6.43, 3.47), (7.33, 3.47), role="weight")
    note(ax, (6.88, 3.65), "softmax")
    _matrix(ax, (5.36, 1.6), n, dk, "state", "mixture $O = AV$\n$(n, d_v)$")
    arrow(ax, (3.75, 0.92), (5.29, 0.92), role="value")
    arrow(ax, (7.7, 2.72), (6.1, 1.1), role="weight")
    box(ax, (7.75, 0.92), "$\\times\\, W_O$", width=0.8)
    arrow(ax, (6.1, 0.92), (7.3, 0.92), role="state")
    arrow(ax, (8.18, 0.92), (8.75, 0.92), role="token")
    note(ax, (8.8, 0.92), "$(n, d)$", align="left")
    return figure


def _matrix(ax, corner: tuple[float, float], rows: int, columns: int, role: str, title: str) -> None:
    """A matrix without numbers, and its name above."""
    cells(ax, corner, [[""] * columns] * rows, role=role, side=SIDE)
    note(ax, (corner[0] + columns * SIDE / 2, corner[1] + 0.3), title)
