"""The sandbox: a learner's code that tries every wall, what is mounted where, and the filter of system calls."""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from attncourse.grade.sandbox import Sandbox, mounts_in_order
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
