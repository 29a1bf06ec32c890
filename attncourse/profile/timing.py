"""Time of a call, as the median over rounds in which every candidate runs once."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from attncourse._shared.validate import require


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median, and the quartiles between which half of the runs lie."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """The quartiles' distance as a share of the median."""
        return (self.high - self.low) / self.median


def median_seconds(
    candidates: dict[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each candidate.

    Candidates take turns in every round, so that a machine that slows down for a while slows all of them:
    ratios of the medians are fair even where the times themselves wander.

    Args:
        candidates: name -> a call without arguments.
        rounds: timed turns of each candidate.
        warmup: turns before these that are not timed.
        clock: wall-clock time unless told; time.thread_time for the processor time of this thread alone, which work
            on one CPU thread can be timed by beside other work.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    seconds = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, call in candidates.items():
            _wait()
            start = clock()
            call()
            _wait()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _wait() -> None:
    """Device work is asynchronous: a host clock means something only after it has ended."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def time_calls(
    calls: Sequence[Callable[[], object]],
    *,
    device: str,
    warmup: int = 3,
    least_runs: int = 9,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Seconds of a call that is given several times over, each on inputs of its own.

    The calls take turns, so that together their inputs are larger than the caches and each comes from memory, as in a
    model's layers. At least `least_runs` runs, and as many as fit in `seconds`. On CUDA by events on the stream, since
    the host runs ahead of the device; on a CPU by `clock`, as in `median_seconds`.

    Raises:
        ValueError: no call, or no run.
    """
    require(len(calls) >= 1 and least_runs >= 1, f"give a call and a run, got {len(calls)} calls, {least_runs} runs")
    for i in range(warmup):
        calls[i % len(calls)]()
    measure = _event_seconds if device == "cuda" else partial(_clock_seconds, clock=clock)
    times, begin = [], time.perf_counter()
    while len(times) < least_runs or time.perf_counter() - begin < seconds:
        times.append(measure(calls[len(times) % len(calls)]))
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else 3 * times
    return Timing(median, low, high)


def _clock_seconds(call: Callable[[], object], *, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def _event_seconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
