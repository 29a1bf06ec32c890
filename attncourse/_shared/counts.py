"""Bytes and FLOPs of each mechanism from its shapes: the least that any form of it has to move and to compute.

A multiplication with its addition is 2 FLOPs. Counted are products: scores, mixtures, projections, and the sums of
additive scores. Exponentials and divisions, which grow like the pairs, are not: a matrix product's peak rate says nothing
about them. Bytes are those of the inputs, each read once, and of the output, written once: what stands in between can
stay on the chip, and a form that moves more than this is a form that does not fuse.
"""

import math
from dataclasses import dataclass

from .validate import check_widths, require


@dataclass(frozen=True)
class Count:
    """A count is the FLOPs and bytes of one call."""

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Return FLOPs per byte: below a device's ratio of both rates, its memory is the limit."""
        return self.flops / self.bytes

    def __add__(self, other: "Count") -> "Count":
        return Count(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Size:
    """A size is the shapes of one call: b sequences, h query and g key/value heads, t queries, s keys, widths dk and dv.

    Raises:
        ValueError: a size below 1, or g does not divide h.
    """

    b: int
    h: int
    g: int
    t: int
    s: int
    dk: int
    dv: int

    def __post_init__(self):
        check_widths(**vars(self))
        require(self.h % self.g == 0, f"the {self.g} key/value heads must divide the {self.h} query heads")


def banded_pairs(t: int, s: int, *, before: int | None = None, after: int | None = None) -> int:
    """Return how many pairs the t last queries of s positions make with the keys at most `before` before, `after` after each.

    None is no bound. Causal attention has after=0, a window of w also before=w - 1, a radius r both.
    """
    before = s if before is None else before
    after = t + s if after is None else after
    if before + after < 0:
        return 0
    # The query at p sees the keys before p + after + 1 less those before p - before; of either there are 0 to s.
    upto, past = (_sum_clipped(s + shift, s) - _sum_clipped(s - t + shift, s) for shift in (after + 1, -before))
    return upto - past


def _sum_clipped(stop: int, top: int) -> int:
    """Return the sum of the whole numbers from 0 to stop - 1, each counted as top where it is more; 0 where stop is below 1."""
    return math.comb(min(max(stop, 0), top), 2) + max(stop - top, 0) * top


def attention_count(size: Size, *, pairs: int, itemsize: int) -> Count:
    """Count softmax attention over `pairs` pairs per head, in numbers of `itemsize` bytes: q . k and w v, and all once."""
    flops = 2 * size.b * size.h * pairs * (size.dk + size.dv)
    numbers = (size.h * size.t + size.g * size.s) * (size.dk + size.dv)
    return Count(flops, itemsize * size.b * numbers)
