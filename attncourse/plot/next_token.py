"""A picture of next-token prediction: what each place of a row costs."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from .style import COLORS


def loss_by_place(curves: dict[str, Tensor]) -> Axes:
    """One line a model: the mean loss of the prediction made at each place of a row."""
    _, ax = plt.subplots(figsize=(6.4, 2.8))
    for (name, values), style, color in zip(curves.items(), ("o-", "s--", "^:"), COLORS, strict=False):
        ax.plot(range(1, len(values) + 1), values.tolist(), style, color=color, markersize=3, label=name)
    ax.set(xlabel="place in the row", ylabel="loss, nats per character", ylim=(0, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(curves))
    return ax
