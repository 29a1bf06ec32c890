"""Figures of memories say what they are given."""

import torch

from attncourse.lessons.linear_attention.figures import (
    accuracy_against_pairs,
    error_against_features,
    loss_by_position,
    weights_by_rule,
)


def test_weights_have_a_panel_a_rule_on_one_scale():
    panels = {"a": torch.eye(7), "b": torch.full((7, 7), 0.5)}
    figure = weights_by_rule(panels)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    for ax, weights in zip(figure.axes, panels.values(), strict=True):
        torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), weights)
        assert ax.images[0].get_clim() == (0.0, 1.0)


def test_accuracy_shows_where_pairs_outnumber_the_width():
    ax = accuracy_against_pairs([4, 8], {"softmax": [1.0, 0.9], "linear": [1.0, 0.5]}, width=6)
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[1.0, 0.9], [1.0, 0.5]]
    assert list(ax.lines[2].get_xdata()) == [6, 6] and ax.texts[0].get_text() == "head width 6"
    assert len(accuracy_against_pairs([4, 8], {"delta": [1.0, 1.0]}).lines) == 1


def test_errors_and_losses_carry_their_values():
    ax = error_against_features([16, 64], {"normal": [0.4, 0.2]})
    assert list(ax.lines[0].get_ydata()) == [0.4, 0.2] and ax.get_yscale() == "log"
    ax = loss_by_position([16, 64, 256], {"streaming": [2.0, 1.5]}, trained=64)
    assert list(ax.lines[0].get_xdata()) == [32.0, 128.0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16", "64", "256"]
