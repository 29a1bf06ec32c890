"""Whose a file is, in the layouts that Canvas, Moodle, nbgrader and GitHub Classroom document, and in plain folders.

Each layout is told without a roster and with one. The names of Canvas are those of lib/content_zipper.rb, of Moodle
those of mod/assign/classes/downloader.php, of nbgrader {submitted}/{student_id}/{assignment_id}/{notebook_id}.ipynb, of
GitHub Classroom those that `gh classroom clone student-repos` makes.
"""

import csv
import unicodedata
from pathlib import Path

import pytest

from attncourse.grade.export.canvas import write_canvas
from attncourse.grade.export.moodle import write_moodle
from attncourse.grade.read.canvas import canvas_roster
from attncourse.grade.read.identity import Collection
from attncourse.grade.read.moodle import moodle_roster
from tests.toy_records import record, register_toys, toy

UNITS = ["additive", "softmax_attention", "toy"]

CANVAS_EXPORT = """\
Student,ID,SIS User ID,SIS Login ID,Section
    Points Possible,,,,
"Lovelace, Ada",4711,S-1,ada,Mon
"O_Brien, Pat",4712,S-2,pat@uni.example,Mon
"Nobody, Else",1,S-3,else@uni.example,Mon
"García, José",4713,S-4,José,Tue
"渡辺, 一",4714,S-5,渡辺,Tue
"Müller-Lüdenscheidt, Jürgen",4715,S-6,ml-15,Tue
"Smith, Kim",4716,S-7,kim1,Tue
"Smith, Kim",4717,S-8,kim2,Tue
"""

MOODLE_EXPORT = """\
Identifier,Full name,Email address,Grade,Last modified (grade),Feedback comments
Participant 31,Ada Lovelace,ada@uni.example,,-,
Participant 32,José García,jose@uni.example,,-,
Participant 33,渡辺 一,ichi@uni.example,,-,
Participant 34,Jean-Luc 7 d'Arc,jl@uni.example,,-,
"""


@pytest.fixture
def canvas(tmp_path):
    path = tmp_path / "canvas.csv"
    path.write_text(CANVAS_EXPORT, encoding="utf-8")
    return path


@pytest.fixture
def moodle(tmp_path):
    path = tmp_path / "moodle.csv"
    path.write_text(MOODLE_EXPORT, encoding="utf-8")
    return path


def whose(files: list[str], roster=None, root: str = "") -> dict[str, tuple[str, str, str]]:
    """(name, Canvas's id, Moodle's number) of each file; where there is a note, its last word "?"."""
    found = Collection({file: tuple(file.split("/")) for file in files}, UNITS, roster=roster, root=root).identities
    return {file: (one.name if not one.note else "?", one.canvas_id, one.moodle_id) for file, one in found.items()}


def names(files: list[str], roster=None, root: str = "") -> list[str]:
    return [name for name, _, _ in whose(files, roster, root).values()]


# Canvas

CANVAS_FILES = {
    "lovelaceada_4711_81234_additive.ipynb": ("lovelaceada", "4711", ""),
    "lovelaceada_LATE_4711_81235_additive-1.ipynb": ("lovelaceada", "4711", ""),
    "o_brienpat_4712_81236_additive.ipynb": ("o_brienpat", "4712", ""),
    "o_brienpat_LATE_4712_81237_my notes 3.ipynb": ("o_brienpat", "4712", ""),
    "garcíajosé_4713_81238_Copy of additive (1).ipynb": ("garcíajosé", "4713", ""),
    "渡辺一_4714_81239_week_2_1_additive.ipynb": ("渡辺一", "4714", ""),
    "müllerlüdenscheidtjürgen_4715_81240_additive-Copy1.ipynb": ("müllerlüdenscheidtjürgen", "4715", ""),
    "group7_4716_81241_additive.ipynb": ("group7", "4716", ""),
    "1234567_4717_81242_additive.ipynb": ("1234567", "4717", ""),
    "lovelaceada_4711_text.html": ("lovelaceada", "4711", ""),
}


@pytest.mark.parametrize("wrapper", ["", "submissions/", "CS 101 homework 3/"])
@pytest.mark.parametrize("with_roster", [False, True])
def test_names_of_canvas_give_its_ids(canvas, with_roster, wrapper):
    roster = canvas_roster(canvas) if with_roster else None
    files = {wrapper + file: one for file, one in CANVAS_FILES.items()}
    assert whose(list(files), roster) == files


