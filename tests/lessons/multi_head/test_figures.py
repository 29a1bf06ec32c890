"""Pictures of heads say what they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from attncourse.lessons.multi_head.figures import ablation, head_maps, two_heads


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_head_has_its_map_over_the_same_tokens():
    panels = {f"head {i}": torch.rand(3, 3) for i in range(5)}
    figure = head_maps(panels, tokens=["a", "b", "␣"], columns=4)
    assert [ax.get_title() for ax in figure.axes[:5]] == list(panels)
    assert not any(ax.axison for ax in figure.axes[5:])
    for ax, weights in zip(figure.axes, panels.values(), strict=False):
        torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), weights)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "␣"]
    with pytest.raises(ValueError, match="2 row and 2 column labels"):
        head_maps(panels, tokens=["a", "b"])


def test_two_heads_shows_what_is_read_and_a_dot_a_model():
    reads = {"any": [0.0, 1.0, 1.0], "mean": [0.0, 0.5, 1.0]}
    figure = two_heads(["00", "01", "11"], reads, {"1": [0.7, 0.75], "2": [1.0, 0.9]}, 0.75)
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == list(reads.values())
    assert [list(line.get_ydata()) for line in right.lines[1:]] == [[0.7, 0.75], [1.0, 0.9]]
    assert list(right.lines[0].get_ydata()) == [0.75, 0.75]
    assert right.lines[1].get_xdata()[0] != right.lines[1].get_xdata()[1], "dots of equal height hide each other"


def test_an_ablation_starts_at_no_head_removed():
    ax = ablation({"a": [1.0, 2.0], "b": [1.0, 3.0]})
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1], [0, 1]]
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 2.0], [1.0, 3.0]]
