"""A race: calls on one device, each timed beside the least time that the device's own rates allow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attncourse.profile.counts import Count
from attncourse.profile.limits import Limits
from attncourse.profile.roofline import Roofline
from attncourse.profile.timing import graph_seconds, time_calls


@dataclass(frozen=True)
class Lap:
    """A lap is what one call took: its seconds, and the roofline's seconds as a share of them."""

    seconds: float
    share: float


def race(
    calls: Mapping[str, Callable[[], object]], *, least: float, device: str, seconds: float = 0.3
) -> dict[str, Lap]:
    """Time each call for about so many seconds: a replayed graph on "cuda", the host's clock on "cpu".

    Args:
        calls: by name; the first run of each, in which Triton compiles, is not timed.
        least: the seconds that the roofline allows.
        device: "cuda" or "cpu".
        seconds: how long each is timed.
    """
    laps = {}
    for name, call in calls.items():
        clock = graph_seconds([call], seconds=seconds) if device == "cuda" else _on_the_host(call, seconds)
        laps[name] = Lap(clock.median, least / clock.median)
    return laps


def _on_the_host(call: Callable[[], object], seconds: float):
    return time_calls([call], device="cpu", warmup=1, least_runs=3, seconds=seconds)


def least_seconds(count: Count, limits: Limits, *, dtype: str) -> float:
    """Return the roofline's seconds of a count at rates that were measured, for products in this dtype."""
    return Roofline(limits.read, limits.matmul[dtype]).seconds(count)
