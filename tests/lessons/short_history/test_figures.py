"""Figures of the first attentions carry the numbers that they were given."""

import pytest
import torch

from attncourse.lessons.short_history.figures import (
    five_alignments,
    local_windows,
    memory_by_length,
    scores_by_seed,
    time_and_bytes,
    two_decoders,
)


def test_the_schematic_has_both_decoders_on_its_canvas():
    (ax,) = two_decoders().axes
    said = [text.get_text() for text in ax.texts]
    assert sum("Bahdanau" in text or "Luong" in text for text in said) == 2
    assert said.count("GRU") == said.count("writes $y_i$") == said.count("context $o_i$") == 2
    assert said.count("tanh") == 1, "Luong alone joins state and context behind the recurrence"
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert all(left < x < right and low < y < high for x, y in (text.get_position() for text in ax.texts))


def test_memory_is_drawn_beside_its_prediction():
    measured = {"a": [10**6, 4 * 10**6], "b": [10**6]}
    ax = memory_by_length([1, 2], measured, {"a": [2 * 10**6, 5 * 10**6], "b": [3 * 10**6, 6 * 10**6]})
    assert [list(line.get_ydata()) for line in ax.lines[:4]] == [[2, 5], [1, 4], [3], [1]]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() != ax.lines[2].get_color()


def test_a_local_window_prints_the_sums_it_was_given():
    weights = torch.tensor([0.2, 0.3, 0.1])
    figure = local_windows(torch.zeros(3), weights, weights / 2, position=1.0, radius=1)
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["sum 1.00", "sum 0.60", "sum 0.30"]


def test_time_stands_beside_memory():
    figure = time_and_bytes([1, 2], {"a": [3.0, 4.0]}, {"a": [10**6, 2 * 10**6]})
    assert [list(ax.lines[0].get_ydata()) for ax in figure.axes] == [[3, 4], [1, 2]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["a"]


def test_every_run_is_a_dot_in_the_row_of_its_score():
    runs = [
        {"score": score, "seed": seed, "steps": steps, "right": steps / 10 + seed / 100, "own_item": 0.9}
        for steps in (1, 3)
        for score in ("a", "b")
        for seed in range(3 if steps == 1 else 2)
    ]
    few, many, own = (ax.lines[0] for ax in scores_by_seed(runs).axes)
    assert list(few.get_xdata()) == pytest.approx([0.1, 0.11, 0.12] * 2) and list(few.get_ydata()) == [0] * 3 + [1] * 3
    assert list(many.get_xdata()) == pytest.approx([0.3, 0.31] * 2) and list(own.get_xdata()) == [0.9] * 6


def test_alignments_of_models_that_wrote_other_things_do_not_share_their_rows():
    panels = {name: {"written": "12", "percent": [[100, 0], [25, 75]]} for name in "ab"}
    own = torch.tensor([[True, False], [False, True]])
    figure = five_alignments(["x", "y"], panels, own)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "own item"]
    assert figure.axes[0].images[0].get_array().tolist() == [[1.0, 0.0], [0.25, 0.75]]
    panels["b"]["written"] = "13"
    with pytest.raises(ValueError):
        five_alignments(["x", "y"], panels, own)
