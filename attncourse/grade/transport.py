"""The grader's side of the wall: a worker behind two pipes, a deadline on each request, answers that are values."""

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Any

from attncourse.check.core import STATES, Crashed, Tampered, TimedOut

from .sandbox import Sandbox
from .wire import Malformed, pack, receive

OUTCOMES = {state: outcome for outcome, state in STATES.items()}
LONGEST_MESSAGE = 3000


class Ended(Exception):
    """The worker's process is gone."""


class Worker:
    """One process in the sandbox. After TimedOut, Tampered or Ended it is dead and another one is needed."""

    def __init__(self, sandbox: Sandbox):
        """Start it and wait until it is ready.

        Raises:
            RuntimeError: it did not become ready, which is no learner's fault.
        """
        self._process = sandbox.start()
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

    @property
    def alive(self) -> bool:
        """Whether it can take another request."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The answer to one request; `deadline` is a time of time.monotonic().

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

    def kill(self) -> None:
        """End the process and everything in its namespaces, or where it has none, in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def close(self) -> None:
        """End the process and let go of all pipes."""
        self.kill()
        self._process.stderr.close()

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
                _wait(self._process.stdout, select.POLLIN, deadline)
                piece = os.read(self._process.stdout.fileno(), min(size - len(got), 1 << 20))
                if not piece:
                    raise self._ended()
                got += piece
            return bytes(got)

        return receive(read)

    def _ended(self) -> Ended:
        """Why the process is gone; one that only closed its pipe is killed."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.kill()
            return Ended("it closed its connection to the grader")
        # bwrap reports a signal as 128 + its number, as shells do
        number = -code if code < 0 else code - 128
        if number in set(signal.Signals):
            return Ended(f"the process was ended by {signal.Signals(number).name}")
        return Ended(f"the process ended itself (exit code {code})")


def _wait(pipe, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimedOut("it did not come back in time")


def well_formed(answer: Any) -> dict[str, Any]:
    """The answer, if it is one of those that a worker gives.

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
    """A learner's message without what would steer a terminal or not fit into a file."""
    kept = "".join(c if c.isprintable() or c == "\n" else " " for c in message[:LONGEST_MESSAGE])
    return kept.encode("utf-8", "replace").decode()


class RemoteLearner:
    """A learner's function in a worker, as a check calls it."""

    def __init__(self, worker: Worker, function: str, deadline: float):
        self._worker, self._function, self._deadline = worker, function, deadline

    def __call__(self, *args, **kwargs):
        return self._ask(args, kwargs, None, None)

    def grad(self, *args, wrt, cotangent, **kwargs):
        return self._ask(args, kwargs, tuple(wrt), cotangent)

    def _ask(self, args, kwargs, wrt, cotangent):
        call = {"function": self._function, "args": args, "kwargs": kwargs, "wrt": wrt, "cotangent": cotangent}
        try:
            answer = self._worker.ask({"op": "call", **call}, self._deadline)
        except Ended as error:
            raise Crashed(str(error)) from error
        if answer["outcome"] == "value":
            return answer["value"]
        if answer["outcome"] == "done":
            raise Tampered("a call was answered as if it were a cell")
        raise OUTCOMES[answer["outcome"]](answer["message"])
