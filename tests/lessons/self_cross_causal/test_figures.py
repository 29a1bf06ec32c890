"""Figures of who reads whom and of next-token prediction say what they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from attncourse._shared.masks import causal_mask
from attncourse.lessons.self_cross_causal.figures import connections, loss_by_place, reach_maps, steps_against_distance
from attncourse.plot import seconds_against_length


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_line_stands_for_each_visible_pair_and_leads_from_query_to_key():
    figure = connections(
        {"causal": (causal_mask(2, 3), ["a", "b"], ["x", "y", "z"]), "none": (torch.zeros(1, 1) > 0, ["a"], ["x"])}
    )
    causal, none = figure.axes
    assert [tuple(line.get_xdata()) for line in causal.lines] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert all(line.get_ydata()[0] > line.get_ydata()[1] for line in causal.lines), "queries stand above"
    colors = {line.get_color() for line in causal.lines}
    assert len(colors) == 2, "a colour a query"
    drawn = {text.get_text(): text.get_position() for text in causal.texts}
    assert drawn["b"] == (1, 1.0) and drawn["z"] == (2, 0.0)
    assert not none.lines and causal.get_title() == "causal"


def test_words_that_do_not_fit_the_mask_are_refused():
    with pytest.raises(ValueError, match=r"1 queries and 2 keys for a mask of shape \(2, 1\)"):
        connections({"cross": (torch.ones(2, 1), ["a"], ["x", "y"])})


def test_a_map_tells_seen_from_leaked_and_from_blind():
    seen = torch.tensor([[True, True, False], [False, True, True]])
    allowed = torch.tensor([[True, False, False], [True, True, True]])
    figure = reach_maps({"layer": (seen, allowed)})
    (ax,) = figure.axes
    assert ax.images[0].get_array().tolist() == [[1, 2, 0], [3, 1, 1]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2"], "rows are named by their positions"
    assert [text.get_text() for text in figure.legends[0].texts] == ["seen", "a leak", "not seen, though it may"]


def test_the_legend_names_only_what_is_drawn():
    figure = reach_maps({"layer": (causal_mask(3, 3), causal_mask(3, 3))})
    assert [text.get_text() for text in figure.legends[0].texts] == ["seen"]


def test_lines_carry_the_values_they_were_given():
    ax = steps_against_distance([1, 2], {"a": [1.0, 2.0], "b": [1.0, 1.0]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 2.0], [1.0, 1.0]]
    ax = loss_by_place({"a": torch.tensor([3.0, 2.0])})
    assert list(ax.lines[0].get_xdata()) == [1, 2] and list(ax.lines[0].get_ydata()) == [3.0, 2.0]
    ax = seconds_against_length([8, 16], {"a": [0.5, 1.0]}, device="here")
    assert list(ax.lines[0].get_ydata()) == [500.0, 1000.0] and ax.get_title() == "here"
