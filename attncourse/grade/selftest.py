"""`attncourse grade --selftest`: try to break out of the sandbox on this machine, and print what holds.

Each probe is a function that runs where learners' functions run. It returns what it got hold of, or nothing.
"""

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attncourse.check.core import Check, Crashed, OutOfMemory, TimedOut

from .closure import PACKAGE, rooms
from .sandbox import Limits, Sandbox, find_sandbox
from .transport import RemoteLearner, Worker

GIB = 1 << 30


@dataclass(frozen=True)
class Probe:
    """One wall: what it promises, and code whose `probe(facts)` tries to get through and returns what it got.

    Args:
        outcome: how a probe that would never return must end instead.
        seconds: how long the grader waits for it.
    """

    promise: str
    code: str
    outcome: type[Exception] | None = None
    seconds: float = 60.0


PROBES = (
    Probe(
        "the network is out of reach",
        """
def probe(facts):
    import socket
    got = []
    for address in (("127.0.0.1", facts["port"]), ("1.1.1.1", 53), ("10.0.0.1", 80)):
        try:
            socket.create_connection(address, 1)
        except OSError:
            continue
        got.append(str(address))
    return got
""",
    ),
    Probe(
        "solutions, records, other submissions and the home folder cannot be read",
        """
def probe(facts):
    import os
    got = []
    for path in facts["private"]:
        try:
            os.listdir(path) if os.path.isdir(path) else open(path).read()
        except OSError:
            continue
        got.append(path)
    return got
""",
    ),
    Probe(
        "what an exercise asks to write cannot be imported or read",
        """
def probe(facts):
    import importlib, os
    got = []
    for room in facts["rooms"]:
        try:
            importlib.import_module("attncourse." + room)
            got.append("import attncourse." + room)
        except ImportError:
            pass
    for folder, _, files in os.walk("/course"):
        got += [os.path.join(folder, name) for name in files if name in ("reference.py", "kernel.py")]
    return got
""",
    ),
    Probe(
        "the environment holds none of the grader's secrets",
        """
def probe(facts):
    import os
    return [name for name in os.environ if name == facts["variable"]]
""",
    ),
    Probe(
        "no process but its own can be seen or signalled",
        """
def probe(facts):
    import os
    got = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != str(os.getpid())]
    try:
        os.kill(facts["pid"], 0)
        got.append("signalled " + str(facts["pid"]))
    except OSError:
        pass
    return got
""",
    ),
    Probe(
        "nothing outside its scratch folder can be written",
        """
def probe(facts):
    got = []
    for path in facts["writable"]:
        try:
            open(path, "w").write("x")
        except OSError:
            continue
        got.append(path)
    return got
""",
    ),
    Probe(
        "the disk cannot be filled",
        """
def probe(facts):
    written = 0
    for number in range(10_000):
        try:
            with open(f"/tmp/{number}", "wb") as file:
                written += file.write(bytes(1 << 20))
        except OSError:
            break
        if written > facts["scratch"]:
            return [f"{written >> 20} MiB written"]
    return []
""",
    ),
    Probe(
        "no process can be started, and so none without end",
        """
def probe(facts):
    import os, subprocess
    got = []
    for start in (os.fork, lambda: subprocess.run(["/bin/true"]), lambda: os.posix_spawn("/bin/true", ["true"], {})):
        try:
            start()
        except OSError:
            continue
        got.append("a process")
    return got
""",
    ),
    Probe(
        "memory beyond the limit is not to be had",
        """
def probe(facts):
    import torch
    return [torch.ones(facts["memory"], dtype=torch.uint8).sum().item()]
""",
        OutOfMemory,
    ),
    Probe(
        "memory that belongs to no process is not to be had",
        """
def probe(facts):
    import ctypes, os
    got = []
    if hasattr(os, "memfd_create"):
        try:
            os.memfd_create("hoard")
            got.append("memfd_create")
        except OSError:
            pass
    if ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0:
        got.append("shmget")
    return got
""",
    ),
    Probe(
        "a new user namespace is not to be had",
        """
def probe(facts):
    import ctypes
    return ["unshare"] if ctypes.CDLL(None).unshare(0x10000000) == 0 else []
""",
    ),
    Probe(
        "processor time ends",
        """
def probe(facts):
    while True:
        pass
""",
        Crashed,
    ),
    Probe(
        "waiting ends, whatever it does with interrupts",
        """
def probe(facts):
    import signal, time
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass
    while True:
        time.sleep(1)
""",
        TimedOut,
        seconds=5.0,
    ),
)


def selftest() -> int:
    """Print each promise and whether it holds here; 1 where one does not.

    Raises:
        SandboxMissing: there is no sandbox to test.
    """
    sandbox = find_sandbox(limits=Limits(cpu_seconds=3))
    print(f"{sandbox.bwrap}: {sandbox.description}")
    breached = 0
    with _facts(sandbox) as facts:
        for probe in PROBES:
            began = time.monotonic()
            through = breach(probe, sandbox, facts)
            breached += bool(through)
            print(f"{'BREACHED' if through else 'holds':8}  {probe.promise}  ({time.monotonic() - began:.1f} s)")
            if through:
                print(f"          {through[:300]}")
    group = sandbox.new_group()
    if group is not None:
        group.remove()
    print(f"control group for the kernel's own count of memory: {'yes' if group else 'not to be had here'}")
    print(f"{len(PROBES) - breached} of {len(PROBES)} walls hold")
    return int(breached > 0)


def breach(probe: Probe, sandbox: Sandbox, facts: dict) -> str:
    """What a probe got through with; "" where the wall holds."""
    worker = Worker(sandbox, tuple(sorted(rooms())))
    try:
        worker.ask({"op": "cell", "name": "probe", "source": probe.code}, time.monotonic() + probe.seconds + 15)
        learner = RemoteLearner(worker, Check("selftest.probe", "probe", 0, _unused), time.monotonic() + probe.seconds)
        got = learner(facts)
    except (Crashed, OutOfMemory, TimedOut) as error:
        as_promised = probe.outcome is not None and isinstance(error, probe.outcome)
        return "" if as_promised else f"{type(error).__name__}: {error}"
    finally:
        worker.close()
    return "" if got == [] else str(got)


_unused: Callable = lambda learner, rng: None  # noqa: E731  (a probe is called, never judged)


@contextmanager
def _facts(sandbox: Sandbox) -> Iterator[dict]:
    """What the probes are told to go for, made for this run."""
    variable = f"COURSE_SECRET_{secrets.token_hex(4)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryDirectory(dir=Path.home()) as home,
        tempfile.TemporaryDirectory() as elsewhere,
    ):
        folders = [Path(home), Path(elsewhere)]
        for folder in folders:
            (folder / "record.json").write_text("secret", encoding="utf-8")
        private = [*folders, *(folder / "record.json" for folder in folders)]
        private += [PACKAGE.parent / name for name in ("solutions", "tests", "pyproject.toml")]
        writable = [*(folder / "written" for folder in folders), "/written", "/usr/written", "/dev/shm/written"]
        writable += ["/course/attncourse/written", PACKAGE / "written"]
        os.environ[variable] = "secret"
        try:
            yield {
                "port": listener.getsockname()[1],
                "private": [str(path) for path in private],
                "writable": [str(path) for path in writable],
                "rooms": sorted(rooms()),
                "variable": variable,
                "pid": os.getpid(),
                "scratch": 2 * sandbox.limits.scratch_bytes,
                "memory": 2 * sandbox.limits.memory_bytes + GIB,
            }
        finally:
            del os.environ[variable]
