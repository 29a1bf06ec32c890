"""A race: calls on one device, each timed beside the least time that the device's own rates allow."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from attncourse.profile.counts import Count
from attncourse.profile.limits import measure_limits
from attncourse.profile.roofline import Roofline
from attncourse.profile.timing import Timing, graph_seconds, time_calls

SMALL = {"read_bytes": 2**26, "matrix": 512}  # what a processor is measured by


@dataclass(frozen=True)
class Lap:
    """A lap is what one call took: its seconds, and the roofline's seconds as a share of them."""

    seconds: float
    share: float


def measured_roofline(device: str, dtype: torch.dtype) -> Roofline:
    """Measure how fast "cuda" or a thread of "cpu" reads and multiplies matrices of a dtype, and return its roofline."""
    sizes = {} if device == "cuda" else SMALL
    limits = measure_limits(device, dtypes=(dtype,), clock=time.thread_time, **sizes)
    return Roofline(limits.read, limits.matmul[str(dtype).removeprefix("torch.")])


def race(
    calls: Mapping[str, Callable[[], object]], count: Count, roofline: Roofline, *, device: str, seconds: float = 0.3
) -> dict[str, Lap]:
    """Time each call: as a replayed graph on "cuda", as processor time of this thread on "cpu".

    Args:
        calls: by name; the first run of each, in which Triton compiles, is not timed.
        count: what each of them has to compute and to move.
        roofline: of the device.
        device: "cuda" or "cpu".
        seconds: for about how long each is timed.
    """
    least = roofline.seconds(count)
    times = {name: _median(call, device=device, seconds=seconds) for name, call in calls.items()}
    return {name: Lap(timing.median, least / timing.median) for name, timing in times.items()}


def _median(call: Callable[[], object], *, device: str, seconds: float) -> Timing:
    if device == "cuda":
        return graph_seconds([call], seconds=seconds)
    return time_calls([call], device="cpu", warmup=1, least_runs=3, seconds=seconds, clock=time.thread_time)
