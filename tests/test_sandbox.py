"""The sandbox: a learner's code that tries every wall, what is mounted where, and the filter of system calls."""

import errno
import os
import shutil
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attncourse.__main__ import main
from attncourse.check import CHECKS
from attncourse.grade.imports import parts_with_answers
from attncourse.grade.read.submission import Release
from attncourse.grade.wall import cgroup
from attncourse.grade.wall.sandbox import Sandbox, course_files, find_sandbox, mounts_in_order
from attncourse.grade.wall.seccomp import AUDIT, one_process_filter
from attncourse.grade.wall.syscalls import ALLOWED, BY_ARGUMENT
from attncourse.grade.wall.transport import Worker
from tests.toy_course import RIGHT, ROOT, grade, hand_in, messages

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


SPY = """
def breaches():
    import ctypes, os, socket, urllib.request
    found = []
    def attempt(what, action):
        try:
            result = action()
        except Exception:
            return
        if result is not False:
            found.append(what)
    for path in {readable!r}:
        attempt("read " + path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
    for path in {writable!r}:
        attempt("wrote " + path, lambda: open(path, "w").write("x"))
    attempt("reached the network", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
    attempt("made a process", lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {{}}), 0))
    attempt("saw a secret in the environment", lambda: os.environ["COURSE_SECRET"])
    attempt("saw the grader's process", lambda: open("/proc/{pid}/cmdline").read())
    attempt("signalled the grader", lambda: os.kill({pid}, 0))
    attempt("took a user namespace", lambda: ctypes.CDLL(None).unshare(0x10000000) == 0)
    attempt("filled memory with files", lambda: [open(f"/tmp/{{i}}", "wb").write(bytes(30 << 20)) for i in range(4)])
    return found

def double(x):
    found = breaches()
    if found:
        raise RuntimeError("; ".join(found))
    return 2 * x
"""


@pytest.fixture
def spied(course, tmp_path, monkeypatch):
    """Hands in an answer that is right only if every wall holds; gives the folder, and where the marks go."""
    folder, out = tmp_path / "in", tmp_path / "out"
    out.mkdir()
    hand_in(course, folder / "other.ipynb", **RIGHT)
    monkeypatch.setenv("COURSE_SECRET", "hunter2")
    listener = socket.create_server(("127.0.0.1", 0))

    def hand_in_spy(*more_writable: str) -> tuple[Path, Path]:
        readable = [course / "solutions" / "toy" / "toy.ipynb", folder / "other.ipynb", folder, out, ROOT / "solutions"]
        readable = [str(path) for path in (*readable, ROOT / "tests" / "toy_course.py", ROOT / "pyproject.toml")]
        writable = [out / "written", *more_writable]
        spy = SPY.format(
            readable=readable, writable=[*map(str, writable)], port=listener.getsockname()[1], pid=os.getpid()
        )
        hand_in(course, folder / "spy.ipynb", **RIGHT | {"double": spy})
        return folder, out

    with listener:
        yield hand_in_spy


@needs_sandbox
def test_the_walls_hold(course, spied):
    inside = ["/written", "/dev/shm/written", "/usr/written", "/course/attncourse/written", f"{sys.prefix}/written"]
    folder, out = spied(*inside)
    record = grade(course, folder, out)["spy"]
    assert (record["state"], record["points"]) == ("marked", 6), messages(record)


def test_without_the_sandbox_the_spy_finds_every_breach(course, spied):
    """That the walls' test can fail: the same notebook, unconfined."""
    folder, out = spied()
    record = grade(course, folder, out, "--unconfined")["spy"]
    assert record["sandbox"] == "unconfined"
    said = messages(record)
    for breach in ("toy.ipynb", "other.ipynb", "pyproject.toml", "wrote ", "reached the network", "made a process"):
        assert breach in said
    for breach in ("saw the grader's process", "signalled the grader", "filled memory with files"):
        assert breach in said
    assert "secret" not in said, "the environment is clean even unconfined"


