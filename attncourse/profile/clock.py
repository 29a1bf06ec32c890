"""Seconds of a call on its device, and what a call that failed says."""

from collections.abc import Callable
from dataclasses import dataclass

from .measure import describe_problem
from .timing import graph_seconds, time_calls


@dataclass(frozen=True)
class Clock:
    """A clock says how calls are timed.

    Attributes:
        device: "cuda": by Triton's bench, which empties the second-level cache before each run and queues runs, so that
            what is timed is the device; "cpu": one call by the host's clock, to see that it runs.
        milliseconds: of runs, on a GPU.
    """

    device: str
    milliseconds: int = 60

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median of a call; on a GPU, of one that the host needs longer for than the cache is emptied,
        the host's time.
        """
        if self.device == "cpu":
            return time_calls([call], device="cpu", warmup=0, least_runs=1, seconds=0.0).median
        from triton.testing import do_bench

        return do_bench(call, warmup=self.milliseconds // 3, rep=self.milliseconds, quantiles=[0.5]) / 1e3

    def replayed(self, *calls: Callable[[], object]) -> float:
        """Return the median of a step of a replayed CUDA graph, in which the calls take turns;
        on a CPU as `seconds` of the first.
        """
        if self.device == "cpu":
            return self.seconds(calls[0])
        return graph_seconds(calls, seconds=self.milliseconds / 1e3).median


def tried(call: Callable[[], float]) -> tuple[float | None, str | None]:
    """Return what a measurement gives, or None and the problem in a line."""
    try:
        return call(), None
    except Exception as error:  # whatever a form cannot do on this device: named, and the others go on
        return None, describe_problem(error)
