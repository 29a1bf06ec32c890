"""What learners get: cut out of the solutions by nbgrader, in step with them, and running even when unsolved."""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from docutils.nodes import make_id
from nbclient import NotebookClient

from attncourse import __version__
from attncourse.__main__ import main
from attncourse.check import CHECKS, run_check
from attncourse.check import UNITS as REGISTERED
from attncourse.course.chapters import pages, sections_of, title_of
from attncourse.course.new_exercise import totals
from attncourse.course.release import release_exercises, released
from tests import toy_course
from tests.toy_course import ROOT, cells_graded_as, hand_in

UNITS = sorted({check.unit for check in CHECKS.values()})
STUB = "raise NotImplementedError"


def read(path: Path):
    return nbformat.read(path, as_version=4)


def graded_cells(notebook) -> list:
    return [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade")]


def code_of(notebook) -> str:
    return "\n".join(c.source for c in notebook.cells if c.cell_type == "code")


def functions_in(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def run(notebook, folder: Path) -> list[str]:
    """The text that each code cell shows; an error in any cell fails the test."""
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=False).execute(cwd=str(folder))
    return [text_of(cell) for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell) -> str:
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


@pytest.fixture
def course(tmp_path) -> Path:
    return toy_course.write_course(tmp_path / "course")


# the course's own exercises


def test_exercises_are_in_step_with_solutions(tmp_path):
    """Run `make exercises` where this fails."""
    release_exercises(ROOT, tmp_path)
    fresh = {path.relative_to(tmp_path): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.ipynb")}
    kept = {
        path.relative_to(ROOT / "exercises"): path.read_text(encoding="utf-8")
        for path in (ROOT / "exercises").rglob("*.ipynb")
    }
    assert kept.keys() == fresh.keys()
    assert [path for path in fresh if fresh[path] != kept[path]] == []


@pytest.mark.parametrize("unit", UNITS)
def test_each_exercise_of_a_unit_has_its_cells_and_points(unit):
    solution, exercise = (read(ROOT / kind / unit / f"{unit}.ipynb") for kind in ("solutions", "exercises"))
    checks = [check for check in CHECKS.values() if check.unit == unit]
    assert len(graded_cells(solution)) == len(checks) >= 3
    assert [c.metadata.nbgrader.grade_id for c in graded_cells(solution)] == [
        f"{c.name.replace('.', '-')}-check" for c in checks
    ]
    for check in checks:
        grade_id = check.name.replace(".", "-")
        for notebook in (solution, exercise):
            (answer,) = cells_graded_as(notebook, grade_id)
            (test,) = cells_graded_as(notebook, f"{grade_id}-check")
            assert answer.metadata.nbgrader.solution and not answer.metadata.nbgrader.locked
            assert check.function in functions_in(answer.source)
            assert test.metadata.nbgrader.locked and test.metadata.nbgrader.points == check.points
            assert test.source.splitlines()[0] == f'check("{check.name}")'
        (stub,) = cells_graded_as(exercise, grade_id)
        assert STUB in stub.source
    assert f'score_card("{unit}")' in code_of(exercise)


def test_the_registered_units_are_those_with_a_source():
    assert {path.parent.name for path in ROOT.glob("solutions/*/*.ipynb")} == {*REGISTERED} == {*UNITS}


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_belongs_to_a_chapter_and_builds_on_earlier_units(unit):
    about, earlier = REGISTERED[unit], [*REGISTERED][: [*REGISTERED].index(unit)]
    assert about.chapter in pages(ROOT)
    assert {*about.prerequisites} <= {*earlier}


@pytest.mark.parametrize("page", sorted({unit.chapter for unit in REGISTERED.values()}))
def test_sections_have_the_addresses_of_the_built_page(page):
    chapter = read(ROOT / "book" / f"{page}.ipynb")
    text = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    # docutils makes the built page's addresses
    sections = [make_id(heading) for heading in re.findall(r"^##+ (.+)$", text, flags=re.MULTILINE)]
    assert [*sections_of(ROOT, page)] == sections


@pytest.mark.parametrize("unit", UNITS)
def test_each_check_names_a_section_of_a_chapter(unit):
    for check in CHECKS.values():
        if check.unit == unit:
            page, section = check.read_again
            assert section in sections_of(ROOT, page), f"{check.name}: {page} has no section {section!r}"


@pytest.mark.parametrize("unit", UNITS)
def test_a_notebook_says_what_is_registered(unit):
    solution, about = read(ROOT / "solutions" / unit / f"{unit}.ipynb"), REGISTERED[unit]
    checks = [check for check in CHECKS.values() if check.unit == unit]
    points = sum(check.points for check in checks)
    first = " ".join(solution.cells[0].source.split())
    assert first.startswith(f"# {about.title}: exercises ")
    assert f"{totals(len(checks), points, about.minutes)}." in first
    (chapter,) = re.findall(r"the chapter \*(.+?)\*", first)
    assert title_of(ROOT, about.chapter).startswith(chapter)
    tasks = [cell.source.splitlines()[0] for cell in solution.cells if re.match(r"## \d", cell.source)]
    assert [re.findall(r"^## (\d+)\. .+ \((\d+) points?\)$", task) for task in tasks] == [
        [(str(number), str(check.points))] for number, check in enumerate(checks, start=1)
    ]


@pytest.mark.parametrize("unit", UNITS)
def test_what_learners_get_holds_no_solution(unit):
    exercise = read(ROOT / "exercises" / unit / f"{unit}.ipynb")
    text, code = "\n".join(cell.source for cell in exercise.cells), code_of(exercise)
    assert "SOLUTION" not in text and "HIDDEN TESTS" not in text and "assert check" not in text
    assert exercise.metadata.attncourse == {"unit": unit, "version": __version__}
    solution = read(ROOT / "solutions" / unit / f"{unit}.ipynb")
    for cell in solution.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            body = cell.source.partition("### BEGIN SOLUTION\n")[2].partition("### END SOLUTION")[0]
            telling = [line.strip() for line in body.splitlines() if len(line.strip()) > 25]
            assert not [line for line in telling if line in code], cell.id
            # an exercise that shows broken code shares some lines with its repair, not all
            assert not telling or not all(line in text for line in telling), cell.id


@pytest.mark.parametrize("unit", UNITS)
def test_an_untouched_exercise_is_unsolved_and_earns_nothing(unit, tmp_path):
    """What the released cells define, called by each check in this process."""
    cells = [cell for cell in read(ROOT / "exercises" / unit / f"{unit}.ipynb").cells if cell.cell_type == "code"]
    (first, *_) = [n for n, cell in enumerate(cells) if cell.metadata.get("nbgrader", {}).get("solution")]
    imports = [cell for cell in cells[:first] if "bootstrap" not in cell.metadata.get("tags", ())]
    stubs = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")]
    # a kernel's source is looked for in its file
    file, notebook = tmp_path / "cells.py", {"__name__": "__main__"}
    file.write_text("\n\n".join(cell.source for cell in imports + stubs), encoding="utf-8")
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), notebook)
    for check in [check for check in CHECKS.values() if check.unit == unit]:
        verdict = run_check(check, check.learner(notebook.get(check.function)), torch.Generator().manual_seed(0))
        assert (verdict.state, verdict.points) == ("unsolved", 0), verdict


