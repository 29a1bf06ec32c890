"""Figures of what a cache costs say what they are given."""

import pytest

from attncourse.lessons.why_latent.figures import (
    LOOK,
    bounds_and_measured,
    cache_against_context,
    decode_roofline,
    dots_by_design,
    sparse_against_dense,
    step_times,
)
from attncourse.lessons.why_latent.schematic import Part, left_behind


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_a_dot_has_its_models_size_and_its_designs_look():
    ax = dots_by_design({"a": ("MHA", 500.0), "b": ("MLA", 7.25), "c": ("MHA", 20.0)}, xlabel="KB", digits=1)
    places = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}
    assert places == {"MHA": ([500.0, 20.0], [0, 2]), "MLA": ([7.25], [1])}
    assert {line.get_color() for line in ax.lines} == {LOOK["MHA"][0], LOOK["MLA"][0]}
    assert [text.get_text() for text in ax.texts] == ["500.0", "7.2", "20.0"]
    assert labels(ax.get_yticklabels()) == ["a", "b", "c"] and ax.get_xscale() == "log"
    low, high = ax.get_ylim()
    assert low > high, "the first model stands on top"


def test_no_two_designs_look_alike():
    assert len({color for color, _ in LOOK.values()}) == len({marker for _, marker in LOOK.values()}) == len(LOOK) == 6


def test_curves_are_in_gigabytes():
    ax = cache_against_context([512, 1024], {"a": [1e9, 2e9], "b": [3e8, 3e8]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 2.0], [0.3, 0.3]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_five_curves_are_told_apart_by_their_lines_alone():
    ax = cache_against_context([512, 1024], {name: [1.0, 2.0] for name in "abcde"})
    assert len({str(line._unscaled_dash_pattern) for line in ax.lines}) == 5


def test_ticks_are_written_without_exponents():
    ax = cache_against_context([512, 2048], {"a": [1e8, 1e12]})
    ax.figure.draw_without_rendering()
    assert labels(ax.get_xticklabels()) == ["512", "2,048"]
    assert {"0.1", "1", "1,000"} <= set(labels(ax.get_yticklabels()))


def test_parts_of_a_step_are_stacked_in_milliseconds():
    figure = step_times(
        {"a": {"weights": 1e-3, "cache": 2e-3}, "b": {"weights": 1e-3, "cache": 0.0}}, longest=5e-3, title="t"
    )
    (ax,) = figure.axes
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 1.0), (0, 1.0), (1.0, 2.0), (1.0, 0.0)]
    assert [text.get_text().strip() for text in ax.texts] == ["3.0", "1.0"]
    assert ax.get_xlim()[1] > 5.0 and ax.get_title() == "t" and "predicted" in ax.get_xlabel()


def test_a_model_stands_on_the_line_up_to_the_ridge_and_not_above_it():
    ax = decode_roofline({"low": ("MHA", 1.0), "high": ("MLA", 400.0), "also": ("MHA", 2.0)}, ridge=200.0)
    points = {tuple(line.get_xdata()): line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
    assert points == {(1.0,): 1 / 200, (400.0,): 1.0, (2.0,): 2 / 200}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["MHA", "MLA"], "each design once"
    low, high = ax.get_ylim()
    assert ax.get_yscale() == "log" and 1 / 2000 < low < 1 / 200 < 1 < high, "the points fill the axis"
    assert {"low", "high", "also"} < {text.get_text() for text in ax.texts}


def test_bounds_stand_beside_what_was_measured():
    figure = bounds_and_measured(
        {"a": (1e-3, 2e-3, 5e-3), "b": (3e-3, 4e-3, 6e-3)}, {1: (1e-3, 2e-3, 3e-3), 4: (1e-3, 8e-3, 9e-3)}
    )
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [1.0, 3.0, 2.0, 4.0, 5.0, 6.0]
    assert labels(left.get_xticklabels()) == ["a", "b"] and labels(right.get_xticklabels()) == ["1", "4"]
    assert [list(line.get_ydata()) for line in right.lines] == [[1.0, 1.0], [2.0, 8.0], [3.0, 9.0]]
    colors = [bar.get_facecolor()[:3] for bar in left.patches][::2]
    assert len(set(colors)) == 3 and labels(figure.legends[0].get_texts())[2] == "measured"


def test_each_way_to_attend_is_a_line_in_each_panel():
    figure = sparse_against_dense([512, 1024], {"MB": {"all": [1, 2], "few": [1, 1]}, "GFLOP": {"all": [3, 6]}})
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1, 2], [1, 1]]
    assert left.get_ylabel() == "MB" and [list(line.get_ydata()) for line in right.lines] == [[3, 6]]
    assert labels(figure.legends[0].get_texts()) == ["all", "few"]


def test_every_number_that_a_token_leaves_has_the_same_area():
    many = [[Part("key", 128 * 64, 0.0, 0.5), Part("value", 128 * 64, 0.5, 0.5)]]
    mixed = [[Part("state", 512)], [Part("key", 64)]]
    figure = left_behind({"many": many, "mixed": mixed}, per_line=256)
    (ax,) = figure.axes
    areas = [box.get_width() * box.get_height() for box in ax.patches[:-3]]  # the last three explain the colours
    unit = areas[0] / (128 * 64)
    assert areas == pytest.approx([n * unit for n in (128 * 64, 128 * 64, 512, 64, 8 * 512, 8 * 64)])
    said = {text.get_text() for text in ax.texts}
    assert {"many", "16,384 numbers", "mixed", "576 numbers", "8 times as high"} <= said
