"""A line of the table that `python -m attncourse.profile` prints."""

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