def test_a_number_at_the_start_of_a_file_s_name_is_told_from_the_learner_s_by_the_roster_alone(canvas):
    """Both the learner's name and the file's may hold it, and one reading's number may be another learner's."""
    both = "nobodyelse_1_4713_9_additive.ipynb"
    assert names([both]) == ["?"], "id 1, or 4713"
    assert whose([both], canvas_roster(canvas)) == {both: ("nobodyelse", "1", "")}
    moodle_like = "nobodyelse_1_81243_9_assignsubmission_file.ipynb"
    assert whose([moodle_like], canvas_roster(canvas)) == {moodle_like: ("nobodyelse", "1", "")}


@pytest.mark.parametrize("export", [CANVAS_EXPORT, CANVAS_EXPORT.replace(",4713,", ",9999,")])
def test_a_group_whose_name_ends_in_a_number_gives_nobody_else_the_mark(tmp_path, monkeypatch, export):
    register_toys(monkeypatch)
    path = tmp_path / "canvas.csv"
    path.write_text(export, encoding="utf-8")
    file = "group_1_4713_81236_toy.ipynb"
    (identity,) = Collection({file: (file,)}, UNITS, roster=canvas_roster(path)).identities.values()
    assert (identity.canvas_id, identity.note) == ("", "the name says group (id 1) or group_1 (id 4713)")
    handed_in = toy(identity.name, identity=identity.as_dict(), file=file)
    (note,) = write_canvas(tmp_path / "out.csv", [handed_in], roster=path)
    assert "group (id 1) or group_1 (id 4713)" in note and "6" not in marks(tmp_path / "out.csv", -1).values()


def test_a_group_whose_name_ends_in_a_number_is_known_where_only_its_own_id_is(tmp_path):
    path = tmp_path / "canvas.csv"
    path.write_text(CANVAS_EXPORT.replace(",1,", ",2,"), encoding="utf-8")
    file = "group_1_4713_81236_additive.ipynb"
    assert whose([file], canvas_roster(path)) == {file: ("group_1", "4713", "")}
    late = "group_1_LATE_4713_81236_additive.ipynb"
    assert whose([late]) == {late: ("group_1", "4713", "")}, "LATE stands before the id"


@pytest.mark.parametrize("with_roster", [False, True])
def test_who_is_anonymous_on_canvas_is_one_learner_and_in_no_row(canvas, with_roster):
    files = ["anon_AbC12_81234_additive.ipynb", "anon_AbC12_81235_toy.ipynb", "LATE_anon_12345_81236_additive.ipynb"]
    found = whose(files, canvas_roster(canvas) if with_roster else None)
    assert list(found.values()) == [("anon_AbC12", "", ""), ("anon_AbC12", "", ""), ("anon_12345", "", "")]


def marks(path: Path, column: int, name: int = 0) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row[name]: row[column] for row in list(csv.reader(file))[1:] if "Points" not in row[0]}


# Moodle

MOODLE_NAMES = {
    "Ada Lovelace_31": ("Ada Lovelace", "", "31"),
    "José García_32": ("José García", "", "32"),
    "渡辺 一_33": ("渡辺 一", "", "33"),
    "Jean-Luc 7 d'Arc_34": ("Jean-Luc 7 d'Arc", "", "34"),
}


@pytest.mark.parametrize("wrapper", ["", "submissions/", "CS101-Week 1-77/"])
@pytest.mark.parametrize(
    "form", ["_assignsubmission_file_/{}", "_assignsubmission_file/{}", "_assignsubmission_file_{}"]
)
@pytest.mark.parametrize("with_roster", [False, True])
def test_names_of_moodle_give_its_numbers(moodle, with_roster, form, wrapper):
    files = {}
    for name, one in MOODLE_NAMES.items():
        files |= {
            wrapper + name + form.format(file): one for file in ("additive.ipynb", "bob_7_assignsubmission_file.ipynb")
        }
    text = form.replace("_file", "_onlinetext").format("onlinetext.html")
    files |= {f"{wrapper}Ada Lovelace_31{text}": ("Ada Lovelace", "", "31")}
    assert whose(list(files), moodle_roster(moodle) if with_roster else None) == files


