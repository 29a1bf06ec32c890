"""The lines of the table that `python -m attncourse.profile` prints, and the call that measures a room's."""

import importlib
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement beside what it is held to.

    Args:
        what: what was measured, with its sizes.
        ours, theirs: seconds or bytes; NaN where it could not run, infinite where it ran out of memory.
        wanted: the least theirs / ours, or, for a growth, the largest ours / theirs.
        unit: "speedup" (seconds), "memory" (bytes) or "growth" (ours at twice the length at which theirs is measured).
    """

    what: str
    ours: float
    theirs: float
    wanted: float
    unit: str


def measure_room(room: str, device: str) -> list[Row]:
    """The rows of one room; what is being measured goes to standard error."""
    module = importlib.import_module(f"attncourse.profile.long_{room}")
    return module.measure(device=device, progress=lambda what: print(f"{room}: {what}", file=sys.stderr, flush=True))
