"""What belongs to a name: everything that has it, and nothing that is not there."""

import pytest

from attncourse.__main__ import main
from attncourse.check import CHECKS, UNITS
from attncourse.course.where import belonging
from tests.test_lessons import CHAPTERS, LESSONS
from tests.test_rooms import ROOMS, ROOT


def listed(capsys, name: str) -> dict[str, str]:
    assert main(["where", name]) == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_a_chapter_brings_its_lesson_and_its_units_with_their_rooms(capsys):
    found = listed(capsys, "hard_attention")
    assert found["book/hard_attention.ipynb"] == "the chapter"
    for path in (
        "attncourse/lessons/hard_attention",
        "tests/lessons/hard_attention",
        "attncourse/hard_attention",
        "tests/test_hard_attention.py",
        "solutions/hard_attention/hard_attention.ipynb",
        "exercises/hard_attention/hard_attention.ipynb",
        "attncourse/check/units/hard_attention.py",
        "tests/banks/hard_attention.py",
    ):
        assert path in found
    assert not [path for path in found if "softmax_attention" in path]


def test_a_room_brings_its_chapter_and_no_other_room(capsys):
    found = listed(capsys, "additive")
    assert {"book/short_history.ipynb", "attncourse/additive", "tests/compiled/additive.json"} <= {*found}
    assert not [path for path in found if "multiplicative" in path]


def test_an_exercise_is_shown_where_its_check_begins(capsys):
    found = listed(capsys, "kv_cache.pages")
    path = "attncourse/check/units/kv_cache.py"
    line = int(found[path].rpartition(" ")[2])
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert '"kv_cache.pages"' in "".join(source[line - 1 : line + 2])


def test_everything_that_is_listed_is_there_and_everything_of_a_name_is_listed():
    found = {path for name in (*CHAPTERS, *ROOMS, *UNITS, *CHECKS) for path in belonging(name, ROOT)}
    assert [path for path in found if not (ROOT / path).exists()] == []
    folders = ("tests/banks", "tests/compiled", "tests/equivalent", "benchmarks/promises", "attncourse/check/units")
    files = {path for folder in folders for path in (ROOT / folder).iterdir() if path.suffix != ".pyc"}
    named = {path.relative_to(ROOT).as_posix() for path in files if path.stem in {*ROOMS, *UNITS}}
    named |= {f"attncourse/lessons/{lesson}" for lesson in LESSONS} | {f"attncourse/{room}" for room in ROOMS}
    assert named <= found


@pytest.mark.parametrize(
    ("name", "near"), [("hard_atention", "hard_attention"), ("additive.scor", "additive.score"), ("softmax_atention", "softmax_attention")]
)  # fmt: skip
def test_an_unknown_name_is_told_what_is_spelled_alike(name, near, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["where", name])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and f"named {name!r}; did you mean" in said and near in said