def test_a_group_of_moodle_whose_number_is_a_participant_s_gives_that_one_nothing(tmp_path, moodle, monkeypatch):
    register_toys(monkeypatch)
    file = "Group A_31_assignsubmission_file_/toy.ipynb"
    (identity,) = Collection({file: tuple(file.split("/"))}, UNITS, roster=moodle_roster(moodle)).identities.values()
    assert identity.moodle_id == "" and "is it a group's?" in identity.note
    (note,) = write_moodle(
        tmp_path / "out.csv", [toy(identity.name, identity=identity.as_dict())], unit="toy", roster=moodle
    )
    assert "is it a group's?" in note and set(marks(tmp_path / "out.csv", 3, 1).values()) == {""}
    default = "Default group_assignsubmission_file_/additive.ipynb"
    assert whose([default]) == {default: ("Default group", "", "")}


def test_who_is_hidden_on_moodle_is_found_by_number(tmp_path):
    path = tmp_path / "moodle.csv"
    path.write_text("Identifier,Grade,Last modified (grade)\nParticipant 31,,-\nParticipant 32,,-\n", encoding="utf-8")
    files = ["Participant_31_assignsubmission_file_/additive.ipynb", "Participant_32_assignsubmission_file_/x.ipynb"]
    for roster in (None, moodle_roster(path)):
        assert list(whose(files, roster).values()) == [("Participant", "", "31"), ("Participant", "", "32")]


# nbgrader


@pytest.mark.parametrize("top, root", [("submitted/", ""), ("", "submitted"), ("course/submitted/", "")])
@pytest.mark.parametrize("with_roster", [False, True])
def test_nbgrader_s_first_folder_is_the_learner(canvas, top, root, with_roster):
    files = {
        f"{top}ada/ps1/additive.ipynb": "ada",
        f"{top}ada/ps1/problem 2.ipynb": "ada",
        f"{top}ada/ps1/timestamp.txt": "ada",
        f"{top}doe_jane/ps1/additive.ipynb": "doe_jane",
        f"{top}lovelacebob_4711_1/ps1/lovelacebob_4711_1_additive.ipynb": "lovelacebob_4711_1",
        f"{top}ml-15/ps1/ada.ipynb": "ml-15",
        f"{top}José/additive/additive.ipynb": "José",
    }
    assert names(list(files), canvas_roster(canvas) if with_roster else None, root) == list(files.values())


# GitHub Classroom


@pytest.mark.parametrize("files", ["additive.ipynb", "exercises/additive/additive.ipynb", "src/my solution.ipynb"])
def test_a_repository_of_classroom_is_its_user_s(canvas, files):
    users = ["ada", "ml-15", "kim1", "José"]
    repositories = [f"attention-week-1-{user}" for user in users]
    paths = [f"{repository}/{files}" for repository in repositories] + [f"{repositories[0]}/README.md"]
    assert names(paths, canvas_roster(canvas)) == [*users, "ada"]
    cloned = [f"attention-week-1-submissions/{path}" for path in paths]
    assert names(cloned, canvas_roster(canvas)) == [*users, "ada"]
    if "my" not in files:
        assert names(cloned) == [*users, "ada"]
        assert names(paths, root="attention-week-1-submissions") == [*users, "ada"]
        assert names(paths) == [*repositories, repositories[0]], "without the assignment's name it cannot be told"


# plain folders and zips


@pytest.mark.parametrize(
    "files",
    [
        {"ada/additive.ipynb": "ada", "ada/additive-Copy1.ipynb": "ada", "José/exercises/additive/additive.ipynb": "José",
         "ml-15/my homework.ipynb": "ml-15"},
        {"ada/Copy of additive (1).ipynb": "ada", "kim1/additive - Copy (2).ipynb": "kim1", "渡辺/additive copy 2.ipynb": "渡辺"},
        {"ada/handout/exercises/additive/additive.ipynb": "ada", "kim1/additive.ipynb": "kim1"},
        {"submissions/ada.ipynb": "ada", "submissions/kim1.ipynb": "kim1"},
        {"Homework 1/ada/additive.ipynb": "ada", "Homework 1/kim1/additive.ipynb": "kim1"},
        {"ada/week_2_1_additive.ipynb": "ada", "kim1/week_2_1_additive.ipynb": "kim1"},
        {"ada/bob_7_assignsubmission_file.ipynb": "ada", "kim1/bob_7_assignsubmission_file.ipynb": "kim1"},
        {"ada/lovelacebob_4712_1_additive.ipynb": "ada", "kim1/additive.ipynb": "kim1"},
        {"additive/ada.ipynb": "ada", "softmax_attention/ada.ipynb": "ada", "additive/kim1.ipynb": "kim1"},
        {"ada_additive.ipynb": "ada", "ml-15-additive.ipynb": "ml-15", "José.ipynb": "José", "additive_kim1.ipynb": "kim1"},
        {"ada.ipynb": "ada", "kim1/additive.ipynb": "kim1"},
        {"ada/additive.ipynb.json": "ada", "kim1/additive.IPYNB": "kim1", "José/additive.txt": "José"},
        {"ada/pat@uni.example.ipynb": "ada", "kim1/José_additive.ipynb": "kim1"},
    ],
    ids=lambda files: next(iter(files)),
)  # fmt: skip
@pytest.mark.parametrize("with_roster", [False, True])
def test_a_folder_counts_before_the_file_in_it(canvas, files, with_roster):
    assert names(list(files), canvas_roster(canvas) if with_roster else None) == list(files.values())