# tests/test_grading.py marks every unit's solution in the grader's own shell, and the untouched notebooks of others
@pytest.mark.parametrize("unit", [*UNITS][::4])
def test_an_unsolved_notebook_runs_from_top_to_bottom(unit, tmp_path):
    notebook = read(ROOT / "exercises" / unit / f"{unit}.ipynb")
    texts = "\n".join(run(notebook, tmp_path))
    checks = [check for check in CHECKS.values() if check.unit == unit]
    for check in checks:
        assert f"{check.name}: unsolved, 0 of {check.points} points" in texts
    assert f"{unit}: 0 of {sum(check.points for check in checks)} points" in texts


@pytest.mark.parametrize("unit", [*UNITS][1::4])
def test_a_solved_notebook_reaches_all_points(unit, tmp_path):
    notebook = read(ROOT / "solutions" / unit / f"{unit}.ipynb")
    possible = sum(check.points for check in CHECKS.values() if check.unit == unit)
    assert f"{unit}: {possible} of {possible} points" in "\n".join(run(notebook, tmp_path))


# what goes wrong in a learner's notebook


def checks_of_first_unit(course: Path, notebook) -> list[str]:
    """What a toy notebook shows; the toy checks are registered by its own first cell."""
    notebook.cells[1].source = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import attncourse.check; from tests.toy_course import CHECKS; attncourse.check.CHECKS.update(CHECKS)"
    )
    return run(notebook, course)


def test_parts_that_fail_cost_their_own_points_only(course):
    """A missing cell, and a cell that stands below the check that needs it."""

    def edit(notebook):
        notebook.cells = [c for c in notebook.cells if c not in cells_graded_as(notebook, "toy-cube")]
        (rows,) = cells_graded_as(notebook, "toy-rows")
        notebook.cells.append(notebook.cells.pop(notebook.cells.index(rows)))
        notebook.cells.append(nbformat.v4.new_code_cell('print(score_card("toy"))'))

    texts = checks_of_first_unit(course, read(hand_in(course, course / "in.ipynb", edit=edit, **toy_course.RIGHT)))
    assert "toy: 2 of 6 points" in texts[-1]
    for function in ("rows", "cube"):
        wanted = f"toy.{function}: missing, 0 of {toy_course.CHECKS[f'toy.{function}'].points} points"
        (said,) = [text for text in texts if text.startswith(wanted)]
        assert f"no function named {function} is defined: run the cell that defines it" in said


