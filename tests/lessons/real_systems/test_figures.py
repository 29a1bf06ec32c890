"""Figures of whole systems say what they are given."""

import pytest
import torch

from attncourse.lessons.real_systems.figures import (
    diagrams,
    gaze,
    loss_and_baselines,
    passages_read,
    shares,
    weight_by_distance,
)


def test_diagrams_draw_the_matrix_and_parts_its_groups():
    visible = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    figure = diagrams({"a": (visible, {"source": 2, "target": 1}), "b": (visible, {"tokens": 3})})
    left, right = figure.axes
    torch.testing.assert_close(torch.tensor(left.images[0].get_array()), visible.float(), check_dtype=False)
    assert [t.get_text() for t in left.get_xticklabels()] == ["source", "target"]
    assert left.get_xticks().tolist() == [0.5, 2.0]
    assert [line.get_ydata()[0] for line in left.lines] == [1.5, 0.0] and not right.lines
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        diagrams({"a": (visible, {"tokens": 2})})


def test_bars_carry_shares_and_intervals():
    ax = shares({"a": (0.5, 0.4, 0.7), "b": (0.1, 0.0, 0.3)}, xlabel="right")
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.1]
    ends = ax.collections[0].get_segments()
    torch.testing.assert_close(torch.tensor(ends[0][:, 0].tolist()), torch.tensor([0.4, 0.7]))


def test_lines_carry_losses_and_baselines():
    ax = loss_and_baselines([4.0, 2.0, 1.0, 1.0], 1.5, {"unigram": 3.0, "bigram": 2.0}, span=2)
    assert ax.lines[0].get_ydata().tolist() == [3.0, 1.0]
    assert list(ax.lines[1].get_ydata()) == [1.5]
    assert [list(line.get_ydata()) for line in ax.lines[2:]] == [[3.0, 3.0], [2.0, 2.0]]
    assert [t.get_text() for t in ax.get_legend().get_texts()][2:] == ["unigram", "bigram"]


def test_distances_are_signed_and_the_hidden_place_is_marked():
    ax = weight_by_distance(torch.rand(2, 3), [-1, 0, 1])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-1", "?", "+1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["head 0", "head 1"]


def test_a_gaze_frames_what_is_meant():
    boxes = torch.zeros(2, 6, 6, dtype=torch.bool)
    boxes[:, 2:5, 1:3] = True
    weights = torch.rand(2, 3, 3)
    figure = gaze(torch.rand(2, 6, 6), weights, boxes, ["one", "two"])
    above, below = figure.axes[0], figure.axes[2]
    frame = above.patches[0]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0.5, 1.5), 2, 3)
    torch.testing.assert_close(torch.tensor(below.images[0].get_array()), weights[0], check_dtype=False)
    assert below.images[0].get_extent() == [-0.5, 5.5, 5.5, -0.5]


def test_passages_show_the_weights_of_their_own_words():
    weights = torch.tensor([[0.5, 0.25, 0.0], [0.25, 0.0, 0.0]])
    figure = passages_read([["a", "b"], ["c"]], weights)
    assert [ax.images[0].get_array().tolist() for ax in figure.axes] == [[[0.5, 0.25]], [[0.25]]]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b"]
