"""`gpu.sh`, which does everything that needs a GPU: what a processor can hold it to."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attncourse
from attncourse.block_sparse import local_and_random
from attncourse.profile import tiles
from attncourse.profile.cases import sdpa_form
from attncourse.profile.clock import Clock
from attncourse.profile.record import Measurement
from attncourse.rooms import rooms
from attncourse.sliding_window import local_mask, sliding_window_attention
from attncourse.testing import make_qkv
from benchmarks import __main__ as script
from benchmarks import beside, book, decode, kernels, notebook, parts, stand_ins, sweep
from benchmarks.peers import pattern_mask, window_mask

ROOT = Path(__file__).parents[1]
on_a_cpu = pytest.mark.skipif(attncourse.device() == "cuda", reason="of a machine without a GPU")
BEGIN = (
    "import sys; from pathlib import Path; from benchmarks.report import Report; report = Report(Path(sys.argv[1])); "
)


def part(letter: str, code: str) -> parts.Part:
    """A part whose process runs some code, with an empty report at hand."""
    return parts.Part(letter, f"part-{letter}", "a part", (1.0, 1.0), (sys.executable, "-c", BEGIN + code))


GOOD = part("g", "sys.exit(report.finish('all is well'))")


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_that_exceeds_its_limit_is_killed_with_what_it_started_and_the_next_runs(tmp_path):
    slow = part(
        "s",
        "import subprocess, time; child = subprocess.Popen(['sleep', '600']); report.words = 'half of it'; "
        "report.not_run.append(str(child.pid)); report.save(); time.sleep(600)",
    )
    said, run = [], parts.Run(tmp_path, "cpu", {"device": "a toy"})
    assert not run.run([slow, GOOD], minutes=8 / 60, say=said.append)
    found = summary(tmp_path)
    assert [p["state"] for p in found["parts"]] == ["killed at its limit", "passed"] and not found["passed"]
    assert found["parts"][0]["words"] == "half of it" and found["parts"][1]["words"] == "all is well"
    assert found["parts"][0]["seconds"] < 8 and found["still_to_run"] == [] and found["device"] == "a toy"
    assert not is_alive(int(found["parts"][0]["not_run"][0]))
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "killed at its limit" in text and "all is well" in text and "- device: a toy" in text
    assert (tmp_path / "part-s" / "log").exists() and any("killed" in line for line in said)


def test_the_summary_is_there_after_the_first_part_and_time_left_over_is_passed_on(tmp_path):
    seen = part(
        "n", f"import json; print(open({str(tmp_path / 'summary.json')!r}).read()); sys.exit(report.finish('x'))"
    )
    run = parts.Run(tmp_path, "cpu", {})
    assert run.run([GOOD, seen], minutes=1.0)
    before = json.loads(
        (tmp_path / "part-n" / "log").read_text(encoding="utf-8").rpartition("\n")[0].rpartition("\n")[0]
    )
    assert [p["part"] for p in before["parts"]] == ["part-g"] and before["still_to_run"] == ["part-n"]
    assert 29 < run.outcomes[0].limit <= 30 < 45 < run.outcomes[1].limit < 60


@on_a_cpu
@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("report.failures.append('a sum is 3'); sys.exit(report.finish('one sum'))", "failed"),
        ("report.finish('one sum'); sys.exit(1)", "failed"),
        ("1 / 0", "crashed (exit code 1)"),
        ("report.save(); import os; os._exit(0)", "crashed (exit code 0)"),
    ],
)
def test_a_part_that_fails_gives_exit_code_1(code, state, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "PARTS", (part("f", code), GOOD))
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "cpu")
    assert script.main([str(tmp_path), "--dry"]) == 1
    found = summary(tmp_path)
    assert [p["state"] for p in found["parts"]] == [state, "passed"]
    said = capsys.readouterr().out
    assert "dry form" in said and state in said and ("a sum is 3" in said) == ("a sum" in code)
    assert script.main([str(tmp_path), "--dry", "--only", "g"]) == 0 and len(summary(tmp_path)["parts"]) == 1
    assert (
        found["command"].startswith("gpu.sh") and torch.__version__ in found["versions"] and found["driver"] == "none"
    )


@on_a_cpu
def test_without_a_gpu_it_stops_with_one_sentence(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    environment = os.environ | {"PYTHON": sys.executable, "HOME": str(tmp_path), "ATTNCOURSE_DEVICE": ""}
    done = subprocess.run(
        ["bash", str(ROOT / "gpu.sh"), str(out)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and not out.exists()
    assert len(done.stderr.splitlines()) == 1 and "no GPU here" in done.stderr and "--dry" in done.stderr
    for told in ("cpu", "cuda"):
        monkeypatch.setenv("ATTNCOURSE_DEVICE", told)
        assert script.main([str(out)]) == 2 and not out.exists()
        assert "no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--only", "a,z"], ["--minutes", "0"], []])
def test_what_cannot_be_asked_is_said(wrong, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "cpu")
    with pytest.raises(SystemExit) as stopped:
        script.main([str(tmp_path), "--dry", *wrong] if wrong else [])
    assert stopped.value.code == 2
    assert (wrong[0] if wrong else "OUT") in capsys.readouterr().err


def test_the_parts_take_no_more_than_eight_minutes_and_help_names_them(capsys):
    assert (
        sum(p.minutes[0] for p in parts.PARTS) == pytest.approx(script.MINUTES["cuda"]) and script.MINUTES["cuda"] == 8
    )
    with pytest.raises(SystemExit):
        script.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{p.letter} {p.name}: {p.what}" in said for p in parts.PARTS) and "--dry" in said


# Chapters


def write_notebook(path: Path, *sources: str, kind: str = "code", **of_last) -> Path:
    cells = [{"cell_type": kind, "source": source, "metadata": {}, "outputs": []} for source in sources]
    cells[-1] |= of_last
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def execute(path: Path) -> book.ChapterRun:
    result = path.with_suffix(".json")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "benchmarks.notebook", str(path), str(result)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=path.parent)
    found = book.read_run(path.stem, result)
    assert (run.returncode != 0) == any(cell.problem for cell in found.cells), run.stderr
    return found


def test_a_notebook_runs_in_one_namespace_and_keeps_the_traceback_of_a_cell(tmp_path):
    path = write_notebook(
        tmp_path / "toy.ipynb",
        "import inspect\nfrom dataclasses import dataclass\n\n@dataclass\nclass Pair:\n    a: int = 2\n\ndef twice(x):\n    return 2 * x",
        "import matplotlib.pyplot as plt\nplt.figure()\nprint(twice(Pair().a), __name__, inspect.getsource(twice))",
        "import sys\nfrom IPython.display import HTML, Code, Markdown\nassert not plt.get_fignums()\nsys.exit(twice(3))",
        "def divide(x):\n    return 1 / x\n\ndivide(0)",
        "if twice(0):\n    %pip install -q $nothing",
        "%time twice(1)",
        "print('the last cell')",
    )
    run = execute(path)
    assert [cell.cell for cell in run.cells if cell.traceback] == [2, 3, 5] and run.total == len(run.cells) == 7
    assert run.cells[1].printed.startswith("4 __main__ def twice(x):")
    assert "SystemExit: 6" in run.cells[2].traceback
    assert "ZeroDivisionError" in run.cells[3].traceback and "return 1 / x" in run.cells[3].traceback
    assert "no magic runs here: %time twice(1)" in run.problems[2] and run.cells[6].printed == "the last cell\n"
    assert len(run.problems) == 3 and "toy, cell 3: ZeroDivisionError" in run.problems[1]


def test_a_cell_that_may_raise_may_and_what_it_prints_is_compared(tmp_path):
    may = write_notebook(tmp_path / "may.ipynb", "x = 1", "1 / 0", metadata={"tags": ["raises-exception"]})
    run = execute(may)
    assert run.problems == [] and "ZeroDivisionError" in run.cells[1].traceback
    for said, right in (("7\n", True), ("8\n", False)):
        told = dict(
            metadata={"tags": ["nbval-check-output"]},
            outputs=[{"output_type": "stream", "name": "stdout", "text": [said]}],
        )
        run = execute(write_notebook(tmp_path / "says.ipynb", "print(3 + 4)", **told))
        assert (run.problems == []) == right and run.cells[0].differs != right


def test_a_chapter_that_was_killed_says_in_which_cell(tmp_path):
    result = tmp_path / "x.json"
    notebook.write(result, [notebook.CellRun(2, 1.5)], total=4, running=5)
    run = book.read_run("x", result)
    assert run.problems == ["x, cell 5: no time was left, or it ended its process"] and run.row["cells"] == "1 of 4"
    assert book.read_run("y", tmp_path / "none").problems != []


def test_a_chapter_that_takes_too_much_of_a_gpu_says_in_which_cell(tmp_path):
    result = tmp_path / "x.json"
    cells = [notebook.CellRun(i, gpu_bytes=size) for i, size in ((2, 10**9), (3, 13 * 10**9))]
    notebook.write(result, cells, total=2, running=None)
    run = book.read_run("x", result)
    assert run.problems == ["x, cell 3: 13.0 GB of a GPU, and a chapter may take 12"] and run.row["GPU GB"] == 13.0


def test_the_chapters_are_those_whose_cells_work_on_the_device(tmp_path):
    write_notebook(tmp_path / "asks.ipynb", "x = 1", "where = attncourse.device()")
    write_notebook(tmp_path / "names.ipynb", "model.to('cuda')")
    write_notebook(tmp_path / "describes.ipynb", "print(describe_device())")
    write_notebook(tmp_path / "talks.ipynb", "On cuda, and device() says so.", kind="markdown")
    assert [path.stem for path in book.chapters(tmp_path)] == ["asks", "names"]
    found = {path.stem for path in book.chapters()}
    code = {
        p.stem: "\n".join("".join(c["source"]) for _, c in notebook.code_cells(p))
        for p in (ROOT / "book").glob("*.ipynb")
    }
    assert found >= {name for name, text in code.items() if "attncourse.device()" in text} >= {"cache_bandwidth"}
    assert "why_attention" not in found and len(found) < len(code)


# Tests, and packages that are not there

HIDES = """
import sys

