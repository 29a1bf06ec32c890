"""Figures of kernels say what they are given."""

import torch
from matplotlib.colors import to_rgba

from attncourse.lessons.write_the_kernel.figures import tile_maps, verdict_grid, weight_maps
from attncourse.lessons.write_the_kernel.schematic import lanes_and_addresses
from attncourse.plot import COLORS


def test_lanes_stand_over_their_addresses_and_the_last_reaches_none():
    (ax,) = lanes_and_addresses([5, 6, 7], block=2, programs=2, first_address=100, itemsize=8).axes
    said = [text.get_text() for text in ax.texts]
    assert said[:2] == ["program 0", "0"] and said.count("yes") == 3 and said.count("no") == 1
    assert [text for text in said if text in ("100", "108", "116", "124")] == ["100", "108", "116", "124"]
    assert said.count("×") == 1 and said.count("?") == 2  # behind the end of x and of out
    assert {"6", "7", "8"} <= set(said)


def test_tiles_are_drawn_with_their_edges_and_the_diagonal():
    kinds = torch.tensor([[2, 2, 0, 0], [1, 1, 2, 2]])
    figure = tile_maps({"two": kinds}, blocks={"two": (1, 2)})
    (ax,) = figure.axes
    assert torch.equal(torch.tensor(ax.images[0].get_array().data), kinds)
    horizontal, vertical, diagonal = ax.lines
    assert horizontal.get_ydata()[0] == 0.5 and vertical.get_xdata()[0] == 1.5
    assert list(diagonal.get_xdata()) == [1.5, 3.5]  # aligned to the end


def test_weights_that_are_not_right_are_orange_and_nan_is_black():
    right = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    got = torch.tensor([[0.7, 0.3], [0.5, torch.nan]])
    image = weight_maps({"broken": got}, {"broken": right}).axes[0].images[0].get_array()
    assert tuple(image[0, 0]) == tuple(image[0, 1]) == to_rgba(COLORS[1])
    assert tuple(image[1, 1]) == (0, 0, 0, 1) and tuple(image[1, 0]) not in (to_rgba(COLORS[1]), (0, 0, 0, 1))


def test_a_verdict_stands_in_the_row_of_its_attention_and_the_column_of_its_test():
    ax = verdict_grid({"right": {"first": True, "second": None}, "broken": {"first": False, "second": True}})
    said = {(t.get_position()[0] - 0.5, t.get_position()[1] - 0.5): t.get_text() for t in ax.texts}
    assert said == {(0, 0): "holds", (1, 0): "–", (0, 1): "fails", (1, 1): "holds"}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["right", "broken"]
