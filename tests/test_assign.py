"""What an instructor hands out: whole, in step with the course, never in the place of something else."""

import json
import shutil
import zipfile
from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

import attncourse.course.assign
from attncourse import __version__
from attncourse.__main__ import main
from attncourse.check import CHECKS, UNITS
from attncourse.course.assign import assign, shared
from attncourse.course.assignment import Assignment, parse_due, read_assignment, shown_due
from attncourse.course.catalogue import asks, choose
from attncourse.course.origin import Origin, read_origin
from tests.check_built_book import defects
from tests.test_origin import copy_of_course

ROOT = Path(__file__).parents[1]
DUE = date.today() + timedelta(days=30)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def points_in(notebook: Path) -> dict[str, float]:
    """nbgrader's points by check."""
    cells = nbformat.read(notebook, as_version=4).cells
    marks = [cell.metadata.nbgrader for cell in cells if cell.metadata.get("nbgrader", {}).get("grade")]
    return {m.grade_id.removesuffix("-check").replace("-", ".", 1): m.points for m in marks}


def page_of(folder: Path) -> BeautifulSoup:
    return BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")


def text_of(folder: Path) -> str:
    return " ".join(page_of(folder).get_text(" ").split())


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "assignment"


# what is in the folder


def test_a_chapter_brings_its_units_as_they_were_released(out):
    about = assign(ROOT, ["short_history"], out, due=DUE)
    assert about.chapters == ("short_history",) and about.units == ("additive", "multiplicative")
    found = files_of(out)
    notebooks = {f"exercises/{unit}/{unit}.ipynb" for unit in about.units}
    assert found.keys() == {"index.html", "assignment.json", "handout.zip", *notebooks}
    for name in notebooks:
        assert found[name] == (ROOT / name).read_bytes()
    assert about.version == __version__ and about.origin == read_origin(ROOT)
    for check in CHECKS.values():
        if check.unit in about.units:
            assert about.points_for(check.name) == check.points
    assert about.possible() == sum(c.points for c in CHECKS.values() if c.unit in about.units)
    assert read_assignment(out / "assignment.json") == about


def test_a_unit_comes_alone_and_a_name_twice_comes_once(out):
    about = assign(ROOT, ["multiplicative", "why_attention", "multiplicative"], out)
    assert about.chapters == ("short_history", "why_attention"), "chapters to read, in the order named"
    assert about.units == ("why_attention", "multiplicative"), "units, in the course's order"


def test_the_page_says_what_to_read_and_solve_and_opens_offline(out):
    assign(ROOT, ["softmax_attention", "additive"], out, due=datetime(2099, 3, 6, 23, 59))
    assert defects(out / "index.html") == []
    page, text, origin = page_of(out), text_of(out), read_origin(ROOT)
    links = {a["href"] for a in page.select("a")}
    assert "Friday, 6 March 2099, 23:59" in text
    for chapter in ("softmax_attention", "short_history"):
        assert {
            origin.colab_url(f"book/{chapter}.ipynb"),
            f"{origin.repository}/blob/{origin.tag}/book/{chapter}.ipynb",
        } <= links
    for unit in ("softmax_attention", "additive"):
        notebook = f"exercises/{unit}/{unit}.ipynb"
        assert {notebook, origin.colab_url(notebook)} <= links and (out / notebook).exists()
        assert f"about {UNITS[unit].minutes} minutes" in text
    rows = [[cell.get_text() for cell in row.select("td")] for row in page.select("tbody tr")]
    wanted = [c for c in CHECKS.values() if c.unit in ("softmax_attention", "additive")]
    assert rows == [[c.name.partition(".")[2], asks(c), str(c.points)] for c in wanted]
    assert "Why attention (not part of this assignment)" in text and "Softmax attention (not part" not in text
    assert "differ here" not in text


def test_the_page_links_a_built_book_and_escapes_what_it_is_told(out):
    assign(ROOT, ["additive"], out, title="<b>Week 1</b> & more", book="https://example.org/book/")
    assert page_of(out).h1.get_text() == "<b>Week 1</b> & more"
    assert page_of(out).find("a", href="https://example.org/book/short_history.html")
    assert "Due" not in text_of(out)


def test_links_lead_to_the_fork(out):
    fork = Origin("https://github.com/a-teacher/attention-101", "fall")
    assign(ROOT, ["additive"], out, origin=fork)
    assert page_of(out).find("a", href=fork.colab_url("exercises/additive/additive.ipynb"))
    assert read_origin(ROOT).slug not in (out / "index.html").read_text(encoding="utf-8")