class Hides:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hides, sys.meta_path)
"""
TESTS = """
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

class Machine(RuleBasedStateMachine):
    @rule(n=st.integers(0, 3) | st.none())
    def step(self, n):
        pass

TestMachine = Machine.TestCase

@settings(max_examples=3)
@given(x=st.lists(st.integers()).map(len))
@pytest.mark.parametrize("y", [1, 2])
def test_drawn(x, y):
    assert False

def test_with_transformers():
    import transformers

def test_with_a_fault():
    import nothing_of_this_name

def test_that_holds(device):
    pass
"""


@pytest.fixture
def hiding(tmp_path, monkeypatch):
    """A folder of tests; packages that are hidden from the processes that are started."""
    (tmp_path / "sitecustomize.py").write_text(
        HIDES.format(hidden={"hypothesis", "transformers", "nbformat", "pytest_timeout", "IPython"}), encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "test_unread.py").write_text("import nbformat\n", encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef device():\n    return 'cpu'\n", encoding="utf-8"
    )
    return tmp_path


def run_tests(folder: Path, name: str, *options: str) -> kernels.Tested:
    lines = folder / "lines.jsonl"
    lines.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # or plugins whose packages are hidden would be loaded
    plugins = ["-p", "benchmarks.pytest_lines", "-p", "no:cacheprovider", "--lines", str(lines)]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *options, f"{name}.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert lines.exists(), done.stdout + done.stderr
    return kernels.Tested(name, kernels.read_lines(lines), done.returncode)


def test_a_package_that_is_not_there_is_named_and_no_fault(hiding):
    tested = run_tests(hiding, "test_some")
    assert tested.counts == {"passed": 1, "failed": 1, "skipped": 3}
    assert {line["why"] for line in tested.ended if line["outcome"] == "skipped"} == {
        "needs hypothesis",
        "needs transformers",
    }
    assert len(tested.failures()) == 1 and "nothing_of_this_name" in tested.failures()[0]
    unread = run_tests(hiding, "test_unread")
    assert unread.failures() == [] and [line["why"] for line in unread.ended] == ["needs nbformat"]
    only = run_tests(hiding, "test_some", "--on-device")
    assert only.counts == {"passed": 1} and only.failures() == []
    few = run_tests(hiding, "test_some", "-k", "drawn or holds", "--first", "1")
    assert few.counts == {"passed": 1, "skipped": 1}
    dealt = [run_tests(hiding, "test_some", "--share", f"{i}/2").ended for i in (1, 2)]
    assert sorted(line["test"] for ended in dealt for line in ended) == sorted(line["test"] for line in tested.ended)
    says = "from benchmarks.stand_ins import absent; print(absent())"
    said = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True).stdout
    assert {"hypothesis", "transformers", "nbformat", "IPython"} <= set(json.loads(said.replace("'", '"')))


def test_a_chapter_runs_without_ipython(hiding):
    """PYTHONPATH is set anew by `execute`, so that the notebook hides it itself."""
    hides = (hiding / "sitecustomize.py").read_text(encoding="utf-8")
    code = f"{hides}\nfrom benchmarks.stand_ins import stand_in_for_ipython\n[sys.modules.pop(name) for name in [*sys.modules] if name.startswith('IPython')]\nstand_in_for_ipython()"
    figure = "import matplotlib.pyplot as plt\nfrom IPython.display import HTML, Markdown\nplt.figure()"
    shows = "from attncourse import show\nprint(show(show).data[:22])"
    run = execute(write_notebook(hiding / "shows.ipynb", code, figure, shows))
    assert run.problems == [] and run.cells[2].printed.startswith("```python\n# attncourse")


def test_what_killed_a_file_is_told_by_its_test():
    lines = [{"test": f"t::{name}", "outcome": outcome, "seconds": 0, "why": ""} for name, outcome in
             (("a", "begun"), ("a", "passed"), ("b", "begun"))]  # fmt: skip
    assert kernels.Tested("t", lines, None).failures() == ["t: no time was left, in t::b"]
    assert kernels.Tested("t", lines, -11).failures() == ["t: pytest ended with -11, see its log"]
    assert kernels.Tested("t", lines[:2], 0).failures() == []


def test_every_test_file_is_there_and_every_room_has_some_that_need_no_gpu():
    assert all((ROOT / "tests" / f"{name}.py").exists() for name in kernels.TESTS)
    assert {f"test_{room}" for room in rooms()} <= {name for name, _ in kernels.shares("cpu", 2)} <= set(kernels.TESTS)
    assert {*kernels.COMPILED, *kernels.LONG} <= {*rooms()}
    for cores in (2, 16):
        work = kernels.shares("cuda", cores)
        assert {name for name, _ in work} == set(kernels.TESTS) and len(work) == len(set(work))
    assert {share for name, share in work if name == "test_latent"} == {"1/3", "2/3", "3/3"}


def test_the_optional_packages_are_told_from_faults():
    assert stand_ins.lacking("No module named 'fla.ops'") == "fla"
    assert stand_ins.lacking("No module named 'torch'") is None and stand_ins.lacking("cannot import name 'x'") is None


# What is measured


def test_the_masks_of_peers_are_those_of_the_rooms():
    n = 150
    i, j = torch.arange(n)[:, None], torch.arange(n)
    window = window_mask(n, window=20, device="cpu")
    assert torch.equal(window.mask_mod(0, 0, i, j), local_mask(n, n, window=20))
    pattern = local_and_random(n, radius=0, n_random=1, seed=0, block=16)
    sparse = pattern_mask(pattern, device="cpu")
    assert torch.equal(sparse.mask_mod(0, 0, i, j), pattern.dense_mask())
    assert window.shape[-2:] == sparse.shape[-2:] == (n, n)


def test_no_other_backend_takes_the_place_of_one_that_cannot_run():
    q, k, v = make_qkv(b=1, h=2, t=9, dk=16, dtype=torch.float32)
    torch.testing.assert_close(sdpa_form("math", is_causal=True)(q, k, v), sliding_window_attention(q, k, v, window=9))
    if attncourse.device() == "cpu":
        with pytest.raises(RuntimeError):
            sdpa_form("cudnn")(q, k, v)


@on_a_cpu
def test_a_form_under_another_mask_is_found_out():
    told = dict(device="cpu", width=16)
    right = beside.Entry("sdpa", lambda t: sdpa_form("math", is_causal=True))
    wrong = beside.Entry("sdpa", lambda t: sdpa_form("math"))
    most = beside.WRONG[beside.DTYPE["cpu"]]
    assert max(beside.compare(right, "softmax_attention", **told)) < most / 100
    assert min(beside.compare(wrong, "softmax_attention", **told)) > most
    short = beside.time_both(wrong, "softmax_attention", t=32, clock=Clock("cpu"), **told)
    assert [(direction, seconds > 0, problem) for direction, seconds, problem, _ in short] == [
        ("forward", True, None), ("backward", True, None),
    ]  # fmt: skip
    case = beside.case_of("sliding_window", 32, device="cpu", width=16)
    assert beside.unlike_the_kernel(case.forms["reference"], case) is None
    assert (
        beside.unlike_the_kernel(lambda *qkv: 2 * case.forms["triton"](*qkv), case)
        == "wrong beside the kernel, error 1"
    )
    cannot = replace(wrong, make=lambda t: 1 / 0)
    assert [row[2] for row in beside.time_both(cannot, "softmax_attention", t=32, clock=Clock("cpu"), **told)] == [
        "ZeroDivisionError: division by zero"
    ]


def test_every_mechanism_stands_beside_something():
    for device in ("cpu", "cuda"):
        work = [*beside.work(device)]
        assert {mechanism for mechanism, *_ in work} == set(beside.MECHANISMS)
        for mechanism in beside.MECHANISMS:
            names = {entry.name for m, entry, *_ in work if m == mechanism}
            assert "kernel" in names and any(name.startswith("sdpa") for name in names)
            assert ("flex" in names) == (mechanism in ("sliding_window", "block_sparse"))


@on_a_cpu
def test_a_candidate_goes_through_the_rooms_own_configs_and_leaves_them_as_they_were():
    target = sweep.targets("cpu")[0]
    before = target.present
    assert target.candidates("cpu")[0] == target.candidates("cuda")[0] == before and len(target.candidates("cuda")) > 20
    target.take((32, 32, 4, 1))
    from attncourse.softmax_attention import kernel

    assert kernel.launch_config("fwd", width=64, bits=32, capability=80)["BLOCK_S"] == 32
    target.take(before)
    found = tiles.trial(target, (24, 16, 4, 1), 0.0, None, where="cpu")  # no power of two
    assert found.seconds is None and found.problem and target.present == before
    assert tiles.trial(target, before, 0.5, None, where="cpu").problem == "wrong, error 0.5"
    every = [pair for batch in tiles.rounds(sweep.targets("cuda"), "cuda") for pair in batch]
    assert len(every) == len(set(every)) == sum(len(t.candidates("cuda")) for t in sweep.targets("cuda"))


def test_a_candidate_that_does_not_fit_is_a_line_and_the_best_comes_first(tmp_path):
    report, target = sweep.Report(tmp_path), sweep.Target("softmax_attention", "fwd", 64)
    trials = [
        tiles.Trial((1,), False, None, None, "OutOfResources: shared memory"),
        tiles.Trial((2,), True, 4e-6, 0.0, None),
        tiles.Trial((3,), False, 2e-6, 0.0, None),
    ]
    sweep.show(report, {target: trials})
    (table,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["tables"].values()
    best, now, unfit = table.splitlines()[2:]
    assert [line.split("|")[1].strip() for line in (best, now, unfit)] == ["3", "2", "1"]
    assert " 0.5 " in best and " now " in now and "OutOfResources" in unfit
    assert "2.00x by 3" in report.words


def test_a_step_that_was_not_measured_is_a_defect():
    told = dict(what="", size={}, dtype="float32", flops=1, bytes=1, predicted=1.0, limit="memory")
    fine = Measurement("decode_mha", "blocked", seconds=1.0, **told)
    broken = Measurement("decode_mqa", "blocked", problem="RuntimeError: no", **told)
    theirs = Measurement("decode_mqa", "torch", problem="RuntimeError: no", **told)
    assert decode.defects([fine, theirs], device="cpu") == []
    assert decode.defects([fine, broken], device="cpu") == ["decode_mqa by blocked at : RuntimeError: no"]
    assert len(decode.defects([theirs], device="cpu")) == 1


def test_what_stands_in_for_ipython_is_all_that_is_asked_of_it():
    """By chapters, and by the package's own functions for them: a name more here would be missed on a GPU's machine."""
    sources = [
        "".join(cell["source"]) for path in (ROOT / "book").glob("*.ipynb") for _, cell in notebook.code_cells(path)
    ]
    package = ROOT / "attncourse"
    shown = [package / "notebook.py", *(package / "plot").glob("*.py"), *(package / "lessons").rglob("*.py")]
    sources += [path.read_text(encoding="utf-8") for path in shown]
    asked = {
        name.strip()
        for text in sources
        for line in re.findall(r"from IPython.* import (.+)", text)
        for name in line.split(",")
    }
    assert asked == set(stand_ins.SHOWN)
    others = re.compile(r"^\s*import IPython|ipywidgets|get_ipython|(?<![.\w])display\(|^%%", re.MULTILINE)
    assert [found[0] for found in map(others.search, sources) if found] == []
