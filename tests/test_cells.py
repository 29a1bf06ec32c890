"""What a cell does where it is graded is what it does in IPython: the same names, the same values, the same errors."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from attncourse.check import CHECKS, run_check
from attncourse.check.core import Check, fresh_rng
from attncourse.check.expect import expect_close
from attncourse.grade.judge import Mark, mark
from attncourse.grade.read.submission import Cell, Release, Submission
from attncourse.grade.wall.sandbox import find_sandbox
from attncourse.grade.wall.transport import RemoteLearner, Worker
from tests.toy_course import RIGHT, cells_graded_as, grade, hand_in

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

FORMS = {
    "plain": "a1 = 1\na2 = a1 + 1",
    "ends with an expression": "b1 = 2\nb1 * 21",
    "the last results": "c1, c2 = _, type(Out).__name__",
    "ends with a semicolon": "d1 = 3; d1 * 2;",
    "indented": "    e1 = 4\n    e2 = e1 + 1",
    "ends with a comment": "f1 = 5  # five\n# the end",
    "a magic alone": "%matplotlib inline",
    "magics between lines": "%matplotlib inline\ng1 = 6\n%config InlineBackend.figure_format = 'png'\ng2 = g1 + 1",
    "a line magic that assigns": "%time h1 = 7",
    "a line magic in a function": "def i1():\n    %time j = 8\n    return 9\ni2 = i1()",
    "an assigned magic": "k1 = %timeit -o -n 1 -r 1 None\nk1 = type(k1).__name__",
    "an assigned folder": "l1 = %pwd\nl1 = type(l1).__name__",
    "time over a cell": "%%time\nm1 = 10",
    "capture over pip": "%%capture\n!true\nimport math\ndef n1():\n    return math.pi\nn2 = n1()",
    "capture over time": "%%capture\n%%time\no1 = 11",
    "time over magics and a shell": "%%time\n!true\n%matplotlib inline\np1 = 12",
    "capture into a name": "%%capture q1\nprint('said')\nq2 = 13",
    "what was captured": "q3 = q1.stdout\nq1 = type(q1).__name__",
    "capture without stderr": "%%capture --no-stderr r1\nr2 = 14\nr3 = 1",
    "timeit over a cell": "%%timeit -n 1 -r 1\ns1 = 15",
    "timeit of a line": "%timeit -n 1 -r 1 t1 = 16\nt2 = 1",
    "prun": "%%prun -q\nu1 = 17",
    "bash": "%%bash\nv1=18",
    "bash into a name": "%%bash --out w1 --err w2\ntrue",
    "sh": "%%sh\nx1=19",
    "script": "%%script cat\ny1 = 20",
    "another python": "%%python3\nz1 = 21",
    "a shell's lines": "aa1 = !true\naa2 = type(aa1).__name__\naa3 = list(aa1)",
    "a shell within if": "if True:\n    !true\n    ab1 = 22",
    "a shell that reads a name": "ac1 = 'true'\n!$ac1 {ac1}",
    "a shell's exit code": "!true\nad1 = _exit_code",
    "two exclamation marks": "!!true\nae1 = 1",
    "sx": "af1 = %sx true\naf1 = list(af1)",
    "pip as a magic": "%pip --version\nag1 = 23",
    "pip within if": "if True:\n    %pip --version\nah1 = 24",
    "html": "%%html\n<b>25</b>",
    "javascript": "%%javascript\nlet x = 26",
    "latex": "%%latex\n$x$",
    "markdown": "%%markdown\n# x",
    "writefile": "%%writefile written_by_a_cell.py\nai1 = 27",
    "run": "%run written_by_a_cell.py",
    "load of an import": "import written_by_a_cell\naj1 = written_by_a_cell.ai1\ndel written_by_a_cell",
    "cd and back": "ak0 = %pwd\n%cd /\n%cd -q {ak0}\nak0 = 28",
    "env": "%env AL1=29\nimport os\nal1 = os.environ['AL1']",
    "set_env": "%set_env AM1 30\nam1 = os.environ['AM1']",
    "autoreload": "%load_ext autoreload\n%autoreload 2\nan1 = 31",
    "an extension that is not there": "ao1 = 1\n%load_ext no_such_extension\nao2 = 32",
    "an unknown line magic": "ap1 = 1\n%no_such_magic\nap2 = 33",
    "an unknown cell magic": "%%no_such_magic\naq1 = 34",
    "help": "ar1 = len\nar1?",
    "help before": "?len",
    "source": "len??",
    "await": "import asyncio\nasync def as1():\n    return 35\nas2 = await as1()",
    "await within with": "import contextlib\nwith contextlib.nullcontext():\n    at1 = await as1()",
    "async for": "async def au0():\n    yield 36\nau1 = [x async for x in au0()]",
    "annotations of a later cell": "from __future__ import annotations",
    "which name nothing": "def av1(x: NoSuchName) -> 'b t':\n    return x\nav2 = av1.__annotations__['x']",
    "get_ipython": "aw1 = get_ipython() is not None",
    "get_ipython imported": "from IPython import get_ipython as ax0\nax1 = ax0() is get_ipython()",
    "a magic by its function": "get_ipython().run_line_magic('time', 'ay1 = 37')",
    "a cell by its function": "az1 = get_ipython().run_cell('az2 = 38').success",
    "in Colab only": "try:\n    from google.colab import drive\n    ba1 = True\nexcept ImportError:\n    ba1 = False",
    "in Colab only, asked": "import sys\nbb1 = 'google.colab' in sys.modules",
    "a Colab form": "#@title A form { display-mode: 'form' }\nbc1 = 39 #@param {type: 'integer'}",
    "display": "display('x')\nfrom IPython.display import HTML, display as bd0\nbd0(HTML('<b>x</b>'))\nbd1 = 40",
    "clear_output": "from IPython.display import clear_output\nclear_output(wait=True)\nbe1 = 41",
    "a figure": "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nbf1 = plt.get_fignums()",
    "a widget": "import ipywidgets\nbg0 = ipywidgets.IntSlider(value=3)\nbg1 = bg0.value",
    "interact": "@ipywidgets.interact(x=(0, 3))\ndef bh0(x=2):\n    global bh1\n    bh1 = x",
    "walrus": "print(bi1 := 42)",
    "a decorated class": "import dataclasses\n@dataclasses.dataclass\nclass Bj:\n    x: int = 43\nbj1 = Bj().x",
    "a closure": "def bk0():\n    x = 44\n    def inner():\n        return x\n    return inner\nbk1 = bk0()()",
    "an error half-way": "bl1 = 45\n1 / 0\nbl2 = 46",
    "no syntax": "bm1 = 47\ndef (",
    "an error in a magic": "bn1 = 1\n%time 1 / 0\nbn2 = 48",
    "SystemExit": "bo1 = 49\nraise SystemExit(3)",
    "sys.exit": "import sys\nbp1 = 50\nsys.exit()\nbp2 = 51",
    "exit": "bq1 = 52\nexit()\nbq2 = 53",
    "quit": "quit",
    "a shell's name alone": "pwd",
    "reading a name before": "br1 = a1 + 1",
    "deleting": "del a2",
    "%who": "%who\n%whos\nbs1 = 54",
    "%store and macros": "%macro -q bt0 1\nbt1 = type(bt0).__name__\nbt0 = 0",
    "%precision": "%precision 3\nbu1 = 55",
    "%reset_selective": "bv1 = bv2 = 56\n%reset_selective -f ^bv2$",
    "%%file": "%%file another.txt\ntext",
    "reading a file": "bw1 = open('another.txt', encoding='utf-8').read()",
    "tabs and a line continued": "if True:\n\tbx1 = 1 + \\\n\t\t57",
    "a string with a percent sign": "by1 = '''\n%time x = 1\n!ls\n'''",
    "a modulo at the start of a line": "bz1 = (59\n% 60)",
    "type hints of a name": "ca1: int = 61",
    "match": "match 62:\n    case ca2:\n        pass",
    "type of main": "cb1 = __name__",
    "globals": "globals()['cc1'] = 63",
    "exec": "exec('cd1 = 64')",
    "nothing": "   \n",
    "only a comment": "# nothing",
    "an alias": "%alias ce0 true\nce1 = 65",
    "tb": "%tb\ncf1 = 66",
    "debug off": "%pdb off\ncg1 = 67",
    "xmode": "%xmode Minimal\nch1 = 68",
    "automagic": "%automagic on\nci1 = 69",
    "unset names": "NoSuchName + 1",
}

# Both sides end with this cell: what a name stands for, as far as another process can compare it.
DESCRIBE = """
def describe():
    import builtins, types
    shell = get_ipython()
    def shown(value):
        plain = (int, float, str, bool, list, tuple, dict, type(None))
        return repr(value) if type(value) in plain else type(value).__name__
    hidden = {*shell.user_ns_hidden, "describe"}
    return {n: shown(v) for n, v in shell.user_ns.items() if not n.startswith("_") and n not in hidden}
