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
from dataclasses import dataclass, replace
from pathlib import Path

from attncourse.check.core import Check, Crashed, OutOfMemory, TimedOut

from ..imports import PACKAGE, parts_with_answers
from .sandbox import Sandbox, SandboxMissing, course_files, find_sandbox
from .seccomp import refused_numbers
from .transport import RemoteLearner, Worker

GIB = 1 << 30


@dataclass(frozen=True)
class Probe:
    """A probe tries one wall: it says what the wall promises,
    and its `probe(facts)` tries to get through and returns what it got.

    Args:
        outcome: how a probe that would never return must end instead.
        seconds: how long the grader waits for it; long, since the machine may be slow and busy.
        cpu_seconds: processor time that it may use.
    """

    promise: str
    code: str
    outcome: type[Exception] | None = None
    seconds: float = 180.0
    cpu_seconds: int = 600


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
            os.listdir(path) if os.path.isdir(path) else open(path, encoding='utf-8').read()
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
    for name in facts["answers"]:
        try:
            importlib.import_module(name)
            got.append("import " + name)
        except ImportError:
            pass
    for folder, _, files in os.walk("/course"):
        paths = [os.path.relpath(os.path.join(folder, name), "/course/attncourse") for name in files]
        got += [path for path in paths if path not in facts["shown"]]
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
        "nothing outside its scratch folder can be written, on no mount",
        """
def probe(facts):
    import os, stat
    got, places = [], list(facts["writable"])
    for line in open("/proc/self/mountinfo", encoding="utf-8"):
        place = line.split()[4].encode().decode("unicode_escape")
        if place != "/tmp" and not stat.S_ISCHR(os.stat(place).st_mode):
            places.append(os.path.join(place, "written") if os.path.isdir(place) else place)
    for path in places:
        try:
            open(path, "a", encoding="utf-8").write("x")
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
        "files without end are not to be had, however empty",
        """
def probe(facts):
    import os
    for number in range(1 << 22):
        os.close(os.open("/tmp/" + str(number), os.O_CREAT | os.O_WRONLY))
    return ["4 million files"]
""",
        OutOfMemory,
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
        "no system call but those that exercises need reaches the kernel, and so no memory that belongs to no process",
        """
def probe(facts):
    import ctypes, errno
    library = ctypes.CDLL(None, use_errno=True)
    got = []
    for number in facts["refused"]:
        ctypes.set_errno(0)
        library.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
        if ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            got.append("system call " + str(number))
    return got
""",
    ),
    Probe(
        "no socket is to be had but a pair of streams within the process, and these hold little",
        """
def probe(facts):
    import itertools, socket
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    got, pairs, held = [], [], 0
    for family, kind in itertools.product(range(64), kinds):
        try:
            socket.socket(family, kind).close()
            got.append("a socket of family " + str(family))
        except OSError:
            pass
    for kind in kinds[1:]:
        try:
            pairs.append(socket.socketpair(socket.AF_UNIX, kind))
            got.append("a pair of kind " + str(kind))
        except OSError:
            pass
    try:
        while True:
            pairs.append(socket.socketpair())
            for end in pairs[-1]:
                end.setblocking(False)
                try:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
                    got.append("a larger buffer")
                except OSError:
                    pass
                try:
                    while True:
                        held += end.send(bytes(1 << 16))
                except BlockingIOError:
                    pass
    except OSError:
        pass
    for end in itertools.chain(*pairs):
        end.close()
    return got + [f"{held >> 20} MiB in sockets"] * (held > 200 << 20)
""",
    ),
    Probe(
        "the kernel keeps no locks and no larger pipes for it, and it cannot hide from being measured",
        """
def probe(facts):
    import ctypes, fcntl, os
    file, pipe = open("/tmp/file", "w", encoding="utf-8"), os.pipe()
    attempts = {
        "a lock": lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "a larger pipe": lambda: fcntl.fcntl(pipe[1], 1031, 1 << 20),
        "a lease": lambda: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK),
    }
    got = ["hidden"] if ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0 else []
    for what, attempt in attempts.items():
        try:
            attempt()
            got.append(what)
        except OSError:
            pass
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
        cpu_seconds=3,
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


# Where exercises' answers would be: mechanisms and what is built from them, what they share, what measures and draws,
# other people's packages.
ANSWERS = (
    "attncourse._shared.cache attncourse._shared.heads attncourse._shared.kernel attncourse._shared.masks "
    "attncourse._shared.merge attncourse._shared.rope attncourse.plot attncourse.profile.compare attncourse.profile.counts "
    "attncourse.lessons.cache_bandwidth.occupancy attncourse.lessons.cache_bandwidth.whole_model "
    "attncourse.lessons.mechanism_or_implementation.traffic attncourse.check.units.latent "
    "transformers fla flash_attn xformers vllm keras tests.banks solutions"
).split()


def selftest() -> int:
    """Print each promise and whether it holds here; return 1 where one does not.

    Raises:
        SandboxMissing: there is no sandbox to test, or nothing can be started in it.
    """
    sandbox = find_sandbox()
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
    """Return what a probe got through with; "" where the wall holds."""
    limits = replace(sandbox.limits, cpu_seconds=probe.cpu_seconds)
    try:
        worker = Worker(replace(sandbox, limits=limits))
    except RuntimeError as error:
        raise SandboxMissing(f"nothing can be tried here: {error}") from error
    try:
        worker.run_cell("probe", probe.code, time.monotonic() + probe.seconds)
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
    """Yield what the probes are told to go for, made for this run."""
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
                "answers": [*ANSWERS, *(f"{PACKAGE.name}.{part}" for part in sorted(parts_with_answers()))],
                "shown": sorted(course_files(())),
                "refused": sorted(refused_numbers()),
                "variable": variable,
                "pid": os.getpid(),
                "scratch": 2 * sandbox.limits.scratch_bytes,
                "memory": 2 * sandbox.limits.memory_bytes + GIB,
            }
        finally:
            del os.environ[variable]
