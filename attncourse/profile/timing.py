"""Time of a call, by a clock of the host; and of the device's work alone, by replaying a CUDA graph of many calls."""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from attncourse._shared.validate import require


@dataclass(frozen=True)
class Timing:
    """A timing is seconds of one call: the median, and the quartiles between which half of the runs lie."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Return the quartiles' distance as a share of the median."""
        return (self.high - self.low) / self.median


def median_seconds(
    candidates: dict[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return median seconds of each candidate.

    Candidates take turns in every round, so that a machine that slows down for a while slows all of them: ratios of the
    medians are fair even where the times themselves wander.

    Where this process uses a GPU, the clock runs from one synchronisation to the next: over the host's Python, the
    launches, the device's work and the wait for its end, some tens of microseconds that are no work of the device. A
    call that takes the device less than a millisecond or so is timed by `graph_seconds` instead.

    Args:
        candidates: name -> a call without arguments.
        rounds: timed turns of each candidate.
        warmup: turns before these that are not timed.
        clock: what reads seconds (default: the wall clock); time.thread_time for the processor time of this thread
            alone, which work on one CPU thread can be timed by beside other work, and which knows nothing of a GPU.
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
    """Wait until device work, which is asynchronous, has ended: before, a host clock means nothing."""
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
    """Return seconds of a call that is given several times over, each on inputs of its own.

    The calls take turns, so that inputs that are together larger than a cache come from memory, as a model's layers do.
    There are at least `least_runs` runs, and as many as fit in `seconds`. On a CPU they are timed by `clock`, as in
    `median_seconds`; on CUDA by events on the stream before and after one call. The device is idle when the first is recorded, so that the interval
    holds the host's work, too: a call that is over on the device before the host has launched all of it is timed as the
    host. This is what one call from Python costs; what the device needs for it is the matter of `graph_seconds`.

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
    return _timing(times)


def _timing(times: Sequence[float]) -> Timing:
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


def graph_seconds(
    calls: Sequence[Callable[[], object]],
    *,
    steps: int = 20,
    warmup: int = 3,
    least_runs: int = 9,
    seconds: float = 0.5,
) -> Timing:
    """Return the seconds that the device works on one call:
    a CUDA graph of many steps is replayed, and its time divided by them.

    The calls take turns as in `time_calls`, each as often as the others: `steps` is rounded up to a multiple of them.
    They are warmed up on a side stream and captured (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs);
    a replay launches what they launched and runs no Python. Replays are queued one behind the other, so that the device
    is never idle between the events around one. At least `least_runs` replays, and as many as fit in `seconds`.

    A call that waits for the device, or that reads a number back, cannot be captured. That is looked for before the
    capture, which would otherwise leave PyTorch's allocator in doubt; what is only found during the capture is mended
    as far as this process can. Who must be sure of what follows measures in a process that ends, as `measure_work`
    does.

    Raises:
        ValueError: no call, no step or no run.
        Exception: what a call raised when it was captured, the first cause of it.
    """
    require(
        len(calls) >= 1 and steps >= 1 and least_runs >= 1,
        f"give a call, a step and a run, got {len(calls)} calls, {steps} steps, {least_runs} runs",
    )
    steps = -(-steps // len(calls)) * len(calls)
    _warm_up(calls, runs=max(1, warmup))
    graph = _capture(calls, steps=steps)
    times, begin = [], time.perf_counter()
    while len(times) < least_runs or time.perf_counter() - begin < seconds:
        times += [x / steps for x in _replay_seconds(graph, runs=least_runs)]
    return _timing(times)


def _warm_up(calls: Sequence[Callable[[], object]], *, runs: int) -> None:
    """Compile, tune and fill caches on a side stream; once more with an error where the host would wait for the device."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(runs):
            calls[i % len(calls)]()
        with _waiting_is_an_error():
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _capture(calls: Sequence[Callable[[], object]], *, steps: int) -> torch.cuda.CUDAGraph:
    graph, pool, stream = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    cause = None
    try:
        with torch.cuda.graph(graph, pool=pool):
            try:
                for i in range(steps):
                    calls[i % len(calls)]()
            except Exception as error:
                cause = error  # the end of a capture that failed says only that it failed
                raise
    except Exception as error:
        _leave_capture(graph, pool=pool, stream=stream)
        raise (cause or error) from None
    return graph


def _leave_capture(graph: torch.cuda.CUDAGraph, *, pool: tuple[int, int], stream: torch.cuda.Stream) -> None:
    """Restore, after a capture that failed, the stream of before,
    and bring allocator and random numbers out of capturing.

    PyTorch has no name for the latter two. Where one of these does not work, the process has to end.
    """
    torch.cuda.set_stream(stream)
    with contextlib.suppress(RuntimeError, AttributeError, TypeError):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
    with contextlib.suppress(RuntimeError):
        graph.reset()
    with contextlib.suppress(RuntimeError):
        # A capture that ends well resets the generator that the other one left capturing.
        x = torch.zeros(1, device=stream.device)
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x.add_(1)
    torch.cuda.set_stream(stream)


def _replay_seconds(graph: torch.cuda.CUDAGraph, *, runs: int) -> list[float]:
    """Return seconds of each of so many replays, queued behind one that is not timed."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    graph.replay()
    for event in events[:-1]:
        event.record()
        graph.replay()
    events[-1].record()
    events[-1].synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events)]
