"""`make quick` leaves out what does not fit into its file's share of time, and says so; `make test` says why it skips."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import quick, test_chapters, test_hostile_class

ROOT = Path(__file__).parents[1]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_x" name="test_slow[1]" time="0.9" /><testcase classname="tests.test_x" name="test_slow[2]" time="0.9" />
<testcase classname="tests.test_x" name="test_fast" time="0.7" /><testcase classname="tests.test_x" name="test_next" time="0.7" />
<testcase classname="tests.test_x" name="test_last" time="0.75" />
<testcase classname="tests.folder.test_y.TestClass" name="test_z" time="2" />
<testcase classname="tests.test_rooms" name="test_rule" time="5" />
<testcase classname="tests.test_x" name="test_kept" time="0"><skipped message="no GPU" /></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A list and a report of its own."""
    monkeypatch.setattr(quick, "LIST", tmp_path / "left_out.txt")
    monkeypatch.setattr(quick, "ROOT", tmp_path)
    monkeypatch.setattr(quick, "MEASURED", tmp_path / "tests.xml")
    quick.MEASURED.write_text(REPORT, encoding="utf-8")
    quick.LIST.write_text("tests/test_x.py::test_kept\ntests/test_x.py::test_fast\n", encoding="utf-8")
    return tmp_path


def test_the_fastest_of_each_file_fit_and_the_house_rules_run_whole(files):
    assert quick.main() == 0
    assert quick.left_out() == {
        "tests/folder/test_y.py::TestClass::test_z",
        "tests/test_x.py::test_kept",  # was not measured
        "tests/test_x.py::test_last",  # 0.7 + 0.7 + 0.75 s
        "tests/test_x.py::test_slow",  # all its cases
    }


def item(name: str, *fixtures: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid=name, fixturenames=fixtures)


def test_every_case_of_a_listed_function_and_what_needs_a_dear_fixture_is_left_out(files):
    items = [item(f"tests/test_x.py::{name}", "tmp_path") for name in ("test_fast[1]", "test_fast[2]", "test_fast_too")]
    items += [item("tests/test_x.py::test_new", fixture) for fixture in sorted(quick.DEAR)]
    gone = []
    hook = SimpleNamespace(pytest_deselected=lambda items: gone.extend(items))
    everything = [*items]
    quick.pytest_collection_modifyitems(SimpleNamespace(hook=hook), items)
    assert items == everything[2:3] and gone == [*everything[:2], *everything[3:]]
    assert hasattr(test_hostile_class, "marked_class") and hasattr(test_chapters, "executed_chapters")


def test_what_was_not_run_is_said_at_the_end(tmp_path):
    test = "import pytest\n@pytest.mark.parametrize('i', range(3))\ndef test_it(i):\n    pytest.skip('no GPU' if i else 'odd')"
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    plugins = ["-p", "tests.conftest", "-p", "tests.quick", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", *plugins, tmp_path]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    assert said.index("2 tests: no GPU") < said.index("1 tests: odd"), said
    assert f"{len(quick.left_out())} slow test functions" in said and "make test runs them all" in said