@needs_sandbox
def test_private_folders_within_the_interpreters_are_hidden():
    shown = Path(sys.prefix) / "share"
    code = f"import os; print(len(os.listdir({str(shown)!r})), len(os.listdir({str(shown.parent / 'lib')!r})))"
    counts = []
    for private in ((), (shown,)):
        with Sandbox(shutil.which("bwrap"), private).run([sys.executable, "-c", code]) as process:
            counts.append([int(n) for n in process.stdout.read().split()])
    assert counts[0][0] > 0 and counts[1] == [0, counts[0][1]]


def test_mounts_come_parents_first_and_hide_what_is_private():
    venv, checkout = Path("/usr/src/course/.venv"), Path("/usr/src/course")
    private = {checkout, Path("/home/me/grades")}
    assert mounts_in_order({venv, Path("/usr")}, private) == [(Path("/usr"), False), (checkout, True), (venv, False)]


def test_a_private_folder_is_hidden_behind_a_link_too(tmp_path):
    (tmp_path / "data" / "grades").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    mounts = mounts_in_order({tmp_path / "link"}, {tmp_path / "data" / "grades"})
    assert mounts == [(tmp_path / "link", False), (tmp_path / "link" / "grades", True)]


# Where each exercise's answer was to be had ready-made; the last one with what it imports put in place by the learner.
ANSWERS = """
from attncourse._shared.merge import merge_partial
from attncourse._shared.heads import merge_heads
from attncourse._shared.rope import rotate_half_split
from attncourse._shared.masks import causal_mask
from attncourse._shared.cache import visible_in_cache
from attncourse.lessons.cache_bandwidth.occupancy import full_from
from attncourse.profile.compare import pair_records
from attncourse.lessons.mechanism_or_implementation.traffic import simulate_cache
from attncourse.profile.counts import attention_flops
from attncourse.softmax_attention.reference import attend
from attncourse.check.units import softmax_attention
from attncourse.plot import heatmap
from attncourse import testing
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
import transformers
import fla
import nbgrader
import sys, types; sys.modules["attncourse.kv_cache"] = types.ModuleType("x"); import attncourse.lessons.cache_bandwidth.whole_model
sys.path.insert(0, facts_root); import tests.banks.softmax_attention
sys.path += ["/usr/lib/python3/dist-packages", "/usr/local/lib/python3.11/site-packages"]; import transformers
"""

OFFERED = """
import torch, numpy, einops, jaxtyping, triton, triton.language, matplotlib.pyplot, tqdm, tabulate, IPython, ipywidgets
from attncourse.check import check, score_card
from attncourse.check.replay import by_replay
import attncourse; attncourse.print_versions()
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One that finds what the released notebook of `write_the_kernel` imports, which is more than any other does."""
    release = Release.read(ROOT / "exercises", {check.unit for check in CHECKS.values()})
    worker = Worker(find_sandbox(), release.imports["write_the_kernel"])
    yield worker
    worker.close()


def said(worker: Worker, cell: str) -> str:
    answer = worker.run_cell("cell", cell, time.monotonic() + 120)
    return answer.get("message", answer["outcome"])


@needs_sandbox
@pytest.mark.parametrize("statement", ANSWERS.strip().splitlines())
def test_no_answer_can_be_imported(worker, statement):
    said(worker, f"facts_root = {str(ROOT)!r}")
    assert said(worker, statement).startswith(("ModuleNotFoundError", "ImportError"))


@needs_sandbox
@pytest.mark.parametrize("statement", OFFERED.strip().splitlines())
def test_what_a_notebook_needs_is_there(worker, statement):
    assert said(worker, statement) == "done"


@needs_sandbox
def test_a_missing_package_is_said_to_be_withheld(worker):
    assert "attncourse._shared.merge is withheld while this exercise is graded" in said(
        worker, "import attncourse._shared.merge"
    )
    assert "transformers is not there while exercises are graded" in said(worker, "import transformers")


def test_each_unit_s_notebook_finds_what_its_release_imports_and_no_file_of_a_mechanism():
    release = Release.read(ROOT / "exercises", {check.unit for check in CHECKS.values()})
    answers = parts_with_answers() | {"plot"}
    for unit, imports in release.imports.items():
        files = course_files(imports)
        assert {"check/__init__.py", "grade/wall/worker.py"} <= {*files}
        assert not [file for file in files if file.split("/")[0] in answers or file.startswith("check/units/")], unit
        of_shared = [file for file in files if file.startswith("_shared/")]
        known = ("__init__", "device", "interpreter", "language", "launch", "precision", "validate")
        assert {*of_shared} <= {f"_shared/{name}.py" for name in known}, unit
        assert ("check/replay.py" in files) == (unit == "write_the_kernel")


