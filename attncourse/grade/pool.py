"""Where submissions are marked: processes of this machine, or an existing Dask cluster. A lost worker costs nothing.

Both take one function and its arguments a submission, hold only a few submissions at a time, and give back each
result as it comes.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from typing import Any

AHEAD = 3
TRIES = 3


class Lost(Exception):
    """A submission is lost whose worker died, again and again."""


class Pool:
    """A pool makes calls of a function on some executor, in any order;
    a call whose worker died is made again, then alone.

    Args:
        make: gives an executor; called again where the last one broke.
        width: how many calls run at a time.
    """

    def __init__(self, make: Callable[[], Executor], width: int):
        self._make, self._width = make, width
        self._executor: Executor | None = None

    def map(self, function: Callable, calls: Iterable[tuple[Any, tuple]]) -> Iterator[tuple[Any, Any]]:
        """Yield (key, result) of each (key, arguments), as they are done;
        a result may be a Lost. Calls are drawn as needed.

        A process that dies takes all calls in flight with it. Each of them is then made by itself, so that one that
        kills its process every time is found, and costs the others nothing.
        """
        calls, running, suspects = iter(calls), {}, []
        try:
            while True:
                while suspects and not running:
                    self._submit(running, function, *suspects.pop())
                while not suspects and len(running) < self._width * AHEAD and (call := next(calls, None)) is not None:
                    self._submit(running, function, *call, 0)
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                alone = len(running) == 1
                for key, arguments, deaths, future in [(*running.pop(future), future) for future in done]:
                    try:
                        yield key, future.result()
                    except (BrokenProcessPool, *_cluster_errors()) as error:
                        deaths += alone
                        if deaths == TRIES:
                            yield key, Lost(f"its worker died {TRIES} times ({type(error).__name__})")
                        else:
                            suspects.append((key, arguments, deaths))
        finally:
            for future in running:
                future.cancel()
            self.close()

    def _submit(self, running: dict[Future, tuple], function, key, arguments, deaths: int) -> None:
        for _ in range(TRIES):
            if self._executor is None:
                self._executor = self._make()
            try:
                running[self._executor.submit(function, *arguments)] = (key, arguments, deaths)
                return
            except BrokenProcessPool:
                self.close()
        raise RuntimeError("the processes that mark die as soon as they start")

    def close(self) -> None:
        """End the executor, without waiting for what it still runs."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None


def _cluster_errors() -> tuple[type[Exception], ...]:
    """Return what a Dask future raises whose workers were lost; nothing where Dask is not in use."""
    module = sys.modules.get("distributed")
    return (module.KilledWorker, module.client.FutureCancelledError) if module else ()


@contextmanager
def local_processes(workers: int) -> Iterator[Pool]:
    """Start processes of this machine, which end with this one however it ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attncourse.grade.one_submission"])
    options = {"max_workers": workers, "mp_context": context, "initializer": _end_with_the_grader}
    others = set(multiprocessing.active_children())
    try:
        with closing(Pool(lambda: ProcessPoolExecutor(**options), workers)) as pool:
            yield pool
    finally:
        # on an interrupt what still runs is not waited for
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _end_with_the_grader() -> None:
    """Let a worker leave an interrupt to the grader, and end where the grader is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_after(process) -> None:
    multiprocessing.connection.wait([process.sentinel])
    os._exit(1)


@contextmanager
def cluster(address: str) -> Iterator[Pool]:
    """Use an existing Dask cluster, by its scheduler's address: tcp://10.0.0.7:8786.

    Raises:
        ValueError: Dask is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("--scheduler needs Dask: pip install 'attncourse[cluster]'") from error
    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client:
        width = max(1, sum(client.nthreads().values()))
        with closing(Pool(lambda: client.get_executor(retries=TRIES, pure=False), width)) as pool:
            yield pool
