"""Marks as Canvas and Moodle import them: into which rows, which cells stay as they are, and what is said to be left out."""

import csv
import unicodedata
from pathlib import Path

import pytest

from attncourse.grade.export.canvas import write_canvas
from attncourse.grade.export.grades import write_table
from attncourse.grade.export.moodle import NEVER, write_moodle
from attncourse.grade.files import inert
from tests.toy_records import check_record, invented_class, record, register_toys, toy

# As lib/gradebook_exporter.rb writes it: a row of posting policies, the points, columns that are read only.
CANVAS = """\
Student,ID,SIS User ID,SIS Login ID,Section,Essay (7),Toys (12),Current Score,Final Score
,,,,,,Manual Posting,,
    Points Possible,,,,,10.00,6.00,(read only),(read only)
"Lovelace, Ada",4711,S-1,ada@uni.example,"Mon, 9:00",8.00,,80.00,80.00
"Hopper, Grace",4712,S-2,grace@uni.example,Mon,,,,
"Noether, Emmy",4713,S-3,emmy@uni.example,Tue,9.00,2.00,20.00,20.00
"Turing, Alan",4714,S-4,alan@uni.example,Tue,9.00,EX,20.00,20.00
"Student, Test",9,,abc,Tue,,,,
"""

MOODLE = """\
Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,Last modified (submission),Last modified (grade),Feedback comments
Participant 31,Ada Lovelace,ada@uni.example,Submitted for grading,,6.00,Yes,"Tuesday, 24 November 2026, 3:00 PM",-,
Participant 32,Grace Hopper,grace@uni.example,Submitted for grading,,6.00,Yes,-,-,"seen by me"
Participant 33,Emmy Noether,emmy@uni.example,Submitted for grading,2.00,6.00,Yes,-,"Tuesday, 24 November 2026, 4:00 PM",
Participant 34,Alan Turing,alan@uni.example,Submitted for grading,,6.00,No,-,-,
"""


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register_toys(monkeypatch)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out.csv"


def roster(folder: Path, text: str) -> Path:
    path = folder / "export.csv"
    path.write_bytes(text.encode())
    return path


def cells(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file, delimiter=delimiter))


def marks(path: Path, *, name: int = 0, mark: int = -1) -> dict[str, str]:
    """What each student's row says, by their name."""
    return {row[name]: row[mark] for row in cells(path)[1:] if row[name] and "Points Possible" not in row[name]}


def known(learner: str, canvas_id: str = "", name: str = "", moodle_id: str = "", **more):
    return toy(learner, identity={"canvas_id": canvas_id, "name": name, "moodle_id": moodle_id}, **more)


# Canvas


def test_without_an_export_canvas_gets_a_row_a_learner(out):
    additive = record(
        "ada", check_record("additive.score"), unit="additive", identity={"canvas_id": "4711", "name": "Ada L"}
    )
    notes = write_canvas(out, [known("ada", "4711", "Ada L", rows="wrong"), additive, known("bob")])
    assert cells(out) == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Additive attention", "Toys"],
        ["    Points Possible", "", "", "", "", "3", "6"],
        ["Ada L", "4711", "", "", "", "3", "3"],
        ["bob", "", "", "bob", "", "", "6"],
    ]
    assert notes == []


def test_into_an_export_only_the_unit_s_marks_are_filled(tmp_path, out):
    notes = write_canvas(out, [known("x", "4711", rows="wrong"), known("y", "4712")], roster=roster(tmp_path, CANVAS))
    before = [[row[i] for i in (0, 1, 2, 3, 4, 6)] for row in csv.reader(CANVAS.splitlines())]
    before[3][-1], before[4][-1] = "3", "6"
    assert cells(out) == before
    assert notes == []


@pytest.mark.parametrize(
    "learner",
    [
        known("anything", "4711"),
        known("ada@uni.example"),
        known("S-1"),
        known("x", name="Ada Lovelace"),
        known("Lovelace, ADA"),
        known("lovelaceada"),
    ],
    ids=["id", "login", "SIS id", "name", "name of the folder", "name as Canvas's files have it"],
)
def test_a_student_is_found_by(tmp_path, out, learner):
    assert write_canvas(out, [learner], roster=roster(tmp_path, CANVAS)) == []
    assert marks(out)["Lovelace, Ada"] == "6"


def test_a_learner_called_like_a_row_that_is_no_student_does_not_reach_it(tmp_path, out):
    (note,) = write_canvas(out, [known("Points Possible")], roster=roster(tmp_path, CANVAS))
    assert "not in the roster" in note and cells(out)[2][-1] == "6.00"
    write_canvas(out, [known("    Points Possible", rows="wrong")])
    assert [row[-1] for row in cells(out) if "Points Possible" in row[0]] == ["6"]


