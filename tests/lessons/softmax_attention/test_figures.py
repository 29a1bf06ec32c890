"""Figures of reading by similarity say what they are given."""

import pytest
import torch

from attncourse.lessons.softmax_attention.figures import (
    loss_by_positions,
    reading,
    right_by_scale,
    rotation,
    saturation,
    sinusoid_map,
    soft_lookup,
)
from attncourse.lessons.softmax_attention.schematic import attention_flow


def texts_of(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def dots_of(ax) -> list[tuple[float, float]]:
    """Where the lines of one point or more stand, dotted guides left out."""
    return [
        point for line in ax.lines if line.get_linestyle() == "None" for point in zip(*line.get_data(), strict=True)
    ]


def test_the_flow_shows_each_matrix_in_its_role_and_weights_that_sum_to_one():
    figure = attention_flow()
    said = texts_of(figure)
    assert said.count("flag") == 2 and sum("W_" in text for text in said) == 4
    assert sum(float(text) for text in said if text.startswith(".")) == pytest.approx(1.0)
    assert len({patch.get_edgecolor() for patch in figure.axes[0].patches}) >= 7, "a colour per role"
    assert all(text.get_fontsize() >= 9 for text in figure.axes[0].texts)


def test_a_lookup_has_a_bar_per_weight():
    keys = torch.arange(2.0)
    figure = soft_lookup(keys, keys, 0.5, torch.tensor([0.25, 0.75]), 0.75, names=["x", "y"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.25, 0.75]


def test_saturation_has_a_panel_per_quantity():
    curves = {"variance": {"plain": [1.0, 4.0], "scaled": [1.0, 1.0]}, "entropy": {"plain": [3, 1], "scaled": [3, 3]}}
    figure = saturation([1, 4], curves)
    assert [ax.get_title() for ax in figure.axes] == ["variance", "entropy"]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[1, 4], [1, 1]]


def test_reading_has_three_panels_with_text_that_can_be_read():
    figure = reading(torch.randn(2, 2), torch.rand(2, 2), torch.rand(2, 3), words=["a", "b"], outputs=list("xyz"))
    assert len(figure.axes) == 3
    assert all(text.get_fontsize() >= 9 for ax in figure.axes for text in ax.texts)


def test_every_seed_is_a_dot_and_what_ran_here_is_ringed():
    right = {"plain": {"16": [1.0, 0.5], "64": [0.2, 0.6]}, "scaled": {"16": [1.0, 1.0], "64": [0.9, 1.0]}}
    ax = right_by_scale(right, live={"plain": 0.3, "scaled": 0.95}, live_width=64)
    heights = [y for _, y in dots_of(ax)]
    recorded = [share for by_width in right.values() for shares in by_width.values() for share in shares]
    assert sorted(heights) == sorted([*recorded, 0.3, 0.95])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "64"]


def test_sinusoids_are_drawn_as_given():
    ax = sinusoid_map(torch.eye(3))
    assert ax.images[0].get_array().tolist() == torch.eye(3).tolist()


def test_rotation_has_a_panel_per_pair_and_the_scores():
    pair = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    figure = rotation({"here": pair, "there": pair}, torch.eye(4))
    assert [ax.get_title() for ax in figure.axes] == ["here", "there", "score at all places"]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["query", "key"]


def test_losses_have_a_dot_per_seed_and_a_ring_at_the_steps_that_ran_here():
    loss = {"200": {"none": [3.0, 3.1], "rotary": [2.0, 2.1]}, "800": {"none": [2.5, 2.6], "rotary": [1.5, 1.6]}}
    figure = loss_by_positions(loss, live={"rotary": 2.05}, live_steps=200)
    short, long = ([y for _, y in dots_of(ax)] for ax in figure.axes)
    assert sorted(short) == [2.0, 2.05, 2.1, 3.0, 3.1] and sorted(long) == [1.5, 1.6, 2.5, 2.6]
    assert [ax.get_title() for ax in figure.axes] == ["200 steps", "800 steps"]
