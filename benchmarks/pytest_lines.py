"""A plugin of pytest: the tests that reach a GPU alone, and a line of JSON for each as it ends.

So what a run has found is there whenever it is killed. Without pytest-timeout its option is known, and does nothing.
"""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from .stand_ins import absent, lacking, stand_in_for_hypothesis


def pytest_addoption(parser):
    """Add the options `--lines`, `--on-device`, `--first`, `--share`."""
    parser.addoption("--lines", type=Path, help="the file that a line is added to for each test")
    parser.addoption("--on-device", action="store_true", help="only tests that reach the device")
    parser.addoption("--first", type=int, help="only the first so many of each test's cases")
    parser.addoption("--share", default="1/1", help="2/3: the second of three processes that are dealt the tests")
    if "pytest_timeout" in absent():
        parser.addini("timeout", "of pytest-timeout, which is not installed")


def pytest_configure(config):
    """Put stand-ins in place before any test is imported."""
    stand_in_for_hypothesis()
    config.stash[_lines] = config.getoption("--lines")


_lines = pytest.StashKey[Path | None]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what was not asked for."""
    kept = [item for item in items if _reaches(item) or not config.getoption("--on-device")]
    seen, most = Counter(), config.getoption("--first")
    if most is not None:
        kept = [item for item in kept if _count(seen, item) <= most]
    place, of = map(int, config.getoption("--share").split("/"))
    kept = kept[place - 1 :: of]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _count(seen: Counter, item) -> int:
    name = item.nodeid.partition("[")[0]
    seen[name] += 1
    return seen[name]


def _reaches(item) -> bool:
    """Return whether a test works on the device: it asks for it, or is marked for it."""
    return "device" in item.fixturenames or item.get_closest_marker("gpu") is not None


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Skip a test that imports an optional package which is not here, by its name."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        package = lacking(str(error))
        if package not in absent():
            raise
        pytest.skip(f"needs {package}")


class Lines:
    """It writes a line for each test, and for each file that cannot be read."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, name: str, outcome: str, seconds: float, why: str) -> None:
        """Write one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": name, "outcome": outcome, "seconds": round(seconds, 2), "why": why}) + "\n")

    def pytest_runtest_logstart(self, nodeid, location):
        """Write that a test begins: who is killed in it is known by name."""
        self.write(nodeid, "begun", 0.0, time.strftime("%H:%M:%S"))

    def pytest_runtest_logreport(self, report):
        """Write that a test has passed, failed or was skipped."""
        if report.when == "call" or report.outcome != "passed":
            self.write(report.nodeid, report.outcome, report.duration, _why(report))

    def pytest_collectreport(self, report):
        """Write of a file that cannot be read: for the lack of an optional package, or for a fault."""
        if report.outcome == "passed":
            return
        why = _why(report)
        package = lacking(str(report.longrepr)) if report.failed else None
        if package in absent():
            self.write(report.nodeid, "skipped", 0.0, f"needs {package}")
        else:
            self.write(report.nodeid, report.outcome, 0.0, why)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    """Begin the lines, where they are asked for."""
    path = session.config.stash[_lines]
    if path is not None:
        session.config.pluginmanager.register(Lines(path), "benchmarks-lines")


def _why(report) -> str:
    """Return in a line why a test was skipped or failed."""
    if report.outcome == "passed":
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return text.strip().splitlines()[0][:200] if text.strip() else ""
