"""The lines of the table that `python -m benchmarks.promises` prints, and the call that measures a room's."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from attncourse.rooms import rooms_with

# The rooms that are measured, each by the module of its name beside this one.
ROOMS = rooms_with("{}.py", root=Path(__file__).parent)


@dataclass(frozen=True)
class Row:
    """A row is one measurement beside what it is held to.

    Args:
        what: what was measured, with its sizes.
        ours, theirs: seconds, bytes or bytes a second; NaN where it could not run, infinite where it ran out of memory.
        wanted: the least theirs / ours; for a growth the largest ours / theirs, for a bandwidth the least.
        unit: "speedup" (seconds), "memory" (bytes), "growth" (ours at twice the length at which theirs is measured) or
            "bandwidth" (bytes a second, theirs being what the machine reaches in a plain read).
    """

    what: str
    ours: float
    theirs: float
    wanted: float
    unit: str


def measure_room(room: str, device: str) -> list[Row]:
    """Return the rows of one room; what is being measured goes to standard error."""
    module = importlib.import_module(f"{__package__}.{room}")
    return module.measure(device=device, progress=lambda what: print(f"{room}: {what}", file=sys.stderr, flush=True))
