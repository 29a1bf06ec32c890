"""The roofline: how long a call must take, given what it moves and computes, and what the device can.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model", CACM 52(4).
"""

from dataclasses import dataclass

from attncourse._shared.validate import require

from .counts import Count


@dataclass(frozen=True)
class Roofline:
    """A roofline is what a device reaches:
    bytes per second from its memory, and FLOPs per second of matrix products in one dtype.
    """

    bandwidth: float
    flops: float

    def __post_init__(self):
        require(
            self.bandwidth > 0 and self.flops > 0,
            f"a roofline needs positive rates, got {self.bandwidth} bytes/s and {self.flops} FLOP/s",
        )

    @property
    def ridge(self) -> float:
        """Return the FLOPs a byte from which on computing takes longer than moving."""
        return self.flops / self.bandwidth

    def seconds(self, count: Count) -> float:
        """Return the least time: moving and computing overlap, so the longer of both."""
        return max(count.bytes / self.bandwidth, count.flops / self.flops)

    def limit(self, count: Count) -> str:
        """Return what is short: "memory" or "compute"."""
        return "memory" if count.bytes / self.bandwidth >= count.flops / self.flops else "compute"
