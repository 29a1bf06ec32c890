"""The chapter's first picture: which lane of which program reads and writes which address."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, cells, note

SIDE, LEFT = 0.62, 1.35  # of a square, and where the first one begins, in inches
# Tops of the rows of squares, from above to below.
AT, INSIDE, X, OUT = 4.0, 3.2, 2.1, 0.75


def lanes_and_addresses(x: Sequence[int], *, block: int, programs: int, first_address: int, itemsize: int) -> Figure:
    """Draw a kernel that adds 1: its programs, their lanes' element numbers and masks, the memory that they reach.

    Args:
        x: the numbers; what lies behind them, up to the last lane, belongs to somebody else.
        block: lanes per program.
        programs: the size of the grid.
        first_address: of x, in bytes.
        itemsize: bytes per number.
    """
    count, n = block * programs, len(x)
    figure, ax = canvas(LEFT + SIDE * count + 0.15, 4.85)
    for program in range(programs):
        left = LEFT + program * block * SIDE
        box(
            ax, (left + block * SIDE / 2, 4.5), f"program {program}", role="state", width=block * SIDE - 0.1, height=0.4
        )
        own = range(program * block, (program + 1) * block)
        for top, row in ((AT, [*own]), (INSIDE, ["yes" if at < n else "no" for at in own])):
            cells(ax, (left, top), [row], role="state", side=SIDE, size=10)
    for at in range(count):
        middle = LEFT + (at + 0.5) * SIDE
        note(ax, (middle, X - SIDE - 0.14), str(first_address + at * itemsize), size=9)
        if at < n:
            arrow(ax, (middle, INSIDE - SIDE - 0.02), (middle, X + 0.02), role="state")
            arrow(ax, (middle, X - SIDE - 0.3), (middle, OUT + 0.02), role="state")
        else:
            note(ax, (middle, (INSIDE - SIDE + X) / 2), "×", size=16, bold=True)
    for top, role, row in ((X, "token", x), (OUT, "value", [number + 1 for number in x])):
        cells(ax, (LEFT, top), [[*row]], role=role, side=SIDE, size=11)
        cells(ax, (LEFT + n * SIDE, top), [["?"] * (count - n)], side=SIDE, size=11)
    for top, name in ((AT, "element: at"), (INSIDE, f"at < {n}"), (X, "memory: x"), (OUT, "memory: out")):
        note(ax, (LEFT - 0.1, top - SIDE / 2), name, align="right")
    note(ax, (LEFT - 0.1, X - SIDE - 0.14), "address", align="right", size=9)
    note(ax, (LEFT - 0.1, (X - SIDE - 0.3 + OUT) / 2), "+ 1", align="right", bold=True)
    return figure