def test_the_zip_is_what_learners_get_and_depends_on_nothing_else(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assign(ROOT, ["short_history"], first, due=DUE)
    assign(ROOT, ["short_history"], second, due=DUE)
    assert files_of(first) == files_of(second)
    with zipfile.ZipFile(first / "handout.zip") as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert held == {k: v for k, v in files_of(first).items() if k not in ("handout.zip", "assignment.json")}


# points


def test_overridden_points_hold_on_the_page_in_the_notebooks_and_in_the_file(out):
    overrides = ["additive=100", "multiplicative.local=2.5", "multiplicative.general=0.0"]
    about = assign(ROOT, ["short_history"], out, points=overrides)
    assert about.points["additive"] == dict(zip(about.points["additive"], (30, 30, 20, 20), strict=True))
    assert about.points_for("multiplicative.local") == 2.5 and about.points_for("multiplicative.general") == 0
    assert about.points_for("multiplicative.split") == CHECKS["multiplicative.split"].points
    assert about.possible() == 107.5 and "107.5" in text_of(out) and "differ here" in text_of(out)
    for unit in about.units:
        name = f"exercises/{unit}/{unit}.ipynb"
        assert points_in(out / name) == about.points[unit]
        ours, released = (nbformat.read(folder / name, as_version=4).cells for folder in (out, ROOT))
        assert [c.source for c in ours] == [c.source for c in released], "only metadata changes"
    assert read_assignment(out / "assignment.json") == about


def test_nbgrader_accepts_a_notebook_with_overridden_points(out):
    from nbgrader.utils import compute_checksum

    assign(ROOT, ["additive"], out, points=["additive=100"])
    for cell in nbformat.read(out / "exercises" / "additive" / "additive.ipynb", as_version=4).cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            assert cell.metadata.nbgrader.checksum == compute_checksum(cell)


@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=8),
    st.integers(0, 100_000).map(lambda hundredths: hundredths / 100),
)
def test_shared_points_sum_exactly_and_stay_in_proportion(points, total):
    parts = shared({str(i): value for i, value in enumerate(points)}, total)
    hundredths = [round(part * 100) for part in parts.values()]
    assert sum(hundredths) == round(total * 100)
    assert all(part == count / 100 for part, count in zip(parts.values(), hundredths, strict=True))
    for value, count in zip(points, hundredths, strict=True):
        assert abs(count - Fraction(round(total * 100)) * value / sum(points)) < 1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "override, says",
    [
        ("additive", "at least 0"),
        ("additive=", "at least 0"),
        ("additive=many", "at least 0"),
        ("additive.score=-1", "at least 0"),
        ("additive.score=nan", "at least 0"),
        ("additive.score=inf", "at least 0"),
        ("additive.score=1.234", "two decimals"),
        ("additive.scores=2", "of what is handed out"),
        ("multiplicative=2", "of what is handed out"),
        ("=2", "of what is handed out"),
    ],
)
def test_points_that_mean_nothing_are_refused(override, says, out):
    with pytest.raises(ValueError, match=says):
        assign(ROOT, ["additive"], out, points=[override])
    assert not out.exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "pair", [("additive=5", "additive.cost=1"), ("additive.cost=1", "additive=5"), ("additive=5", "additive=6")]
)
def test_points_said_twice_are_refused(pair, out):
    with pytest.raises(ValueError, match="given once"):
        assign(ROOT, ["additive"], out, points=[*pair])


# dates


def test_due_dates_are_shown_with_their_weekday():
    zone = timezone(timedelta(hours=1))
    assert parse_due("2027-03-05") == date(2027, 3, 5) and type(parse_due("2027-03-05")) is date
    assert parse_due("2027-03-05T23:59") == datetime(2027, 3, 5, 23, 59)
    assert parse_due("2027-03-05 23:59+01:00") == datetime(2027, 3, 5, 23, 59, tzinfo=zone)
    assert shown_due(date(2027, 3, 5)) == "Friday, 5 March 2027"
    assert shown_due(datetime(2027, 3, 5, 8, 5)) == "Friday, 5 March 2027, 08:05"
    assert shown_due(datetime(2027, 3, 5, 23, 59, tzinfo=zone)) == "Friday, 5 March 2027, 23:59 (UTC+01:00)"


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "tomorrow", "5.3.2027", "2027-02-29", "2027-03-05T25:00"])
def test_a_due_date_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="ISO date"):
        parse_due(text)


