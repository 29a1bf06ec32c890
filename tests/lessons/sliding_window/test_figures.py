"""Figures of local attention say what they are given."""

import torch

from attncourse.lessons.sliding_window.figures import accuracy_by_distance, pattern_maps, reach_by_layers


def test_a_map_is_filled_where_a_query_sees_a_key_and_counts_its_pairs():
    seen = torch.ones(3, 5).tril(2).bool()
    figure = pattern_maps({"band": seen, "nothing": torch.zeros(3, 5) > 0})
    band, nothing, unused = figure.axes
    assert torch.equal(torch.tensor(band.images[0].get_array().data.astype(bool)), seen)
    assert band.get_title() == "band\n12 pairs" and nothing.get_title() == "nothing\n0 pairs"
    assert not unused.axison


def test_a_line_ends_where_nothing_is_heard_and_a_mark_says_where_it_should():
    ax = reach_by_layers({1: torch.tensor([1.0, 0.5, 0.0, 0.0]), 2: torch.tensor([1.0, 0.5, 0.1, 0.0])}, {1: 2, 2: 3})
    one, mark, two, _ = ax.lines
    assert one.get_xdata().tolist() == [0, 1] and two.get_xdata().tolist() == [0, 1, 2]
    assert mark.get_xdata()[0] == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1 layer", "2 layers"]


def test_accuracy_starts_at_distance_one():
    ax = accuracy_by_distance({"window": [1.0, 0.9, 0.1]}, chance=0.125, reach=2)
    line = ax.lines[-1]
    assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == [1.0, 0.9, 0.1]
    assert ax.lines[0].get_ydata()[0] == 0.125
