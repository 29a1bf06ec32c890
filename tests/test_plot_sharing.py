"""Figures of shared keys and values say what they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from attncourse.plot import conversion_losses, head_sharing, loss_against_cache, step_against_heads


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_query_head_is_tied_to_the_head_it_reads():
    figure = head_sharing({"MHA": [0, 1, 2, 3], "GQA": [0, 0, 1, 1]})
    assert [ax.get_title() for ax in figure.axes] == ["MHA", "GQA"]
    own, shared = ([tuple(line.get_xdata()) for line in ax.lines] for ax in figure.axes)
    assert own == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert shared == [(0, 0.5), (1, 0.5), (2, 2.5), (3, 2.5)]  # a shared head stands below the middle of its group


def test_losses_stand_at_the_bytes_of_their_design_with_their_mean():
    ax = loss_against_cache({"g = 2": 256, "g = 1": 128}, {"g = 2": [2.0, 2.2], "g = 1": [2.4, 2.4]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.0, 2.2], [2.1], [2.4, 2.4], [2.4]]
    assert [list(line.get_xdata()) for line in ax.lines[::2]] == [[256, 256], [128, 128]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["128", "256"]


def test_conversion_has_a_panel_before_and_one_after():
    figure = conversion_losses({"mean": [3.0, 3.2]}, {"mean": [2.5, 2.7]}, original=2.4)
    before, after = figure.axes
    assert list(before.lines[1].get_ydata()) == [3.1] and list(after.lines[1].get_ydata()) == [2.6]
    assert [set(ax.lines[-1].get_ydata()) for ax in figure.axes] == [{2.4}, {2.4}]


def test_steps_are_in_milliseconds():
    ax = step_against_heads([1, 8], {"measured": [0.001, 0.004], "by bytes": [0.0005, 0.004]}, device="here")
    assert list(ax.lines[0].get_ydata()) == [1.0, 4.0] and ax.get_title() == "here"
    assert ax.get_xscale() == ax.get_yscale() == "log"