@pytest.mark.bad_input
def test_a_due_date_must_not_be_past(out):
    yesterday, moment = date.today() - timedelta(days=1), timedelta(minutes=2)
    for due in (yesterday, datetime.now() - moment, datetime.now(UTC) - moment):
        with pytest.raises(ValueError, match="must not be past"):
            assign(ROOT, ["additive"], out, due=due)
    for due in (date.today(), datetime.now() + moment, datetime.now(timezone(timedelta(hours=-9))) + moment):
        assert assign(ROOT, ["additive"], out, due=due).due == due


# names, and what cannot be handed out


@pytest.mark.bad_input
def test_a_name_spelled_wrong_is_met_with_a_proposal(out):
    with pytest.raises(ValueError, match=r"'short_histroy'; did you mean short_history\?"):
        assign(ROOT, ["short_histroy"], out)
    with pytest.raises(ValueError, match="there are .*why_attention"):
        assign(ROOT, ["xyz"], out)


def test_a_chapter_without_exercises_is_read_but_is_no_assignment_alone(tmp_path, out):
    assert choose(["preface", "additive"], ["preface", "short_history"]) == (
        ["preface", "short_history"],
        [UNITS["additive"]],
    )
    root = copy_of_course(tmp_path)
    title = nbformat.v4.new_markdown_cell("# A preface", id="title")
    nbformat.write(nbformat.v4.new_notebook(cells=[title]), root / "book" / "preface.ipynb")
    contents = root / "_toc.yml"
    first = "      - file: why_attention\n"
    contents.write_text(
        contents.read_text(encoding="utf-8").replace(first, "      - file: preface\n" + first), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="preface has none"):
        assign(root, ["preface"], out)
    about = assign(root, ["preface", "additive"], out)
    assert about.chapters == ("preface", "short_history") and "A preface" in text_of(out)


@pytest.mark.bad_input
def test_a_release_out_of_step_with_the_course_is_refused(tmp_path, out):
    root = copy_of_course(tmp_path)
    path = root / "exercises" / "additive" / "additive.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace('"points": 2', '"points": 5'), encoding="utf-8")
    with pytest.raises(ValueError, match="make exercises"):
        assign(root, ["additive"], out)
    path.unlink()
    with pytest.raises(ValueError, match="does not exist; run `make exercises`"):
        assign(root, ["additive"], out)
    assert not out.exists()


# the folder


def test_an_earlier_assignment_is_replaced_and_nothing_else_is_left(out):
    assign(ROOT, ["short_history"], out)
    about = assign(ROOT, ["additive"], out, due=DUE)
    assert read_assignment(out / "assignment.json") == about
    assert not (out / "exercises" / "multiplicative").exists()
    assert [*out.parent.iterdir()] == [out]


def test_an_empty_folder_is_taken_and_missing_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b"):
        assign(ROOT, ["additive"], out)
        assert (out / "index.html").exists()


def add_a_file(out: Path) -> None:
    (out / "notes.txt").write_text("mine", encoding="utf-8")


def add_a_link(out: Path) -> None:
    (out / "more").symlink_to(out.parent)


def change_a_file(out: Path) -> None:
    (out / "index.html").write_text("mine", encoding="utf-8")


def break_the_file(out: Path) -> None:
    (out / "assignment.json").write_text("{}", encoding="utf-8")


def remove_the_file(out: Path) -> None:
    (out / "assignment.json").unlink()


@pytest.mark.bad_input
@pytest.mark.parametrize("change", [add_a_file, add_a_link, change_a_file, break_the_file, remove_the_file])
def test_a_folder_that_holds_anything_else_is_left_alone(change, out):
    assign(ROOT, ["additive"], out)
    change(out)
    before = files_of(out)
    with pytest.raises(ValueError, match=r"must (hold only|be new|name the format)"):
        assign(ROOT, ["multiplicative"], out)
    assert files_of(out) == before


