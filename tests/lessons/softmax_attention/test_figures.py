"""Figures of reading by similarity say what they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from attncourse.lessons.softmax_attention.figures import reading, saturation, soft_lookup


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_lookup_has_a_bar_a_weight():
    keys = torch.arange(2.0)
    figure = soft_lookup(keys, keys, 0.5, torch.tensor([0.25, 0.75]), 0.75, names=["x", "y"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.25, 0.75]


def test_saturation_has_a_panel_a_quantity():
    curves = {"variance": {"plain": [1.0, 4.0], "scaled": [1.0, 1.0]}, "entropy": {"plain": [3, 1], "scaled": [3, 3]}}
    assert len(saturation([1, 4], curves).axes) == 2


def test_reading_has_three_panels():
    figure = reading(torch.randn(2, 2), torch.rand(2, 2), torch.rand(2, 3), words=["a", "b"], outputs=list("xyz"))
    assert len(figure.axes) == 3
