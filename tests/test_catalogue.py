"""The list of exercises agrees with the registered checks, for eyes and for programs."""

import json

import pytest

from attncourse.__main__ import main
from attncourse.check import CHECKS, UNITS
from attncourse.course.catalogue import asks, table


def test_the_table_has_a_row_an_exercise_and_totals():
    lines = table(UNITS.values()).splitlines()
    rows = lines[2:-1]
    assert len(rows) == len(CHECKS)
    for row, check in zip(rows, CHECKS.values(), strict=True):
        assert f" {check.name.partition('.')[2]} " in row and row.endswith(asks(check))
    for unit in UNITS.values():
        (row,) = [row for row in rows if row.split()[:2] == [unit.chapter, unit.name]]
        assert f" {unit.minutes} " in row and ", ".join(unit.prerequisites) in row
    points, minutes = sum(c.points for c in CHECKS.values()), sum(u.minutes for u in UNITS.values())
    assert lines[-1].split() == [
        "total",
        str(len(UNITS)),
        "units",
        str(len(CHECKS)),
        "exercises",
        str(points),
        str(minutes),
    ]


def test_columns_are_aligned_and_sentences_wrap_within_the_terminal():
    wide, narrow = (table(UNITS.values(), width=width).splitlines() for width in (None, 120))
    assert max(map(len, narrow)) <= 120 < max(map(len, wide)) and len(narrow) > len(wide)
    for lines in (wide, narrow):
        start = lines[0].index("what it asks")
        assert all(line[start - 2 : start].isspace() for line in lines if len(line) > start)
    words = {word for check in CHECKS.values() for word in asks(check).split()}
    assert words <= set(" ".join(narrow).split()), "nothing is cut off"


def test_json_holds_what_is_registered(capsys):
    assert main(["exercises", "--json"]) == 0
    units = json.loads(capsys.readouterr().out)
    assert [unit["unit"] for unit in units] == [*UNITS]
    for unit in units:
        about = UNITS[unit["unit"]]
        assert (unit["title"], unit["chapter"], unit["minutes"]) == (about.title, about.chapter, about.minutes)
        assert tuple(unit["prerequisites"]) == about.prerequisites
        checks = [CHECKS[exercise["name"]] for exercise in unit["exercises"]]
        assert unit["points"] == sum(c.points for c in checks)
        assert [(e["points"], e["asks"]) for e in unit["exercises"]] == [(c.points, asks(c)) for c in checks]
    assert {e["name"] for unit in units for e in unit["exercises"]} == {*CHECKS}


def test_only_what_is_named_is_listed(capsys):
    assert main(["exercises", "short_history"]) == 0
    listed = capsys.readouterr().out
    assert "local_window" not in listed and "break_dot" in listed and "collision" not in listed
    assert main(["exercises", "why_attention", "--json"]) == 0
    assert [unit["unit"] for unit in json.loads(capsys.readouterr().out)] == ["why_attention"]


@pytest.mark.bad_input
def test_a_name_spelled_wrong_is_met_with_a_proposal(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["exercises", "addtive"])
    assert ended.value.code == 2 and "did you mean additive?" in capsys.readouterr().err
