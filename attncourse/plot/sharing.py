"""What a smaller cache costs in loss, as a picture."""

import statistics

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .style import COLORS


def loss_against_cache(nbytes: dict[str, int], losses: dict[str, list[float]]) -> Axes:
    """Draw a model's loss against the bytes a token takes in its cache: a point per seed, a bar at their mean."""
    _, ax = plt.subplots(figsize=(5.4, 3.3))
    for (name, values), color in zip(losses.items(), COLORS, strict=False):
        ax.plot([nbytes[name]] * len(values), values, "o", color=color, alpha=0.5, markersize=5)
        ax.plot(
            nbytes[name], statistics.fmean(values), "_", color=color, markersize=26, markeredgewidth=2.5, label=name
        )
    ax.set(xscale="log", xlabel="cache, bytes a token", ylabel="held-out loss, nats per character")
    ticks = sorted(set(nbytes.values()))
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.minorticks_off()
    ax.margins(x=0.18)
    ax.legend()
    return ax
