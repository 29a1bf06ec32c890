"""Pages made from records: what they say, what they never say, and that no learner's text becomes more than text."""

import argparse
import base64
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from attncourse.check import CHECKS
from attncourse.check.core import STATES
from attncourse.grade import record_command
from attncourse.grade.marks import Learner, counting, has_mark
from attncourse.grade.pages import wording
from attncourse.grade.pages.chapter_links import Book
from attncourse.grade.pages.feedback import write_feedback
from attncourse.grade.pages.report import distribution, property_of, write_class_report
from tests.toy_records import SEED, check_record, invented_class, record, register_toys, toy

ROOT = Path(__file__).parents[1]
HOSTILE = "</pre></bdi><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>{{ 7 * 7 }}"
PICTURE = {"got": [[1, 1], [1, 1]], "expected": [[1, 0], [1, 1]], "rows": "query", "columns": "key"}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register_toys(monkeypatch)


def page_of(out: Path, *records, **options) -> BeautifulSoup:
    """The one page that these records give."""
    (page,) = write_feedback(out, records, **options)
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def report_of(out: Path, records) -> BeautifulSoup:
    return BeautifulSoup(write_class_report(out, records).read_text(encoding="utf-8"), "html.parser")


def said(page: BeautifulSoup) -> str:
    return " ".join(page.body.get_text(" ").split())


def hostile_records() -> list:
    """Text that a learner controls, in every place that it reaches."""
    more = {"identity": {"name": HOSTILE}, "notes": [HOSTILE], "file": HOSTILE}
    crashed = check_record("toy.rows", "crashed", HOSTILE, picture=PICTURE)
    return [
        record(HOSTILE, crashed, check_record("toy.double"), state="crashed", **more),
        record(HOSTILE, check_record("toy.cube"), **more | {"sandbox": "unconfined"}),
        record(HOSTILE, unit="", state="unreadable", **more),
    ]


@pytest.mark.parametrize("write", [page_of, lambda out, *records: report_of(out, records)])
def test_no_text_of_a_learner_becomes_markup(tmp_path, write):
    page = write(tmp_path, *hostile_records())
    assert not page.find_all(["script", "svg", "iframe", "object", "embed", "link", "base", "form"])
    assert not [tag for tag in page.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
    assert "<script>alert(1)</script>" in page.get_text() and "{{ 7 * 7 }}" in page.get_text()


@pytest.mark.parametrize("write", [page_of, lambda out, *records: report_of(out, records)])
def test_a_page_loads_nothing_and_prints(tmp_path, write):
    page = write(tmp_path, *hostile_records())
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.find_all("img"))
    style = page.style.get_text()
    assert "url(" not in style and "@import" not in style
    assert "@media print" in style and re.search(r"\.whole[^{]*\{ break-inside: avoid", style)
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_check_is_not_torn_by_the_end_of_a_sheet(tmp_path):
    checks = page_of(tmp_path, toy()).select("article.check")
    assert len(checks) == 3 and all("whole" in check["class"] for check in checks)


def test_seeds_and_digests_of_the_grader_are_never_shown(tmp_path):
    records = [*hostile_records(), toy("ada", "wrong", "crashed", "unsolved")]
    shown = [page.read_text(encoding="utf-8") for page in write_feedback(tmp_path, records)] + [
        write_class_report(tmp_path, records).read_text(encoding="utf-8")
    ]
    for text in shown:
        assert str(SEED) not in text and "f" * 12 not in text


def test_a_page_says_points_verdicts_and_messages(tmp_path):
    wrong = check_record("toy.rows", "wrong", "rows sum to 1.43, not to 1")
    page = page_of(tmp_path, record("ada", check_record("toy.double"), wrong, identity={"name": "Ada L"}))
    assert page.h1.get_text() == "Feedback for Ada L"
    assert "2 of 5 points" in said(page)
    passed, failed = page.select("article.check")
    assert "toy.double passed 2 of 2 points Twice the tensor" in said_of(passed)
    assert "toy.rows wrong 0 of 3 points" in said_of(failed) and "rows sum to 1.43, not to 1" in said_of(failed)
    assert "Read again" in said_of(failed) and "Read again" not in said_of(passed)


