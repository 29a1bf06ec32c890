"""Which unit of exercises builds on which, as a picture: `python -m attncourse.course.prerequisite_map OUT`."""

import sys
from collections.abc import Mapping
from pathlib import Path

import networkx  # which torch brings
from matplotlib.figure import Figure

from attncourse.check import UNITS
from attncourse.plot.schematic import arrow, box, canvas
from attncourse.plot.style import use_style

WIDTH, HEIGHT = 1.22, 0.5  # of a box, in inches
ACROSS, DOWN = 1.34, 0.85  # from box to box


def prerequisites() -> dict[str, tuple[str, ...]]:
    """Return the units that each unit builds on, in the course's order."""
    return {unit.name: unit.prerequisites for unit in UNITS.values()}


def prerequisite_map(builds_on: Mapping[str, tuple[str, ...]]) -> Figure:
    """Draw a box per unit, below all that it builds on, and an arrow to it from each of these
    that no other one builds on already."""
    places = _places(builds_on)
    rows = 1 + max(row for _, row in places.values())
    widest = max(x for x, _ in places.values())
    _, ax = canvas((widest + 1) * ACROSS, rows * DOWN)
    centres = {unit: ((x + 0.5) * ACROSS, (rows - row - 0.5) * DOWN) for unit, (x, row) in places.items()}
    for other, unit in networkx.transitive_reduction(_graph(builds_on)).edges:
        (x0, y0), (x1, y1) = centres[other], centres[unit]
        arrow(ax, (x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2))
    for unit, centre in centres.items():
        box(ax, centre, _in_two_lines(unit), width=WIDTH, height=HEIGHT, role="query", size=9)
    return ax.figure


def in_words(builds_on: Mapping[str, tuple[str, ...]]) -> str:
    """Return what the picture shows, for those who cannot see it."""
    return "; ".join(f"{unit} builds on {' and '.join(others)}" for unit, others in builds_on.items() if others)


def _places(builds_on: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[float, int]]:
    """Return (column, row) by unit: the row below all that it builds on, rows centred and ordered by what they build on."""
    rows = [list(row) for row in networkx.topological_generations(_graph(builds_on))]
    widest, places = max(map(len, rows)), {}
    for i, row in enumerate(rows):
        above = {unit: [places[other][0] for other in builds_on[unit]] for unit in row}
        order = {unit: place for place, unit in enumerate(builds_on)}
        row.sort(key=lambda unit: (sum(above[unit]) / max(len(above[unit]), 1), order[unit]))
        shift = (widest - len(row)) / 2
        places |= {unit: (shift + j, i) for j, unit in enumerate(row)}
    return places


def _graph(builds_on: Mapping[str, tuple[str, ...]]) -> networkx.DiGraph:
    graph = networkx.DiGraph([(earlier, unit) for unit, others in builds_on.items() for earlier in others])
    graph.add_nodes_from(builds_on)
    return graph


def _in_two_lines(name: str) -> str:
    words = name.split("_")
    half = max(range(1, len(words) + 1), key=lambda i: -abs(len(" ".join(words[:i])) - len(name) / 2))
    return f"{' '.join(words[:half])}\n{' '.join(words[half:])}".strip()


if __name__ == "__main__":
    use_style()
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    prerequisite_map(prerequisites()).savefig(path)