@pytest.mark.bad_input
def test_what_is_no_folder_is_left_alone(tmp_path):
    file, link, folder = tmp_path / "file", tmp_path / "link", tmp_path / "folder"
    file.write_text("mine", encoding="utf-8")
    folder.mkdir()
    link.symlink_to(folder)
    for out in (file, link):
        with pytest.raises(ValueError, match="must be a folder"):
            assign(ROOT, ["additive"], out)
    assert file.read_text(encoding="utf-8") == "mine" and not [*folder.iterdir()]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_leaves_what_was_there(earlier, out, monkeypatch):
    if earlier:
        assign(ROOT, ["additive"], out)
    before = files_of(out)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(attncourse.course.assign, "write_zip", fail)
    with pytest.raises(OSError, match="no space left"):
        assign(ROOT, ["multiplicative"], out)
    assert files_of(out) == before and [*out.parent.iterdir()] == ([out] if earlier else [])


def test_a_failure_to_take_the_place_brings_the_earlier_folder_back(out, monkeypatch):
    assign(ROOT, ["additive"], out)
    before, rename = files_of(out), Path.rename

    def fail(self, target):
        if ".new." in self.name:
            raise OSError("interrupted")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="interrupted"):
        assign(ROOT, ["multiplicative"], out)
    assert files_of(out) == before and [*out.parent.iterdir()] == [out]


# the file that grading reads


def test_points_for_knows_its_own_checks_only(out):
    about = assign(ROOT, ["additive"], out)
    for name in ("multiplicative.local", "additive.scores", "additive"):
        with pytest.raises(ValueError, match=f"units additive, got '{name}'"):
            about.points_for(name)


def without(key: str):
    return lambda said: said.pop(key)


def with_value(key: str, value):
    return lambda said: said.update({key: value})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change, says",
    [
        (with_value("format", "attncourse assignment 2"), "attncourse assignment 2"),
        (without("format"), "must name the format"),
        (without("points"), "'points' as dict"),
        (without("due"), "'due' as"),
        (with_value("chapters", "short_history"), "'chapters' as list"),
        (with_value("points", {}), "at least one unit"),
        (with_value("points", {"additive": 3}), "points by check for 'additive'"),
        (with_value("points", {"latin": {"latin.verbs": 1}}), "got 'latin'"),
        (lambda said: said["points"]["additive"].pop("additive.cost"), "its checks .*additive.cost.* and no others"),
        (lambda said: said["points"]["additive"].update({"additive.more": 1}), "additive.more"),
        (lambda said: said["points"]["additive"].update({"additive.cost": "two"}), "additive.cost=two"),
        (lambda said: said["points"]["additive"].update({"additive.cost": True}), "additive.cost=True"),
        (lambda said: said["points"]["additive"].update({"additive.cost": float("nan")}), "additive.cost=nan"),
        (with_value("due", "soon"), "got 'soon'"),
        (with_value("repository", "https://example.org"), "OWNER/NAME"),
    ],
)
def test_a_file_that_is_no_assignment_is_refused_with_its_name(change, says, out):
    assign(ROOT, ["additive"], out)
    said = json.loads((out / "assignment.json").read_text(encoding="utf-8"))
    change(said)
    (out / "assignment.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ValueError, match=f"assignment.json.*{says}"):
        read_assignment(out / "assignment.json")


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "no json", "[]", "null"])
def test_a_file_of_another_kind_is_refused(text, tmp_path):
    (tmp_path / "assignment.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"assignment\.json must"):
        read_assignment(tmp_path / "assignment.json")


def test_an_assignment_does_not_change():
    about = Assignment(
        "Title",
        (),
        {"additive": {c.name: 1 for c in CHECKS.values() if c.unit == "additive"}},
        None,
        "1",
        read_origin(ROOT),
    )
    with pytest.raises(AttributeError):
        about.title = "Another"


# the shell


def test_the_command_says_what_to_hand_out(out, capsys):
    options = [
        "--due",
        f"{DUE}T12:00",
        "--points",
        "additive=20",
        "--points",
        "multiplicative.split=4",
        "--tag",
        "fall",
    ]
    assert main(["assign", "short_history", *options, "--root", str(ROOT), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        "additive, multiplicative, 32 points, due" in said and f"{DUE:%A}" in said and str(out / "handout.zip") in said
    )
    about = read_assignment(out / "assignment.json")
    assert about.origin == Origin(read_origin(ROOT).repository, "fall") and about.due == datetime.fromisoformat(
        f"{DUE}T12:00"
    )


@pytest.mark.bad_input
def test_the_command_explains_a_mistake_without_a_traceback(out, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["assign", "additve", "--out", str(out)])
    assert ended.value.code == 2 and "did you mean additive?" in capsys.readouterr().err
    assert shutil.os.listdir(out.parent) == []
