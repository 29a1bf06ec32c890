"""The grader's side of the wall: a worker behind two pipes, a deadline on each request, answers that are values."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attncourse.check.core import STATES, Check, Crashed, OutOfMemory, Tampered, TimedOut

from .sandbox import Sandbox
from .wire import Malformed, pack, receive

OUTCOMES = {state: outcome for outcome, state in STATES.items()}
LONGEST_MESSAGE = 3000
# The kernel keeps about a kilobyte for each file, however empty, which its file system's size does not count.
MOST_FILES = 20_000
LOOK_EVERY = 0.2
# What a process's resident memory rises by on a first call, whatever the call: libraries' buffers, code that is loaded.
RESIDENT_NOISE = 16 << 20


class Ended(Exception):
    """The worker's process has ended; `outcome` is what that means for what it was doing."""

    def __init__(self, message: str, outcome: type[Exception] = Crashed):
        super().__init__(message)
        self.outcome = outcome


class Worker:
    """A worker is one process in the sandbox. After TimedOut, Tampered or Ended it is dead and another one is needed."""

    def __init__(self, sandbox: Sandbox, imports: tuple[str, ...] = ()):
        """Start a worker and wait until it is ready.

        Args:
            imports: modules of the course package that it is to find besides its own.

        Raises:
            RuntimeError: it did not become ready, which is no learner's fault.
        """
        self._scratch: Path | None = None
        self._group = sandbox.new_group()
        self._process = sandbox.start(imports, self._group)
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)
        try:
            answer = self._receive(time.monotonic() + sandbox.limits.start_seconds)
        except (Ended, TimedOut, Malformed) as error:
            self.kill()
            said = self._process.stderr.read(4000).decode(errors="replace").strip()
            self.close()
            raise RuntimeError(f"the worker did not start ({error}): {said[-1000:]}") from error
        if answer != {"outcome": "ready"}:
            self.close()
            raise RuntimeError(f"the worker did not start: it said {answer!r}")
        if sandbox.bwrap is not None:
            self._scratch = Path(f"/proc/{self._innermost()}/root/tmp")

    @property
    def alive(self) -> bool:
        """Return whether it can take another request."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Return the answer to one request; `deadline` is a time of time.monotonic().

        Raises:
            TimedOut, Tampered, Ended: no answer in time, none that is well formed, or no worker any more.
        """
        try:
            self._send(pack(request), deadline)
            return well_formed(self._receive(deadline))
        except Malformed as error:
            self.kill()
            raise Tampered(f"something other than the grader's own worker answered: {error}") from error
        except TimedOut:
            self.kill()
            raise

    def run_cell(self, name: str, source: str, deadline: float, *, only_read: bool = False) -> dict[str, Any]:
        """Return the answer to one cell of a notebook, whatever its length: run, or only taken note of.

        Raises:
            TimedOut, Tampered, Ended: as of `ask`.
        """
        text = bytearray(source.encode("utf-8", "surrogatepass"))
        request = {"op": "read" if only_read else "cell", "name": name}
        return self.ask(request | {"source": torch.frombuffer(text, dtype=torch.uint8)}, deadline)

    def kill(self) -> None:
        """End the process and everything in its namespaces, or where it has none, in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def close(self) -> None:
        """End the process and let go of all that belongs to it."""
        self.kill()
        self._process.stderr.close()
        if self._group is not None:
            self._group.remove()

    def peak_during(self, call: Callable[[], Any]) -> int:
        """Return bytes by which the process's resident memory rose at its peak during `call`,
        as the kernel counts them.
        """
        status = Path(f"/proc/{self._innermost()}/status")
        status.with_name("clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
        before = _kilobytes(status, "VmRSS:")
        call()
        return max(0, _kilobytes(status, "VmHWM:") - before) * 1024

    def _innermost(self) -> int:
        """Return the process that runs the learner's code:
        bwrap's only child, or where there is no bwrap, the one started.
        """
        pid = self._process.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
            pid = int(children[0])
        return pid

    def _send(self, frame: bytes, deadline: float) -> None:
        view = memoryview(frame)
        while view:
            _wait(self._process.stdin, select.POLLOUT, deadline)
            try:
                view = view[os.write(self._process.stdin.fileno(), view[: 1 << 16]) :]
            except BrokenPipeError:
                raise self._ended() from None

    def _receive(self, deadline: float) -> Any:
        def read(size: int) -> bytes:
            got = bytearray()
            while len(got) < size:
                self._wait_for_output(deadline)
                piece = os.read(self._process.stdout.fileno(), min(size - len(got), 1 << 20))
                if not piece:
                    raise self._ended()
                got += piece
            return bytes(got)

        return receive(read)

    def _wait_for_output(self, deadline: float) -> None:
        """Wait, and meanwhile see that the scratch folder is not filled with files."""
        while True:
            now = time.monotonic()
            try:
                return _wait(self._process.stdout, select.POLLIN, min(deadline, now + LOOK_EVERY))
            except TimedOut:
                if now >= deadline:
                    raise
            if self._scratch is not None and _files_in(self._scratch) > MOST_FILES:
                self.kill()
                raise Ended(f"it made more than {MOST_FILES} files", OutOfMemory)

    def _ended(self) -> Ended:
        """Return why the process is gone; one that only closed its pipe is killed."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.kill()
            return Ended("it closed its connection to the grader")
        if self._group is not None and self._group.ran_out():
            return Ended("it took more memory than it may have", OutOfMemory)
        # bwrap reports a signal as 128 + its number, as shells do
        number = -code if code < 0 else code - 128
        if number in set(signal.Signals):
            return Ended(f"the process was ended by {signal.Signals(number).name}")
        return Ended(f"the process ended itself (exit code {code})")


