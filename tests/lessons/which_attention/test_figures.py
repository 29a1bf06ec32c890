"""Figures of a choice say what they are given."""

import pytest
import torch

from attncourse.lessons.which_attention.figures import attributions, least_times, savings, weightings


def test_times_are_milliseconds_and_a_design_keeps_its_look():
    panels = {"a": {"x": [0.001, 0.002], "y": [0.1, 0.2]}, "b": {"y": [0.3, 0.4]}}
    left, right = least_times([10, 100], panels)
    assert list(left.lines[0].get_ydata()) == [1.0, 2.0] and list(right.lines[0].get_ydata()) == [300.0, 400.0]
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    (legend,) = left.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["x", "y"]


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
