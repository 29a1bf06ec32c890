"""nbgrader takes the marks: written through its API, read back through it and through its exporter."""

import csv
import shutil
from pathlib import Path

import nbformat
import pytest

from attncourse.grade.export.gradebook import open_gradebook, write_gradebook
from tests import toy_course
from tests.toy_records import check_record, record, register_toys, toy

nbgrader_api = pytest.importorskip("nbgrader.api")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register_toys(monkeypatch)


@pytest.fixture(scope="module")
def exercises(tmp_path_factory) -> Path:
    return toy_course.write_course(tmp_path_factory.mktemp("course")) / "exercises"


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """A gradebook without entries: to make one, nbgrader starts a process, which takes seconds."""
    path = tmp_path_factory.mktemp("nbgrader") / "gradebook.db"
    opened(path).close()
    return path


@pytest.fixture
def database(tmp_path, empty) -> Path:
    return Path(shutil.copy(empty, tmp_path))


def opened(database: Path):
    return open_gradebook(f"sqlite:///{database}")


def grades(database: Path, student: str) -> dict[str, tuple]:
    """(score, automatic score, whether it needs a manual grade) of each cell of a student's toys."""
    with opened(database) as gradebook:
        found = gradebook.find_submission_notebook("toy", "toy", student).grades
        return {grade.name: (grade.score, grade.auto_score, grade.needs_manual_grade) for grade in found}


def exported(database: Path) -> dict[str, dict[str, str]]:
    from nbgrader.plugins.export import CsvExportPlugin

    target = database.with_suffix(".csv")
    with opened(database) as gradebook:
        CsvExportPlugin(to=str(target)).export(gradebook)
    with target.open(newline="", encoding="utf-8") as file:
        return {row["student_id"]: row for row in csv.DictReader(file)}


def test_a_gradebook_is_made_where_there_is_none(tmp_path, exercises):
    write_gradebook(tmp_path / "new.db", [toy("ada")], exercises=exercises)
    assert exported(tmp_path / "new.db")["ada"]["score"] == "6.0"


def test_points_are_read_back_through_nbgrader(database, exercises):
    assert write_gradebook(database, [toy("ada", rows="wrong"), toy("bob")], exercises=exercises) == []
    assert grades(database, "ada") == {
        "toy-double-check": (2.0, 2.0, False),
        "toy-rows-check": (0.0, 0.0, False),
        "toy-cube-check": (1.0, 1.0, False),
    }
    with opened(database) as gradebook:
        submission = gradebook.find_submission("toy", "ada")
        assert (submission.score, submission.max_score, submission.needs_manual_grade) == (3.0, 6.0, False)
        assert gradebook.find_grade_cell("toy-rows-check", "toy", "toy").max_score == 3.0
        assert gradebook.average_assignment_score("toy") == 4.5


def test_nbgrader_exports_the_marks(database, exercises):
    write_gradebook(
        database, [toy("ada", rows="wrong", identity={"name": "Lovelace, Ada"}), toy("bob")], exercises=exercises
    )
    rows = exported(database)
    assert {name: (row["score"], row["max_score"]) for name, row in rows.items()} == {
        "ada": ("3.0", "6.0"),
        "bob": ("6.0", "6.0"),
    }
    assert rows["ada"]["last_name"] == "Lovelace  Ada"


def dump(database: Path) -> list:
    """Everything that the gradebook knows of submissions, and the cells."""
    with opened(database) as gradebook:
        students = [student.to_dict() for student in gradebook.students]
        found = [s.notebooks[0].grades for s in gradebook.assignment_submissions("toy")]
        cells = [cell.to_dict() for cell in gradebook.find_notebook("toy", "toy").source_cells]
        return [students, sorted((g.to_dict() for each in found for g in each), key=str), cells]


def test_a_second_run_changes_nothing(database, exercises):
    records = [toy("ada", rows="wrong"), toy("bob", state="tampered")]
    write_gradebook(database, records, exercises=exercises)
    before = dump(database)
    write_gradebook(database, records, exercises=exercises)
    assert dump(database) == before and len(before[1]) == 6


