"""A matrix of weights, scores or values with its tokens beside it."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from .style import SIGNED, WEIGHTS


def weights_heatmap(
    weights: Tensor,
    *,
    queries: list[str],
    keys: list[str],
    ax: Axes | None = None,
    title: str = "",
    numbers: bool = False,
) -> Axes:
    """Draw attention weights (t, s): a row is a query, a column a key, white 0 and dark 1."""
    return _heatmap(weights, queries, keys, ax, title, numbers, cmap=WEIGHTS, low=0.0, high=1.0)


def signed_heatmap(
    values: Tensor,
    *,
    rows: list[str],
    columns: list[str],
    ax: Axes | None = None,
    title: str = "",
    numbers: bool = False,
) -> Axes:
    """Draw scores or values: white is 0, red positive, blue negative, one scale both ways."""
    bound = max(float(values[values.isfinite()].abs().max()), 1e-12)
    return _heatmap(values, rows, columns, ax, title, numbers, cmap=SIGNED, low=-bound, high=bound)


def _heatmap(values, rows, columns, ax, title, numbers, *, cmap, low, high) -> Axes:
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} row and {len(columns)} column labels for values of shape {tuple(values.shape)}")
    if ax is None:
        _, ax = plt.subplots(figsize=(1 + 0.42 * len(columns), 0.8 + 0.42 * len(rows)))
    values = values.detach().float().cpu()
    ax.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    ax.set_xticks(
        range(len(columns)), columns, rotation=45 if max(map(len, columns), default=0) > 2 else 0, ha="center"
    )
    ax.set_yticks(range(len(rows)), rows)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(title)
    if numbers:
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                dark = abs(value) > 0.6 * high
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return ax
