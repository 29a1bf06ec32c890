"""Figures of the cache say what they are given."""

import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from attncourse.lessons.kv_cache.figures import (
    EMPTY,
    block_tables,
    bytes_over_passes,
    cache_slots,
    error_and_loss,
    leaks,
    read_ladder,
    roofline,
    slot_timeline,
    step_time,
)
from attncourse.lessons.kv_cache.growing import growing_cache
from attncourse.lessons.kv_cache.models import multi_head
from attncourse.lessons.kv_cache.schematic import cached_step
from attncourse.models.decoder import DecoderLM
from attncourse.models.generate import Read
from attncourse.models.text import CHARACTERS
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


def test_the_fit_is_drawn_where_nothing_was_measured():
    """A parabola has to bend between its three points, so it is drawn at many places."""
    ax = step_time([1, 2, 3], {"a": [0.001, 0.004, 0.009]}, {"a": lambda n: n**2 / 1000})
    points, line = ax.lines
    np.testing.assert_allclose(points.get_ydata(), [1, 4, 9])
    assert len(line.get_xdata()) > 20 and (line.get_xdata()[0], line.get_xdata()[-1]) == (1, 3)
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata() ** 2)


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


def test_lines_carry_their_values():
    ax = bytes_over_passes({"a": [1000, 3000], "b": [500, 500]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 3], [0.5, 0.5]]


def heights(ax):
    """All that is drawn as points, from left to right."""
    places = [place for line in ax.lines if line.get_linestyle() == "None" for place in line.get_xydata().tolist()]
    return [y for _, y in sorted(places)]


def test_a_dot_stands_for_each_model_that_was_recorded_and_for_the_one_here():
    recorded = {"error": {"int8": [0.01, 0.02], "int4": [0.1]}, "change of the loss": {"int8": [0, 1], "int4": [2]}}
    live = {"error": {"int8": 0.03, "int4": 0.2}, "change of the loss": {"int8": 3, "int4": 4}}
    above, below = error_and_loss(recorded, live).axes
    assert heights(above) == [0.01, 0.02, 0.03, 0.1, 0.2] and above.get_yscale() == "log"
    assert heights(below) == [0, 1, 3, 2, 4]
    assert [label.get_text() for label in below.get_xticklabels()] == ["int8", "int4"]


def test_each_clerk_is_a_dot_over_the_line_of_a_guess():
    ax = leaks({"no reset": [0.9, 1.0], "reset": [0.1]}, chance=0.125)
    assert heights(ax) == [0.9, 1.0, 0.1]
    assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.125]


def test_the_ladder_marks_where_a_cache_ends():
    ax = read_ladder({2**14: 2e11, 2**20: 1e11, 2**27: 2e10}, {"L1": 2**15, "L2": 2**20})
    assert list(ax.lines[0].get_ydata()) == [200, 100, 20]
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [2**15, 2**20]
    assert [t.get_text() for t in ax.texts] == ["L1", "L2"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16 KiB", "128 MiB"]


def test_the_roof_bends_where_the_two_speeds_meet():
    ax = roofline({"decode": (0.5, 1e9), "prefill": (100, 40e9)}, bandwidth=10e9, rate=50e9)
    roof = ax.lines[0]
    assert list(roof.get_xdata()) == [0.25, 5, 200] and list(roof.get_ydata()) == [2.5, 50, 50]
    assert heights(ax) == [1, 40]
    assert [t.get_text() for t in ax.texts] == ["decode", "prefill"] and ax.get_ylim()[0] < 1


def test_the_schematic_writes_the_numbers_that_it_is_given():
    keys, values = torch.tensor([[1.0, 5, 2, 0], [0, 1, 0, 7]]), torch.tensor([[4.0, 8, 2, 0], [8, 0, 8, 6]])
    weights = torch.tensor([[0.25, 0.125, 0.5, 0.125], [0.125, 0.375, 0.125, 0.375]])
    (ax,) = cached_step(keys, values, weights, ["a", "b"]).axes
    texts = [t.get_text() for t in ax.texts]
    assert {"5", "7", "6", "3/8", "q = a", "q = b", "output 3", "output 4.25"} <= set(texts)
    assert texts.count("1/8") == 4


def test_a_picture_of_the_slots_after_each_of_the_first_passes():
    torch.manual_seed(0)
    model = DecoderLM(len(CHARACTERS), d_model=8, n_layers=1, context=20, attention=lambda: multi_head(8, 2))
    prompts = [torch.tensor([40, 41, 42]), torch.tensor([50])]
    frames = growing_cache(model, prompts, steps=3, capacity=6)
    assert list(frames) == ["the prompts are read", "step 1", "step 2"]
    filled = [len(figure.axes[0].texts) for figure in frames.values()]
    assert filled == [4, 6, 8], "two slots more per pass"
