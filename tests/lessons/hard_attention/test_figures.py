"""Figures of hard attention carry the numbers they were given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from attncourse.lessons.hard_attention.figures import (
    accuracy_bands,
    draws_against_weights,
    estimator_quality,
    soft_samples,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_draws_stand_beside_weights_with_three_standard_errors():
    weights, shares = torch.tensor([0.75, 0.25]), torch.tensor([0.7, 0.3])
    ax = draws_against_weights(weights, shares, draws=100, names=["a", "b"])
    assert [bar.get_height() for bar in ax.patches] == [0.75, 0.25]
    (points, _, (errors,)) = ax.containers[1]
    assert list(points.get_ydata()) == shares.tolist()
    low, high = errors.get_segments()[0][:, 1]
    assert high - low == pytest.approx(6 * (0.75 * 0.25 / 100) ** 0.5)
    assert "share of 100 hard reads" in {text.get_text() for text in ax.get_legend().texts}


def test_soft_samples_stand_below_their_softmax():
    weights, samples = torch.tensor([0.75, 0.25]), torch.eye(2)[[0, 0, 1]]
    figure = soft_samples(weights, samples, keys=["x", "y"], temperature=0.5)
    top, below = figure.axes
    torch.testing.assert_close(torch.tensor(below.images[0].get_array()), samples, check_dtype=False)
    assert top.images[0].get_array().tolist() == [[0.75, 0.25]] and top.get_title() == "temperature 0.5"
    assert [t.get_text() for t in below.get_yticklabels()] == ["draw 1", "draw 2", "draw 3"]


def test_quality_is_drawn_in_lengths_of_the_gradient():
    curves = {"a": [(1.0, 0.1, 16.0), (2.0, 0.1, 4.0)]}
    figure = estimator_quality([0.5, 1.0], curves, {"level": (0.5, 0.1, 64.0)}, exact=2.0)
    bias, scatter = figure.axes
    assert list(bias.containers[0][0].get_ydata()) == [0.5, 1.0]
    assert list(scatter.lines[0].get_ydata()) == [2.0, 1.0]
    assert list(bias.lines[-1].get_ydata()) == [0.25, 0.25] and list(scatter.lines[-1].get_ydata()) == [4.0, 4.0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "level"]


def test_bands_run_from_the_worst_model_to_the_best():
    values = torch.tensor([[0.0, 0.5], [0.5, 1.0]])
    ax = accuracy_bands({"a": values}, every=10)
    assert list(ax.lines[0].get_xdata()) == [0, 10] and list(ax.lines[0].get_ydata()) == [0.25, 0.75]
    corners = {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(0.0, 0.0), (0.0, 0.5), (10.0, 0.5), (10.0, 1.0)} <= corners