@pytest.mark.parametrize(
    "learner, why",
    [
        (known("eve"), "eve: not in the roster"),
        (known("e", name="Eve"), "Eve (e): not in the roster"),
        (known("x", "9999", "Ada Lovelace"), "Ada Lovelace (x): not in the roster"),
        (known("ada@uni.example", name="Grace Hopper"), "more than one row of the roster fits"),
    ],
    ids=["nobody", "no such name", "an id of another course is not looked for by name", "two rows"],
)
def test_who_is_not_found_is_named_and_no_row_is_touched(tmp_path, out, learner, why):
    (note,) = write_canvas(out, [learner], roster=roster(tmp_path, CANVAS))
    assert why in note
    assert set(marks(out).values()) == {"", "2.00", "EX"}


def test_two_learners_of_one_name_do_not_get_each_other_s_mark(tmp_path, out):
    two = [known("1", name="Ada Lovelace"), known("2", name="Ada Lovelace")]
    notes = write_canvas(out, two, roster=roster(tmp_path, CANVAS))
    assert [note.partition(": ")[2] for note in notes] == ["another submission fits the same row of the roster"] * 2
    assert marks(out)["Lovelace, Ada"] == ""
    notes = write_canvas(out, [known("1", "4711", rows="wrong"), two[1]], roster=roster(tmp_path, CANVAS))
    assert notes == ["Ada Lovelace (2): another submission fits the same row of the roster"]
    assert marks(out)["Lovelace, Ada"] == "3"


def test_of_several_submissions_the_best_counts(tmp_path, out):
    tries = [known("a", "4711", rows="wrong"), known("b", "4711"), known("a", "4711", double="wrong"),
             known("b", "4711", state="tampered")]  # fmt: skip
    assert write_canvas(out, tries, roster=roster(tmp_path, CANVAS)) == []
    assert marks(out)["Lovelace, Ada"] == "6"


def test_two_files_of_one_canvas_student_are_one_row(out):
    write_canvas(out, [known("lovelaceada", "4711", rows="wrong"), known("lovelaceada-late", "4711")])
    assert [row[1:2] + row[5:] for row in cells(out)[2:]] == [["4711", "6"]]


def test_no_mark_is_no_zero_and_leaves_what_canvas_had(tmp_path, out):
    records = [
        known("x", "4711", state="tampered"),
        known("y", "4712", "", "", double="crashed", rows="crashed", cube="crashed", state="crashed"),
        known("z", "4713", state="timed out", double="timed out", rows="timed out", cube="timed out"),
        record("u", unit="", state="unreadable", identity={"canvas_id": "9"}),
    ]
    notes = write_canvas(out, records, roster=roster(tmp_path, CANVAS))
    assert marks(out) == {"Lovelace, Ada": "", "Hopper, Grace": "", "Noether, Emmy": "2.00", "Turing, Alan": "EX",
                          "Student, Test": ""}  # fmt: skip
    assert [note.split(": ")[1].split(",")[0] for note in notes] == ["tampered", "crashed", "timed out", "unreadable"]


def test_part_of_a_submission_that_crashed_keeps_its_points(tmp_path, out):
    assert (
        write_canvas(out, [known("x", "4711", rows="crashed", state="crashed")], roster=roster(tmp_path, CANVAS)) == []
    )
    assert marks(out)["Lovelace, Ada"] == "3"


def test_who_is_excused_stays_so(tmp_path, out):
    notes = write_canvas(out, [known("x", "4714")], roster=roster(tmp_path, CANVAS))
    assert notes == ["x: Canvas has EX there, which is left"] and marks(out)["Turing, Alan"] == "EX"


def test_a_unit_that_canvas_does_not_have_becomes_a_new_column(tmp_path, out):
    additive = record("x", check_record("additive.score"), unit="additive", identity={"canvas_id": "4711"})
    assert write_canvas(out, [additive], roster=roster(tmp_path, CANVAS)) == []
    assert [row[5] for row in cells(out)[:4]] == ["Additive attention", "", "3", "3"]
    assert len(cells(out)[0]) == 6


def test_an_assignment_of_another_title_can_be_named(tmp_path, out):
    export = roster(tmp_path, CANVAS)
    notes = write_canvas(out, [known("x", "4711")], roster=export, columns={"toy": "Essay"})
    assert cells(out)[0][5:] == ["Essay (7)"] and marks(out)["Lovelace, Ada"] == "6"
    assert notes == ["Toys: Canvas says 10.00 points, the unit has 6"]
    with pytest.raises(ValueError, match=r"must be titled 'Homework' for toy, there are 'Essay \(7\)', 'Toys \(12\)'"):
        write_canvas(out, [known("x", "4711")], roster=export, columns={"toy": "Homework"})


