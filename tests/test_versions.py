"""The supported versions: the bounds are tried ones, and a set that could not be tried, or failed, is no success."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import versions
from tests.versions import FOLDER, NO_GATES, NUMPYS, SUPPORTED, Failed, Outcome, Versions, chosen, read_counts

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOWEST = next(v for v in SUPPORTED if v.name == "lowest")
PINS = {"torch": LOWEST.torch, "triton": LOWEST.triton, "numpy": LOWEST.numpy} | dict(
    pin.split("==") for pin in LOWEST.others
)
SOME = Versions("some", python="3.11", torch="2.11.0", triton="3.6.0", numpy="2.4.6")
THERE = {"python": "3.11.7", "torch": "2.11.0+cu130", "triton": "3.6.0", "numpy": "2.4.6"}
PASSED = {"passed": 3, "failed": 0, "skipped": 1}
TESTS = """
import pytest

def test_passes(): pass
def test_fails(): assert False
def test_is_skipped(): pytest.skip("why")
@pytest.mark.xfail
def test_fails_as_expected(): assert False
@pytest.fixture
def broken(): 1 / 0
def test_ends_in_an_error(broken): pass
"""


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def bounds() -> dict[str, str]:
    """The lower bound of each dependency that has one."""
    found = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in PYPROJECT["project"]["dependencies"])
    return {match[1]: match[2] for match in found if match}


# What is declared is what is tried


def test_every_lower_bound_is_in_the_set_of_the_lowest():
    assert len(bounds()) >= 7
    for name, bound in bounds().items():
        assert parts(PINS[name])[: len(parts(bound))] == parts(bound), name
    assert PYPROJECT["project"]["requires-python"] == f">={LOWEST.python}"
    assert all(parts(v.torch) >= parts(LOWEST.torch) and parts(v.python) >= parts(LOWEST.python) for v in SUPPORTED)


def test_what_continuous_integration_runs_is_a_supported_set():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split() if "==" in line
    )
    assert any((v.torch, v.triton, v.numpy) == (pins["torch"], pins["triton"], pins["numpy"]) for v in SUPPORTED)


def test_the_readme_says_every_set_that_is_tried():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| (3\.\d+)\.\d+ \| ([\d.]+)\S* \| ([\d.]+) \| ([\d.]+) \|", readme, flags=re.MULTILINE)
    assert sorted(said) == sorted((v.python, v.torch, v.triton, v.numpy) for v in SUPPORTED)
    assert re.search(r"[Tt]ried on 20\d\d-\d\d-\d\d", readme)
    for python in {v.python for v in SUPPORTED}:
        assert python in readme.partition("## Eight lines")[0]


def test_no_gate_of_the_pinned_compiler_is_among_the_tests_that_are_run():
    left_out = re.findall(r"not (\w+)", NO_GATES)
    gates = 0
    for path in ROOT.glob("tests/test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(call, ast.Call) and getattr(call.func, "id", "") == "compile_all" for call in ast.walk(node)
            ):
                gates += 1
                assert any(word in node.name for word in left_out), f"{path.name}: {node.name}"
    assert gates >= 10


# Choosing, finding, installing


def test_sets_are_chosen_by_how_their_names_begin():
    assert chosen([]) == [*SUPPORTED]
    assert [v.python for v in chosen(["py313"])] == ["3.13"]
    assert chosen(["lowest", "py31"]) == [*SUPPORTED]
    assert chosen(["newest"]) == [versions.NEWEST]
    with pytest.raises(ValueError, match="no set of versions begins with 'py27': there are py311"):
        chosen(["lowest", "py27"])


def write_python(path: Path, ends: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {ends}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_python_is_found_on_the_path_or_where_pyenv_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert versions.find_python("9.1") is None
    for patch, ends in ((2, 0), (10, 0), (9, 0), (11, 1)):
        write_python(tmp_path / "versions" / f"9.1.{patch}" / "bin" / "python", ends)
    write_python(tmp_path / "versions" / "9.11.0" / "bin" / "python", 0)
    newest = tmp_path / "versions" / "9.1.10" / "bin" / "python"
    write_python(tmp_path / "bin" / "python9.1", 127)  # pyenv's own, where another version is the active one
    assert versions.find_python("9.1") == newest
    active = write_python(tmp_path / "bin" / "python9.1", 0)
    assert versions.find_python("9.1") == active


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[list[str]]:
    """What install asks for, while nothing is installed; torch asks for no Triton unless a file `cuda` is there."""
    calls = []

    def run(command: list, **environment: str) -> str:
        calls.append([str(part) for part in command])
        if "venv" in command:
            (tmp_path / SOME.name).mkdir()
        return json.dumps((tmp_path / "cuda").exists())

    monkeypatch.setattr(versions, "FOLDER", tmp_path)
    monkeypatch.setattr(versions, "_run", run)
    return calls


@pytest.mark.parametrize("cuda", [False, True])
def test_a_torch_that_asks_for_a_triton_gets_that_one(asked, tmp_path, cuda):
    if cuda:
        (tmp_path / "cuda").touch()
    versions.install(SOME, Path(sys.executable))
    pins = (tmp_path / SOME.name / "pins.txt").read_text(encoding="utf-8").split()
    assert pins == ["torch==2.11.0", "numpy==2.4.6"] + ["triton==3.6.0"] * (not cuda)
    first, second = (call for call in asked if "install" in call)
    assert first[-1] == "torch" and str(ROOT) in second
    assert all("--constraint" in call for call in (first, second))


def test_an_environment_is_made_once_and_anew_when_its_pins_change(asked, tmp_path):
    versions.install(SOME, Path(sys.executable))
    calls = len(asked)
    versions.install(SOME, Path(sys.executable))
    assert len(asked) == calls
    (tmp_path / SOME.name / "half-a-package").touch()
    versions.install(Versions("some", "3.11", "2.11.0", "3.6.0", "2.5.5"), Path(sys.executable))
    assert len(asked) == 2 * calls
    assert not (tmp_path / SOME.name / "half-a-package").exists()


# What counts as success


def test_counts_are_those_that_pytest_says(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "test_some.py"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 1
    assert read_counts(tmp_path / "report.xml") == {"passed": 1, "failed": 2, "skipped": 2}


def test_a_run_that_left_no_report_has_failed(tmp_path):
    assert read_counts(tmp_path / "report.xml")["failed"] == 1


@pytest.fixture
def pretended(monkeypatch, tmp_path) -> dict:
    """A set of versions that holds; what a test changes in it is what came of it."""
    came = {"found": THERE, "tests": PASSED, "cannot loop beside": "", "compile": '{"kernels": 27}'}

    def run(command: list, **environment: str) -> str:
        if "compile" in command:
            return came["compile"]
        if "interpret" not in command:
            return ""
        beside = environment.get("PYTHONPATH", THERE["numpy"]).rpartition("-")[2]
        if beside == came["cannot loop beside"]:
            raise Failed("only 0-dimensional arrays")
        return json.dumps(came["found"] | ({"numpy": beside} if environment else {}))

    monkeypatch.setattr(versions, "SUPPORTED", (SOME,))
    monkeypatch.setattr(versions, "FOLDER", tmp_path)
    monkeypatch.setattr(versions, "_run", run)
    monkeypatch.setattr(versions, "find_python", lambda version: came.get("python", Path(sys.executable)))
    monkeypatch.setattr(versions, "install", lambda versions, python: tmp_path / "some" / "bin" / "python")
    monkeypatch.setattr(versions, "run_tests", lambda inside, report, *, all_cases: came["tests"])
    return came


def test_a_set_of_versions_that_holds_is_a_success(pretended, tmp_path, capsys):
    assert versions.main([]) == 0
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == summary.strip()
    for said in (*THERE.values(), "27", ", ".join(versions.numpys_for(SOME.python)), "at most three cases", "| yes"):
        assert said in summary


def test_what_is_not_pinned_may_be_any_version(pretended, tmp_path, capsys):
    assert versions.pins_of(torch="", numpy="2.4.6") == ["numpy==2.4.6"]
    assert versions.main(["newest"]) == 0
    assert THERE["torch"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "came", "said"),
    [
        ("python", None, "not run, there is no python3.11"),
        ("found", THERE | {"triton": "3.7.1"}, "triton 3.6.0 was asked for and 3.7.1 is there"),
        ("found", THERE | {"torch": "2.11.1+cpu"}, "torch 2.11.0 was asked for and 2.11.1"),
        ("tests", PASSED | {"failed": 2}, "2 tests fail"),
        ("tests", PASSED | {"passed": 0}, "no test ran"),
        ("cannot loop beside", NUMPYS[0], f"beside NumPy {NUMPYS[0]}: only 0-dimensional"),
        ("cannot loop beside", THERE["numpy"], "only 0-dimensional"),
    ],
)
def test_whatever_fails_or_is_not_tried_is_no_success(pretended, tmp_path, what, came, said):
    pretended[what] = came
    assert versions.main([]) == 1
    assert f"no: {said}" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_numpy_that_is_not_built_for_a_python_is_not_asked_for():
    assert versions.numpys_for("3.11") == [*NUMPYS[:2]] and versions.numpys_for("3.12") == [*NUMPYS]
    assert versions.numpys_for("3.13") == [*NUMPYS]


def test_a_command_that_fails_says_what_it_was_and_its_last_words():
    with pytest.raises(Failed, match=r"`-c .*` ended with 3: the end"):
        versions._run([sys.executable, "-c", "import sys; print('before\\nthe end', file=sys.stderr); sys.exit(3)"])


# What is run in each environment


def test_a_loop_runs_in_this_environment_without_a_warning():
    found = json.loads(versions._run([sys.executable, "-m", "tests.tried_inside", "interpret"]))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_every_kernel_of_a_room_is_compiled_once():
    script = """
from tests import compile_gate
print([c.kernel for c in compile_gate.first_of_each_kernel(90, rooms=["kv_cache"])])
"""
    said = versions._run([sys.executable, "-c", script], TRITON_INTERPRET="0")
    assert ast.literal_eval(said) == ["_kv_cache_append_kernel", "_kv_cache_gather_kernel"]


def test_the_folder_is_not_in_the_repository():
    assert Outcome("some").holds is False
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert f"{FOLDER.relative_to(ROOT).parts[0]}/" in ignored
