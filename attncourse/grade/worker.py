"""Inside the sandbox: run the learner's cells, then answer calls of the learner's functions.

Nothing here is trusted once a learner's cell has run: the grader takes what this process sends as plain values and
no more. It reads requests from file descriptor 0 and answers on 1, both moved out of the learner's way at the start.
"""

import contextlib
import linecache
import os
import resource
import sys
import types
from typing import Any

import torch

import attncourse.check
from attncourse.check.core import STATES, LocalLearner, OutOfMemory, describe_error

from .wire import pack, receive

LONGEST_MESSAGE = 2000
MAGICS_THAT_RUN_THEIR_CELL = ("time", "timeit", "capture", "prun")


def main(memory_bytes: int, cpu_seconds: int) -> None:
    """Serve one submission until the grader closes the pipe."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    torch.set_num_threads(1)
    set_limits(memory_bytes, cpu_seconds)
    namespace, kinds = new_notebook(), {}
    silence()
    send(answers, {"outcome": "ready"})
    while True:
        request = receive(lambda n: read_exactly(requests, n), kinds)
        send(answers, answer(request, namespace), kinds)


def read_exactly(pipe, size: int) -> bytes:
    """`size` bytes, or the end of this process where the grader has closed the pipe."""
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
    """Limits that hold for the rest of this process; memory counts from what importing PyTorch took."""
    taken = address_space()
    limits = {
        resource.RLIMIT_AS: taken + memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: 32 << 20,
        resource.RLIMIT_NPROC: 64,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def address_space() -> int:
    """Bytes of address space that this process has taken; 0 where the system does not say."""
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


def new_notebook() -> dict[str, Any]:
    """The namespace that cells run in: a module `__main__`, with enough of IPython that magics do no harm."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    shell = types.SimpleNamespace(
        run_line_magic=lambda name, line, *_, **__: None,
        run_cell_magic=lambda name, line, cell: run_cell_magic(name, cell, module.__dict__),
        system=lambda command: None,
        getoutput=lambda command, **_: [],
    )
    module.__dict__.update(get_ipython=lambda: shell, display=lambda *_, **__: None)
    # there are no checks in here: a learner's own call of one says nothing
    attncourse.check.check = attncourse.check.score_card = lambda *_, **__: None
    return module.__dict__


def run_cell_magic(name: str, cell: str, namespace: dict[str, Any]) -> None:
    """Run the body of a cell whose magic would run it; leave other magics (%%bash, %%html) alone."""
    if name in MAGICS_THAT_RUN_THEIR_CELL:
        exec(compile(cell, "<cell>", "exec"), namespace)


def answer(request: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    """The outcome of one request; every way in which the learner's code can fail is an outcome."""
    try:
        if request["op"] == "cell":
            run_cell(request["name"], request["source"], namespace)
            return {"outcome": "done"}
        return {"outcome": "value", "value": call(request, namespace)}
    except tuple(STATES) as outcome:
        return failure(outcome)
    except MemoryError:
        return failure(OutOfMemory("MemoryError"))
    except BaseException as error:
        return failure(describe_error(error))


def run_cell(name: str, source: str, namespace: dict[str, Any]) -> None:
    """Execute one cell; its lines are kept for tracebacks."""
    filename = f"<{name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)


def call(request: dict[str, Any], namespace: dict[str, Any]) -> Any:
    """What the request asks for: the function's result, its gradients, or the result with what the call cost."""
    rules = (tuple(request["forbids"]), tuple(request["may_change"]), request["kernel"])
    learner = LocalLearner(namespace.get(request["function"]), request["function"], *rules)
    how = {"result": learner, "grad": learner.grad, "peak": learner.peak, "operations": learner.operations}
    return how[request["how"]](*request["args"], **request["kwargs"])


def failure(outcome: Exception) -> dict[str, Any]:
    """The answer that carries an outcome; the message keeps its end, where a traceback says most."""
    message = ""
    with contextlib.suppress(Exception):
        message = str(outcome)
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE // 2] + " ... " + message[-LONGEST_MESSAGE // 2 :]
    return {"outcome": STATES[type(outcome)], "message": message}