def said_of(tag) -> str:
    return " ".join(tag.get_text(" ").split())


def test_a_picture_stands_in_the_page_and_is_said_in_words(tmp_path):
    page = page_of(
        tmp_path, record("ada", check_record("toy.rows", "wrong", "leak", picture=PICTURE), check_record("toy.cube"))
    )
    (image,) = page.find_all("img")
    assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
    assert "1 of 4 cells differ, at (0, 1)" in image["alt"]


@pytest.mark.parametrize("state", list(wording.SUBMISSION))
@pytest.mark.parametrize("points", [0, 2])
def test_every_state_is_explained_and_only_a_mark_is_one(tmp_path, state, points):
    double = "passed" if points else "wrong"
    handed_in = toy("ada", double, "wrong", "wrong", state=state)
    text = said(page_of(tmp_path, handed_in))
    assert wording.SUBMISSION[state] in text
    marked = state == "marked" or (points > 0 and state in ("crashed", "timed out", "out of memory"))
    assert has_mark(handed_in) is marked
    assert (f"{points} of 6 points" in text, "No mark yet." in text) == (marked, not marked)


def test_there_are_words_for_every_state_that_a_check_can_be_in():
    assert set(wording.CHECK) == {"passed", *STATES.values()}


def test_a_page_says_when_it_was_marked_and_does_not_say_so_where_nothing_ran(tmp_path):
    assert "marked 2026-11-24 15:00 UTC with attncourse 0.1.0 on inputs drawn for this run" in said(
        page_of(tmp_path, toy())
    )
    unreadable = said(page_of(tmp_path, record("ada", unit="", state="unreadable", content="")))
    assert "read 2026-11-24 15:00 UTC with attncourse 0.1.0. Its fingerprint, for questions: none" in unreadable


def test_what_a_grader_says_of_its_own_failure_is_for_the_instructor(tmp_path):
    failed = record("ada", state="not graded", notes=["the worker did not start: /home/teacher/secret"])
    assert "secret" not in said(page_of(tmp_path, failed))
    assert "secret" in said(report_of(tmp_path, [failed]))


def test_of_two_submissions_the_better_one_counts_and_the_other_is_named(tmp_path):
    first, second = toy("ada", cube="wrong", file="ada/1.ipynb"), toy("ada", file="ada/2.ipynb")
    text = said(page_of(tmp_path, first, second))
    assert "6 of 6 points toy.double" in text and "Handed in as well, and counted less: ada/1.ipynb , 5 of 6" in text


def test_no_mark_counts_less_than_a_low_one():
    low, tampered = toy("ada", "wrong", "wrong", "wrong"), toy("ada", state="tampered")
    assert counting([tampered, low]) == {(Learner("ada"), "toy"): low}


def test_a_learner_gets_one_page_with_every_unit(tmp_path):
    additive = record("ada", check_record("additive.score"), unit="additive")
    page = page_of(tmp_path, toy("ada"), additive)
    assert [title.get_text() for title in page.find_all("h2")] == ["Toys", "Additive attention"]


COLLIDING = [
    "a_b", "a/b", "a:b", "a b", "A_B", "../../a_b", "..", "", ".hidden", "x" * 300, "x" * 299 + "y", "ß" * 90, "日本/語",
    "日本_語", "ﬁ", "fi", "a\0b", "a\nb", "con.html",
]  # fmt: skip


def test_every_learner_has_a_page_of_their_own_in_the_folder(tmp_path):
    pages = write_feedback(tmp_path, [toy(name) for name in COLLIDING])
    names = [page.name for page in pages]
    assert len({name.casefold() for name in names}) == len(COLLIDING)
    assert all(page.parent == tmp_path / "feedback" and page.is_file() for page in pages)
    assert all(len(name.encode()) <= 255 and re.fullmatch(r"[\w-]+(\.[0-9a-f]{16})?\.html", name) for name in names)
    assert "a_b.html" in names, "a plain name stays as it is"


def test_two_learners_of_one_name_are_told_apart_by_their_ids(tmp_path):
    known = [toy("ada", identity={"canvas_id": "1"}), toy("ada", identity={"moodle_id": "1"}), toy("ada")]
    pages = write_feedback(tmp_path, known)
    assert [page.name for page in pages] == ["ada.canvas-1.html", "ada.participant-1.html", "ada.html"]


