"""Time of a call, as the median over rounds in which every candidate runs once."""

import statistics
import time
from collections.abc import Callable

import torch


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
    if torch.cuda.is_available():
        torch.cuda.synchronize()
