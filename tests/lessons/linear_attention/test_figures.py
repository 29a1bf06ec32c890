"""Figures of memories say what they are given."""

import torch

from attncourse.lessons.linear_attention.figures import (
    accuracy_against_pairs,
    error_against_features,
    loss_by_position,
    weights_by_rule,
)
from attncourse.lessons.linear_attention.schematic import three_forms


def test_weights_have_a_panel_per_rule_with_its_darkest_value_and_rings():
    panels = {"a": torch.eye(3, 7), "b": torch.full((3, 7), 0.25)}
    figure = weights_by_rule(panels, matches=[2, 0, 5])
    assert [ax.get_title() for ax in figure.axes] == ["a\ndarkest: 1.00", "b\ndarkest: 0.25"]
    for ax, weights in zip(figure.axes, panels.values(), strict=True):
        torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), weights)
        assert ax.images[0].get_clim() == (0.0, float(weights.max()))
        assert [list(line) for line in ax.lines[0].get_data()] == [[2, 0, 5], [4, 5, 6]]


def test_accuracy_shows_seeds_and_where_pairs_outnumber_the_width():
    recorded = {"softmax": [[1.0, 0.9], [1.0, 0.8]], "linear": [[1.0, 0.5], [0.9, 0.4]]}
    live = {"softmax": [0.99, 0.95], "linear": [0.97, 0.45]}
    ax = accuracy_against_pairs([4, 8], recorded, live, width=6)
    heights = [list(line.get_ydata()) for line in ax.lines[:6]]
    assert heights == [live["softmax"], *recorded["softmax"], live["linear"], *recorded["linear"]]
    assert list(ax.lines[6].get_xdata()) == [6, 6] and ax.texts[0].get_text() == "head width 6"


def test_a_memory_keeps_its_colour_in_a_figure_of_fewer():
    rows = {"b": [[1.0, 1.0]]}
    alone, among = (
        accuracy_against_pairs([4, 8], rows, {"b": [1.0, 1.0]}, among=names) for names in (None, ["a", "b"])
    )
    assert alone.lines[0].get_color() != among.lines[0].get_color()
    whole = accuracy_against_pairs([4, 8], {"a": [[1.0, 1.0]]} | rows, {"a": [1.0, 1.0], "b": [1.0, 1.0]})
    assert whole.lines[2].get_color() == among.lines[0].get_color()


def test_errors_and_losses_carry_their_values():
    ax = error_against_features([16, 64], {"normal": [0.4, 0.1]})
    assert list(ax.lines[0].get_ydata()) == [0.4, 0.1] and ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.1", "0.2"]
    ax = loss_by_position([16, 64, 256], {"streaming": [[2.1, 1.6]]}, {"streaming": [2.0, 1.5]}, trained=64)
    assert list(ax.lines[0].get_xdata()) == [32.0, 128.0] and list(ax.lines[0].get_ydata()) == [2.0, 1.5]
    assert list(ax.lines[1].get_ydata()) == [2.1, 1.6]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["16", "64", "256"]


def test_the_three_forms_name_every_token_and_the_state_between_chunks():
    texts = [text.get_text() for text in three_forms(tokens=4, chunk=2).axes[0].texts]
    assert {"matrix", "recurrence", "chunks"} <= set(texts)
    for i in range(1, 5):
        assert texts.count(f"$q_{i}$") == texts.count(f"$k_{i}$") == 2  # of the matrix and of the chunks
        assert texts.count(f"$S_{i}$") == (2 if i == 2 else 1) and texts.count(f"$o_{i}$") == 1
