"""Figures of sparse patterns say what they are given."""

import torch

from attncourse.block_sparse import dilated, from_mask, local
from attncourse.lessons.block_sparse.figures import accuracy_by_place, block_pattern_maps, layers_maps


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
