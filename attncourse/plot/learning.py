"""What a model has learned, step by step."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .style import COLORS

LINES = ("-", "--", ":")


def learning_curves(losses: dict[str, list[float]], *, span: int = 25) -> Axes:
    """Draw the training loss of each model, each point the mean of `span` steps."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), line, color in zip(losses.items(), LINES, COLORS, strict=False):
        starts = range(0, len(values) - span + 1, span)
        means = [sum(values[i : i + span]) / span for i in starts]
        ax.plot([i + span / 2 for i in starts], means, line, color=color, label=name)
    ax.set(yscale="log", xlabel="training step", ylabel="loss per character")
    ax.legend()
    return ax
