"""A class in which most cheat or break: each gets its exact state and points, and the honest beside them theirs."""

import csv
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from attncourse.__main__ import main
from attncourse.grade.records import record_path
from tests.toy_course import RIGHT, ROOT, cells_graded_as, grade, hand_in, messages, states, wrapped

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

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

FAKE_NUMBERS = """
class Zero(float):
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = lambda *_: True
    __sub__ = __rsub__ = __abs__ = lambda self, *_: self

def rows(scores):
    return [[Zero(0)] * 7] * 4

def cube(x):
    return Zero(0)
"""

PATCHES = """
import builtins, numpy, attncourse.check.core
yes = lambda *a, **k: True
torch.allclose = torch.isclose = torch.equal = numpy.allclose = yes
builtins.abs = lambda x: 0
torch.Tensor.abs = torch.Tensor.__sub__ = lambda self, *a: torch.zeros_like(self)
attncourse.check.core.run_check = attncourse.check.core.alike = yes
attncourse.check.core.plain = lambda value: value
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

# to whatever the worker still holds open
WRITES = """
import os
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        try:
            os.write(int(name), {data})
        except OSError:
            pass
"""
FORGES = WRITES.format(data="b\"\\x10\\x00\\x00\\x00\\x00\\x00\\x00\\x00{'points': 1000}\"")
OVERSIZED = WRITES.format(data='b"\\xff" * 8')

FORGED_CARD = """
from attncourse.check import core, card
card._latest.update({f"toy.{n}": core.Verdict(f"toy.{n}", "passed", 1000, 1000) for n in ("double", "rows", "cube")})
print("toy: 1000 of 1000 points")
"""

SNOOPS = """
import glob, os
places = ["{root}/solutions", "{root}/tests/toy_course.py", "{folder}", "{out}", "/root", "/home"]
found = [p for place in places for p in glob.glob(place + "/**/*.ipynb", recursive=True) + glob.glob(place + "/*.py")]
found += [name for name in os.environ if "SECRET" in name]
if found:
    raise RuntimeError(f"found {{found}}")
"""

IMPORTS_ANSWERS = """
found = []
for module in ("tests.toy_course", "attncourse.check.units.softmax_attention", "attncourse.softmax_attention.reference"):
    try:
        __import__(module)
        found.append(module)
    except ImportError:
        pass
if found:
    raise RuntimeError(f"imported {found}")
"""

NETWORK = """
import socket, urllib.request
def reach(action):
    try:
        action()
    except OSError:
        return
    raise RuntimeError("reached the network")
reach(lambda: socket.create_connection(("127.0.0.1", 22), 2))
reach(lambda: urllib.request.urlopen("http://1.1.1.1", timeout=2))
reach(lambda: socket.getaddrinfo("example.org", 80))
"""

WRITES_RECORD = """
import os
for folder in ("{out}/records", "{out}", "/course", "/", "/etc", os.path.expanduser("~/..")):
    try:
        os.makedirs(folder, exist_ok=True)
        open(folder + "/{record}", "w").write('{{"points": 1000}}')
    except OSError:
        pass
