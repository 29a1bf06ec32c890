"""The page of exercises says which section each follows, how hard and how important it is, and what builds on what."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import FancyArrowPatch

from attncourse.check import CHECKS, UNITS
from attncourse.check.core import DIFFICULTIES, IMPORTANCES, exercise_check
from attncourse.course.exercises_page import exercises_page
from attncourse.course.prerequisite_map import in_words, prerequisite_map, prerequisites
from tests.run_chapters import ROOT


@pytest.fixture(scope="module")
def page() -> str:
    return exercises_page(ROOT, colab_url="https://colab/{}".format, source_url="https://source/{}".format)


def test_every_exercise_has_a_row_with_its_section_and_levels(page):
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == CHECKS.keys()
    for name, check in CHECKS.items():
        chapter, section = check.read_again
        assert f"]({chapter}.ipynb#{section})" in rows[name], "the section is a heading of the chapter"
        assert rows[name].endswith(f"| {check.difficulty} | {check.importance} | {check.points} |")
        assert ("A Triton kernel" in rows[name]) == bool(check.kernel)


def test_every_level_is_used_and_every_unit_has_a_core():
    assert {check.difficulty for check in CHECKS.values()} == set(DIFFICULTIES)
    for unit in UNITS:
        levels = {check.importance for check in CHECKS.values() if check.unit == unit}
        assert "core" in levels and levels <= set(IMPORTANCES), unit


def test_a_level_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="must be one of easy, medium, hard, and says 'tricky'"):
        exercise_check("toy.levels", function="levels", points=1, difficulty="tricky")
    with pytest.raises(ValueError, match="must be one of core, useful, extra, and says 'high'"):
        exercise_check("toy.levels", function="levels", points=1, importance="high")


def test_the_map_puts_a_unit_below_what_it_builds_on_and_draws_no_arrow_twice():
    figure = prerequisite_map({"first": (), "second_part": ("first",), "third": ("first", "second_part")})
    heights = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts}
    assert heights["first"] > heights["second\npart"] > heights["third"]
    assert sum(isinstance(patch, FancyArrowPatch) for patch in figure.axes[0].patches) == 2
    plt.close(figure)


def test_the_map_is_said_in_words_too(page):
    assert set(prerequisites()) == set(UNITS)
    assert in_words({"a": (), "b": ("a",), "c": ("a", "b")}) == "b builds on a; c builds on a and b"
    assert in_words(prerequisites()) in page
