"""What new-exercise lays down works at once: it is released, checked, marked and tested as the course's own."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from attncourse.course.new_exercise import new_exercise, with_imports
from tests.toy_course import ROOT, cells_graded_as, hand_in

PARTS = ("attncourse", "tests", "solutions", "exercises", "book")
FILES = ("pyproject.toml", "nbgrader_config.py", "_config.yml", "_toc.yml", "README.md", "CONTRIBUTING.md")


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("new") / "course"
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "_static"))
    for name in FILES:
        shutil.copy(ROOT / name, root)
    return root


def python(course: Path, *arguments: str) -> str:
    """What a Python that imports the copy prints; it must succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(course)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=course, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def files_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def solution(course: Path, unit: str, exercise: str) -> str:
    notebook = nbformat.read(course / "solutions" / unit / f"{unit}.ipynb", as_version=4)
    return cells_graded_as(notebook, f"{unit}-{exercise}")[0].source


def first_cell(course: Path, unit: str) -> str:
    return nbformat.read(course / "solutions" / unit / f"{unit}.ipynb", as_version=4).cells[0].source


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "name, options, says",
    [
        ("Windows", {}, "snake_case, got 'Windows'"),
        ("my-windows", {}, "snake_case"),
        ("windows.", {}, "snake_case"),
        ("windows.2nd", {}, "snake_case"),
        ("a.b.c", {}, "snake_case"),
        ("../windows", {}, "snake_case"),
        ("windows.lambda", {}, "snake_case"),
        ("windows", {}, "must belong to a chapter, got None; there are .*short_history"),
        ("windows", {"chapter": "short_histroy"}, "did you mean short_history"),
        ("windows", {"chapter": "short_history", "minutes": 0}, "at least a minute, got 0"),
        ("kinds", {"chapter": "short_history"}, "must not exist yet, got .*kinds.py"),
        ("additive", {"chapter": "short_history"}, "must be free, got 'additive'; additive.EXERCISE"),
        ("additive.more", {"title": "More"}, "must keep its chapter, title and minutes, got title"),
        ("additive.score", {}, "must be free, got score, which .*check/units/additive.py has"),
        ("additive.torch", {}, "must be free, got torch"),
    ],
)
def test_what_cannot_be_laid_down_is_refused_and_nothing_is_written(name, options, says, course):
    before = files_of(course)
    with pytest.raises(ValueError, match=says):
        new_exercise(course, name, **options)
    assert files_of(course) == before


@pytest.mark.bad_input
def test_a_name_that_a_bank_has_is_refused(course):
    bank = course / "tests" / "banks" / "additive.py"
    text = bank.read_text(encoding="utf-8")
    bank.write_text(text.replace("score_loop", "more_by_hand"), encoding="utf-8")
    with pytest.raises(ValueError, match="must be free, got more_by_hand, which .*tests/banks/additive.py has"):
        new_exercise(course, "additive.more")
    bank.write_text(text, encoding="utf-8")


def test_imports_grow_by_what_is_missing_and_stay_in_order():
    source = "import torch\n\nfrom ..core import exercise_check\nfrom ..expect import place\n\nx = place\n"
    needing = "import torch\n\nfrom ..core import Broken, exercise_check\nfrom ..expect import expect_close\n"
    grown = with_imports(source, needing, Path("unit.py"))
    assert grown == (
        "import torch\n\nfrom ..core import Broken, exercise_check\nfrom ..expect import expect_close, place\n\nx = place\n"
    )
    assert with_imports(grown, needing, Path("unit.py")) == grown
    with pytest.raises(ValueError, match=r"unit\.py must have the line `import torch`"):
        with_imports("x = 1\n", "import torch\n", Path("unit.py"))


def test_a_new_unit_and_its_further_exercises_are_green_from_the_start(course):
    options = ("--chapter", "short_history", "--minutes", "25", "--title", 'Windows, "wide"')
    said = python(course, "-m", "attncourse", "new-exercise", "windows", *options)
    assert "make exercises bootstrap" in said
    for name in ("windows.radius", "windows.edges", "additive.sharpen"):
        python(course, "-m", "attncourse", "new-exercise", name)
    for command in ("release", "bootstrap"):
        python(course, "-m", "attncourse", command)
    assert 'Windows, "wide": exercises' in first_cell(course, "windows")
    assert "*A short history*. Three exercises, 6 points, about 25 minutes." in first_cell(course, "windows")
    assert "Five exercises, 12 points, about 40 minutes." in first_cell(course, "additive")
    assert "`windows.radius`" in (course / "book" / "exercises.md").read_text(encoding="utf-8")

    for arguments in (("format", "--check"), ("check",)):
        python(course, "-m", "ruff", *arguments, "--no-cache", "attncourse/check/units", "tests/banks", "solutions")
    own = "windows or sharpen or has_a_bank or in_step or are_those_with_a_source"
    tests = ("tests/test_banks.py", "tests/test_exercises.py", "-k", own)
    passed = python(course, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)
    assert " passed" in passed and "skipped" not in passed

    solved = {name: solution(course, "windows", name) for name in ("example", "radius", "edges")}
    hand_in(course, course / "submissions" / "ada" / "windows.ipynb", unit="windows", **solved)
    hand_in(course, course / "submissions" / "bob" / "windows.ipynb", unit="windows")
    # what is asked here is whether the unit can be marked; tests/test_grading.py is about the sandbox
    python(course, "-m", "attncourse", "grade", "submissions", "--out", "grades", "--unconfined")
    with open(course / "grades" / "grades.csv", encoding="utf-8") as table:
        marks = {
            row["learner"].partition("/")[0]: (row["unit"], row["state"], row["points"])
            for row in csv.DictReader(table)
        }
    assert marks == {"ada": ("windows", "marked", "6"), "bob": ("windows", "marked", "0")}
