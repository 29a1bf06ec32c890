"""Figures of the first chapter say what they are given."""

import pytest
import torch
from matplotlib.patches import FancyArrowPatch

from attncourse.lessons.why_attention.figures import (
    influence_by_place,
    influence_of_cells,
    maps,
    right_by_length,
    two_networks,
)


def test_the_fan_is_as_thick_as_its_weights():
    weights = [0.7, 0.1, 0.2]
    ax = two_networks(["one", "two", "three"], "12", weights, writing=1).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert [texts.count(word) for word in ("one", "two", "three", "1", "2")] == [2] * 5
    assert [text for text in texts if text.startswith("0.")] == ["0.70", "0.10", "0.20"]
    fan = [p.get_linewidth() for p in ax.patches if isinstance(p, FancyArrowPatch)][-3:]
    assert fan == pytest.approx([0.3 + 5 * weight for weight in weights])


def test_lines_carry_the_values_they_were_given():
    ax = influence_of_cells(
        {"a": [torch.tensor([2.0, 1.0]), torch.tensor([4.0, 1.0])], "b": [torch.tensor([1.0, 3.0])]}
    )
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 0.5], [1.0, 0.25], [1.0, 3.0]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    ax = influence_by_place({"one vector": [torch.tensor([2.0, 1.0])], "attention": [torch.tensor([1.0, 3.0])]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.0, 1.0], [1.0, 3.0]]


def test_every_seed_is_a_dot_and_the_line_runs_through_the_mean():
    shares = {"one vector": [[1.0, 0.5], [0.5, 0.0]], "attention": [[0.25, 0.25]]}
    figure = right_by_length(["1-5", "6-9"], [30, 40], {"path": shares, "room": {"attention": [[0.5, 0.5]]}})
    left, right = figure.axes
    drawn = [list(line.get_ydata()) for line in left.lines if len(line.get_ydata())]
    assert drawn == [[1.0, 0.5], [0.5, 0.0], [0.75, 0.25], [0.25, 0.25], [0.25, 0.25]]
    assert [label.get_text() for label in left.get_xticklabels()] == ["1-5\nn = 30", "6-9\nn = 40"]
    assert (left.get_title(), right.get_title()) == ("path", "room")
    assert left.lines[-1].get_color() == right.lines[-1].get_color(), "a design keeps its colour"


def test_maps_share_one_scale_and_box_the_items():
    panels = {"a": torch.tensor([[0.2, 0.8]]), "b": torch.tensor([[0.5, 0.5]])}
    figure = maps(panels, source=["x", "y"], target="1", boxes=[(0, 1, 1, 1)], label="share")
    left, right = figure.axes[:2]
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, pytest.approx(0.8))
    assert (left.patches[0].get_x(), left.patches[0].get_width()) == (0.5, 1)
    assert left.get_ylabel() and left.get_xlabel() and figure.axes[2].get_ylabel() == "share"
