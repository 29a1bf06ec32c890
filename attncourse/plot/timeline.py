"""The history of attention as a line of years, from a BibTeX file. `python -m attncourse.plot.timeline BIB OUT`."""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .style import COLORS, use_style

# Of the stems in turn. A label extends to the right of its stem; on either side the earlier of two is the farther out, so
# that no label crosses a stem.
HEIGHTS = (1.9, -1.9, 0.8, -0.8)


def read_mechanisms(bibliography: Path) -> list[tuple[float, str, str]]:
    """Return (date, mechanism, "author year") of every entry that names a mechanism in its `keywords`, oldest first.

    The date is the month of the arXiv number in the entry's url, as a fraction of the year.
    """
    from pybtex.database import parse_file

    found = []
    for key, entry in parse_file(str(bibliography)).entries.items():
        if "keywords" not in entry.fields:
            continue
        number = re.search(r"arxiv\.org/abs/(\d\d)(\d\d)\.", entry.fields.get("url", ""))
        if number is None:
            raise ValueError(f"entry {key!r} of {bibliography} names a mechanism but its url has no arXiv number")
        date = 2000 + int(number[1]) + (int(number[2]) - 0.5) / 12
        author = " ".join(entry.persons["author"][0].last_names).strip("{}")
        found.append((date, entry.fields["keywords"], f"{author} {entry.fields['year']}"))
    if not found:
        raise ValueError(f"no entry of {bibliography} names a mechanism in its keywords")
    return sorted(found)


def timeline(mechanisms: list[tuple[float, str, str]], *, ax: Axes | None = None) -> Axes:
    """Draw dates from left to right; each mechanism stands on a stem, its paper beneath the name.

    A page shows the figure about 700 pixels wide, so a point of its text becomes about a pixel and a quarter.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3.6))
    dates = [date for date, _, _ in mechanisms]
    first, last = int(min(dates)), int(max(dates)) + 1
    ax.hlines(0, first, last, color=COLORS[-1], linewidth=1.5)
    for i, (date, mechanism, paper) in enumerate(mechanisms):
        height = HEIGHTS[i % len(HEIGHTS)]
        ax.vlines(date, 0, height, color=COLORS[0], linewidth=1)
        ax.plot(date, 0, "o", color=COLORS[0], markersize=6)
        crowded = date > last - 1  # there a label has no room to the right
        ax.text(
            date if crowded else date - 0.04, height, f"{mechanism}\n{paper}", ha="center" if crowded else "left",
            va="bottom" if height > 0 else "top", fontsize=10, linespacing=1.3,
        )  # fmt: skip
    for year in range(first, last + 1):
        ax.vlines(year, -0.08, 0.08, color=COLORS[-1], linewidth=1)
        ax.text(year + 0.04, 0.1, str(year), va="bottom", fontsize=9, color="#555555")
    ax.set(ylim=(-3, 3), xlim=(first - 0.2, last + 1.1))
    ax.axis("off")
    return ax


if __name__ == "__main__":
    use_style()
    figure = timeline(read_mechanisms(Path(sys.argv[1]))).figure
    Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(sys.argv[2])
