"""The picture of loss against cache says what it is given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from attncourse.plot import loss_against_cache


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_losses_stand_at_the_bytes_of_their_design_with_their_mean():
    ax = loss_against_cache({"g = 2": 256, "g = 1": 128}, {"g = 2": [2.0, 2.2], "g = 1": [2.4, 2.4]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.0, 2.2], [2.1], [2.4, 2.4], [2.4]]
    assert [list(line.get_xdata()) for line in ax.lines[::2]] == [[256, 256], [128, 128]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["128", "256"]