def test_after_a_syntax_error_the_other_parts_still_count(course):
    """Run cell by cell, as Jupyter does where the learner goes on after the error."""
    broken = toy_course.RIGHT | {"double": "def double(x)\n    return 2 * x"}
    notebook = read(hand_in(course, course / "in.ipynb", **broken))
    notebook.cells.append(nbformat.v4.new_code_cell('print(score_card("toy"))'))
    (cell,) = cells_graded_as(notebook, "toy-double")
    cell.metadata["tags"] = ["raises-exception"]
    texts = checks_of_first_unit(course, notebook)
    assert "toy: 4 of 6 points" in texts[-1] and "0/2  toy.double: missing" in texts[-1]


# the release itself


def test_release_is_deterministic_and_leaves_what_is_up_to_date(course):
    before = (course / "exercises" / "toy" / "toy.ipynb").read_text(encoding="utf-8")
    assert release_exercises(course) == []
    (course / "exercises" / "toy" / "toy.ipynb").unlink()
    assert release_exercises(course) == [course / "exercises" / "toy" / "toy.ipynb"]
    assert (course / "exercises" / "toy" / "toy.ipynb").read_text(encoding="utf-8") == before


def test_release_keeps_everything_but_solutions_hidden_tests_and_outputs(course):
    source, target = (course / kind / "toy" / "toy.ipynb" for kind in ("solutions", "exercises"))
    notebook = read(source)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    notebook.cells[2].execution_count = 7
    nbformat.write(notebook, source)
    assert release_exercises(course) == [], "outputs do not travel"
    before, after = read(source), read(target)
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert after.cells[3].source == f"def double(x):\n    {STUB}"
    assert after.cells[4].source == 'check("toy.double")'
    assert after.cells[4].metadata.editable is False and after.cells[4].metadata.deletable is False


def test_the_command_releases_and_says_what_changed(course, capsys):
    (course / "exercises" / "toy" / "toy.ipynb").write_text("old", encoding="utf-8")
    assert main(["release", "--root", str(course)]) == 0
    assert "changed" in capsys.readouterr().out
    assert main(["release", "--root", str(course)]) == 0
    assert capsys.readouterr().out == "nothing to change\n"


@pytest.mark.bad_input
def test_what_cannot_be_released_is_refused(course, tmp_path):
    source = course / "solutions" / "toy" / "toy.ipynb"
    shutil.copy(source, source.with_name("draft.ipynb"))
    with pytest.raises(ValueError, match=r"draft\.ipynb is not toy\.ipynb"):
        release_exercises(course)
    notebook = read(source)
    notebook.cells[2].source += "\n### BEGIN SOLUTION\n### END SOLUTION"
    nbformat.write(notebook, source)
    with pytest.raises(ValueError, match="non-solution cell"):
        released(source, course / "nbgrader_config.py")


# stock nbgrader on the same folders


def nbgrader_api(course: Path):
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.CourseDirectory.root = str(course)
    return NbGraderAPI(config=config)


def must_succeed(result: dict) -> None:
    assert result["success"], result.get("error") or result["log"]


@pytest.mark.filterwarnings("ignore:Object of type:sqlalchemy.exc.SAWarning")
def test_stock_nbgrader_releases_and_grades_the_same_course(tmp_path, monkeypatch):
    # it calls alembic, which is installed beside it, by name
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    unit = UNITS[0]
    course = tmp_path / "course"
    shutil.copytree(ROOT / "solutions" / unit, course / "solutions" / unit)
    shutil.copy(ROOT / "nbgrader_config.py", course)
    api = nbgrader_api(course)
    must_succeed(api.generate_assignment(unit))

    (ours,) = release_exercises(course, tmp_path / "ours")
    stock, ours = read(course / "exercises" / unit / f"{unit}.ipynb"), read(ours)
    assert stock.cells == ours.cells

    for student, kind in (("ada", "solutions"), ("bob", "exercises")):
        handed_in = course / "submitted" / student / unit
        handed_in.mkdir(parents=True)
        shutil.copy(course / kind / unit / f"{unit}.ipynb", handed_in)
        must_succeed(api.autograde(unit, student))
    with api.gradebook as gradebook:
        scores = {student: gradebook.find_submission(unit, student).score for student in ("ada", "bob")}
    assert scores == {"ada": sum(check.points for check in CHECKS.values() if check.unit == unit), "bob": 0}
