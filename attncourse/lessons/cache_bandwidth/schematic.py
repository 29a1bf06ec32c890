"""Schematic of the chapter: what a step of decoding reads, over which bus, and what it computes meanwhile."""

from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note

SEQUENCES, SHOWN = 3, 6  # caches that are drawn, and cells of each


def step_of_decoding() -> Figure:
    """Draw a step of decoding: weights and caches pass the memory bus to the cores, and below it the step in time."""
    figure, ax = canvas(8.4, 4.6)
    note(ax, (1.9, 4.4), "memory", size=11.5, bold=True)
    box(ax, (1.9, 3.95), "weights: W bytes", role="state", width=3.0, height=0.42)
    for row in range(SEQUENCES):
        top = 3.55 - 0.42 * row
        cells(ax, (1.05, top), [["k v"] * SHOWN], role="key", side=0.38)
        note(ax, (0.97, top - 0.19), f"cache {row + 1}", align="right")
    note(ax, (2.19, 2.12), "b caches of s tokens, m bytes per token")

    arrow(ax, (3.6, 3.3), (5.6, 3.3), role="key", thickness=9)
    note(ax, (4.55, 3.75), "memory bus", size=11.5, bold=True)
    note(ax, (4.55, 2.85), "β bytes per second")

    note(ax, (7.0, 4.4), "cores", size=11.5, bold=True)
    for row, what in enumerate(("scores q · k", "softmax", "mixture a · v")):
        box(ax, (7.0, 3.85 - 0.55 * row), what, role="weight", width=1.9, height=0.42)
    note(ax, (7.0, 2.12), "π operations per second")

    note(ax, (0.15, 1.6), "one step in time", size=11.5, bold=True, align="left")
    box(ax, (1.2, 0.95), "overhead\nt$_0$", width=1.5, height=0.95, size=9.5)
    box(ax, (4.75, 1.2), "reading: (W + b s m) / β", role="key", width=5.5, height=0.42)
    box(ax, (3.2, 0.7), "computing: operations / π", role="weight", width=2.4, height=0.42, size=9.5)
    note(ax, (6.0, 0.7), "the cores wait")
    arrow(ax, (0.4, 0.3), (7.9, 0.3))
    note(ax, (7.85, 0.48), "time", align="right")
    return figure