def test_a_later_run_brings_the_new_marks(database, exercises):
    write_gradebook(database, [toy("ada", rows="wrong")], exercises=exercises)
    write_gradebook(database, [toy("ada", double="wrong")], exercises=exercises)
    assert [score for score, _, _ in grades(database, "ada").values()] == [0.0, 3.0, 1.0]


def test_no_mark_is_left_for_a_manual_grade(database, exercises):
    notes = write_gradebook(
        database, [toy("ada", state="tampered"), record("bob", state="not graded")], exercises=exercises
    )
    assert notes == [
        "ada/toy.ipynb: tampered, so no mark is entered",
        "bob/toy.ipynb: not graded, so no mark is entered",
    ]
    for student in ("ada", "bob"):
        assert set(grades(database, student).values()) == {(0.0, None, True)}


def test_what_names_no_unit_is_noted(database, exercises):
    notes = write_gradebook(database, [record("ada", unit="", state="unreadable")], exercises=exercises)
    assert notes == ["ada/.ipynb: unreadable, so no mark is entered"]


def test_a_grade_given_by_hand_is_kept_and_looked_at_again_when_the_points_change(database, exercises):
    write_gradebook(database, [toy("ada", rows="wrong")], exercises=exercises)
    with opened(database) as gradebook:
        grade = gradebook.find_grade("toy-rows-check", "toy", "toy", "ada")
        grade.manual_score, grade.needs_manual_grade = 2.5, False
        gradebook.db.commit()
    write_gradebook(database, [toy("ada", rows="wrong")], exercises=exercises)
    assert grades(database, "ada")["toy-rows-check"] == (2.5, 0.0, False)
    write_gradebook(database, [toy("ada")], exercises=exercises)
    assert grades(database, "ada")["toy-rows-check"] == (2.5, 3.0, True)


def test_the_best_of_several_submissions_counts(database, exercises):
    write_gradebook(database, [toy("ada", cube="wrong"), toy("ada"), toy("ada", "wrong", "wrong")], exercises=exercises)
    with opened(database) as gradebook:
        assert gradebook.find_submission("toy", "ada").score == 6.0


@pytest.mark.parametrize("name", ["../../x", "=cmd()", 'a,b\n"c"', "Ада"])
def test_hostile_names_stay_one_row_and_one_folder(database, exercises, name):
    write_gradebook(database, [toy(name, identity={"name": name}), toy("ada")], exercises=exercises)
    rows = exported(database)
    (student,) = set(rows) - {"ada"}
    assert len(rows) == 2 and not set(student) & set('/,\n="')
    assert rows[student]["score"] == "6.0" and not rows[student]["last_name"].startswith("=")


def test_nbgrader_can_still_save_the_cells_of_the_released_notebook(database, exercises):
    """nbgrader refuses to generate an assignment again whose cells differ from those that submissions have."""
    from nbgrader.preprocessors import SaveCells

    write_gradebook(database, [toy("ada")], exercises=exercises)
    notebook = nbformat.read(exercises / "toy" / "toy.ipynb", as_version=4)
    SaveCells().preprocess(
        notebook, {"nbgrader": {"notebook": "toy", "assignment": "toy", "db_url": f"sqlite:///{database}"}}
    )
    assert grades(database, "ada")["toy-rows-check"] == (3.0, 3.0, False)


def test_a_gradebook_that_knows_the_unit_needs_no_release(database, exercises, tmp_path):
    write_gradebook(database, [toy("ada")], exercises=exercises)
    write_gradebook(database, [toy("bob")], exercises=tmp_path)
    assert grades(database, "bob")["toy-rows-check"] == (3.0, 3.0, False)


def test_what_was_never_released_is_refused(database, exercises, tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*toy\.ipynb, from which nbgrader would take the cells of toy"):
        write_gradebook(database, [toy("ada")], exercises=tmp_path)
    with pytest.raises(ValueError, match=r"the gradebook's toy has no cell additive-score-check"):
        write_gradebook(database, [record("ada", check_record("additive.score"))], exercises=exercises)