"""

REFERENCE = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

class Shell(InteractiveShell):
    # what every front end has
    enable_gui = ask_exit = lambda self, *args: None

shell = Shell.instance(colors="nocolor")
errors = {}
for name, cell in json.load(open(sys.argv[1], encoding="utf-8")).items():
    result = shell.run_cell(cell, store_history=True)
    error = result.error_before_exec or result.error_in_exec
    errors[name] = "" if error is None else type(error).__name__
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump([errors, shell.user_ns["describe"]()], file)
"""


@pytest.fixture(scope="module")
def sandbox():
    return find_sandbox()


@pytest.fixture(scope="module")
def outcomes(sandbox, tmp_path_factory):
    """Of IPython's own shell and of the grader's worker: the error of each form, and what is defined after them all."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "forms.json").write_text(json.dumps(FORMS | {"describe": DESCRIBE}), encoding="utf-8")
    command = [sys.executable, "-c", REFERENCE, "forms.json", "outcomes.json"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "MPLBACKEND": "agg"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (folder / "outcomes.json").exists(), done.stderr
    worker, errors = Worker(sandbox), {}
    try:
        for name, cell in (FORMS | {"describe": DESCRIBE}).items():
            answer = worker.run_cell(f"cell {name}", cell, time.monotonic() + 60)
            error = re.search(r"^(?:\w+\.)*(\w*(?:Error|Exit))\b", answer.get("message", ""), re.MULTILINE)
            errors[name] = error[1] if error else answer.get("message", "")
        defined = RemoteLearner(worker, Check("", "describe", 1, print), time.monotonic() + 60)()
    finally:
        worker.close()
    return json.loads((folder / "outcomes.json").read_text(encoding="utf-8")), [errors, defined]


@needs_sandbox
def test_cells_raise_what_they_raise_in_ipython(outcomes):
    (reference, _), (graded, _) = outcomes
    assert len(FORMS) >= 40
    assert {name: error for name, error in graded.items() if error != reference[name]} == {}
    assert sum(map(bool, reference.values())) >= 9, "some forms fail, in IPython too"


@needs_sandbox
def test_cells_define_what_they_define_in_ipython(outcomes):
    (_, reference), (_, graded) = outcomes
    assert len(reference) > 90
    assert graded == reference


TWICE = "def double(x):\n    return 2 * x"
COMPILED = (
    "@torch.compile\ndef compiled(x):\n    return 2 * x\n\n@torch.compile(fullgraph=True)\ndef compiled_whole(x):\n"
)
COMPILED += "    return compiled(x)"
RAISES = "def {0}(x):\n    raise core.{0}('the instructor did it')"

# What a learner hands in, cell by cell.
NOTEBOOK = [
    "import os\nif 'COLAB_RELEASE_TAG' in os.environ:\n    %pip install -q attncourse\nimport attncourse\n"
    "attncourse.print_versions()\nimport torch, torch.nn.functional as F",
    f"picture = {'x' * (3 << 20)!r}\n{TWICE.replace('double', 'after_megabytes')}",
    "%%capture\n!pip install -q einops\ndef under_magics(x):\n    return 2 * helper(x)  # is quoted",
    "helper = lambda x: x + None",
    "def imported(x):\n    return F.relu(x) * 2",
    f"{TWICE.replace('double', 'half_way')}\n1 / 0",
    f"1 / 0\n{TWICE.replace('double', 'never')}",
    "from attncourse.check import check, score_card\nassert check('toy.double').passed\nprint(score_card('toy'))\n"
    + TWICE,
    COMPILED,
    "from attncourse.check import core",
    *(RAISES.format(name) for name in ("Tampered", "TimedOut", "OutOfMemory", "Missing", "Broken")),
    "raise core.Tampered('in a cell')",
    f"{TWICE.replace('double', 'shadowed')}\nshadowed = torch.ones(3)",
    "check('toy.double')\n",
]

# function: state, words of the message
OUTCOMES = {
    "double": ("passed", ""),
    "after_megabytes": ("passed", ""),
    "under_magics": ("crashed", "return 2 * helper(x)  # is quoted\n  line 1 of <lambda>: helper = lambda x: x + None"),
    "imported": ("passed", ""),
    "half_way": ("passed", ""),
    "never": ("crashed", "the cell number 7 failed: ZeroDivisionError: division by zero\n  line 1 of <module>: 1 / 0"),
    "compiled": ("passed", ""),
    "compiled_whole": ("passed", ""),
    "Tampered": ("crashed", "Tampered: the instructor did it"),
    "TimedOut": ("crashed", "TimedOut: the instructor did it"),
    "OutOfMemory": ("crashed", "OutOfMemory: the instructor did it"),
    "Missing": ("crashed", "Missing: the instructor did it"),
    "Broken": ("crashed", "Broken: the instructor did it"),
    "shadowed": ("missing", "shadowed is a Tensor and no function"),
}


def judge(learner, rng):
    x = torch.arange(3.0)
    expect_close(learner(x), x * 2, "not twice the input")


def marked(sandbox, monkeypatch, sources: list[str | Cell], *functions: str, checks=(), **rules) -> Mark:
    """The mark of a notebook of these cells, in a unit of one check for each of the functions."""
    for name in functions:
        monkeypatch.setitem(CHECKS, f"toy.{name}", Check(f"toy.{name}", name, 1, judge, seconds=60.0, **rules))
    cells = [source if isinstance(source, Cell) else Cell("", False, source) for source in sources]
    return mark(Submission("toy", cells), Release({"toy": dict(checks)}, {"toy": ()}), sandbox)


@needs_sandbox
def test_a_notebook_is_marked_for_what_jupyter_makes_of_it(sandbox, monkeypatch):
    checks = {"toy-double-check": "check('toy.double')"}
    result = marked(sandbox, monkeypatch, NOTEBOOK, *OUTCOMES, checks=checks)
    for judged, (name, (state, words)) in zip(result.checks, OUTCOMES.items(), strict=True):
        assert judged.verdict.state == state, f"{name}: {judged.verdict.message}"
        assert words in judged.verdict.message, name
    lost, half_way, never, raises = result.notes
    assert "the check cell toy-double-check has lost its metadata" in lost
    assert "the cell number 6 failed: ZeroDivisionError" in half_way and "the cell number 7" in never
    assert "the cell number 16 failed: attncourse.check.core.Tampered: in a cell" in raises
    assert result.state == "crashed", "and not tampered with"


def test_self_check_and_grade_agree_on_a_name_that_no_function_has(monkeypatch):
    check = Check("toy.shadowed", "shadowed", 1, judge)
    verdict = run_check(check, check.learner(torch.ones(3)), fresh_rng()[0])
    assert (verdict.state, *OUTCOMES["shadowed"][1:]) == (OUTCOMES["shadowed"][0], verdict.message.partition(":")[0])


@needs_sandbox
def test_of_two_halves_of_a_cell_the_one_that_lives_counts(sandbox, monkeypatch):
    halves = [Cell("toy-double", False, TWICE), Cell("toy-double", False, "import os\nos._exit(0)")]
    result = marked(sandbox, monkeypatch, halves, "double")
    assert result.checks[0].verdict.passed
    assert result.notes == ["the cell toy-double failed: the process ended itself (exit code 0)"]


@needs_sandbox
def test_what_magics_cost_is_the_learner_s_time(sandbox, monkeypatch):
    """IPython reads a cell anew for each of its magics: hours for this one, of which the grader spends a cell's."""
    quick = replace(sandbox, limits=replace(sandbox.limits, cell_seconds=4.0))
    endless = "%time 1\n" * 400 + "# " + "x\n# " * 200_000
    began = time.process_time()
    result = marked(quick, monkeypatch, [endless, TWICE], "double", forbids=("matmul",))
    assert result.checks[0].verdict.passed, result
    assert result.notes == ["the cell number 1 failed: it did not come back in time"]
    assert time.process_time() - began < 3, "nothing of it was done on this side of the wall"


