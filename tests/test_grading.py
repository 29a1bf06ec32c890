"""Grading a class: exact states and points, the sandbox's walls, the wire, the records."""

import csv
import json
import os
import resource
import shutil
import socket
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell

import attncourse.check
from attncourse.__main__ import main
from attncourse.check.core import Check, LocalLearner, run_check
from attncourse.grade.command import own_memory_limited
from attncourse.grade.judge import Mark, mark
from attncourse.grade.records import NOT_GRADED, read_record, record_of, still_valid, write_record
from attncourse.grade.sandbox import Limits, Sandbox, SandboxMissing, find_sandbox, mounts_in_order
from attncourse.grade.submission import Release, Submission, read_submission
from tests import toy_course
from tests.toy_course import RIGHT, ROOT, cells_graded_as, hand_in

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture(scope="module", autouse=True)
def toy_checks():
    attncourse.check.CHECKS.update(toy_course.CHECKS)
    yield
    for name in toy_course.CHECKS:
        del attncourse.check.CHECKS[name]


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    return toy_course.write_course(tmp_path_factory.mktemp("course"))


def grade(course: Path, folder: Path, out: Path, *options: str) -> dict[str, dict]:
    """Records by learner; the sandbox is the real one unless the options say otherwise."""
    arguments = ["grade", folder, "--out", out, "--exercises", course / "exercises", "--jobs", "2", *options]
    assert main([str(a) for a in arguments]) == 0
    records = [json.loads(path.read_text()) for path in (out / "records").rglob("*.json")]
    return {record["learner"]: record for record in records}


def states(record: dict) -> list[str]:
    return [check["state"] for check in record["checks"]]


def messages(record: dict) -> str:
    return "\n".join(check["message"] for check in record["checks"])


def wrapped(name: str, before: str) -> str:
    """The right answer, which runs `before` first."""
    lines = "\n    ".join(before.splitlines())
    return f"{RIGHT[name]}\n\n_{name} = {name}\n\ndef {name}(x):\n    {lines}\n    return _{name}(x)"


FAKE = """
class Agrees(torch.Tensor):
    __eq__ = __le__ = __ge__ = lambda *_: True
    __sub__ = lambda self, _: self

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return args[0] if args else True

def double(x):
    return torch.zeros_like(x).as_subclass(Agrees)

class Equal:
    shape, dtype = (4, 7), torch.float64
    __eq__ = __le__ = __ge__ = __gt__ = __lt__ = lambda *_: True
    __getattr__ = lambda self, _: lambda *a, **k: self

def rows(scores):
    return Equal()
"""

PATCHES = """
import builtins, attncourse.check.core, attncourse.check.expect
yes = lambda *a, **k: True
torch.allclose = torch.isclose = torch.equal = yes
builtins.abs = lambda x: 0
torch.Tensor.abs = torch.Tensor.__sub__ = lambda self, *a: torch.zeros_like(self)
attncourse.check.core.run_check = attncourse.check.expect.expect = attncourse.check.expect.expect_close = yes
for check in attncourse.check.CHECKS.values():
    object.__setattr__(check, "judge", yes)

def double(x):
    return x
"""

TALKS = """
import os, sys
print("x" * 1_000_000)
sys.stdout.write("garbage")
for standard in (0, 1, 2):
    try:
        os.write(standard, b"\\xff" * 65536)
    except OSError:
        pass
"""

FORGES = """
import os
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        try:
            os.write(int(name), b"\\x10\\x00\\x00\\x00\\x00\\x00\\x00\\x00{'points': 1000}")
        except OSError:
            pass
"""

OVERSIZED = """
import os
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        try:
            os.write(int(name), b"\\xff" * 8)
        except OSError:
            pass
"""


def edit_check(notebook):
    (cell,) = cells_graded_as(notebook, "toy-rows-check")
    cell.source = "print('toy.rows: passed, 3 of 3 points')"


def delete_check(notebook):
    notebook.cells = [c for c in notebook.cells if c not in cells_graded_as(notebook, "toy-rows-check")]


def duplicate_check(notebook):
    (cell,) = cells_graded_as(notebook, "toy-rows-check")
    notebook.cells.append(new_code_cell(cell.source, metadata=cell.metadata))


def drop_cell(grade_id):
    def edit(notebook):
        notebook.cells = [c for c in notebook.cells if c not in cells_graded_as(notebook, grade_id)]

    return edit


