"""The chapter's schematic: latent attention with its matrices named, expanded beside absorbed."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attncourse.plot.schematic import INK, arrow, box, canvas, note

PANEL = 4.15  # width of a panel, in inches
QUERY, ROTATED_QUERY, ROTATED_KEY, LATENT = 0.6, 1.4, 2.35, 3.3  # where each stands, from its panel's left
SCORES = 1.55  # middle of what stands above them


def two_forms() -> Figure:
    """Draw both forms of one head, one query and one cached token, from the tokens below to the output above."""
    figure, ax = canvas(2 * PANEL, 5.8)
    _tokens_to_scores(ax, 0.0, "Expanded: form keys and values")
    arrow(ax, (QUERY, 2.52), (0.9, 3.82), role="query")
    box(ax, (2.85, 3.15), "key $k_j$", role="key", width=0.75)
    box(ax, (3.7, 3.15), "value $v_j$", role="value", width=0.8)
    _step(ax, (LATENT - 0.1, 2.22), (2.85, 2.92), "$W_{UK}$", role="key", side=-0.5)
    _step(ax, (LATENT + 0.15, 2.22), (3.7, 2.92), "$W_{UV}$", role="value", side=0.05)
    arrow(ax, (2.75, 3.38), (2.3, 3.82), role="key")
    arrow(ax, (3.6, 3.38), (2.72, 4.95), role="value", bend=0.2)
    arrow(ax, (SCORES, 4.28), (SCORES, 4.82), role="weight")
    box(ax, (SCORES, 5.05), "mixture of values: output $o_i$", role="value", width=2.3)

    left = PANEL
    _tokens_to_scores(ax, left, "Absorbed: the matrices change sides")
    box(ax, (left + QUERY, 3.2), r"$\tilde q_i$", role="query", width=0.6)
    _step(ax, (left + QUERY, 2.52), (left + QUERY, 2.97), r"$W_{UK}^{\top}$", role="query", side=-0.5)
    arrow(ax, (left + QUERY, 3.43), (left + 0.9, 3.82), role="query")
    arrow(ax, (left + LATENT - 0.1, 2.22), (left + 2.3, 3.82), role="state")
    arrow(ax, (left + LATENT + 0.2, 2.22), (left + 2.62, 4.6), role="state", bend=0.2)
    arrow(ax, (left + SCORES, 4.28), (left + SCORES, 4.4), role="weight")
    box(ax, (left + SCORES, 4.6), "mixture of latents", role="state", width=2.1, height=0.36)
    _step(ax, (left + SCORES, 4.78), (left + SCORES, 5.1), "$W_{UV}$", role="value", side=0.1)
    box(ax, (left + SCORES, 5.27), "output $o_i$", role="value", width=2.1, height=0.34)
    ax.plot([left + 0.02] * 2, [0.1, 5.6], color="#BBBBBB", linewidth=1)
    return figure


def _tokens_to_scores(ax: Axes, left: float, title: str) -> None:
    """Draw what both forms have alike: a query made of its token, what the cache keeps of another token, and the weight."""
    note(ax, (left + PANEL / 2, 5.64), title, size=11.5, bold=True)
    box(ax, (left + 1.0, 0.35), "token $x_i$", role="token", width=1.1)
    box(ax, (left + 2.9, 0.35), "token $x_j$", role="token", width=1.1)
    box(ax, (left + 1.0, 1.3), "query latent", role="state", width=1.2)
    _step(ax, (left + 1.0, 0.58), (left + 1.0, 1.07), "$W_{DQ}$", role="query", side=0.08)
    box(ax, (left + QUERY, 2.29), "$q_i$", role="query", width=0.6)
    box(ax, (left + ROTATED_QUERY, 2.29), "$q_i^R$", role="query", width=0.6)
    _step(ax, (left + 0.85, 1.53), (left + QUERY, 2.06), "$W_{UQ}$", role="query", side=-0.55)
    _step(ax, (left + 1.15, 1.53), (left + ROTATED_QUERY, 2.06), "$W_{QR}$", role="query", side=0.12)
    arrow(ax, (left + ROTATED_QUERY, 2.52), (left + 1.4, 3.82), role="query")
    ax.add_patch(Rectangle((left + 2.0, 1.66), 2.0, 0.66, facecolor="none", edgecolor=INK, linestyle="--"))
    note(ax, (left + 3.97, 1.53), "cached", align="right")
    box(ax, (left + ROTATED_KEY, 1.99), "$k_j^R$", role="key", width=0.55)
    box(ax, (left + LATENT, 1.99), "latent $c_j$", role="state", width=1.15)
    _step(ax, (left + 2.75, 0.58), (left + ROTATED_KEY, 1.74), "$W_{KR}$", role="key", side=-0.52)
    _step(ax, (left + 3.0, 0.58), (left + LATENT - 0.05, 1.74), "$W_{DKV}$", role="state", side=0.08)
    arrow(ax, (left + ROTATED_KEY, 2.22), (left + 1.85, 3.82), role="key")
    box(ax, (left + SCORES, 4.05), "score, softmax: weight $a_{ij}$", role="weight", width=2.1)


def _step(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], matrix: str, *, role: str, side: float
) -> None:
    """Draw an arrow and, beside its middle, the matrix that it stands for."""
    arrow(ax, start, end, role=role)
    note(ax, ((start[0] + end[0]) / 2 + side, (start[1] + end[1]) / 2), matrix, align="left", size=10)
