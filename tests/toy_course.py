"""A course of one small unit: what release and grading are tried on, whatever the real units ask."""

import json
import shutil
from pathlib import Path

import nbformat
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from attncourse.__main__ import main
from attncourse.check.core import Check, Unit
from attncourse.check.expect import expect, expect_close, expect_rows_sum_to_one, expect_tensor
from attncourse.course.release import release_exercises

ROOT = Path(__file__).parents[1]
HARMLESS_FIRST_CELL = "import os\nimport attncourse"


def judge_double(learner, rng):
    """Twice the tensor, in its own dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        x = torch.randn(3, 5, generator=rng, dtype=torch.float64).to(dtype)
        got = expect_tensor(learner(x), (3, 5))
        expect(got.dtype == dtype, f"the result is of {got.dtype}, expected {dtype}")
        expect_close(got, x * 2, "the result is not twice the input")


def judge_rows(learner, rng):
    """Softmax over the last axis."""
    scores = torch.randn(4, 7, generator=rng, dtype=torch.float64)
    expect_rows_sum_to_one(expect_tensor(learner(scores), (4, 7)))
    expect_close(learner(scores), scores.exp() / scores.exp().sum(-1, keepdim=True), "the weights are no softmax")


def judge_cube(learner, rng):
    """x ** 3, with its gradient."""
    x, cotangent = torch.randn(2, 6, generator=rng, dtype=torch.float64)
    expect_close(learner(x), x * x * x, "the result is not the cube")
    (slope,) = learner.grad(x, wrt=(0,), cotangent=cotangent)
    expect_close(slope, 3 * x * x * cotangent, "the gradient is not that of the cube")


UNITS = {"toy": Unit("toy", "Toys", "softmax_attention", 5)}

CHECKS = {
    "toy.double": Check("toy.double", "double", 2, judge_double, seconds=6.0),
    "toy.rows": Check("toy.rows", "rows", 3, judge_rows, seconds=6.0),
    "toy.cube": Check("toy.cube", "cube", 1, judge_cube, seconds=6.0),
}

RIGHT = {
    "double": "def double(x):\n    return 2 * x",
    "rows": "def rows(scores):\n    return torch.softmax(scores, dim=-1)",
    "cube": "def cube(x):\n    return x**3",
}


def grading_metadata(grade_id: str, *, points: int | None = None) -> dict:
    """Return nbgrader's cell metadata of a solution cell, or (with points) of a check cell."""
    marks = {"grade_id": grade_id, "schema_version": 3, "task": False, "grade": points is not None}
    marks |= {"solution": points is None, "locked": points is not None}
    return {"nbgrader": marks | ({} if points is None else {"points": points})}


def solution_notebook() -> nbformat.NotebookNode:
    """Return the source of the unit, as an author writes it."""
    cells = [
        new_markdown_cell("# Toys", id="title"),
        new_code_cell(HARMLESS_FIRST_CELL, id="bootstrap", metadata={"tags": ["bootstrap"]}),
        new_code_cell("import torch\n\nfrom attncourse.check import check, score_card", id="imports"),
    ]
    for name, right in RIGHT.items():
        head, _, body = right.partition("\n")
        region = f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        test = f'check("toy.{name}")\n### BEGIN HIDDEN TESTS\nassert check("toy.{name}").passed\n### END HIDDEN TESTS'
        points = CHECKS[f"toy.{name}"].points
        cells += [
            new_code_cell(region, id=name, metadata=grading_metadata(f"toy-{name}")),
            new_code_cell(test, id=f"{name}-check", metadata=grading_metadata(f"toy-{name}-check", points=points)),
        ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=cells, metadata=metadata)


def write_course(root: Path) -> Path:
    """Write the unit's source, its release and nbgrader's configuration into an empty folder."""
    (root / "solutions" / "toy").mkdir(parents=True)
    nbformat.write(solution_notebook(), root / "solutions" / "toy" / "toy.ipynb")
    shutil.copy(ROOT / "nbgrader_config.py", root)
    release_exercises(root)
    return root


def hand_in(course: Path, path: Path, *, unit: str = "toy", edit=None, **answers: str) -> Path:
    """Write a learner's notebook: the release with these sources in its solution cells; `edit(notebook)` comes last."""
    notebook = nbformat.read(course / "exercises" / unit / f"{unit}.ipynb", as_version=4)
    for name, source in answers.items():
        (cell,) = cells_graded_as(notebook, f"{unit}-{name}")
        cell.source = source
    if edit is not None:
        edit(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def cells_graded_as(notebook, grade_id: str) -> list:
    """Return the cells with this grade_id."""
    return [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id]


def wrapped(name: str, before: str) -> str:
    """Return the right answer, which runs `before` first."""
    lines = "\n    ".join(before.splitlines())
    return f"{RIGHT[name]}\n\n_{name} = {name}\n\ndef {name}(x):\n    {lines}\n    return _{name}(x)"


def grade(course: Path, submissions: Path, out: Path, *options: str, code: int = 0) -> dict[str, dict]:
    """Return records by learner, marked by the command itself;
    the sandbox is the real one where no option says otherwise.
    """
    arguments = ["grade", submissions, "--out", out, "--exercises", course / "exercises", "--workers", "2"]
    assert main([str(a) for a in (*arguments, "--checks", "tests.toy_checks", *options)]) == code
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "records").rglob("*.json")]
    return {record["learner"]: record for record in records}


def states(record: dict) -> list[str]:
    """Return the state of each check of a record."""
    return [check["state"] for check in record["checks"]]


def messages(record: dict) -> str:
    """Return all that a record's checks say."""
    return "\n".join(check["message"] for check in record["checks"])