def test_two_assignments_of_one_title_are_not_guessed_between(tmp_path, out):
    with pytest.raises(ValueError, match=r"one assignment must be titled 'Toys'"):
        write_canvas(out, [known("x", "4711")], roster=roster(tmp_path, CANVAS.replace("Essay (7)", "toys (7)")))


def test_an_export_with_semicolons_and_a_byte_order_mark_stays_one(tmp_path, out):
    rows = list(csv.reader(CANVAS.splitlines()))
    text = "\ufeff" + "\r\n".join(";".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows)
    write_canvas(out, [known("x", "4711")], roster=roster(tmp_path, text.replace("6.00", "6,00")))
    assert out.read_bytes().startswith(b"\xef\xbb\xbfStudent;ID;")
    assert {row[0]: row[-1] for row in cells(out, ";")}["Lovelace, Ada"] == "6"


def test_first_and_last_names_in_two_columns_are_a_name(tmp_path, out):
    text = "LastName,FirstName,ID,SIS Login ID,Section,Toys (12)\n    Points Possible,,,,,6\nLovelace,Ada,4711,a,Mon,\n"
    assert write_canvas(out, [known("x", name="Ada Lovelace")], roster=roster(tmp_path, text)) == []
    assert cells(out)[2] == ["Lovelace", "Ada", "4711", "a", "Mon", "6"]


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "has no column 'ID' or 'Section'"),
        (b"Name;Kennung\n", "give an export in English .* this one begins 'Name;Kennung'"),
        ("Student,ID,Section\nRenée,1,x\n".encode("latin-1"), "is not in UTF-8"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path, out, data, why):
    path = tmp_path / "export.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=why):
        write_canvas(out, [toy()], roster=path)


# Moodle


def test_without_a_worksheet_moodle_gets_a_row_a_learner(out):
    notes = write_moodle(out, [known("ada", "", "Ada L", "31", rows="wrong"), known("bob")], unit="toy")
    (header, ada, bob) = cells(out)
    assert header[0] == "Identifier" and header[4:6] == ["Grade", "Maximum grade"]
    assert ada[:6] == ["Participant 31", "Ada L", "", "", "3", "6.00"]
    assert bob[:2] == ["", "bob"] and bob[4] == "6"
    assert notes == ["bob: no participant number, so that Moodle will skip the row"]


def test_into_a_worksheet_only_grade_and_empty_comment_are_filled(tmp_path, out):
    records = [known("x", moodle_id="31", rows="wrong"), known("y", moodle_id="Participant 32", name="Grace")]
    assert write_moodle(out, records, unit="toy", roster=roster(tmp_path, MOODLE)) == []
    wanted = list(csv.reader(MOODLE.splitlines()))
    wanted[1][4], wanted[1][9] = "3", "3 of 6 points<br>toy.rows: wrong, wrong!"
    wanted[2][4] = "6"
    assert cells(out) == wanted


def test_a_comment_made_here_follows_the_mark_and_another_one_stays(tmp_path, out):
    first, second = known("x", moodle_id="31", rows="wrong"), known("x", moodle_id="31")
    write_moodle(out, [first], unit="toy", roster=roster(tmp_path, MOODLE))
    again = tmp_path / "again.csv"
    write_moodle(again, [second, known("y", moodle_id="32")], unit="toy", roster=out)
    assert [row[9] for row in cells(again)[1:3]] == ["6 of 6 points", "seen by me"]


def test_a_worksheet_without_new_marks_comes_back_as_it_was(tmp_path, out):
    assert write_moodle(out, [], unit="toy", roster=roster(tmp_path, MOODLE)) == []
    assert cells(out) == list(csv.reader(MOODLE.splitlines()))


@pytest.mark.parametrize("learner", [known("ada@uni.example"), known("Ada Lovelace"), known("x", name="lovelace ada")])
def test_a_participant_is_found_by_address_or_name(tmp_path, out, learner):
    assert write_moodle(out, [learner], unit="toy", roster=roster(tmp_path, MOODLE)) == []
    assert marks(out, name=1, mark=4)["Ada Lovelace"] == "6"


def test_moodle_keeps_what_holds_no_mark_and_what_it_locked(tmp_path, out):
    records = [known("x", moodle_id="33", state="tampered"), known("y", moodle_id="34"), known("z", moodle_id="99")]
    notes = write_moodle(out, records, unit="toy", roster=roster(tmp_path, MOODLE))
    assert marks(out, name=1, mark=4) == {
        "Ada Lovelace": "",
        "Grace Hopper": "",
        "Emmy Noether": "2.00",
        "Alan Turing": "",
    }
    assert notes == [
        "z: not in the roster",
        "y: Moodle lets nobody change that grade",
        "x/toy.ipynb: tampered, so no mark is entered",
    ]
    assert cells(out)[3][9] == "No mark yet: tampered"


