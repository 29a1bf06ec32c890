"""Figures of a choice say what they are given."""

import pytest
import torch

from attncourse.lessons.which_attention.figures import (
    attributions,
    by_place,
    family_dots,
    part_dots,
    relative_times,
    savings,
    weightings,
)
from attncourse.lessons.which_attention.schematic import Rule, decision_tree


def test_times_are_shares_of_the_references_and_a_design_keeps_its_look():
    panels = {"a": {"x": [1.0, 2.0], "y": [3.0, 1.0]}, "b": {"x": [4.0, 4.0], "y": [1.0, 2.0]}}
    left, right = relative_times([10, 100], panels, reference="x")
    assert list(left.lines[1].get_ydata()) == [3.0, 0.5] and list(right.lines[1].get_ydata()) == [0.25, 0.5]
    assert list(left.lines[0].get_ydata()) == [1.0, 1.0]
    assert left.lines[1].get_color() == right.lines[1].get_color() != left.lines[0].get_color()
    (legend,) = left.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["x", "y"]


def test_every_seed_of_every_family_is_a_dot():
    recorded = {
        "self_attention": {"near": [0.5, 0.6], "far": [0.1, 0.2]},
        "latent": {"near": [1.0, 0.9], "far": [0.8, 0.7]},
    }
    axes = family_dots(
        recorded, {"latent": {"near": 0.95, "far": 0.75}}, columns={"near": "N", "far": "F"}, chance=0.125
    )
    assert [ax.get_title() for ax in axes] == ["N", "F"]
    assert [list(line.get_ydata()) for line in axes[1].lines] == [[0.1, 0.2], [0.8, 0.7], [0.75], [0.125, 0.125]]
    assert [text.get_text() for text in axes[1].get_xticklabels()] == ["self", "latent"]


def test_places_have_a_line_per_seed():
    ax = by_place({"short": [torch.tensor([1.0, 0.9])] * 2, "long": [torch.tensor([1.0, 0.5, 0.1])]}, trained=2)
    assert [len(line.get_ydata()) for line in ax.lines] == [2, 2, 3]
    assert ax.patches[0].get_x() + ax.patches[0].get_width() == 1.5


def test_parts_have_a_dot_per_seed():
    above, below = part_dots({"feed-forward 1": [0.1, 0.2]}, {"residual 1": [1.0, 0.5]})
    assert list(above.lines[0].get_ydata()) == [0.1, 0.2] and list(below.lines[0].get_ydata()) == [1.0, 0.5]
    assert above.get_xticklabels()[0].get_text() == "feed-forward\n1"


def test_the_tree_has_a_row_per_rule():
    figure = decision_tree([Rule("one?", "this", "a"), Rule("two?", "that", "b")])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("yes") == texts.count("no") == 2
    assert [text for text in texts if text in ("one?", "this", "a", "two?", "that", "b")] == [
        "one?",
        "this",
        "a",
        "two?",
        "that",
        "b",
    ]


def test_bars_stand_side_by_side():
    ax = weightings(["a", "b"], {"own": torch.tensor([0.25, 0.75]), "other": torch.tensor([1.0, 0.0])})
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.75, 1.0, 0.0]
    assert ax.patches[0].get_x() + 0.4 == pytest.approx(ax.patches[2].get_x())


def test_attributions_are_shares_and_the_decisive_token_is_framed():
    ax = attributions({"raw": torch.tensor([1.0, 3.0]), "fall": torch.tensor([-1.0, 2.0])}, labels=["a", "b"], marked=1)
    assert ax.images[0].get_array().tolist() == [[0.25, 0.75], [0.0, 1.0]]
    assert (ax.patches[0].get_xy(), ax.patches[0].get_height()) == ((0.5, -0.5), 2)


def test_savings_are_written_as_factors_on_a_logarithmic_scale():
    ax = savings({"all": {"cache bytes": 1.0, "steps": 1.0}, "less": {"cache bytes": 0.01, "steps": 10.0}})
    assert [text.get_text() for text in ax.texts] == ["same", "same", "x 0.01", "x 10"]
    torch.testing.assert_close(
        torch.tensor(ax.images[0].get_array()), torch.tensor([[0.0, 0.0], [-2.0, 1.0]]), check_dtype=False
    )
