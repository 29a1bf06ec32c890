"""A verdict's picture, drawn: what was expected beside what came back, with the cells outlined where they differ."""

import io

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from attncourse._shared.validate import require
from attncourse.plot.style import COLORS, SIGNED, WEIGHTS

from .picture import Picture

UNDEFINED = "#bbbbbb"  # the colour of NaN and infinity
FEW_CELLS = 24  # a side: up to here each cell is told from its neighbours by a line


def expected_beside_got(picture: Picture) -> Figure:
    """Draw a picture's two matrices on one colour scale;
    an orange line runs around the cells that differ, grey is no number.

    The figure belongs to no pyplot state, so that threads can draw and nothing needs closing.

    Raises:
        ValueError: the two are not matrices of one shape with at least one cell.
    """
    expected, got = matrices(picture)
    t, s = expected.shape
    figure, (left, right, beside) = _axes(t, s)
    differs = differing(picture)
    low, high, colors = color_scale(torch.stack([expected, got]))
    for ax, title, values in ((left, "expected", expected), (right, "got", got)):
        ax.set_facecolor(UNDEFINED)
        shown = torch.where(values.isfinite(), values, torch.nan).numpy()
        image = ax.imshow(shown, cmap=colors, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        if max(t, s) <= FEW_CELLS:
            ax.hlines([i - 0.5 for i in range(1, t)], -0.5, s - 0.5, color="#d5d5d5", linewidth=0.5)
            ax.vlines([j - 0.5 for j in range(1, s)], -0.5, t - 0.5, color="#d5d5d5", linewidth=0.5)
        outline(ax, differs)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(picture.columns, fontsize=9)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        ax.tick_params(labelsize=8, length=2)
        ax.spines[:].set_color("#999999")
    left.set_ylabel(picture.rows, fontsize=9)
    right.tick_params(labelleft=False)
    bar = figure.colorbar(image, cax=beside)
    bar.set_ticks([low, high], labels=[f"{low:.3g}", f"{high:.3g}"])
    bar.ax.tick_params(labelsize=8, length=0)
    bar.outline.set_visible(False)
    return figure


def _axes(t: int, s: int) -> tuple[Figure, list[Axes]]:
    """Return room for two matrices of t x s and a colour bar, placed by inches: a layout engine would take most of the
    time. Placed by inches: a layout engine would take most of the time.
    """
    cell = min(0.42, 3.2 / max(t, s))
    width, height = max(cell * s, 1.1), max(cell * t, 1.1)
    across, up = 2 * width + 1.55, height + 0.85
    figure = Figure(figsize=(across, up), dpi=110)
    places = ((0.6, width), (0.6 + width + 0.2, width), (0.6 + 2 * width + 0.35, 0.12))
    return figure, [figure.add_axes((x / across, 0.5 / up, w / across, height / up)) for x, w in places]


def matrices(picture: Picture) -> tuple[Tensor, Tensor]:
    """Return a picture's (expected, got) in float64."""
    expected, got = (torch.as_tensor(x).detach().cpu().double() for x in (picture.expected, picture.got))
    require(
        expected.ndim == 2 and expected.shape == got.shape and expected.numel() > 0,
        f"a picture is of two matrices of one shape, got {tuple(expected.shape)} and {tuple(got.shape)}",
    )
    return expected, got


def differing(picture: Picture) -> Tensor:
    """Return which cells (t, s) of a picture differ beyond rounding; two NaN are alike."""
    expected, got = matrices(picture)
    return ~torch.isclose(got, expected, rtol=1e-5, atol=1e-8, equal_nan=True)


def color_scale(values: Tensor) -> tuple[float, float, str]:
    """Return (low, high, colour map) of finite values: white is 0, and 1 is always in it where nothing is negative."""
    finite = values[values.isfinite()]
    bound = max(float(finite.abs().max()), 1.0) if len(finite) else 1.0
    return (-bound, bound, SIGNED) if bool((finite < 0).any()) else (0.0, bound, WEIGHTS)


def outline(ax: Axes, cells: Tensor) -> None:
    """Draw on ax a line around each region of True cells (t, s):
    two lines where each cell had four keep 64 x 64 readable.
    """
    t, s = cells.shape
    padded = torch.zeros(t + 2, s + 2, dtype=torch.bool)
    padded[1:-1, 1:-1] = cells
    level = (padded[1:, 1:-1] != padded[:-1, 1:-1]).nonzero().tolist()
    upright = (padded[1:-1, 1:] != padded[1:-1, :-1]).nonzero().tolist()
    lines = [[(j - 0.5, i - 0.5), (j + 0.5, i - 0.5)] for i, j in level]
    lines += [[(j - 0.5, i - 0.5), (j - 0.5, i + 0.5)] for i, j in upright]
    width = 2.0 if max(t, s) <= FEW_CELLS else 1.0
    ax.add_collection(LineCollection(lines, colors=COLORS[1], linewidths=width, capstyle="projecting", clip_on=False))


def in_words(picture: Picture) -> str:
    """Return what the picture shows, for those who do not see it."""
    differs = differing(picture)
    t, s = differs.shape
    places = differs.nonzero().tolist()
    shown = f"expected beside got, {t} rows ({picture.rows}) by {s} columns ({picture.columns})"
    if not places:
        return f"{shown}: no cell differs"
    cells = ", ".join(f"({i}, {j})" for i, j in places[:6])
    return f"{shown}: {len(places)} of {t * s} cells differ, {'among them' if len(places) > 6 else 'at'} {cells}"


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """Return the figure as the bytes of a PNG file, of `dpi` dots per inch."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi)
    return written.getvalue()
