"""The versions that the course supports, each tried in an environment of its own, under _build/versions/.

    python -m tests.versions                       every set of versions
    python -m tests.versions lowest py312          one, or some: whatever begins with these words
    python -m tests.versions lowest --all-cases    every case of each test, and not three of them
    python -m tests.versions newest                the newest PyTorch that pip finds

Of each set: the rooms' tests, a learner's kernel with a loop interpreted beside each of NUMPYS that its Python has, and
every kernel compiled once for a chip that is not here. What came out stands in _build/versions/summary.md. A set that could
not be tried, since this machine lacks its Python, counts as one that does not hold.

Not among the tests are the compile gates, which judge how many registers the pinned compiler takes.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tabulate import tabulate

from tests.test_rooms import ROOMS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "_build" / "versions"
SUMMARY = "summary.md"


@dataclass(frozen=True)
class Versions:
    """Versions are a set: what is pinned; all else, and an empty pin, is the newest that pip finds.

    triton is installed by this pin where torch's build for processors asks for none; its build for CUDA brings its own.
    """

    name: str
    python: str
    torch: str
    triton: str
    numpy: str
    others: tuple[str, ...] = ()


SUPPORTED = (
    Versions("py311-torch2.13.0", python="3.11", torch="2.13.0", triton="3.9.0", numpy="2.4.6"),  # constraints.txt's
    Versions("py312-torch2.11.0", python="3.12", torch="2.11.0", triton="3.6.0", numpy="2.5.5"),
    Versions("py313-torch2.14.1", python="3.13", torch="2.14.1", triton="3.8.0", numpy="2.5.5"),
    Versions(  # the lower bounds of pyproject.toml
        "lowest",
        python="3.11",
        torch="2.11.0",
        triton="3.6.0",
        numpy="1.26.0",
        others=("einops==0.8.0", "jaxtyping==0.2.36", "matplotlib==3.8.0", "tabulate==0.10.0"),
    ),
)

# What the pins hide. It is tried where it is named: what came out yesterday need not come out today.
NEWEST = Versions("newest", python="3.13", torch="", triton="", numpy="")

# Triton 3.6 and older loops beside NumPy 2.4 and newer by a mend of ours; the first is what the message advises.
NUMPYS = ("2.3.5", "2.4.6", "2.5.5")
OLDEST_PYTHON = {"2.5.5": "3.12"}  # that a NumPy is built for, where it is newer than the oldest of the course

TESTED_WITH = ("pytest", "pytest-timeout", "hypothesis")
SHARED_TESTS = ("shared", "rope", "device", "every_form", "same_function")
NO_GATES = "not for_a_chip_that_is_not_here and not compiles_without_a_gpu"

# Whether this torch asks for one Triton of its own.
PINS_TRITON = "import importlib.metadata as m, json; print(json.dumps(any(r.startswith('triton==') for r in m.requires('torch'))))"


class Failed(Exception):
    """A run ended badly; the message is the end of what it said."""


@dataclass
class Outcome:
    """An outcome is what came of a set of versions. It holds where nothing failed, and something was tried."""

    name: str
    found: dict[str, str] = field(
        default_factory=dict
    )  # versions of python, torch, triton, numpy as they were imported
    tests: dict[str, int] = field(default_factory=dict)  # passed, failed, skipped
    minutes: float = 0.0
    loops_beside: list[str] = field(default_factory=list)  # versions of NumPy
    kernels: int | None = None  # that compiled
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.faults and self.tests.get("passed", 0) > 0

    def row(self) -> list:
        return [
            self.name,
            *(self.found.get(what, "") for what in ("python", "torch", "triton", "numpy")),
            *(self.tests.get(what, "") for what in ("passed", "failed", "skipped")),
            f"{self.minutes:.0f}",
            "" if self.kernels is None else self.kernels,
            ", ".join(self.loops_beside),
            "yes" if self.holds else "no: " + "; ".join(self.faults or ["no test ran"]),
        ]


HEADERS = (
    "versions", "python", "torch", "triton", "numpy", "passed", "failed", "skipped", "minutes", "kernels compiled",
    "loops beside numpy", "holds",
)  # fmt: skip


def chosen(words: list[str]) -> list[Versions]:
    """Return the sets whose names begin with one of these words; all that are supported where there is no word.

    Raises:
        ValueError: a word begins no name.
    """
    known = [*SUPPORTED, NEWEST]
    names = [versions.name for versions in known]
    for word in words:
        if not any(name.startswith(word) for name in names):
            raise ValueError(f"no set of versions begins with {word!r}: there are {', '.join(names)}")
    return [versions for versions in known if versions.name.startswith(tuple(words))] if words else [*SUPPORTED]


def numpys_for(python: str) -> list[str]:
    """Return those of NUMPYS that are built for this Python, "3.11"."""
    minor = int(python.partition(".")[2])
    return [numpy for numpy in NUMPYS if int(OLDEST_PYTHON.get(numpy, python).partition(".")[2]) <= minor]


def find_python(version: str) -> Path | None:
    """Return an interpreter of this version, as python3.11 on PATH or in pyenv's folder; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = shutil.which(f"python{version}")
    newest_first = sorted(pyenv.glob(f"{version}.*/bin/python"), key=_patch_level, reverse=True)
    return next(filter(_runs, [*([Path(on_path)] if on_path else []), *newest_first]), None)


