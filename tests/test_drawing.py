"""The picture of a verdict shows both matrices as they are, and a line around exactly the cells that differ."""

import pytest
import torch

from attncourse.check.drawing import differing, expected_beside_got, in_words, png
from attncourse.check.picture import Picture

PAST = torch.ones(5, 5).tril()


def leaky(length: int) -> Picture:
    """Each query sees one position too far."""
    return Picture(got=torch.ones(length, length).tril(1), expected=torch.ones(length, length).tril())


def segments(ax) -> set:
    """The lines around cells that differ, as ((x, y), (x, y))."""
    outline = ax.collections[-1]
    return {tuple(map(tuple, path.vertices.tolist())) for path in outline.get_paths()}


def test_both_matrices_stand_side_by_side_on_one_scale():
    picture = Picture(got=torch.rand(3, 4), expected=torch.rand(3, 4), rows="head", columns="group")
    left, right, _ = expected_beside_got(picture).axes
    assert (left.get_title(), right.get_title()) == ("expected", "got")
    assert left.get_ylabel() == "head" and {left.get_xlabel(), right.get_xlabel()} == {"group"}
    for ax, values in ((left, picture.expected), (right, picture.got)):
        torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), values, check_dtype=False)
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0.0, 1.0)


def test_a_line_runs_around_the_one_cell_that_differs():
    got = PAST.clone()
    got[1, 3] = 1.0
    around = {((2.5, 0.5), (3.5, 0.5)), ((2.5, 1.5), (3.5, 1.5)), ((2.5, 0.5), (2.5, 1.5)), ((3.5, 0.5), (3.5, 1.5))}
    left, right, _ = expected_beside_got(Picture(got=got, expected=PAST)).axes
    assert segments(left) == segments(right) == around


def test_no_line_runs_between_two_cells_that_both_differ():
    got = PAST.clone()
    got[1, 2:4] = 1.0
    left, *_ = expected_beside_got(Picture(got=got, expected=PAST)).axes
    assert len(segments(left)) == 6 and ((2.5, 0.5), (2.5, 1.5)) not in segments(left)


@pytest.mark.parametrize("length", [1, 5, 64])
def test_ticks_are_whole_positions(length):
    figure = expected_beside_got(leaky(length))
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert labels and all(label.lstrip("−").isdigit() for label in labels)
    assert len(labels) <= 10


def test_values_below_zero_have_white_in_the_middle():
    picture = Picture(got=torch.tensor([[-3.0, 1.0]]), expected=torch.tensor([[0.0, 2.0]]))
    assert expected_beside_got(picture).axes[0].images[0].get_clim() == (-3.0, 3.0)


def test_what_is_no_number_is_left_out_of_the_scale_and_differs():
    got = torch.tensor([[float("nan"), float("inf"), 0.5]])
    picture = Picture(got=got, expected=torch.tensor([[0.5, 0.5, 0.5]]))
    assert differing(picture).tolist() == [[True, True, False]]
    right = expected_beside_got(picture).axes[1]
    assert right.images[0].get_array().mask.tolist() == [[True, True, False]] and right.images[0].get_clim() == (0, 1)


def test_what_is_expected_to_be_no_number_does_not_differ():
    nothing = torch.full((2, 2), torch.nan)
    assert not differing(Picture(got=nothing, expected=nothing)).any()


def test_rounding_is_no_difference():
    assert not differing(Picture(got=PAST + 1e-9, expected=PAST)).any()


def test_the_picture_is_said_in_words_too():
    words = in_words(leaky(3))
    assert "3 rows (query) by 3 columns (key)" in words and "2 of 9 cells differ, at (0, 1), (1, 2)" in words
    assert in_words(Picture(got=PAST, expected=PAST)).endswith("no cell differs")
    assert "among them (0, 1)" in in_words(leaky(64))


def test_two_shapes_are_no_picture():
    with pytest.raises(ValueError, match=r"two matrices of one shape, got \(5, 5\) and \(5, 4\)"):
        expected_beside_got(Picture(got=torch.ones(5, 4), expected=PAST))


def test_it_becomes_a_png_and_leaves_no_figure_open():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert png(expected_beside_got(leaky(5))).startswith(b"\x89PNG")
    assert plt.get_fignums() == before
