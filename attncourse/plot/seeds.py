"""Trained comparisons: a column per name with a dot per seed."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from .schematic import INK
from .style import COLORS

STEP = 0.06
HERE = "trained here"


def seed_dots(
    ax: Axes, recorded: Mapping[str, Sequence[float]], live: Mapping[str, float] | None = None, *,
    color: str = COLORS[0], marker: str = "o", aside: float = 0.0, label: str | None = "recorded seeds",
) -> None:  # fmt: skip
    """Draw a column per name: a dot per recorded seed, side by side, and a ringed one for the seed that ran here.

    Two calls with another colour and `aside` put two models next to each other in every column.

    Args:
        ax: what is drawn on; its horizontal axis gets the names as ticks.
        recorded: the values of all seeds, by name.
        live: the value of the seed that was trained here, by name; not every name needs one.
        aside: how far from the middle of its column the dots stand; columns are 1 apart.
        label: of the recorded dots in the legend.
    """
    live = live or {}
    for column, (name, values) in enumerate(recorded.items()):
        dots = len(values) + (name in live)
        places = [column + aside + STEP * (i - (dots - 1) / 2) for i in range(dots)]
        ax.plot(places[: len(values)], list(values), marker, color=color, markersize=5, label=None if column else label)
        if name in live:
            _, seen = ax.get_legend_handles_labels()
            ax.plot(
                places[-1:], [live[name]], marker, color=color, markersize=8, markeredgecolor=INK,
                markeredgewidth=1.8, label=None if HERE in seen else HERE,
            )  # fmt: skip
    ax.set_xticks(range(len(recorded)), list(recorded))
    ax.set_xlim(-0.6, len(recorded) - 0.4)