def test_sections_are_no_learners(canvas):
    files = ["section 1/ada_additive.ipynb", "section 1/kim1_additive.ipynb", "section 2/ml-15_additive.ipynb"]
    assert names(files) == ["section 1/ada", "section 1/kim1", "section 2/ml-15"]
    assert names(files, canvas_roster(canvas)) == ["ada", "kim1", "ml-15"]
    deep = ["section 1/ada/additive.ipynb", "section 1/kim1/additive.ipynb", "section 2/ml-15/my work.ipynb"]
    assert names(deep) == ["section 1/ada", "section 1/kim1", "section 2/ml-15"]
    assert names(deep, canvas_roster(canvas)) == ["ada", "kim1", "ml-15"]


def test_who_is_not_in_the_roster_does_not_become_another_by_the_name_of_a_file(canvas):
    files = ["ada/additive.ipynb", "kim1/additive.ipynb", "eve/José.ipynb", "mallory/pat@uni.example/additive.ipynb"]
    assert names(files, canvas_roster(canvas)) == ["ada", "kim1", "eve", "mallory"]


def test_many_files_of_one_do_not_change_whose_the_others_are(canvas):
    class_list = ["ada", "kim1", "pat@uni.example", "ml-15", "José", "渡辺"]
    honest = ["ada/additive.ipynb", "kim1/my homework.ipynb", "José/exercises/additive/additive.ipynb"]
    flood = [f"eve/{name}/{n}/additive.ipynb" for name in class_list for n in range(50)]
    for roster in (None, canvas_roster(canvas)):
        assert names(honest + flood, roster)[:3] == ["ada", "kim1", "José"]
        assert not {*names(honest + flood, roster)[3:]} & {*class_list}


def test_a_name_that_two_have_is_nobody_s(canvas):
    files = ["Kim Smith/additive.ipynb", "ada/additive.ipynb"]
    assert names(files, canvas_roster(canvas)) == ["?", "ada"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_one_however_its_letters_are_composed(canvas, form):
    files = [unicodedata.normalize(form, "José/additive.ipynb"), "José/toy.ipynb", "ada/additive.ipynb"]
    for roster in (None, canvas_roster(canvas)):
        assert names(files, roster) == ["José", "José", "ada"]


def test_one_other_name_is_said_where_all_others_are_a_platform_s():
    files = [*CANVAS_FILES, "bob.ipynb"]
    collection = Collection({file: (file,) for file in files}, UNITS)
    assert not any(one.canvas_id for one in collection.identities.values())
    assert "names are such as Canvas gives, but not bob.ipynb" in collection.notes[0]
    assert Collection({file: (file,) for file in ("ada.ipynb", "bob.ipynb")}, UNITS).notes == []


def test_a_file_of_another_kind_does_not_keep_the_names_from_being_a_platform_s():
    assert whose(["lovelaceada_4711_81234_additive.ipynb", "marks.xlsx"])["lovelaceada_4711_81234_additive.ipynb"] == (
        "lovelaceada",
        "4711",
        "",
    )


def test_without_a_name_every_file_is_somebody_s():
    files = ["additive.ipynb", "additive (1).ipynb", "exercises/softmax_attention/softmax_attention.ipynb"]
    assert len(set(names(files))) == 3


def test_a_record_that_is_nobody_s_has_no_row_even_if_its_name_fits(tmp_path, canvas):
    noted = record("ada", unit="", state="unreadable", identity={"note": "it can be read in two ways"})
    assert "ada: it can be read in two ways" in write_canvas(tmp_path / "out.csv", [noted], roster=canvas)
    assert "ada: it can be read in two ways" in write_canvas(tmp_path / "out.csv", [noted])
