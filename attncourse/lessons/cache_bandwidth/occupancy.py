"""How much of a chip a step of decoding keeps busy, by counting programs against multiprocessors.

Dao et al. 2023, Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html): one program per sequence and stored
head leaves most of a GPU idle at small batches; cutting the keys into splits makes more programs of the same work. Counted is
what no scheduler can beat: programs of equal length, so many at once, the last round perhaps not full.
"""

from attncourse._shared.launch import choose_splits
from attncourse._shared.validate import check_widths

__all__ = ["busy_share", "choose_splits", "full_from", "rounds"]


def rounds(programs: int, *, slots: int) -> int:
    """Return how often `slots` programs at a time run until all have."""
    check_widths(programs=programs, slots=slots)
    return -(-programs // slots)


def busy_share(groups: int, *, slots: int, splits: int = 1) -> float:
    """Return the share of the slots' time that is spent on work, of 1.

    Args:
        groups: sequences times stored heads, all equally long.
        slots: programs that run at once: multiprocessors, times what each of them holds.
        splits: equal parts into which each group's keys are cut, a program each.
    """
    check_widths(groups=groups, splits=splits)
    programs = groups * splits
    return programs / (slots * rounds(programs, slots=slots))


def full_from(groups: int, *, slots: int) -> int:
    """Return the fewest splits with which there is a program for every slot."""
    return rounds(slots, slots=groups)
