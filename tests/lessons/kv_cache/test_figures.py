"""Figures of the cache say what they are given."""

import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from attncourse.lessons.kv_cache.figures import (
    EMPTY,
    block_tables,
    bytes_over_passes,
    cache_slots,
    error_and_loss,
    roofline,
    slot_timeline,
    step_time,
)
from attncourse.models.generate import Read
from attncourse.plot import COLORS


def boxes(ax):
    """Place -> colour and strength of each box."""
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return {patch.get_xy(): (to_hex(patch.get_facecolor()).upper(), patch.get_alpha()) for patch in found}


def test_slots_hold_the_characters_of_their_positions():
    """A ring that has turned: slot 0 holds position 3; row 1 read nothing just now."""
    positions = torch.tensor([[3, 1, 2], [0, -1, -1]])
    (ax,) = cache_slots(positions, ["abcd", "x"], capacity=4, fresh=[2, 0]).axes
    assert [t.get_text() for t in ax.texts] == ["d", "b", "c", "x"]
    drawn = boxes(ax)
    assert len(drawn) == 8
    assert [drawn[i, 0] for i in range(3)] == [(COLORS[0], 1.0), (COLORS[0], 0.35), (COLORS[0], 1.0)]
    assert drawn[0, 1] == (COLORS[1], 0.35)
    assert {drawn[place] for place in ((3, 0), (1, 1), (2, 1), (3, 1))} == {(EMPTY.upper(), 1.0)}


def test_a_line_stands_for_the_fit_and_points_for_the_measurement():
    ax = step_time(
        [1, 2], {"a": [0.001, 0.003], "b": [0.002, 0.002]}, {"a": [0.0, 0.004], "b": [0.002] * 2}, device="x"
    )
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 3], [0, 4], [2, 2], [2, 2]]
    assert [line.get_linestyle() for line in ax.lines] == ["None", "-"] * 2 and ax.get_title() == "x"


def test_a_timeline_leaves_idle_slots_empty():
    passes = [[Read(0, 0, 3), Read(1, 0, 1)], [Read(0, 3, 4), Read(1, 1, 1)], [Read(0, 4, 5), Read(2, 0, 2)]]
    figure = slot_timeline({"one": passes, "two": passes[:1]}, slots=2)
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["one: 3 passes", "two: 1 passes"]
    drawn = boxes(first)
    assert {(x, int(y)) for x, y in drawn if y} == {(0, 0), (1, 0), (2, 0), (0, 1), (2, 1)}
    assert drawn[1, 0.05] == (COLORS[0], 0.55) and drawn[2, 1.05] == (COLORS[2], 1.0)
    assert [t.get_text() for t in first.texts] == ["0", "1", "2"]
    assert second.patches[0].get_width() == 1 and first.get_xlim() == second.get_xlim() == (0, 3)


def test_a_page_shows_all_who_hold_it():
    figure = block_tables({"a": ([2, 0], 5), "b": ([2, 1], 6)}, n_pages=3, page_size=4)
    left, right = figure.axes
    assert [t.get_text() for t in left.texts] == ["2", "0", "2", "1"]
    held = [p for p in right.patches if to_hex(p.get_facecolor()).upper() != EMPTY.upper()]
    by_page = {i: [p for p in held if int(p.get_y()) == i] for i in range(3)}
    assert [len(by_page[i]) for i in range(3)] == [1, 2, 8], "page 2 is full and has two holders"
    assert {to_hex(p.get_facecolor()).upper() for p in by_page[2]} == {COLORS[0], COLORS[1]}
    assert {p.get_height() for p in by_page[2]} == {0.4} and by_page[0][0].get_height() == 0.8


def test_lines_and_points_carry_their_values():
    ax = bytes_over_passes({"a": [1000, 3000], "b": [500, 500]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 3], [0.5, 0.5]]
    figure = error_and_loss({"int8": (10, 0.01, -0.001), "int4": (6, 0.1, 0.02)})
    left, right = figure.axes
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines] == [(10, 0.01), (6, 0.1)]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines[:2]] == [(10, -0.001), (6, 0.02)]


def test_the_roof_bends_where_the_two_speeds_meet():
    ax = roofline({"decode": (0.5, 1e9), "prefill": (100, 40e9)}, bandwidth=10e9, rate=50e9, device="x")
    roof = ax.lines[0]
    assert list(roof.get_xdata()) == [0.25, 5, 200] and list(roof.get_ydata()) == [2.5, 50, 50]
    assert [line.get_ydata()[0] for line in ax.lines[1:3]] == [1, 40]
    assert [t.get_text() for t in ax.texts] == ["decode", "prefill"] and ax.get_ylim()[0] < 1