def _kilobytes(status: Path, field: str) -> int:
    return next(
        int(line.split()[1]) for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(field)
    )


def _files_in(folder: Path) -> int:
    """Return how many files the file system of this folder holds; 0 where it is gone or may not be asked."""
    try:
        counts = os.statvfs(folder)
    except OSError:
        return 0
    return counts.f_files - counts.f_ffree


def _wait(pipe, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimedOut("it did not come back in time")


def well_formed(answer: Any) -> dict[str, Any]:
    """Return the answer, if it is one of those that a worker gives.

    Raises:
        Malformed: it is not.
    """
    keys = {"value": {"outcome", "value"}, "done": {"outcome"}}
    outcome = answer.get("outcome") if isinstance(answer, dict) else None
    if not isinstance(outcome, str) or (outcome not in keys and outcome not in OUTCOMES):
        raise Malformed("no outcome that a worker reports")
    if set(answer) != keys.get(outcome, {"outcome", "message"}) or not isinstance(answer.get("message", ""), str):
        raise Malformed(f"the parts of the outcome {outcome!r} are {sorted(map(str, answer))}")
    if "message" in answer:
        answer["message"] = printable(answer["message"])
    return answer


def printable(message: str) -> str:
    """Return a learner's message without what would steer a terminal or not fit into a file."""
    kept = "".join(c if c.isprintable() or c == "\n" else " " for c in message[:LONGEST_MESSAGE])
    return kept.encode("utf-8", "replace").decode()


class RemoteLearner:
    """This is a learner's function in a worker, as a check calls it."""

    def __init__(self, worker: Worker, check: Check, deadline: float):
        self._worker, self._check, self._deadline = worker, check, deadline

    def __call__(self, *args, **kwargs):
        return self._ask("result", args, kwargs)

    def grad(self, *args, wrt, cotangent, **kwargs):
        return self._ask("grad", args, {**kwargs, "wrt": tuple(wrt), "cotangent": cotangent})

    def operations(self, *args, **kwargs):
        return self._measured("operations", args, kwargs)

    def peak(self, *args, **kwargs):
        """Return the peak as the worker counts it, which is how the self-check counts;
        one that counts too little is found out.
        """
        seen_from_outside = self._worker.peak_during(lambda: self._ask("result", args, kwargs))
        result, counted = self._measured("peak", args, kwargs)
        return result, max(counted, seen_from_outside - RESIDENT_NOISE)

    def _measured(self, how, args, kwargs) -> tuple[Any, int]:
        answer = self._ask(how, args, kwargs)
        if not isinstance(answer, tuple) or len(answer) != 2 or type(answer[1]) is not int:
            raise Tampered("what a call cost was not answered with a number")
        return answer

    def _ask(self, how, args, kwargs):
        rules = {name: getattr(self._check, name) for name in ("function", "forbids", "may_change", "kernel")}
        try:
            answer = self._worker.ask(
                {"op": "call", "how": how, **rules, "args": args, "kwargs": kwargs}, self._deadline
            )
        except Ended as error:
            raise error.outcome(str(error)) from error
        if answer["outcome"] == "value":
            return answer["value"]
        if answer["outcome"] == "done":
            raise Tampered("a call was answered as if it were a cell")
        raise OUTCOMES[answer["outcome"]](answer["message"])