def test_nobody_can_take_another_s_page():
    """By naming a submission as another's page is named."""
    for learner in (Learner("Ada"), Learner("ada", "4711"), Learner("ada", "x/../y"), Learner("ada", moodle_id="3")):
        assert Learner(learner.slug).slug != learner.slug


# where to read again


def test_the_section_is_a_link_into_the_built_book(tmp_path):
    (link,) = page_of(tmp_path, toy(rows="wrong"), book_url="https://example.org/book/").select(".again a")
    assert link["href"] == "https://example.org/book/softmax_attention.html#who-may-look-where"
    assert said_of(link.parent) == "Read again: Query, key and value , section Who may look where ."


def test_a_check_may_send_its_learner_to_another_chapter():
    place = Book("https://example.org/book").place(CHECKS["softmax_attention.merge"])
    assert place.chapter == "Mechanism or implementation?"
    assert place.address.endswith("/mechanism_or_implementation.html#online-softmax-one-pass-any-split")


def test_without_a_built_book_chapters_are_the_repository_s_notebooks(tmp_path):
    (link,) = page_of(tmp_path, toy(rows="wrong")).select(".again a")
    assert re.fullmatch(r"https://github\.com/\S+/blob/\S+/book/softmax_attention\.ipynb", link["href"])


def test_away_from_a_checkout_the_section_is_named_without_a_link(tmp_path):
    place = Book.find(root=tmp_path).place(CHECKS["toy.rows"])
    assert (place.section, place.address) == ("Who may look where", "")


# the class


def test_the_report_counts_states_and_names_who_has_no_mark(tmp_path):
    records = [
        toy("ada"),
        toy("bob", state="tampered", notes=["the check cell toy-rows-check was edited"], identity={"name": "مريم"}),
        toy("cy", rows="crashed", state="crashed"),
        record("dee", unit="", state="unreadable", notes=["the file is larger than 20 MiB"]),
    ]
    page = report_of(tmp_path, records)
    text = said(page)
    assert "4 submissions of 4 learners" in text
    assert "Toys 3 1 marked , 1 tampered , 1 crashed".replace(" ,", ",") in text.replace("\xa0", " ")
    assert "2 without a mark" in text
    rows = [said_of(row) for row in page.select("table.unmarked tbody tr")]
    assert [row.split()[0] for row in rows] == ["مريم", "dee", "cy"]
    assert "none the check cell toy-rows-check was edited" in rows[0] and "20 MiB" in rows[1]
    assert "3 of 6 toy.rows: crashed!" in rows[2]


def test_the_report_puts_the_hardest_check_first_with_its_commonest_property(tmp_path):
    def leak(learner, here, there):
        message = f"position {here} saw position {there}, its future"
        return record(learner, check_record("toy.double"), check_record("toy.rows", "wrong", message))

    other = check_record("toy.rows", "wrong", "rows sum to 1.43, not to 1")
    page = report_of(
        tmp_path, [leak("a", 5, 9), leak("b", 2, 7), record("c", check_record("toy.double"), other), toy("d")]
    )
    hardest, *_ = [said_of(row) for row in page.select("table.checks tbody tr")]
    assert hardest.startswith("toy.rows") and "25% 1 of 4" in hardest
    assert "position … saw position …, its future (2×, of 2 kinds)" in hardest


@pytest.mark.parametrize(
    "message, kind",
    [
        ("position 5 saw position 9, its future", "position … saw position …, its future"),
        ("a weight is negative, at (0, 13)", "a weight is negative, at (…, …)"),
        ("rows sum to 1.43, columns to 1.00", "rows sum to …, columns to …"),
        ("leak of -3.1e-05 in all", "leak of … in all"),
        ("the result is of torch.float64, expected x2", "the result is of torch.float64, expected x2"),
        ("IndexError: index 9\n  line 3 of merge: x[9]", "IndexError: index …"),
        ("", "wrong"),
    ],
)
def test_a_property_is_the_same_wherever_it_broke(message, kind):
    assert property_of({"state": "wrong", "message": message}) == kind


