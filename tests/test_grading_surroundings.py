"""What surrounds a run: names that learners choose, two runs at once, disks and databases that fail."""

import csv
import errno
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from attncourse.__main__ import FAILED
from attncourse.grade.classroom import LOCK, reserved
from attncourse.grade.marks import Record
from attncourse.grade.one_submission import Settings, content_of
from attncourse.grade.pool import Pool
from attncourse.grade.read.identity import Identity
from attncourse.grade.records import owned, read_record, record_path, version_of
from tests.test_intake import tree_of, zip_of
from tests.toy_course import grade
from tests.toy_records import record, toy

RIGHT, HALF = b"right", b"half"

ROSTER = """\
Student,ID,SIS User ID,SIS Login ID,Section,Toys (12)
    Points Possible,,,,,6.00
"Lovelace, Ada",4711,,ada,Mon,
"Hopper, Grace",4712,,grace,Mon,
"García, José",4713,,José,Mon,
"Nobody, Else",1,,else,Mon,
"""


def rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def refused(capsys, course: Path, submissions: Path, out: Path, *options: str) -> str:
    """What a run says that is refused before anything is marked."""
    with pytest.raises(SystemExit) as end:
        grade(course, submissions, out, "--unconfined", *options)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and said.startswith("attncourse: "), said
    return said


@pytest.fixture(autouse=True)
def marked_at_once(monkeypatch):
    """What is marked is of no account here: no sandbox and no process, and a record by what the bytes say."""

    def grade_bytes(file: str, data: bytes, unreadable: str, settings: Settings) -> Record:
        more = {"file": file, "content": content_of(data), "sandbox": settings.confinement}
        if unreadable:
            return record(file, unit="", state="unreadable", notes=[unreadable], version=version_of(""), **more)
        return toy(file, rows="passed" if data == RIGHT else "wrong", version=version_of("toy"), **more)

    @contextmanager
    def threads(workers: int):
        with closing(Pool(lambda: ThreadPoolExecutor(1), 1)) as pool:
            yield pool

    monkeypatch.setattr("attncourse.grade.classroom.grade_bytes", grade_bytes)
    monkeypatch.setattr("attncourse.grade.run.local_processes", threads)


@pytest.fixture
def one(tmp_path) -> Path:
    """A class of one submission."""
    return tree_of(tmp_path / "in", {"ada.ipynb": RIGHT})


def test_a_class_whose_names_collide_are_misread_or_are_no_notebooks_is_marked_whole(course, tmp_path, capsys):
    """What a zip can hold that learners named: each has a record, a row and a place in the report."""
    members = {
        "ada/toy.ipynb": HALF,
        "ada/toy-Copy1.ipynb": RIGHT,
        "ada/plot.png": b"png",
        "ada/lovelacebob_4712_1_toy.ipynb": HALF,
        "grace/exercises/toy/toy.ipynb": RIGHT,
        "grace/a.ipynb": HALF,
        "grace/a.ipynb.json/b.ipynb": HALF,
        ".x.partial/c.ipynb": HALF,
        "José/toy.ipynb.json": RIGHT,
        "else/toy.txt": RIGHT,
        "mallory/ada.ipynb": RIGHT,
        "x\\twice.ipynb": HALF,
        "x/twice.ipynb": HALF,
    }
    (tmp_path / "roster.csv").write_text(ROSTER, encoding="utf-8")
    out = tmp_path / "out"
    run = (
        course,
        zip_of(tmp_path / "class.zip", members),
        out,
        "--unconfined",
        "--roster",
        str(tmp_path / "roster.csv"),
    )
    grade(*run)
    said = capsys.readouterr().err
    table = list(csv.DictReader((out / "grades.csv").read_text(encoding="utf-8").splitlines()))
    files = {row["file"]: (row["learner"], row["state"], row["points"]) for row in table}
    assert files == {
        "ada/toy.ipynb": ("ada", "marked", "3"),
        "ada/toy-Copy1.ipynb": ("ada", "marked", "6"),
        "ada/lovelacebob_4712_1_toy.ipynb": ("ada", "marked", "3"),
        "grace/exercises/toy/toy.ipynb": ("grace", "marked", "6"),
        "grace/a.ipynb": ("grace", "marked", "3"),
        "grace/a.ipynb.json/b.ipynb": ("grace", "marked", "3"),
        "José/toy.ipynb.json": ("José", "unreadable", "0"),
        "else/toy.txt": ("else", "unreadable", "0"),
        "mallory/ada.ipynb": ("mallory", "marked", "6"),
        "x/twice.ipynb": ("x", "marked", "3"),
        "x/twice.ipynb (2)": ("x", "marked", "3"),
    }
    marks = {name: row["Toys (12)"] for name, row in rows(out / "canvas.csv", "Student").items()}
    assert marks == {"    Points Possible": "6.00", "Lovelace, Ada": "6", "Hopper, Grace": "6", "García, José": "",
                     "Nobody, Else": ""}  # fmt: skip
    assert "mallory: not in the roster" in said and "José/toy.ipynb.json: unreadable" in said
    report = BeautifulSoup((out / "report.html").read_text(encoding="utf-8"), "html.parser")
    (several, *_) = [" ".join(row.get_text(" ").split()) for row in report.select("table.several tbody tr")]
    assert several.startswith("ada Toys ada/toy-Copy1.ipynb ada/"), "which of them counts"
    assert "ada/plot.png" in report.select_one("table.aside").get_text()
    assert "it is no notebook: its name ends in .txt" in report.select_one("table.unmarked").get_text()
    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    grade(*run)
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before