def run_filter(machine: str, number: int, *arguments: int) -> int:
    """What the filter's program returns of a system call, run as the kernel runs it."""
    data = struct.pack("=iIQ6Q", number, AUDIT[machine], 0, *(*arguments, *[0] * 6)[:6])
    steps = list(struct.iter_unpack("=HBBI", one_process_filter(machine)))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand != 0}[code]
            at += if_true if holds else if_false


REFUSED = {
    # shmget, semget, semop, semtimedop, msgget, msgsnd, mq_open, memfd_create, memfd_secret, inotify_init1, bpf,
    # io_uring_setup, userfaultfd, perf_event_open, add_key, keyctl, socket, ptrace, mount, unshare, setns, setsockopt
    "x86_64": (29, 64, 65, 220, 68, 69, 240, 319, 447, 294, 321, 425, 323, 298, 248, 250, 41, 101, 165, 272, 308, 54),
    "aarch64": (
        194,
        190,
        193,
        192,
        186,
        189,
        180,
        279,
        447,
        26,
        280,
        425,
        282,
        241,
        217,
        219,
        198,
        117,
        40,
        97,
        268,
        208,
    ),
}
# read, mmap, futex, openat, execve, exit_group, epoll_pwait, getrandom
GIVEN = {"x86_64": (0, 9, 202, 257, 59, 231, 281, 318), "aarch64": (63, 222, 98, 56, 221, 94, 22, 278)}


@pytest.mark.parametrize("machine", AUDIT)
def test_the_filter_allows_what_is_listed_and_refuses_the_rest(machine):
    allow, refuse, unknown = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    numbers = BY_ARGUMENT[machine]
    assert all(run_filter(machine, number) == refuse for number in REFUSED[machine])
    assert all(run_filter(machine, number) == allow for number in GIVEN[machine])
    assert {n for n in range(600) if run_filter(machine, n, *[2**64 - 1] * 6) == allow} == {
        *ALLOWED[machine],
        numbers["clone"],
    }
    assert run_filter(machine, 451) == run_filter(machine, numbers["clone3"]) == unknown
    for name, arguments, expected in (
        ("clone", (0x00010000 | 0x100,), allow),
        ("clone", (0x11,), refuse),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), allow),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_DGRAM), refuse),
        ("socketpair", (socket.AF_INET, socket.SOCK_STREAM), refuse),
        ("fcntl", (3, 4), allow),
        ("fcntl", (3, 1031), refuse),
        ("fcntl", (3, 6), refuse),
        ("prctl", (15,), allow),
        ("prctl", (4,), refuse),
    ):
        assert run_filter(machine, numbers[name], *arguments) == expected, (name, arguments)


def test_groups_of_graders_that_are_gone_are_removed(tmp_path, monkeypatch):
    names = [
        f"attncourse-{os.getpid()}-0",
        "attncourse-4194305-0",
        "attncourse-4194305-1",
        "attncourse-x-1",
        "other-4194305-0",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / names[2] / "in_use").mkdir()
    monkeypatch.setattr(cgroup, "_parents", lambda: [(tmp_path, {})])
    cgroup.remove_leftovers.__wrapped__()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*names} - {names[1]})


def test_a_selftest_in_which_nothing_starts_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("attncourse.grade.wall.selftest.find_sandbox", lambda **_: Sandbox(None))
    monkeypatch.setattr(
        Sandbox, "start", lambda self, *_: self.run([sys.executable, "-c", "raise SystemExit('no room')"])
    )
    with pytest.raises(SystemExit) as end:
        main(["grade", "--selftest"])
    assert end.value.code == 2
    assert "nothing can be tried here: the worker did not start" in capsys.readouterr().err


@pytest.mark.bad_input
def test_a_processor_without_known_calls_is_refused():
    with pytest.raises(ValueError, match="vax"):
        one_process_filter("vax")
