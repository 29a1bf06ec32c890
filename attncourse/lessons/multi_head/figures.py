"""Pictures of heads: how they are made, what each looks at, what two can do together, what is lost without some."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from torch import Tensor

from attncourse.plot.schematic import arrow, canvas, cells, note
from attncourse.plot.seeds import seed_dots
from attncourse.plot.style import COLORS

SIDE = 0.2  # of a matrix's entry in the schematic, in inches
BOUND = COLORS[6]


def split_into_heads() -> Figure:
    """Return the flow of three tokens of width 4 through two heads of width 2."""
    figure, ax = canvas(9.4, 3.5)
    middle = 1.65
    _matrix(ax, 0.15, middle, 4, role="token", name="$X$  $(n, d)$")
    _matrix(ax, 7.2, middle, 4, role="value", name="$[O_1, O_2]$")
    _matrix(ax, 8.45, middle, 4, role="token", name="output  $(n, d)$")
    note(ax, (8.2, middle + 0.16), "$W_O$")
    arrow(ax, (8.04, middle), (8.41, middle))
    note(ax, (7.6, middle - 0.62), "side by side")
    for head, y in ((1, 2.55), (2, 0.75)):
        side = 1 if head == 1 else -1
        note(ax, (1.55, y - side * 0.12), f"head {head}", bold=True)
        arrow(ax, (0.99, middle + side * 0.12), (2.05, y - side * 0.3))
        _matrix(ax, 2.15, y, 2, role="query", name=f"$Q_{head}$")
        _matrix(ax, 2.75, y, 2, role="key", name=f"$K_{head}$")
        note(ax, (3.56, y + 0.16), "softmax")
        arrow(ax, (3.2, y), (3.92, y))
        _matrix(ax, 3.97, y, 3, role="weight", name=f"weights $A_{head}$")
        note(ax, (4.72, y), r"$\times$", size=12)
        _matrix(ax, 4.87, y, 2, role="value", name=f"$V_{head}$")
        arrow(ax, (5.32, y), (5.8, y))
        _matrix(ax, 5.85, y, 2, role="value", name=f"$O_{head}$  $(n, d/h)$")
        arrow(ax, (6.35, y - side * 0.15), (7.12, middle + side * 0.2))
    note(
        ax,
        (3.8, middle),
        "each head has projections and weights of its own;\nall of its matrices are $d/h$ wide, its weights $n$",
    )
    return figure


def _matrix(ax: Axes, left: float, middle: float, columns: int, *, role: str, name: str) -> None:
    """Draw three rows of so many entries, and their name above."""
    cells(ax, (left, middle + 1.5 * SIDE), [[""] * columns] * 3, role=role, side=SIDE)
    note(ax, (left + columns * SIDE / 2, middle + 1.5 * SIDE + 0.14), name)


def two_heads(
    cases: Sequence[str],
    reads: Mapping[str, Sequence[float]],
    recorded: Mapping[str, Sequence[float]],
    live: Mapping[str, float],
    *,
    bound: float,
) -> Figure:
    """Return what heads built by hand read in each case, and the share that trained models get right, a dot per seed.

    Args:
        reads: what is read in each case, by its name.
        recorded, live: the share right, of recorded seeds and of the one trained here, by the number of heads.
        bound: the most that one head can reach.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    # side by side, since heads read the same in some cases
    for i, ((name, values), marker, color) in enumerate(zip(reads.items(), "os^", COLORS[2:5], strict=True)):
        places = [case + 0.14 * (i - 1) for case in range(len(cases))]
        left.plot(places, values, marker, color=color, markersize=8, label=name)
    left.axhline(0.25, color="#999999", linewidth=1)
    left.annotate("above: they differ", (0.5, 0.27), xycoords=("axes fraction", "data"), ha="center", fontsize=9)
    left.set_xticks(range(len(cases)), cases)
    left.set(ylim=(-0.08, 1.3), xlabel="the two bits", ylabel="what is read")
    left.legend(loc="upper left", ncols=3, handletextpad=0.2, columnspacing=1)
    right.axhline(bound, color=BOUND, linewidth=1)
    place = (0.98, bound - 0.01)
    right.annotate("the most that one head can do", place, xycoords=("axes fraction", "data"), ha="right", va="top")
    seed_dots(right, recorded, live)
    right.set(ylim=(0.45, 1.04), xlabel="heads", ylabel="share of answers that are right")
    right.legend(loc="lower right")
    return figure