def test_a_kept_record_is_another_s_once_a_roster_says_so(course, tmp_path):
    tree_of(tmp_path / "in", {"group_1_4713_81236_toy.ipynb": RIGHT})
    out, roster = tmp_path / "out", tmp_path / "roster.csv"
    (first,) = grade(course, tmp_path / "in", out, "--unconfined").values()
    assert first["identity"]["canvas_id"] == ""
    roster.write_text(ROSTER.replace(",1,", ",9,"), encoding="utf-8")
    (second,) = grade(course, tmp_path / "in", out, "--unconfined", "--roster", str(roster)).values()
    assert second == owned(first, Identity("group_1", canvas_id="4713")), "whose it is has changed and nothing else"
    assert rows(out / "canvas.csv", "ID")["4713"]["Toys (12)"] == "6"


def test_two_runs_do_not_write_into_one_folder(course, one, tmp_path, capsys):
    with reserved(tmp_path / "out"):
        said = refused(capsys, course, one, tmp_path / "out")
        assert f"another `attncourse grade` (process {os.getpid()}) writes into" in said
    assert not [*(tmp_path / "out" / "records").iterdir()]
    with reserved(tmp_path / "out"):
        pass


def test_the_hold_of_a_run_that_was_killed_is_gone(tmp_path):
    if (child := os.fork()) == 0:
        hold = reserved(tmp_path / "out")
        hold.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "out" / LOCK).exists()
    with reserved(tmp_path / "out"):
        pass


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/attncourse"])
def test_an_out_that_cannot_be_written_is_refused_before_anything_is_marked(course, one, tmp_path, capsys, out):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said = refused(capsys, course, one, tmp_path / out)
    assert "--out must be a folder that can be written, got" in said and out in said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_read_only_or_full_disk_is_refused_before_anything_is_marked(course, one, tmp_path, capsys, monkeypatch):
    def failing(code: int):
        def fails(*_):
            raise OSError(code, os.strerror(code))

        return fails

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="got .*: Read-only file system"):
        patch.setattr(os, "open", failing(errno.EROFS))
        with reserved(tmp_path / "a"):
            pass
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    assert "No space left on device" in refused(capsys, course, one, tmp_path / "out")


@pytest.mark.parametrize("at", [3, "report.html", "grades.csv"])
def test_a_disk_that_fills_up_loses_nothing_that_was_marked(course, tmp_path, capsys, monkeypatch, at):
    tree_of(tmp_path / "in", {f"{name}.ipynb": RIGHT for name in "abcde"})
    replace, done = os.replace, []

    def fails(partial, path):
        done.append(path)
        if len(done) == at or Path(path).name == at:
            raise OSError(errno.ENOSPC, "No space left on device", str(partial), None, str(path))
        replace(partial, path)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        grade(course, tmp_path / "in", out, "--unconfined", code=FAILED)
    said = capsys.readouterr().err
    assert "No space left on device; what is marked is kept, and the same command goes on from here" in said
    assert "Traceback" not in said and not [*out.rglob("*.partial")]
    kept = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    assert len(kept) == (2 if at == 3 else 5)
    assert {r["points"] for r in grade(course, tmp_path / "in", out, "--unconfined").values()} == {6}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_roster_that_cannot_be_read_is_refused_before_anything_is_marked(course, one, tmp_path, capsys):
    (tmp_path / "binary.csv").write_bytes(b'ID,Section\r\n"' + b"x" * 200_000)
    for roster, words in ((tmp_path, "cannot be read: Is a directory"), (tmp_path / "binary.csv", "is no table"),
                          (tmp_path / "none.csv", "cannot be read: No such file")):  # fmt: skip
        assert words in refused(capsys, course, one, tmp_path / "out", "--roster", str(roster))
    assert not (tmp_path / "out").exists()


def test_a_gradebook_that_cannot_be_written_is_refused_before_anything_is_marked(course, one, tmp_path, capsys):
    locked, text = tmp_path / "gradebook.db", tmp_path / "notes.txt"
    text.write_text("no database, though as long as the head of one would be" * 20, encoding="utf-8")
    with closing(sqlite3.connect(locked)) as other:
        other.execute("CREATE TABLE x (y)")
        other.execute("BEGIN EXCLUSIVE")
        for gradebook, words in ((locked, "database is locked"), (text, "file is not a database"),
                                 (tmp_path, "unable to open"), (tmp_path / "no" / "db", "a folder that exists")):  # fmt: skip
            said = refused(capsys, course, one, tmp_path / "out", "--gradebook", str(gradebook))
            assert words in said and str(gradebook) in said
    assert not (tmp_path / "out").exists()


def test_a_gradebook_that_is_locked_afterwards_costs_no_marks(course, one, tmp_path, capsys, monkeypatch):
    database = tmp_path / "gradebook.db"
    monkeypatch.setattr("attncourse.grade.run.check_gradebook", lambda path: None)
    with closing(sqlite3.connect(database)) as other:
        other.execute("CREATE TABLE x (y)")
        other.execute("BEGIN EXCLUSIVE")
        grade(course, one, tmp_path / "out", "--unconfined", "--gradebook", str(database), code=FAILED)
    said = capsys.readouterr().err
    assert "gradebook.db: the gradebook could not be written: database is locked; what is marked is kept" in said
    assert read_record(record_path(tmp_path / "out", "ada.ipynb"))["points"] == 6
    assert (tmp_path / "out" / "report.html").is_file()
