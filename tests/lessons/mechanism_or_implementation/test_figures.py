"""Figures of mechanism and implementation say what they are given."""

import matplotlib

matplotlib.use("Agg")

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch

from attncourse.lessons.mechanism_or_implementation.figures import (
    day_of_requests,
    differences,
    peak_and_time,
    terms_of_the_sum,
    traffic_against_cache,
)
from attncourse.lessons.mechanism_or_implementation.schematic import three_places, tile_walk
from attncourse.lessons.mechanism_or_implementation.serving_day import Day
from attncourse.plot.schematic import ROLES


def test_a_dot_an_item_and_zero_stands_at_the_floor():
    ax = differences({"a": ("x", 1.0), "b": ("y", 1e-15), "c": ("x", 0.0)}, tolerance=1e-9, floor=1e-16)
    dots = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [float(*line.get_xdata()) for line in dots] == [1.0, 1e-15, 1e-16]
    assert dots[0].get_color() == dots[2].get_color() != dots[1].get_color()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["x", "y", "tolerance"]
    low, high = ax.get_ylim()
    assert low > high and ax.lines[-1].get_xdata()[0] == 1e-9


def test_traffic_has_a_line_an_algorithm_and_length():
    ax = traffic_against_cache(
        [1024, 2048], {"s": {8: [4.0, 3.0], 16: [9.0, 8.0]}, "f": {8: [2.0, 1.0], 16: [5.0, 4.0]}}
    )
    assert [list(line.get_ydata()) for line in ax.lines] == [[4.0, 3.0], [9.0, 8.0], [2.0, 1.0], [5.0, 4.0]]
    assert [line.get_label() for line in ax.lines] == ["s, n = 8", "s, n = 16", "f, n = 8", "f, n = 16"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2"]


def test_the_sum_has_a_bar_per_key_read_relative_to_the_largest():
    figure = terms_of_the_sum(torch.tensor([1.0, 4, 2], dtype=torch.float64).log())
    heights = [[bar.get_height() for bar in ax.patches] for ax in figure.axes]
    assert heights == [pytest.approx([1]), pytest.approx([0.25, 1]), pytest.approx([0.25, 1, 0.5])]
    assert [ax.get_title().split()[-1] for ax in figure.axes] == ["1", "1.25", "1.75"]


def test_peaks_and_times_have_a_panel_each_in_megabytes_and_milliseconds():
    figure = peak_and_time([8, 16], {"a": [1e6, 2e6], "b": [3e6, 4e6]}, {"a": [0.1, 0.2], "b": [0.3, 0.4]})
    values = [[list(line.get_ydata()) for line in ax.lines] for ax in figure.axes]
    assert values == [[[1, 2], [3, 4]], [pytest.approx([100, 200]), pytest.approx([300, 400])]]
    assert [ax.get_ylabel()[-2:] for ax in figure.axes] == ["MB", "ms"]


def test_a_day_has_a_panel_per_quantity_and_means_of_some_looks():
    day = Day(running=[1, 3, 5, 5], waiting=[0, 0, 2, 4], tokens=[10, 30, 50, 50])
    figure = day_of_requests({"a": day, "b": day}, capacity=100, group=2)
    assert [list(ax.lines[0].get_ydata()) for ax in figure.axes] == [[2, 5], [20, 50], [0, 3]]
    assert [list(ax.lines[1].get_xdata()) for ax in figure.axes] == [[6, 18]] * 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_three_places_are_named_with_what_stands_there():
    texts = " ".join(text.get_text() for text in three_places().axes[0].texts)
    places = [texts.index(name) for name in ("IMPLEMENTATION", "APPROXIMATION", "MECHANISM")]
    assert places == sorted(places)
    assert all(item in texts for item in ("standard form", "candidate", "tiles", "int8", "MLA"))


def test_one_tile_of_scores_exists_and_its_blocks_are_coloured():
    ax = tile_walk(rows=2, columns=3, at=(1, 0)).axes[0]
    of = {
        role: [p for p in ax.patches if p.get_edgecolor() == to_rgba(ROLES[role])]
        for role in ("weight", "query", "key")
    }
    (tile,), (keys,) = of["weight"], of["key"]
    queries = next(patch for patch in of["query"] if isinstance(patch, FancyBboxPatch))
    assert tile.get_x() + tile.get_width() / 2 == pytest.approx(keys.get_x() + keys.get_width() / 2)
    assert tile.get_y() + tile.get_height() / 2 == pytest.approx(queries.get_y() + queries.get_height() / 2)
    texts = [text.get_text() for text in ax.texts]
    assert "scores" in texts and "$O_2 = u / \\ell$" in texts
    assert "$Q_2$" in texts and "$Q_3$" not in texts and "$K_3, V_3$" in texts