def drop_metadata(notebook):
    notebook.metadata.pop("attncourse")


def drop_all_metadata(notebook):
    drop_metadata(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)


def add_magics(notebook):
    notebook.cells.insert(3, new_code_cell("%matplotlib inline\n!ls\nx = !ls\ntorch?\n%time 1 + 1"))
    notebook.cells.insert(4, new_code_cell("%%time\ntwo = 2"))
    (cell,) = cells_graded_as(notebook, "toy-double")
    cell.source = "def double(x):\n    return two * x"


def upside_down(notebook):
    first, rest = notebook.cells[:3], notebook.cells[3:]
    notebook.cells = [*first, *reversed(rest)]


# learner: (answers and edit, state of the submission, points of 6, states of double, rows, cube, words in the messages)
CLASS = {
    "right": (RIGHT, "marked", 6, ["passed", "passed", "passed"], ""),
    "partly-wrong": (
        RIGHT | {"rows": "def rows(s):\n    return torch.softmax(s, dim=0)"},
        "marked",
        3,
        ["passed", "wrong", "passed"],
        "softmax runs over the wrong axis",
    ),
    "unsolved": ({}, "marked", 0, ["unsolved", "unsolved", "unsolved"], "not solved yet"),
    "detached": (
        RIGHT | {"cube": "def cube(x):\n    return torch.tensor(x.numpy() ** 3)"},
        "crashed",
        5,
        ["passed", "passed", "crashed"],
        "line 2 of cube: return torch.tensor(x.numpy() ** 3)",
    ),
    "syntax-error": (
        RIGHT | {"rows": "def rows(scores)\n    return scores"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "SyntaxError: expected ':'",
    ),
    "raises": (
        RIGHT | {"rows": "def rows(scores):\n    row = scores[0]\n    return row[100]"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "line 3 of rows: return row[100]",
    ),
    "endless": (
        RIGHT | {"double": "def double(x):\n    while True:\n        pass"},
        "timed out",
        4,
        ["timed out", "passed", "passed"],
        "double did not return within 6 s",
    ),
    "exits": (
        RIGHT | {"double": wrapped("double", "import os\nos._exit(0)")},
        "crashed",
        4,
        ["crashed", "passed", "passed"],
        "the process ended itself (exit code 0)",
    ),
    "leaves": (
        RIGHT | {"double": wrapped("double", "raise SystemExit(0)")},
        "crashed",
        4,
        ["crashed", "passed", "passed"],
        "SystemExit: 0",
    ),
    "exits-in-a-cell": (
        RIGHT | {"rows": RIGHT["rows"] + "\nimport os\nos._exit(1)"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "the cell toy-rows failed: the process ended itself (exit code 1)",
    ),
    "segfault": (
        RIGHT | {"cube": "def cube(x):\n    import ctypes\n    ctypes.string_at(0)"},
        "crashed",
        5,
        ["passed", "passed", "crashed"],
        "SIGSEGV",
    ),
    "memory-bomb": (
        RIGHT | {"rows": wrapped("rows", "hoard = torch.empty(3 << 30, dtype=torch.uint8)")},
        "out of memory",
        3,
        ["passed", "out of memory", "passed"],
        "can't allocate memory",
    ),
    "fork-bomb": (
        RIGHT | {"rows": "def rows(x):\n    import os\n    while True:\n        os.fork()"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "PermissionError",
    ),
    "talks": (
        RIGHT | {"double": TALKS + RIGHT["double"], "rows": wrapped("rows", TALKS)},
        "marked",
        6,
        ["passed", "passed", "passed"],
        "",
    ),
    "forges": (
        RIGHT | {"rows": wrapped("rows", FORGES)},
        "tampered",
        3,
        ["passed", "tampered", "passed"],
        "something other than the grader's own worker answered",
    ),
    "oversized": (
        RIGHT | {"rows": wrapped("rows", OVERSIZED)},
        "tampered",
        3,
        ["passed", "tampered", "passed"],
        "a frame of 4294967295 + 4294967295 bytes",
    ),
    "fakes": (RIGHT | {"double": FAKE, "rows": "pass"}, "marked", 1, ["wrong", "wrong", "passed"], "returned a Equal"),
    "patches": (
        RIGHT | {"double": PATCHES, "rows": "def rows(s):\n    return s"},
        "marked",
        1,
        ["wrong", "wrong", "passed"],
        "the result is not twice the input",
    ),
    "edits-a-check": (RIGHT | {"edit": edit_check}, "tampered", 6, ["passed"] * 3, ""),
    "deletes-a-check": (RIGHT | {"edit": delete_check}, "tampered", 6, ["passed"] * 3, ""),
    "duplicates-a-check": (RIGHT | {"edit": duplicate_check}, "tampered", 6, ["passed"] * 3, ""),
    "drops-a-cell": (
        RIGHT | {"edit": drop_cell("toy-cube")},
        "marked",
        5,
        ["passed", "passed", "missing"],
        "no function named cube is defined",
    ),
    "magics": (RIGHT | {"edit": add_magics}, "marked", 6, ["passed"] * 3, ""),
    "upside-down": (RIGHT | {"edit": upside_down}, "marked", 6, ["passed"] * 3, ""),
    "without-metadata": (RIGHT | {"edit": drop_metadata}, "marked", 6, ["passed"] * 3, ""),
    "unknown": (RIGHT | {"edit": drop_all_metadata}, "unknown unit", 0, [], ""),
    "group/nested": (RIGHT, "marked", 6, ["passed"] * 3, ""),
}


@pytest.fixture(scope="module")
def marked_class(course, tmp_path_factory):
    """The whole class, marked by one command; and the folders it was read from and written to."""
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("grades") / "new"
    for learner, (answers, *_) in CLASS.items():
        hand_in(course, folder / f"{learner}.ipynb", **answers)
    (folder / "broken.ipynb").write_text('{"cells": [')
    (folder / "no-notebook.ipynb").write_bytes(b"\x89PNG\xff")
    (folder / "link.ipynb").symlink_to(course / "solutions" / "toy" / "toy.ipynb")
    return grade(course, folder, out), folder, out


@needs_sandbox
@pytest.mark.parametrize("learner", CLASS)
def test_each_learner_gets_the_exact_state_and_points(marked_class, learner):
    _, state, points, each, words = CLASS[learner]
    record = marked_class[0][learner]
    assert (record["state"], record["points"], states(record)) == (state, points, each), messages(record)
    assert words in messages(record)
    assert record["possible"] == (6 if each else 0)
    assert record["sandbox"].startswith("bubblewrap")


@needs_sandbox
@pytest.mark.parametrize(
    "learner, what", [("edits-a-check", "edited"), ("deletes-a-check", "deleted"), ("duplicates-a-check", "duplicated")]
)
def test_a_record_says_what_was_done_to_which_check_cell(marked_class, learner, what):
    assert marked_class[0][learner]["notes"] == [f"the check cell toy-rows-check was {what}"]


@needs_sandbox
@pytest.mark.parametrize(
    "learner, reason", [("broken", "NotJSONError"), ("no-notebook", "UnicodeDecodeError"), ("link", "it is a link")]
)
def test_what_is_no_notebook_is_unreadable(marked_class, learner, reason):
    record = marked_class[0][learner]
    assert (record["state"], record["points"], record["checks"]) == ("unreadable", 0, [])
    assert reason in record["notes"][0]


@needs_sandbox
def test_the_table_has_a_row_a_submission_and_a_column_a_check(marked_class):
    records, _, out = marked_class
    rows = {row["learner"]: row for row in csv.DictReader((out / "grades.csv").read_text().splitlines())}
    assert rows.keys() == records.keys() == {*CLASS, "broken", "no-notebook", "link"}
    assert rows["partly-wrong"] == {
        "learner": "partly-wrong",
        "unit": "toy",
        "points": "3",
        "possible": "6",
        "state": "marked",
        "toy.double": "passed",
        "toy.rows": "wrong",
        "toy.cube": "passed",
    }
    assert rows["broken"]["toy.rows"] == ""


@needs_sandbox
def test_unchanged_submissions_are_not_marked_twice(course, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    hand_in(course, folder / "a.ipynb", **RIGHT)
    hand_in(course, folder / "b.ipynb")
    first = grade(course, folder, out)
    written = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    assert grade(course, folder, out) == first
    assert {path: path.stat().st_mtime_ns for path in written} == written
    hand_in(course, folder / "b.ipynb", double=RIGHT["double"])
    second = grade(course, folder, out)
    assert second["a"] == first["a"]
    assert (first["b"]["points"], second["b"]["points"]) == (0, 2)
    again = grade(course, folder, out, "--again")
    seeds = [check["seed"] for record in (first["a"], again["a"]) for check in record["checks"]]
    assert len(set(seeds)) == 6, "each check of each run draws its own inputs"
    assert {path.name for path in (out / "records").iterdir()} == {"a.ipynb.json", "b.ipynb.json"}


def test_a_record_is_kept_only_if_marking_again_would_repeat_it(tmp_path):
    submission, sandbox = Submission("a.ipynb", "a", "the digest of its bytes"), Sandbox(None)
    record = record_of(submission, Mark("marked"), sandbox)
    write_record(tmp_path / "a.json", record)
    assert still_valid(read_record(tmp_path / "a.json"), submission, sandbox)
    older = record["grader"] | {"source": "the digest of other checks"}
    for change in ({"content": "another"}, {"sandbox": "bubblewrap"}, {"grader": older}, {"state": NOT_GRADED}):
        assert not still_valid(record | change, submission, sandbox), change
    for text in ("half a rec", "[]", "{}", "3"):
        (tmp_path / "a.json").write_text(text)
        assert not still_valid(read_record(tmp_path / "a.json"), submission, sandbox), text


def answers_of(unit: str) -> dict[str, str]:
    """What the solution's notebook writes into each solution cell."""
    cells = nbformat.read(ROOT / "solutions" / unit / f"{unit}.ipynb", as_version=4).cells
    marks = [(cell, cell.metadata.get("nbgrader", {})) for cell in cells]
    return {m["grade_id"].removeprefix(f"{unit}-"): cell.source for cell, m in marks if m.get("solution")}


@needs_sandbox
def test_the_course_s_own_units_are_marked(tmp_path):
    """Each unit with all solutions filled in, with all but the first, and untouched."""
    units = sorted(path.stem for path in (ROOT / "exercises").glob("*/*.ipynb"))
    for unit in units:
        answers = answers_of(unit)
        first, *others = answers
        hand_in(ROOT, tmp_path / "in" / f"{unit}-all.ipynb", unit=unit, **answers)
        hand_in(ROOT, tmp_path / "in" / f"{unit}-some.ipynb", unit=unit, **{name: answers[name] for name in others})
        hand_in(ROOT, tmp_path / "in" / f"{unit}-none.ipynb", unit=unit)
    records = grade(ROOT, tmp_path / "in", tmp_path / "out")
    for unit in units:
        checks = [check for check in attncourse.check.CHECKS.values() if check.unit == unit]
        possible, first = sum(check.points for check in checks), next(iter(answers_of(unit)))
        for name, points in (("all", possible), ("none", 0)):
            record = records[f"{unit}-{name}"]
            assert (record["unit"], record["state"]) == (unit, "marked"), record["notes"]
            assert (record["points"], record["possible"]) == (points, possible), messages(record)
        some = {check["check"]: check["state"] for check in records[f"{unit}-some"]["checks"]}
        assert some == {c.name: "unsolved" if c.name == f"{unit}.{first}" else "passed" for c in checks}


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


def test_names_that_are_no_text_or_too_long_do_not_stop_the_run(course, tmp_path):
    hand_in(course, tmp_path / "in" / "plain.ipynb")
    text = (tmp_path / "in" / "plain.ipynb").read_bytes()
    names = [b"caf\xe9.ipynb", b"caf\xe8.ipynb", b"x" * 249 + b".ipynb", "größe.ipynb".encode()]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "in"), name))).write_bytes(text)
    records = grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")
    assert set(records) == {"plain", "caf\\xe9", "caf\\xe8", "x" * 249, "größe"}
    assert len((tmp_path / "out" / "grades.csv").read_text().splitlines()) == 6


def test_grading_leaves_this_process_s_own_limits_as_they_were(course, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_AS)
    hand_in(course, tmp_path / "in" / "a.ipynb")
    grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_judge_that_asks_for_absurd_memory_fails_alone():
    """Two long thin results whose difference would fill the machine."""
    greedy = Check("toy.greedy", "f", 1, lambda learner, rng: learner().T - learner())
    with own_memory_limited():
        verdict = run_check(greedy, LocalLearner(lambda: torch.zeros(100_000, 1), "f"), torch.Generator())
    assert verdict.state == "wrong" and "can't allocate memory" in verdict.message


def test_a_worker_that_does_not_start_is_the_grader_s_trouble_and_no_mark(course, tmp_path, monkeypatch, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb", **RIGHT)
    monkeypatch.setattr(Sandbox, "start", lambda self: self.run([sys.executable, "-c", "raise SystemExit('no room')"]))
    arguments = ["grade", tmp_path / "in", "--out", tmp_path / "out", "--exercises", course / "exercises"]
    assert main([str(a) for a in (*arguments, "--unconfined")]) == 1
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.json"))
    assert record["state"] == NOT_GRADED and "no room" in record["notes"][0]
    assert "a.ipynb: the worker did not start" in capsys.readouterr().err
    monkeypatch.undo()
    assert grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")["a"]["points"] == 6


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


def marked_with(limits: Limits, course: Path, path: Path, **answers: str):
    """The mark of one submission under other limits, and the states of its checks."""
    release = Release.read(course / "exercises", {"toy"})
    submission = read_submission(hand_in(course, path, **answers), path.parent, release)
    result = mark(submission, release, find_sandbox(limits=limits))
    return result, [judged.verdict.state for judged in result.checks]


@needs_sandbox
def test_a_cell_that_never_ends_costs_its_own_part_only(course, tmp_path):
    endless = RIGHT["rows"] + "\nwhile True:\n    pass"
    result, each = marked_with(Limits(cell_seconds=2), course, tmp_path / "a.ipynb", **RIGHT | {"rows": endless})
    assert (result.state, each) == ("timed out", ["passed", "timed out", "passed"])
    assert result.notes == ["the cell toy-rows failed: it did not come back in time"]


@needs_sandbox
def test_a_submission_cannot_take_longer_than_its_share(course, tmp_path):
    slow = wrapped("double", "import time\ntime.sleep(60)")
    limits = Limits(submission_seconds=4)
    result, each = marked_with(limits, course, tmp_path / "a.ipynb", **RIGHT | {"double": slow})
    assert (result.state, each) == ("timed out", ["timed out"] * 3) and result.seconds < 15
    assert result.checks[2].verdict.message == "the submission used up its 4 s"


@needs_sandbox
def test_a_scratch_cell_that_forges_answers_is_told(course, tmp_path):
    def edit(notebook):
        notebook.cells.insert(3, new_code_cell(FORGES))

    result, each = marked_with(Limits(), course, tmp_path / "a.ipynb", edit=edit, **RIGHT)
    assert (result.state, each) == ("tampered", ["passed"] * 3)
    assert result.notes[0].startswith("the cell number 3 failed: something other than the grader's own worker")


def test_without_bubblewrap_grading_is_refused_with_advice(course, tmp_path, monkeypatch, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb", **RIGHT)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["grade", tmp_path / "in", "--out", tmp_path / "out", "--exercises", course / "exercises"]
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "apt install bubblewrap" in said and "--unconfined" in said
    assert not list((tmp_path / "out").rglob("*.json"))
    assert grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")["a"]["sandbox"] == "unconfined"


def test_a_bubblewrap_that_does_not_work_is_refused_with_its_own_words(tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxMissing, match="No permissions to create new namespace"):
        find_sandbox()


@pytest.mark.parametrize(
    "prepare, words",
    [
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "holds no notebook"),
    ],
)
def test_nothing_to_grade_is_a_usage_error(course, tmp_path, capsys, prepare, words):
    prepare(tmp_path / "in")
    with pytest.raises(SystemExit) as end:
        main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--exercises", str(course / "exercises")])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_folder_without_released_exercises_is_a_usage_error(tmp_path, course, capsys):
    hand_in(course, tmp_path / "in" / "a.ipynb")
    with pytest.raises(SystemExit) as end:
        main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--exercises", str(tmp_path / "out")])
    assert end.value.code == 2 and "holds no released exercises" in capsys.readouterr().err


def test_no_formula_reaches_a_spreadsheet(course, tmp_path):
    hand_in(course, tmp_path / "in" / "=cmd()|calc.ipynb", **RIGHT)
    grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")
    rows = (tmp_path / "out" / "grades.csv").read_text().splitlines()
    assert rows[1].startswith("'=cmd()")
