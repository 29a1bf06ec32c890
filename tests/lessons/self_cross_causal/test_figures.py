"""Figures of who reads whom and of next-token prediction say what they are given."""

import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from attncourse._shared.masks import causal_mask
from attncourse.lessons.self_cross_causal.figures import (
    cheating_by_seed,
    influence_against_distance,
    learning_curves,
    loss_by_place,
    reach_maps,
    three_kinds,
    two_orders,
    weight_maps,
)


def words_of(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def squares_of(ax) -> list[Rectangle]:
    return [patch for patch in ax.patches if type(patch) is Rectangle]


def test_a_square_is_filled_for_each_pair_that_counts():
    figure = three_kinds({"causal": (causal_mask(2, 3), ["a", "b"], ["x", "y", "z"])})
    (ax,) = figure.axes
    filled = [to_hex(square.get_facecolor()) != "#ffffff" for square in squares_of(ax)]
    assert filled == causal_mask(2, 3).flatten().tolist()
    assert {"causal", "a", "b", "x", "y", "z", "5 of 6 pairs"} <= {*words_of(ax)}


def test_queries_and_keys_come_from_one_box_where_a_sequence_reads_itself():
    mask, words = torch.ones(2, 2) > 0, ["a", "b"]
    boxes = [words_of(three_kinds({"": (mask, words, keys)}).axes[0]) for keys in (words, ["x", "y"])]
    assert ["M" in names for names in boxes] == [False, True]
    assert all({"X", "Q", "K", "V"} <= {*names} for names in boxes)


def test_each_step_of_a_path_stands_under_its_name_with_an_arrow_to_the_next():
    figure = two_orders({"right": [("first", [["1", "2"]]), ("second", [["3", None]])]})
    (ax,) = figure.axes
    assert words_of(ax) == ["right", "first", "1", "2", "second", "3"]
    assert len(squares_of(ax)) == 4 and len(ax.patches) == 5


def test_a_weight_of_zero_has_no_number():
    figure = weight_maps({"a": torch.tensor([[0.25, 0.75], [1.0, 0.0]])}, queries=["p", "q"], keys=["x", "y"])
    (ax,) = figure.axes
    assert words_of(ax) == ["0.25", "0.75", "1.00", ""]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]


def test_a_map_tells_seen_from_leaked_and_from_blind():
    seen = torch.tensor([[True, True, False], [False, True, True]])
    allowed = torch.tensor([[True, False, False], [True, True, True]])
    figure = reach_maps({"layer": (seen, allowed)}, columns=1)
    (ax,) = figure.axes
    assert ax.images[0].get_array().tolist() == [[1, 2, 0], [3, 1, 1]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2"], "rows are named by their positions"
    assert [text.get_text() for text in figure.legends[0].texts] == ["seen", "a leak", "not seen, though it may"]


def test_maps_fill_rows_and_the_legend_names_only_what_is_drawn():
    figure = reach_maps({name: (causal_mask(3, 3), causal_mask(3, 3)) for name in "abcd"})
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 0, 0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["seen"]


def test_lines_carry_the_values_they_were_given():
    ax = influence_against_distance([1, 2], {"a": [[1.0, 0.5], [1.0, 0.25]], "b": [[1.0, 1.0]]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 0.5], [1.0, 0.25], [1.0, 1.0]]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() != ax.lines[2].get_color(), "a colour per layer"
    assert [text.get_text() for text in ax.get_legend().texts] == ["a, 2 seeds", "b, 1 seeds"]
    ax = loss_by_place({"a": torch.tensor([3.0, 2.0])})
    assert list(ax.lines[0].get_xdata()) == [1, 2] and list(ax.lines[0].get_ydata()) == [3.0, 2.0]


def test_every_seed_is_a_dot_and_the_live_one_a_ring():
    values = {"training": [1.0, 2.0], "one call": [3.0, 4.0], "no future": [5.0, 6.0], "known words": [0.1, 0.2]}
    live = {"training": 1.5, "one call": 3.5, "no future": 5.5, "known words": 0.15}
    results = {"causal": values, "no mask": values, "by frequency": 3.3, "held-out text": 0.8}
    left, right = cheating_by_seed(results, {"causal": live, "no mask": live}).axes
    drawn = [list(line.get_ydata()) for line in left.lines]
    assert drawn == 2 * [[1.0, 2.0], [1.5], [3.0, 4.0], [3.5], [5.0, 6.0], [5.5]] + [[3.3, 3.3]]
    assert [list(line.get_ydata()) for line in right.lines] == 2 * [[0.1, 0.2], [0.15]] + [[0.8, 0.8]]
    assert [label.get_text() for label in right.get_xticklabels()] == ["held out,\nwritten"]


def test_learning_curves_are_means_over_spans_of_steps():
    ax = learning_curves({"one": [float(i) for i in range(1, 51)]}, span=25)
    assert list(ax.lines[0].get_xdata()) == [12.5, 37.5] and list(ax.lines[0].get_ydata()) == [13.0, 38.0]
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "training step"