def test_a_check_cell_is_deleted_only_where_its_text_is_gone():
    release = Release({"toy": {"toy-a-check": "check('toy.a')", "toy-b-check": "check('toy.b')"}}, {"toy": ()})
    for cells, differences, unlabelled in (
        ([Cell("", False, "check('toy.a')\n"), Cell("toy-b-check", True, "check('toy.b')")], [], ["toy-a-check"]),
        (
            [Cell("", False, "check('toy.a') or 1"), Cell("toy-b-check", True, "check('toy.b')")],
            ["toy-a-check was deleted"],
            [],
        ),
        (
            [Cell("toy-a-check", True, "pass"), Cell("toy-b-check", True, "check('toy.b')")],
            ["toy-a-check was edited"],
            [],
        ),
        (
            [Cell("toy-a-check", True, "check('toy.a')")] * 2,
            ["toy-a-check was duplicated", "toy-b-check was deleted"],
            [],
        ),
    ):
        submission = Submission("toy", cells)
        assert release.differences(submission) == [f"the check cell {what}" for what in differences]
        assert release.unlabelled(submission) == unlabelled


def test_an_instructor_accepts_what_was_tampered_with_in_one_command(course, tmp_path, capsys):
    def edit(notebook):
        (cell,) = cells_graded_as(notebook, "toy-rows-check")
        cell.source += "\nprint('done')"

    hand_in(course, tmp_path / "in" / "ada.ipynb", **RIGHT, edit=edit)
    record = grade(course, tmp_path / "in", tmp_path / "out", "--unconfined")["ada"]
    assert (record["state"], record["points"]) == ("tampered", 6)
    with pytest.raises(SystemExit) as end:
        grade(course, tmp_path / "in", tmp_path / "out", "--unconfined", "--accept", "bob.ipynb")
    assert end.value.code == 2 and "none is named bob.ipynb" in capsys.readouterr().err
    for options in (["--accept", "ada.ipynb"], [], ["--accept", "ada.ipynb"]):
        record = grade(course, tmp_path / "in", tmp_path / "out", "--unconfined", *options)["ada"]
        assert (record["state"], record["points"]) == ("marked", 6)
    assert record["notes"] == ["the check cell toy-rows-check was edited", "accepted by the instructor as it is"]