def _patch_level(python: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", python.parts[-3])]


def _runs(python: Path) -> bool:
    """Return whether this runs: pyenv lays a python3.11 on PATH, too,
    where another version is active, and it says so and ends.
    """
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def install(versions: Versions, python: Path) -> Path:
    """Return the Python of an environment with these versions;
    made anew where pins or pyproject.toml have changed, or nothing is pinned.
    """
    folder = FOLDER / versions.name
    inside, mark, pins = folder / "bin" / "python", folder / "installed", folder / "pins.txt"
    wanted = f"{versions}\n{(ROOT / 'pyproject.toml').read_text(encoding='utf-8')}"
    if versions.torch and mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    _run([python, "-m", "venv", folder])
    lines = [*pins_of(torch=versions.torch, numpy=versions.numpy), *versions.others]
    pip = [inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--constraint", pins]
    pins.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _run([*pip, "torch"])
    if not json.loads(_run([inside, "-c", PINS_TRITON])):
        pins.write_text("\n".join([*lines, *pins_of(triton=versions.triton)]) + "\n", encoding="utf-8")
    _run([*pip, "--editable", ROOT, *TESTED_WITH])
    mark.write_text(wanted, encoding="utf-8")
    return inside


def pins_of(**versions: str) -> list[str]:
    """Return lines of a constraints file; none for what is not pinned."""
    return [f"{name}=={version}" for name, version in versions.items() if version]


def try_versions(versions: Versions, *, all_cases: bool = False) -> Outcome:
    """Install the versions and try all that is tried of them; what fails is noted and the rest goes on."""
    outcome, start = Outcome(versions.name), time.monotonic()
    python = find_python(versions.python)
    if python is None:
        outcome.faults.append(f"not run, there is no python{versions.python} on PATH nor under pyenv's versions")
        return outcome
    try:
        inside = install(versions, python)
        outcome.found = json.loads(_run([inside, "-m", "tests.tried_inside", "interpret"]))
    except Failed as fault:
        outcome.faults.append(str(fault))
        return outcome
    wrong = [
        f"{what} {wanted} was asked for and {outcome.found[what]} is there"
        for what, wanted in (("torch", versions.torch), ("numpy", versions.numpy), ("triton", versions.triton))
        if wanted and outcome.found[what].partition("+")[0] != wanted
    ]
    outcome.faults += wrong
    for numpy in numpys_for(versions.python):
        try:
            _loop_beside(inside, numpy)
            outcome.loops_beside.append(numpy)
        except Failed as fault:
            outcome.faults.append(f"beside NumPy {numpy}: {fault}")
    try:
        outcome.kernels = json.loads(_run([inside, "-m", "tests.tried_inside", "compile"]))["kernels"]
    except Failed as fault:
        outcome.faults.append(str(fault))
    outcome.tests = run_tests(inside, FOLDER / f"{versions.name}.xml", all_cases=all_cases)
    if outcome.tests["failed"]:
        outcome.faults.append(f"{outcome.tests['failed']} tests fail, see _build/versions/{versions.name}.log")
    outcome.minutes = (time.monotonic() - start) / 60
    return outcome


def _loop_beside(inside: Path, numpy: str) -> None:
    """Interpret a loop with another NumPy before the environment's own on the path."""
    folder = inside.parents[1] / f"numpy-{numpy}"
    if not (folder / "numpy").exists():
        pip = [inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--no-deps"]
        _run([*pip, "--target", folder, f"numpy=={numpy}"])
    found = json.loads(_run([inside, "-m", "tests.tried_inside", "interpret"], PYTHONPATH=str(folder)))
    if found["numpy"] != numpy:
        raise Failed(f"NumPy {found['numpy']} was imported instead")


def run_tests(inside: Path, report: Path, *, all_cases: bool) -> dict[str, int]:
    """Return how many of the rooms' tests pass, fail and are skipped;
    pytest's own words go into a log beside the report.
    """
    files = [f"tests/test_{name}.py" for name in (*ROOMS, *SHARED_TESTS)]
    few = [] if all_cases else ["-p", "tests.few_cases"]
    options = ["-q", "-p", "no:cacheprovider", "-k", NO_GATES, f"--junitxml={report}", *few]
    report.unlink(missing_ok=True)
    with open(report.with_suffix(".log"), "w", encoding="utf-8") as log:
        subprocess.run([inside, "-m", "pytest", *options, *files], cwd=ROOT, env=_environment(), stdout=log, stderr=log)
    return read_counts(report)


def read_counts(report: Path) -> dict[str, int]:
    """Return passed, failed, skipped of a JUnit report; without one, as after a crash, one failure."""
    if not report.exists():
        return {"passed": 0, "failed": 1, "skipped": 0}
    counts = {what: 0 for what in ("tests", "failures", "errors", "skipped")}
    for suite in ElementTree.parse(report).iter("testsuite"):
        counts = {what: n + int(suite.get(what, 0)) for what, n in counts.items()}
    failed = counts["failures"] + counts["errors"]
    return {"passed": counts["tests"] - failed - counts["skipped"], "failed": failed, "skipped": counts["skipped"]}


def _environment(**more: str) -> dict[str, str]:
    mine = ("PYTEST", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TRITON_INTERPRET")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def _run(command: list, **environment: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=_environment(**environment), capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()
        raise Failed(f"`{' '.join(map(str, command[1:4]))} ...` ended with {done.returncode}: {said[-1]}")
    return done.stdout


def report_of(outcomes: list[Outcome], *, all_cases: bool) -> str:
    """Return the summary as Markdown: a row per set of versions."""
    cases = "every case of each test" if all_cases else "at most three cases of each test"
    rows = tabulate([outcome.row() for outcome in outcomes], headers=HEADERS, tablefmt="github")
    return f"Tried on {datetime.date.today()}, {cases}.\n\n{rows}\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(versions.name for versions in (*SUPPORTED, NEWEST))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"how a name begins: {names} (default: all but {NEWEST.name})"
    )
    parser.add_argument("--all-cases", action="store_true", help="run every case of each test, and not three of them")
    arguments = parser.parse_args(argv)
    try:
        wanted = chosen(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    FOLDER.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for versions in wanted:
        print(f"{versions.name} ...", file=sys.stderr, flush=True)
        outcomes.append(try_versions(versions, all_cases=arguments.all_cases))
        (FOLDER / SUMMARY).write_text(report_of(outcomes, all_cases=arguments.all_cases), encoding="utf-8")
    print((FOLDER / SUMMARY).read_text(encoding="utf-8"))
    return int(not all(outcome.holds for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
