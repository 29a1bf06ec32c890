"""Inside the sandbox: run the learner's cells, then answer calls of the learner's functions.

Nothing here is trusted once a learner's cell has run: the grader takes what this process sends as plain values and
no more. It reads requests from file descriptor 0 and answers on 1, both moved out of the learner's way at the start.
"""

import contextlib
import functools
import os
import resource
import sys
from typing import Any

import torch

import attncourse.check
from attncourse.check.core import STATES, LocalLearner, OutOfMemory, Verdict, describe_error

from .shell import NotebookShell
from .shortcuts import Reading
from .wire import pack, receive

LONGEST_MESSAGE = 2000
WITHHELD = "{} is withheld while this exercise is graded, since it may hold the answer: write the function"
NOT_OFFERED = "{} is not there while exercises are graded; what is: Python's own modules, torch, numpy, einops, triton, matplotlib"


def main(memory_bytes: int, cpu_seconds: int) -> None:
    """Serve one submission until the grader closes the pipe."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    torch.set_num_threads(1)
    notebook, kinds = Notebook(), {}
    silence()
    set_limits(memory_bytes, cpu_seconds)
    send(answers, {"outcome": "ready"})
    while True:
        request = receive(lambda n: read_exactly(requests, n), kinds)
        send(answers, notebook.answer(request), kinds)


def read_exactly(pipe, size: int) -> bytes:
    """Return `size` bytes, or the end of this process where the grader has closed the pipe."""
    got = pipe.read(size)
    if len(got) < size:
        sys.exit(0)
    return got


def send(pipe, message: dict[str, Any], kinds: dict[str, type] | None = None) -> None:
    """Write one frame; a value that no frame can hold becomes a message that says so."""
    try:
        frame = pack(message, kinds)
    except Exception as error:
        frame = pack({"outcome": "wrong", "message": f"the result cannot be judged: {error}"[:LONGEST_MESSAGE]})
    view = memoryview(frame)
    while view:
        view = view[pipe.write(view) :]


def set_limits(memory_bytes: int, cpu_seconds: int) -> None:
    """Set limits that hold for the rest of this process; memory and time count from what starting it took."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_AS: address_space() + memory_bytes,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds,
        resource.RLIMIT_FSIZE: 32 << 20,
        resource.RLIMIT_NPROC: 64,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def address_space() -> int:
    """Return bytes of address space that this process has taken; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="utf-8") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def silence() -> None:
    """Point standard input, output and error at nothing: a learner's prints neither cost nor reach anything."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)


class Notebook:
    """This is one learner's notebook: what its cells have defined, and what was read of them."""

    def __init__(self):
        self._shell = NotebookShell.start()
        self._reading = Reading()
        torch.compile = functools.partial(compile_without_compiler, torch.compile)
        # there are no checks in here: a learner's own call of one says nothing, and stops nothing
        attncourse.check.check = lambda name="", *_, **__: Verdict(name, "passed", 0, 0, "not run here")
        attncourse.check.score_card = lambda *_, **__: ""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the outcome of one request; every way in which the learner's code can fail is an outcome."""
        operations = {"read": self.read, "shortcut": self.shortcut, "cell": self.run, "call": self.call}
        try:
            return operations[request["op"]](request)
        except tuple(STATES) as outcome:
            return failure(outcome)
        except MemoryError:
            return failure(OutOfMemory("MemoryError"))
        except BaseException as error:
            return failure(describe_error(error))

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take note of a cell without running it; the grader asks for this, and trusts it, before any cell has run."""
        self._reading.add(text_of(request))
        return {"outcome": "done"}

    def shortcut(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the forbidden name that a function reaches in the cells that were read, "" if none."""
        return {"outcome": "value", "value": self._reading.shortcut(request["function"], tuple(request["forbids"]))}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a cell. What it raises is its failure, the grader's own exceptions too."""
        try:
            self._shell.run_named(request["name"], text_of(request))
        except BaseException as error:
            raise describe_error(error) from error
        return {"outcome": "done"}

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call the learner's function."""
        return {"outcome": "value", "value": call(request, self._shell.user_ns)}


def compile_without_compiler(real_compile, model=None, *, backend="inductor", **options):
    """Compile as torch.compile; but what the default backend would hand to a C++ compiler,
    a process of its own, runs as it is.
    """
    if backend != "inductor":
        return real_compile(model, backend=backend, **options)
    return model if model is not None else lambda decorated: decorated


def text_of(request: dict[str, Any]) -> str:
    """Return the cell that a request carries, as bytes, since it may be longer than a frame's text."""
    return request["source"].numpy().tobytes().decode("utf-8", "surrogatepass")


def call(request: dict[str, Any], namespace: dict[str, Any]) -> Any:
    """Return what the request asks for: the function's result, its gradients, or the result with what the call cost."""
    rules = (tuple(request["forbids"]), tuple(request["may_change"]), request["kernel"])
    learner = LocalLearner(namespace.get(request["function"]), request["function"], *rules)
    how = {"result": learner, "grad": learner.grad, "peak": learner.peak, "operations": learner.operations}
    return how[request["how"]](*request["args"], **request["kwargs"])


def failure(outcome: Exception) -> dict[str, Any]:
    """Return the answer that carries an outcome; the message keeps its end, where a traceback says most."""
    message = ""
    with contextlib.suppress(Exception):
        message = str(outcome)
    if isinstance(outcome.__cause__, ModuleNotFoundError):
        name = str(outcome.__cause__.name)
        message += "\n  " + (WITHHELD if name.startswith("attncourse") else NOT_OFFERED).format(name)
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE // 2] + " ... " + message[-LONGEST_MESSAGE // 2 :]
    return {"outcome": STATES[type(outcome)], "message": message}
