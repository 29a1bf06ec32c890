"""The chapter's first picture: four systems as boxes, and the arrows by which one sequence reads another."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note

SIDE = 0.3  # of a token, in inches
WIDE, LOW, HIGH, OUT = 1.35, 1.0, 1.62, 2.2  # width of a box; heights of the boxes and of what comes out
BOTH, CAUSAL, CROSS = "self-attention,\nboth sides", "self-attention,\ncausal", "cross-\nattention"


def four_systems() -> Figure:
    """Draw encoder-only, decoder-only, encoder-decoder and multimodal systems, each of the same few parts."""
    figure, ax = canvas(6.8, 5.25)
    top = 2.95
    _title(ax, 0.0, top, "Encoder-only", "search, tagging")
    _stack(ax, 1.7, top, ["The", "flag", "is", "blue"], BOTH, out="a vector per token")
    _title(ax, 3.4, top, "Decoder-only", "chat, code")
    _stack(ax, 5.1, top, ["The", "flag", "is"], CAUSAL, out="the next token")
    _title(ax, 0.0, 0.0, "Encoder-decoder", "translation")
    _pair(ax, 0.0, 0.0, ["The", "flag", "is"], ["Die", "Flagge"], reader=CAUSAL)
    _title(ax, 3.4, 0.0, "Multimodal", "pictures, sound")
    _pair(ax, 3.4, 0.0, [""] * 5, ["Where", "?"], reader=CAUSAL, pieces="patches or frames")
    arrow(ax, (4.87, 0.4), (5.42, 0.4), dashed=True)
    note(ax, (5.13, 0.55), "or here", size=9)
    return figure


def _title(ax: Axes, left: float, bottom: float, name: str, use: str) -> None:
    height = bottom + (2.62 if bottom == 0 else 2.12)
    note(ax, (left + 0.1, height), name, size=11, align="left", bold=True)
    note(ax, (left + 1.62, height), use, size=9.5, align="left")


def _tokens(ax: Axes, x: float, y: float, words: list[str], *, role: str = "token") -> None:
    """Draw words side by side, their middle at x."""
    widths = [max(SIDE, 0.14 + 0.085 * len(word)) for word in words]
    left = x - (sum(widths) + 0.05 * (len(words) - 1)) / 2
    for word, width in zip(words, widths, strict=True):
        box(ax, (left + width / 2, y), word, width=width, height=SIDE, role=role, size=9)
        left += width + 0.05


def _stack(ax: Axes, x: float, bottom: float, words: list[str], attention: str, *, out: str) -> None:
    """Draw tokens, the attention that reads them, and what comes out."""
    _tokens(ax, x, bottom + 0.4, words)
    arrow(ax, (x, bottom + 0.57), (x, bottom + LOW - 0.23))
    box(ax, (x, bottom + LOW), attention, width=WIDE, role="weight", size=9)
    arrow(ax, (x, bottom + LOW + 0.23), (x, bottom + HIGH - 0.15))
    box(ax, (x, bottom + HIGH), out, width=1.5, height=SIDE, role="value", size=9)


def _pair(
    ax: Axes, left: float, bottom: float, source: list[str], target: list[str], *, reader: str, pieces: str = ""
) -> None:
    """Draw a stack that reads the source, and a second one that reads the target and the first one's features."""
    first, second = left + 0.85, left + 2.55
    if pieces:
        cells(ax, (first - 2.5 * 0.24, bottom + 0.52), [source], role="token", side=0.24)
        note(ax, (first, bottom + 0.12), pieces, size=9)
    else:
        _tokens(ax, first, bottom + 0.4, source)
        note(ax, (first, bottom + 0.12), "source", size=9)
    note(ax, (second, bottom + 0.12), "words so far" if pieces else "target so far", size=9)
    arrow(ax, (first, bottom + 0.57), (first, bottom + LOW - 0.23))
    box(ax, (first, bottom + LOW), BOTH, width=WIDE, role="weight", size=9)
    _tokens(ax, second, bottom + 0.4, target)
    arrow(ax, (second, bottom + 0.57), (second, bottom + LOW - 0.23))
    box(ax, (second, bottom + LOW), reader, width=WIDE, role="weight", size=9)
    arrow(ax, (second, bottom + LOW + 0.23), (second, bottom + HIGH - 0.23))
    box(ax, (second, bottom + HIGH), CROSS, width=WIDE, role="key", size=9)
    arrow(ax, (first, bottom + LOW + 0.23), (second - WIDE / 2, bottom + HIGH), role="key", bend=-0.25, thickness=2)
    note(ax, (first + 0.02, bottom + HIGH + 0.12), "keys, values", size=9, align="center")
    arrow(ax, (second, bottom + HIGH + 0.23), (second, bottom + OUT - 0.15))
    box(ax, (second, bottom + OUT), "the next token", width=WIDE, height=SIDE, role="value", size=9)
