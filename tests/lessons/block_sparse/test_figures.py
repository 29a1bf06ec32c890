"""Figures of sparse patterns say what they are given."""

import torch

from attncourse.block_sparse import dilated, from_mask, local
from attncourse.lessons.block_sparse.figures import (
    accuracy_by_place,
    accuracy_by_seed,
    block_pattern_maps,
    costs_and_crossing,
    layers_maps,
    losses_by_steps,
)


def test_a_map_tells_wanted_from_computed_from_dead():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]) > 0
    figure = block_pattern_maps({"a": from_mask(mask, block=2), "b": local(3, steps=0, block=1)})
    a, b = figure.axes
    assert a.images[0].get_array().tolist() == [[3, 3, 0, 0], [3, 3, 0, 0], [0, 0, 2, 1], [0, 0, 1, 1]]
    assert b.images[0].get_array().tolist() == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    assert a.get_title() == "a" and list(a.get_xticks(minor=True)) == [-0.5, 1.5, 3.5]
    assert len(figure.legends[0].texts) == 3
    whole = block_pattern_maps({"b": local(3, steps=0, block=1)})
    assert [text.get_text() for text in whole.legends[0].texts] == ["wanted, in a whole block"]


def test_a_fine_grid_is_not_drawn_over_the_pairs():
    (ax,) = block_pattern_maps({"fine": local(40, steps=1, block=1)}).axes
    assert list(ax.get_xticks(minor=True)) == []


def test_maps_stand_in_rows_and_no_empty_panel_is_drawn():
    figure = block_pattern_maps({str(i): local(4, steps=i, block=2) for i in range(4)}, columns=3)
    assert [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2
    assert [ax.get_title() for ax in figure.axes[:4]] == list("0123")


def test_layers_are_drawn_with_never_and_without_the_future():
    figure = layers_maps({"band": local(4, steps=2).reach(), "apart": dilated(4, dilation=2).reach()})
    band, apart = (ax.images[0].get_array().tolist() for ax in figure.axes)
    assert band == [[0, -2, -2, -2], [1, 0, -2, -2], [1, 1, 0, -2], [2, 1, 1, 0]]
    assert apart[3] == [-1, 1, -1, 0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["0", "1", "2", "never"]
    both_ways = layers_maps({"band": local(3, steps=1, causal=False).reach()}, causal=False)
    assert both_ways.axes[0].images[0].get_array().tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert [text.get_text() for text in both_ways.legends[0].texts] == ["0", "1", "2"]


def test_accuracy_is_drawn_by_place_with_the_places_that_are_seen():
    ax = accuracy_by_place({"one": torch.tensor([0.5, 1.0])}, torch.tensor([False, True]), chance=0.25)
    accuracy, marks = ax.lines[:2]
    assert list(accuracy.get_ydata()) == [0.5, 1.0] and list(marks.get_xdata()) == [1]
    assert list(ax.lines[2].get_ydata()) == [0.25, 0.25]


def test_losses_are_drawn_a_panel_per_steps_with_the_live_seed_in_the_first():
    recorded = {"10": {"own": [2.0, 2.1], "all": [2.2, 2.3]}, "40": {"own": [1.8, 1.9], "all": [1.7, 1.9]}}
    few, many = losses_by_steps(recorded, {"own": 2.05, "all": 2.25}).axes
    assert few.get_title() == "10 training steps"
    assert [list(line.get_ydata()) for line in few.lines] == [[2.0, 2.1], [2.05], [2.2, 2.3], [2.25]]
    assert [list(line.get_ydata()) for line in many.lines] == [[1.8, 1.9], [1.7, 1.9]]


def test_accuracies_are_drawn_per_group_above_chance():
    ax = accuracy_by_seed({"one, seen": [1.0], "one, not seen": [0.1, 0.2]}, {"one, seen": 0.9}, chance=0.125)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["one,\nseen", "one,\nnot seen"]
    assert list(ax.lines[-1].get_ydata()) == [0.125, 0.125]


def test_costs_stop_where_they_were_not_measured_and_the_crossing_is_marked():
    seconds, peaks = {"a": [0.001, 0.004], "b": [0.002]}, {"a": [10**6, 2 * 10**6], "b": [5 * 10**6]}
    time, memory = costs_and_crossing([64, 128], seconds, peaks, crossing=100.0).axes
    assert list(time.lines[0].get_ydata()) == [1, 4] and list(time.lines[1].get_xdata()) == [64]
    assert list(time.lines[2].get_xdata()) == [100, 100] and time.texts[0].get_text().strip() == "100"
    assert list(memory.lines[0].get_ydata()) == [1, 2]
    unmarked, _ = costs_and_crossing([64, 128], seconds, peaks, crossing=None).axes
    assert len(unmarked.lines) == 2