def test_the_distribution_has_a_bar_a_point():
    (ax,) = distribution([0, 3, 3, 6], 6).axes
    assert [bar.get_height() for bar in ax.patches] == [1, 0, 0, 2, 0, 0, 1]


def test_a_class_that_ran_unconfined_is_flagged(tmp_path):
    confined, unconfined = toy("ada"), toy("bob", sandbox="unconfined")
    assert "1 of 2 submissions ran without a sandbox" in said(report_of(tmp_path, [confined, unconfined]))
    assert "without a sandbox" not in said(report_of(tmp_path, [confined]))


def test_the_report_says_how_long_it_took(tmp_path):
    text = said(report_of(tmp_path, [toy("ada", seconds=30.0), toy("bob", seconds=90.0)]))
    assert "2.0 minutes of marking in all, 60.0 s for the median submission" in text
    assert text.index("bob/toy.ipynb marked 90.0 s") < text.index("ada/toy.ipynb marked 30.0 s")


def test_no_record_and_one_record_make_a_report(tmp_path):
    assert "There is no record to report on." in said(report_of(tmp_path, []))
    assert write_feedback(tmp_path, []) == []
    text = said(report_of(tmp_path, [toy("ada")]))
    assert "1 submission of 1 learner." in text and "1 of 1 learner has a mark: mean 6.0, median 6 of 6" in text


def test_a_class_is_reported_from_a_stream_of_records(tmp_path):
    records = invented_class(600)
    counts = Counter(each["state"] for each in records)
    text = said(report_of(tmp_path, iter(records))).replace("\xa0", " ")
    assert "600 submissions of 600 learners" in text and f"{counts['crashed']} crashed" in text


def test_of_a_unit_handed_in_twice_the_report_counts_the_better_one(tmp_path):
    text = said(report_of(tmp_path, [toy("ada", rows="wrong"), toy("ada"), toy("bob")]))
    assert "3 submissions of 2 learners. 1 of them were handed in again" in text
    assert "2 of 2 learners have a mark: mean 6.0" in text


# appeals


def shown(out: Path, *arguments: str) -> int:
    """What `python -m attncourse record` does with these arguments."""
    parser = argparse.ArgumentParser()
    record_command.add_parsers(parser.add_subparsers())
    args = parser.parse_args(["record", str(out), *arguments])
    return args.run(args)


@pytest.fixture
def graded(tmp_path) -> Path:
    ada = toy("ada", rows="wrong", identity={"name": "Ada Lovelace", "canvas_id": "4711"})
    records = [ada, record("ada", check_record("additive.score"), unit="additive"), toy("bob", notes=["x\x1b[2J"])]
    for number, each in enumerate(records):
        path = tmp_path / "records" / "deep" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each), encoding="utf-8")
    return tmp_path


def test_a_record_is_printed_with_all_that_an_appeal_needs(graded, capsys):
    assert shown(graded, "ada", "toy") == 0
    text = capsys.readouterr().out
    for part in ("ada / Ada Lovelace / 4711: toy, marked, 3 of 6 points", "0123456789abcdef" * 4, "bubblewrap", "15:00:00",
                 "toy.rows: wrong, 0 of 3 points", "checks 1", f"seed {SEED}", "| wrong!", "attncourse 0.1.0"):  # fmt: skip
        assert part in text
    assert "additive" not in text


@pytest.mark.parametrize("name", ["ada", "4711", "ADA LOVELACE"])
def test_a_record_is_found_by_any_name(graded, capsys, name):
    shown(graded, name)
    assert "toy, marked" in capsys.readouterr().out


def test_nothing_in_a_record_steers_the_terminal(graded, capsys):
    shown(graded, "bob")
    assert "\x1b" not in capsys.readouterr().out


def test_a_near_miss_is_told_what_is_near(graded):
    with pytest.raises(ValueError, match=r"no record of 'adda' in .*; near are ada"):
        shown(graded, "adda")
    with pytest.raises(ValueError, match=r"for the unit 'toys' in .*; there are those of additive, toy"):
        shown(graded, "ada", "toys")


def test_a_folder_without_records_says_how_to_get_them(tmp_path):
    with pytest.raises(ValueError, match=r"holds no records; `python -m attncourse grade FOLDER --out"):
        shown(tmp_path, "ada")