def test_moodle_is_of_one_unit_and_other_units_stay_out(tmp_path, out):
    additive = record("x", check_record("additive.score"), unit="additive", identity={"moodle_id": "31"})
    unreadable = record("u", unit="", state="unreadable")
    notes = write_moodle(out, [additive, unreadable], unit="toy", roster=roster(tmp_path, MOODLE))
    assert marks(out, name=1, mark=4)["Ada Lovelace"] == ""
    assert notes == ["u/.ipynb: unreadable, so no mark is entered"]


def test_a_maximum_above_which_moodle_skips_grades_is_noted(tmp_path, out):
    notes = write_moodle(
        out, [known("x", moodle_id="31")], unit="toy", roster=roster(tmp_path, MOODLE.replace("6.00", "5.00"))
    )
    assert notes == ["Toys: Moodle says 5.00 points, the unit has 6"]


# text that a learner controls

FORMULAS = [
    "=cmd()",
    "+1",
    "-1",
    "@x",
    "\t=x",
    " =x",
    "\r=x",
    "\n=x",
    "＝x",
    "\u202e=x",
    "\x1b=x",
    "\ufeff=x",
    "\xa0=x",
    '"=x"',
]
WITHIN = [
    "x;=cmd|' /C calc'!A0",
    "x\t=cmd",
    "x,=cmd",
    "x; =cmd",
    'x;"=cmd"',
    "x\n=cmd",
    "x;\u202e=cmd",
    "a;b;+1",
    "x;\t@y",
    "x\x0b;-1",
]
STARTS = "=+-@＝＋－＠"


def read_with(path: Path, delimiter: str) -> list[str]:
    """Every cell as a spreadsheet shows it whose locale separates cells so, quotes heeded or not."""
    text = path.read_text(encoding="utf-8-sig")
    heeded = [cell for row in csv.reader(text.splitlines(), delimiter=delimiter) for cell in row]
    return heeded + [cell for line in text.splitlines() for cell in line.split(delimiter)]


@pytest.mark.parametrize("formula", [*FORMULAS, *WITHIN])
def test_no_formula_reaches_a_spreadsheet_of_any_locale(tmp_path, out, formula):
    handed_in = known(formula, name=formula, moodle_id="", file=f"{formula}/toy.ipynb", rows="wrong")
    handed_in["checks"][1]["message"] = formula
    write_canvas(out, [handed_in])
    write_moodle(tmp_path / "moodle.csv", [handed_in], unit="toy")
    write_table(tmp_path / "grades.csv", [handed_in])
    for path in (out, tmp_path / "moodle.csv", tmp_path / "grades.csv"):
        for delimiter in ",;\t":
            for cell in read_with(path, delimiter):
                shown = cell.strip(' "\xa0')
                assert not shown.startswith(tuple(STARTS)) or cell in (NEVER, f'"{NEVER}"'), (
                    path.name,
                    delimiter,
                    cell,
                )
        steering = {c for c in path.read_text(encoding="utf-8") if unicodedata.category(c) in ("Cc", "Cf")}
        assert steering <= {"\r", "\n"}


@pytest.mark.parametrize("name", ["Ada", "O'Neil", "3rd", "", "李小龍", "a=b", "می‌خواهم", "a; b, c", "x - y"])
def test_a_name_that_is_no_formula_stays_as_it_is(name):
    assert inert(name) == name


@pytest.mark.parametrize("text", [*FORMULAS, *WITHIN])
def test_what_is_inert_stays_as_it_is(text):
    assert inert(inert(text)) == inert(text)


def test_a_comment_is_text_for_moodle_which_takes_it_for_html(out):
    message = '<script>alert("1")</script>\nsecond line'
    write_moodle(out, [record("x", check_record("toy.rows", "crashed", message), check_record("toy.cube"))], unit="toy")
    said = cells(out)[1][9]
    assert "<script" not in said and "&lt;script&gt;" in said and "second line" not in said


def test_rows_survive_names_with_quotes_commas_and_lines(out):
    name = 'a "quoted", name\nof two lines; and more'
    write_canvas(out, [known("x", "1", name), known("y", "2")])
    assert [row[0] for row in cells(out)[2:]] == [name.replace("\n", " "), "y"]


def test_a_class_of_ten_thousand_is_written_and_read_back(tmp_path, out):
    records = invented_class(10_000)
    notes = write_canvas(out, records)
    filled = [row for row in cells(out)[2:] if row[5]]
    assert len(filled) + len(notes) == 10_000
    again = tmp_path / "again.csv"
    assert write_canvas(again, records, roster=out) == notes
    assert cells(again) == cells(out)
