"""Where the overhead of a call ends and the memory's wall begins: seconds = overhead + bytes / bandwidth, fitted.

Hockney 1985, "(r_inf, n_1/2, s_1/2) measurements on the 2-CPU CRAY X-MP", Parallel Computing 2(1), for the two numbers that
such a line has: the rate that it tends to, and the size at which half of it is reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attncourse._shared.validate import require


@dataclass(frozen=True)
class Floor:
    """A floor is the seconds that a call takes whatever its size, and the bytes per second that it tends to:
    inf where no size tells.
    """

    overhead: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """Return what a call that moves so many bytes takes."""
        return self.overhead + size / self.bandwidth

    @property
    def half(self) -> float:
        """Return bytes at which overhead and moving take equally long:
        below, a smaller cache hardly helps; inf if they never do.
        """
        return self.overhead * self.bandwidth


def fit_floor(sizes: Sequence[float], seconds: Sequence[float]) -> Floor:
    """Return the line with the least squared relative errors, so that the short calls count as much as the long ones.

    Where times do not grow with the sizes, all of them are overhead: a device with much bandwidth shows that of sizes
    that are launched more slowly than read.

    Raises:
        ValueError: fewer than two sizes, or a time that is not positive.
    """
    require(
        len(sizes) == len(seconds) and len(set(sizes)) >= 2 and min(seconds, default=0) > 0,
        f"give at least two sizes with a positive time each, got {len(sizes)} sizes, {len(seconds)} times",
    )
    x, t = (torch.tensor(values, dtype=torch.float64) for values in (sizes, seconds))
    ones = torch.ones_like(t)
    # Columns of their own length: bytes and seconds are many powers of ten apart.
    unit = x.max()
    overhead, slope = torch.linalg.lstsq(torch.stack([ones, x / unit], 1) / t[:, None], ones).solution.tolist()
    if overhead < 0:  # a line through nothing is the best that makes sense
        ratio = x / unit / t
        overhead, slope = 0.0, float(ratio.sum() / (ratio**2).sum())
    if slope <= 0:
        return Floor(float((1 / t).sum() / (1 / t**2).sum()), float("inf"))
    return Floor(overhead, float(unit) / slope)
