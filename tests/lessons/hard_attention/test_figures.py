"""Figures of hard attention carry the numbers they were given."""

import pytest
import torch

from attncourse.lessons.hard_attention.figures import (
    choice_and_expectation,
    draws_against_weights,
    estimator_quality,
    learning_panels,
    seeds_as_dots,
    soft_samples,
    steps_of_readers,
)
from attncourse.lessons.hard_attention.schematic import marked_sequence, soft_and_hard


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_draws_stand_beside_weights_with_three_standard_errors():
    weights, shares = torch.tensor([0.75, 0.25]), torch.tensor([0.7, 0.3])
    ax = draws_against_weights(weights, {"this": shares, "that": shares.flip(0)}, draws=100)
    assert [bar.get_height() for bar in ax.patches] == [0.75, 0.25]
    for container, values in zip(ax.containers[1:], (shares, shares.flip(0)), strict=True):
        points, _, (errors,) = container
        assert list(points.get_ydata()) == values.tolist()
        low, high = errors.get_segments()[0][:, 1]
        assert high - low == pytest.approx(6 * (0.75 * 0.25 / 100) ** 0.5)
    assert {text.get_text() for text in ax.get_legend().texts} > {
        "this: share of 100 draws",
        "that: share of 100 draws",
    }


def test_the_slope_drawn_beside_the_expected_cost_is_its_slope():
    scores = torch.linspace(-2, 2, 41)
    figure = choice_and_expectation(scores, scores.sign(), scores, 1 - 0.5 * scores, at=1.0)
    one, expected = figure.axes
    assert list(one.lines[0].get_ydata()) == scores.sign().tolist()
    tangent = expected.lines[-1]
    assert tangent.get_label() == "slope -0.50"
    torch.testing.assert_close(torch.tensor(tangent.get_ydata()), 1 - 0.5 * torch.tensor(tangent.get_xdata()))


def test_soft_samples_stand_below_their_softmax_with_numbers():
    weights, samples = torch.tensor([0.75, 0.25]), torch.eye(2)[[0, 0, 1]]
    figure = soft_samples(weights, samples, keys=["x", "y"], temperature=0.5)
    top, below = figure.axes
    torch.testing.assert_close(torch.tensor(below.images[0].get_array()), samples, check_dtype=False)
    assert top.images[0].get_array().tolist() == [[0.75, 0.25]] and top.get_title() == "temperature 0.5"
    assert texts(top) == ["0.75", "0.25"] and texts(below) == ["1.00", "0.00", "1.00", "0.00", "0.00", "1.00"]
    assert [t.get_text() for t in below.get_yticklabels()] == ["draw 1", "draw 2", "draw 3"]


def test_quality_is_drawn_in_lengths_of_the_gradient():
    curves = {"a": [(1.0, 0.1, 16.0), (2.0, 0.1, 4.0)]}
    figure = estimator_quality([0.5, 1.0], curves, {"level": (0.5, 0.1, 64.0)}, exact=2.0)
    bias, scatter = figure.axes
    assert list(bias.containers[0][0].get_ydata()) == [0.5, 1.0]
    assert list(scatter.lines[0].get_ydata()) == [2.0, 1.0]
    assert list(bias.lines[-1].get_ydata()) == [0.25, 0.25] and list(scatter.lines[-1].get_ydata()) == [4.0, 4.0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "level"]


def test_each_way_has_a_panel_and_each_reader_a_line():
    values = torch.tensor([[0.0, 0.5], [0.5, 1.0]])
    figure = learning_panels(dict.fromkeys("abc", values) | {"d": 0.5 * values}, every=10)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", "d"]
    first, second = figure.axes[3].lines
    assert list(first.get_xdata()) == [0, 10]
    assert list(first.get_ydata()) == [0.0, 0.25] and list(second.get_ydata()) == [0.25, 0.5]


def test_who_never_learned_stands_above_the_last_step_and_is_counted():
    ax = steps_of_readers({"a": [10, None, None], "b, c": [20]}, {"a": [30], "b, c": [None]}, last=100)
    heights = [list(dots.get_offsets()[:, 1]) for dots in ax.collections]
    assert heights[0][0] == 10 and min(heights[0][1:]) > 100
    assert heights[1] == [20] and heights[2] == [30] and heights[3][0] > 100
    assert texts(ax) == ["2 of 3", "0 of 1"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b,\nc"]


def test_every_seed_is_a_dot():
    ax = seeds_as_dots({"a": [0.1, 0.2], "b": [0.3]}, ylabel="share", bound=(0.25, "at most"))
    assert [list(dots.get_ydata()) for dots in ax.lines] == [[0.1, 0.2], [0.3], [0.25, 0.25]]
    assert texts(ax) == ["at most"]


def test_the_schematic_computes_what_it_shows():
    figure = soft_and_hard(torch.tensor([5.0, 3.0, 2.0]).log(), torch.tensor([1.0, 3.0, 6.0]), drawn=2, target=3.0)
    written = texts(figure.axes[0])
    assert {"0.5", "0.3", "0.2", "read: 2.6", "cost: 0.16", "read: 6", "cost: 9"} <= set(written)
    draw = written.index("draw")
    assert written[draw - 3 : draw] == ["0", "0", "1"]


def test_the_mark_and_the_answer_stand_at_one_place():
    ax = marked_sequence("abc", place=1).axes[0]
    middle = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert middle["★"] == middle["b"] == middle["answer: b"]