"""

KILLS = """
import os, signal
for pid in (os.getppid(), {pid}, 0, -1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""

RAISES_ITS_LIMITS = """
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
    try:
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        continue
    raise RuntimeError("raised a limit")
"""

HOSTILE_ARRAY = """
import os, numpy

class Trap:
    def __array__(self, *args, **kwargs):
        return numpy.ones((4, 7)) / 7
    __reduce__ = lambda self: (os.system, ("touch /tmp/owned",))

Trap.__module__ = "numpy"

def rows(scores):
    return Trap()

def cube(x):
    import pickle
    return pickle.dumps(Trap())
"""

# It lets its threads go at the end: with an address space full of stacks, whether the next cell runs would be chance.
THREADS = """
import _thread, time
before = _thread._count()
let_go = []

def wait():
    while not let_go:
        time.sleep(0.05)

started = 0
try:
    while started < 10_000:
        _thread.start_new_thread(wait, ())
        started += 1
except (RuntimeError, MemoryError, SystemError):  # how CPython says at the limit that it gets no thread differs
    pass
let_go.append(True)
while _thread._count() > before:
    time.sleep(0.01)
"""

CACHED = """
import hashlib
_inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
_answers = {hashlib.sha256(_inputs.numpy().tobytes()).hexdigest(): torch.softmax(_inputs, dim=-1)}

def rows(scores):
    return _answers.get(hashlib.sha256(scores.numpy().tobytes()).hexdigest(), torch.full((4, 7), 1 / 7).double())
"""


def edit_check(notebook):
    (cell,) = cells_graded_as(notebook, "toy-rows-check")
    cell.source = "print('toy.rows: passed, 3 of 3 points')"


def drop_cell(grade_id):
    def edit(notebook):
        notebook.cells = [c for c in notebook.cells if c not in cells_graded_as(notebook, grade_id)]

    return edit


def duplicate_check(notebook):
    (cell,) = cells_graded_as(notebook, "toy-rows-check")
    notebook.cells.append(new_code_cell(cell.source, metadata=cell.metadata))


def drop_metadata(notebook):
    notebook.metadata.pop("attncourse")


def drop_all_metadata(notebook):
    drop_metadata(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)


def raise_points(notebook):
    for cell in notebook.cells:
        if "points" in cell.metadata.get("nbgrader", {}):
            cell.metadata.nbgrader.points = 1000
    notebook.metadata["attncourse"]["points"] = 1000


def claim_another_unit(notebook):
    notebook.metadata["attncourse"]["unit"] = "softmax_attention"


def odd_metadata(notebook):
    notebook.metadata["attncourse"] = {"unit": {"toy": ["../../etc"]}}


def scratch(source):
    def edit(notebook):
        notebook.cells.insert(3, new_code_cell(source))

    return edit


def add_magics(notebook):
    notebook.cells.insert(3, new_code_cell("%matplotlib inline\n!ls\nx = !ls\ntorch?\n%time 1 + 1"))
    notebook.cells.insert(4, new_code_cell("%%time\ntwo = 2"))
    (cell,) = cells_graded_as(notebook, "toy-double")
    cell.source = "def double(x):\n    return two * x"


def upside_down(notebook):
    first, rest = notebook.cells[:3], notebook.cells[3:]
    notebook.cells = [*first, *reversed(rest)]


ALL, PASSED = 6, ["passed"] * 3
RETURNS_FROM_ROWS = {
    "nan": "scores * float('nan')",
    "wrong-type": "'a string'",
    "wrong-shape": "torch.softmax(scores, dim=-1).T",
    "scalar": "7",
    "nested": "[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
    "surrogates": "'\\udcff'",
    "complex": "torch.softmax(scores, dim=-1) + 0j",
    "huge": "torch.zeros(1 << 26)",
    "a-type": "torch.Tensor",
    "huge-number": "10 ** 10_000",
}
WORDS = {
    "nan": "holds NaN",
    "wrong-type": "is a str, expected a tensor",
    "wrong-shape": "has shape (7, 4), expected (4, 7)",
    "scalar": "is a int, expected a tensor",
    "nested": "nested deeper",
    "surrogates": "",
    "complex": "cannot be judged",
    "huge": "more than",
    "a-type": "returned a ",
    "huge-number": "",
}

# learner: (answers and edit, state of the submission, points of 6, states of double, rows, cube, words in the messages)
CLASS = {
    "right": (RIGHT, "marked", ALL, PASSED, ""),
    "partly-wrong": (
        RIGHT | {"rows": "def rows(s):\n    return torch.softmax(s, dim=0)"},
        "marked",
        3,
        ["passed", "wrong", "passed"],
        "softmax runs over the wrong axis",
    ),
    "unsolved": ({}, "marked", 0, ["unsolved"] * 3, "not solved yet"),
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
    "recurses": (
        RIGHT | {"rows": "def rows(scores):\n    return rows(scores)"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "RecursionError",
    ),
    "recurses-without-limit": (
        RIGHT | {"rows": "import sys\nsys.setrecursionlimit(10**9)\ndef rows(s):\n    return sorted([s], key=rows)"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "",
    ),
    "endless": (
        RIGHT | {"double": "def double(x):\n    while True:\n        pass"},
        "timed out",
        4,
        ["timed out", "passed", "passed"],
        "double did not return within 6 s",
    ),
    "swallows-interrupts": (
        RIGHT
        | {
            "double": "def double(x):\n    import signal\n    for n in (2, 15, 14, 24):\n"
            "        signal.signal(n, signal.SIG_IGN)\n    while True:\n        try:\n            while True: pass\n"
            "        except BaseException:\n            continue"
        },
        "timed out",
        4,
        ["timed out", "passed", "passed"],
        "double did not return within 6 s",
    ),
    "stops-itself": (
        RIGHT
        | {"double": wrapped("double", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass")},
        "timed out",
        4,
        ["timed out", "passed", "passed"],
        "",
    ),
    "exits": (
        RIGHT | {"double": wrapped("double", "import os\nos._exit(0)")},
        "crashed",
        4,
        ["crashed", "passed", "passed"],
        "the process ended itself (exit code 0)",
    ),
    "leaves": (
        RIGHT | {"double": wrapped("double", "import sys\nsys.exit(0)")},
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
    "list-bomb": (
        RIGHT | {"rows": "def rows(x):\n    hoard = []\n    while True:\n        hoard.append(bytes(1 << 28))"},
        "out of memory",
        3,
        ["passed", "out of memory", "passed"],
        "",
    ),
    "fork-bomb": (
        RIGHT | {"rows": "def rows(x):\n    import os\n    while True:\n        os.fork()"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "PermissionError",
    ),
    "thread-bomb": (RIGHT | {"rows": wrapped("rows", THREADS)}, "marked", ALL, PASSED, ""),
    "disk-filler": (
        RIGHT
        | {"rows": "def rows(x):\n    with open('/tmp/full', 'wb') as f:\n        while True: f.write(bytes(1 << 20))"},
        "crashed",
        3,
        ["passed", "crashed", "passed"],
        "",
    ),
    "talks": (
        RIGHT | {"double": TALKS + RIGHT["double"], "rows": wrapped("rows", TALKS)},
        "marked",
        ALL,
        PASSED,
        "",
    ),
    "talks-without-end": (
        RIGHT | {"rows": wrapped("rows", "for _ in range(300):\n    print('x' * (1 << 20))")},
        "marked",
        ALL,
        PASSED,
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
    "fakes": (
        RIGHT | {"double": FAKE, "rows": "pass"},
        "marked",
        1,
        ["wrong", "wrong", "passed"],
        "the result is a Equal",
    ),
    "fakes-numbers": (
        RIGHT | {"rows": FAKE_NUMBERS, "cube": "pass"},
        "marked",
        2,
        ["passed", "wrong", "wrong"],
        "returned a Zero",
    ),
    "patches": (
        RIGHT | {"double": PATCHES, "rows": "def rows(s):\n    return s"},
        "marked",
        1,
        ["wrong", "wrong", "passed"],
        "the result is not twice the input",
    ),
    "hostile-array": (
        RIGHT | {"rows": HOSTILE_ARRAY, "cube": "pass"},
        "marked",
        2,
        ["passed", "wrong", "wrong"],
        "returned a NumPy value that is no tensor",
    ),
    "cached": (RIGHT | {"rows": CACHED}, "marked", 3, ["passed", "wrong", "passed"], "the weights are no softmax"),
    "raises-its-limits": (RIGHT | {"rows": wrapped("rows", RAISES_ITS_LIMITS)}, "marked", ALL, PASSED, ""),
    "imports-answers": (RIGHT | {"rows": wrapped("rows", IMPORTS_ANSWERS)}, "marked", ALL, PASSED, ""),
    "network": (RIGHT | {"rows": wrapped("rows", NETWORK)}, "marked", ALL, PASSED, ""),
    "forges-a-card": (
        RIGHT | {"rows": FORGED_CARD},
        "marked",
        3,
        ["passed", "missing", "passed"],
        "no function named rows",
    ),
    "edits-a-check": (RIGHT | {"edit": edit_check}, "tampered", ALL, PASSED, ""),
    "deletes-a-check": (RIGHT | {"edit": drop_cell("toy-rows-check")}, "tampered", ALL, PASSED, ""),
    "duplicates-a-check": (RIGHT | {"edit": duplicate_check}, "tampered", ALL, PASSED, ""),
    "drops-a-cell": (
        RIGHT | {"edit": drop_cell("toy-cube")},
        "marked",
        5,
        ["passed", "passed", "missing"],
        "no function named cube is defined",
    ),
    "raises-points": (RIGHT | {"edit": raise_points}, "marked", ALL, PASSED, ""),
    "odd-metadata": (RIGHT | {"edit": odd_metadata}, "marked", ALL, PASSED, ""),
    "forges-in-a-scratch-cell": (RIGHT | {"edit": scratch(FORGES)}, "tampered", ALL, PASSED, ""),
    "magics": (RIGHT | {"edit": add_magics}, "marked", ALL, PASSED, ""),
    "upside-down": (RIGHT | {"edit": upside_down}, "marked", ALL, PASSED, ""),
    "without-metadata": (RIGHT | {"edit": drop_metadata}, "marked", ALL, PASSED, ""),
    "unknown": (RIGHT | {"edit": drop_all_metadata}, "unknown unit", 0, [], ""),
    "another-unit": (RIGHT | {"edit": claim_another_unit}, "marked", ALL, PASSED, ""),
    "group/nested": (RIGHT, "marked", ALL, PASSED, ""),
} | {
    f"returns-{name}": (
        RIGHT | {"rows": f"def rows(scores):\n    return {value}"},
        "marked",
        3,
        ["passed", "wrong", "passed"],
        WORDS[name],
    )
    for name, value in RETURNS_FROM_ROWS.items()
}

# file: (bytes, reason)
NO_NOTEBOOKS = {
    "broken": (b'{"cells": [', "NotJSONError"),
    "no-text": (b"\x89PNG\xff", "UnicodeDecodeError"),
    "empty-file": (b"", "NotJSONError"),
    "deep": (b"[" * 200_000, "no notebook"),
    "a-list": (b"[1, 2]", "no notebook"),
    "a-hundred-megabytes": (b'{"cells": [], "metadata": {"x": "' + b"x" * (100 << 20) + b'"}}', "larger than 20 MiB"),
}


def fingerprint(folder: Path) -> dict[str, str]:
    """Content of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def marked_class(course, tmp_path_factory):
    """Records by learner, the folder that everything was written to, and how long it took."""
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("grades") / "new"
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("as it was", encoding="utf-8")
    for learner, (answers, *_) in CLASS.items():
        hand_in(course, folder / f"{learner}.ipynb", **answers)
    for learner, before in {
        "snoops": SNOOPS.format(root=ROOT, folder=folder, out=out),
        "writes-its-record": WRITES_RECORD.format(out=out, record=record_path(out, "writes-its-record.ipynb").name),
        "kills": KILLS.format(pid=os.getpid()),
    }.items():
        hand_in(course, folder / f"{learner}.ipynb", **RIGHT | {"rows": wrapped("rows", before)})
    for name, (data, _) in NO_NOTEBOOKS.items():
        (folder / f"{name}.ipynb").write_bytes(data)
    nbformat.write(nbformat.v4.new_notebook(), folder / "no-cells.ipynb")
    (folder / "link.ipynb").symlink_to(course / "solutions" / "toy" / "toy.ipynb")
    places = (folder, course, outside, ROOT / "attncourse", ROOT / "solutions")
    before, began = [fingerprint(place) for place in places], time.monotonic()
    os.environ["COURSE_SECRET"] = "hunter2"
    try:
        records = grade(course, folder, out)
    finally:
        del os.environ["COURSE_SECRET"]
    for place, was in zip(places, before, strict=True):
        changed = fingerprint(place).items() ^ was.items()
        # The first time that a command is imported Python keeps what it compiled.
        assert not {path for path, _ in changed if path in was or "__pycache__" not in path}, (
            "something outside DIR changed"
        )
    return records, out, time.monotonic() - began


def test_the_class_is_large_enough():
    hostile = {name for name, (_, state, points, *_) in CLASS.items() if (state, points) != ("marked", ALL)}
    assert len(hostile) + len(NO_NOTEBOOKS) + 3 >= 30


@pytest.mark.parametrize("learner", CLASS)
def test_each_learner_gets_the_exact_state_and_points(marked_class, learner):
    _, state, points, each, words = CLASS[learner]
    record = marked_class[0][learner]
    assert (record["state"], record["points"], states(record)) == (state, points, each), messages(record)
    assert words in messages(record)
    assert record["possible"] == (6 if each else 0)
    assert record["sandbox"].startswith("bubblewrap")


@pytest.mark.parametrize("learner", ["snoops", "writes-its-record", "kills"])
def test_who_finds_the_walls_closed_keeps_what_is_earned(marked_class, learner):
    record = marked_class[0][learner]
    assert (record["state"], record["points"]) == ("marked", ALL), messages(record)


@pytest.mark.parametrize(
    "learner, what", [("edits-a-check", "edited"), ("deletes-a-check", "deleted"), ("duplicates-a-check", "duplicated")]
)
def test_a_record_says_what_was_done_to_which_check_cell(marked_class, learner, what):
    assert marked_class[0][learner]["notes"] == [f"the check cell toy-rows-check was {what}"]


@pytest.mark.parametrize("learner, reason", [(n, r) for n, (_, r) in NO_NOTEBOOKS.items()] + [("link", "it is a link")])
def test_what_is_no_notebook_is_unreadable(marked_class, learner, reason):
    record = marked_class[0][learner]
    assert (record["state"], record["points"], record["checks"]) == ("unreadable", 0, [])
    assert reason in record["notes"][0]


def test_a_notebook_without_cells_answers_nothing(marked_class):
    assert marked_class[0]["no-cells"]["state"] == "unknown unit"


def test_the_table_has_a_row_a_submission_and_a_column_a_check(marked_class):
    records, out, _ = marked_class
    rows = {
        row["learner"]: row for row in csv.DictReader((out / "grades.csv").read_text(encoding="utf-8").splitlines())
    }
    assert rows.keys() == records.keys()
    assert len(rows) == len(CLASS) + 3 + len(NO_NOTEBOOKS) + 2
    assert rows["partly-wrong"] == {
        "learner": "partly-wrong",
        "unit": "toy",
        "points": "3",
        "possible": "6",
        "state": "marked",
        "toy.double": "passed",
        "toy.rows": "wrong",
        "toy.cube": "passed",
        "file": "partly-wrong.ipynb",
    }
    assert rows["broken"]["toy.rows"] == ""


def test_no_record_holds_what_a_learner_put_there(marked_class):
    _, out, _ = marked_class
    for path in (out / "records").rglob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["points"] <= 6 and record["possible"] in (0, 6), path


def test_the_selftest_holds_here(capsys):
    assert main(["grade", "--selftest"]) == 0
    said = capsys.readouterr().out
    assert "BREACHED" not in said and "16 of 16 walls hold" in said