def best_of_each_kind(
    recorded: Mapping[str, Sequence[float]], live: Mapping[str, float], chance: Mapping[str, float]
) -> Axes:
    """Return the largest share that a head of each model has on each kind of key, beside the share of even weights."""
    _, ax = plt.subplots(figsize=(7.6, 3.2))
    seed_dots(ax, recorded, live)
    for column, kind in enumerate(recorded):
        label = "even weights" if column == 0 else None
        ax.plot([column - 0.35, column + 0.35], [chance[kind]] * 2, color=BOUND, linewidth=2, label=label)
    ax.set(ylim=(0, 1), xlabel="kind of key", ylabel="share of the best head's weight")
    ax.legend()
    return ax


def head_arcs(panels: Mapping[str, Tensor], *, text: str, least: float = 0.25) -> Figure:
    """Return heads over one line of text: an arc from each character that looks to each that is looked at.

    Args:
        panels: the weights (n, n) of each head, by its title.
        text: the n characters; a space is drawn as ␣.
        least: weights below this are left out; the thicker an arc, the more weight. What looks at itself gets a dot.
    """
    figure, axes = plt.subplots(len(panels), 1, figsize=(8.8, 1.55 * len(panels)), squeeze=False)
    for ax, (title, weights), color in zip(axes[:, 0], panels.items(), COLORS, strict=False):
        for query, row in enumerate(weights.tolist()):
            for key, weight in enumerate(row):
                if weight >= least:
                    _arc(ax, query, key, weight, color)
        top = max((arc.height / 2 for arc in ax.patches), default=1)
        for place, character in enumerate(text):
            shown = "␣" if character == " " else character
            ax.text(place, -0.18 * top, shown, ha="center", va="center", fontsize=11, family="monospace")
        ax.set_title(title, loc="left", fontsize=10)
        ax.set(xlim=(-0.7, len(text) - 0.3), ylim=(-0.35 * top, 1.08 * top))
        ax.axis("off")
    return figure


def _arc(ax: Axes, query: int, key: int, weight: float, color: str) -> None:
    if query == key:
        ax.plot([query], [0], "o", color=color, alpha=weight, markersize=4)
        return
    far = query - key
    ax.add_patch(
        Arc(
            ((query + key) / 2, 0), far, 1 + far, theta1=0, theta2=180,
            color=color, linewidth=2.5 * weight, alpha=0.25 + 0.75 * weight,
        )
    )  # fmt: skip


def phrase_heads(
    named: Mapping[str, Sequence[float]], live: Mapping[str, float],
    silenced: Mapping[str, Sequence[float]], live_silenced: Mapping[str, float], *, chance: float,
) -> Figure:  # fmt: skip
    """Return the share of letters that models name, and that share with one head silenced, a dot per seed.

    Args:
        named, live: the share by model, of recorded seeds and of the one trained here.
        silenced, live_silenced: the share by the head that is silenced.
        chance: the share that a guess among the list's letters gets.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    seed_dots(left, named, live)
    seed_dots(right, silenced, live_silenced)
    for ax in (left, right):
        ax.axhline(chance, color=BOUND, linewidth=1)
    place = (0.98, chance + 0.01)
    right.annotate("a guess", place, xycoords=("axes fraction", "data"), ha="right", va="bottom")
    left.set(ylim=(0, 1.04), xlabel="model", ylabel="share of letters named")
    right.set(xlabel="silenced head of the model with two layers")
    left.legend(loc="center left")
    return figure


def ablation(recorded: Sequence[Mapping[str, Sequence[float]]], live: Mapping[str, Sequence[float]]) -> Axes:
    """Return the loss against the number of silenced heads, by order: a thin line per recorded seed, a thick one live."""
    _, ax = plt.subplots(figsize=(7, 3.2))
    for (name, values), marker, color in zip(live.items(), ("o-", "s--"), COLORS[:2], strict=True):
        for curves in recorded:
            ax.plot(range(len(values)), curves[name], color=color, linewidth=0.8, alpha=0.6)
        ax.plot(range(len(values)), values, marker, color=color, markersize=4, label=name)
    ax.set(xlabel="heads silenced, of 16", ylabel="nats per character, held out")
    ax.legend()
    return ax
