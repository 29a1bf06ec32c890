"""Figures of local attention say what they are given."""

import pytest
import torch

from attncourse.lessons.sliding_window.figures import (
    accuracy_by_distance,
    loaded_tiles,
    loss_along_row,
    pattern_maps,
    reach_by_layers,
    sink_by_seed,
    text_by_seed,
    weight_along_text,
)
from attncourse.lessons.sliding_window.schematic import band_and_cone, ring_of_slots


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_map_is_filled_where_a_query_sees_a_key_and_counts_its_pairs():
    seen = torch.ones(3, 5).tril(2).bool()
    figure = pattern_maps({"band": seen, "nothing": torch.zeros(3, 5) > 0})
    band, nothing, unused = figure.axes
    assert torch.equal(torch.tensor(band.images[0].get_array().data.astype(bool)), seen)
    assert band.get_title() == "band\n12 pairs" and nothing.get_title() == "nothing\n0 pairs"
    assert not unused.axison


def test_a_tile_that_is_loaded_is_pale_but_for_its_pairs():
    seen = torch.eye(4) > 0
    ax = loaded_tiles(torch.tensor([[True, False], [True, True]]), seen)
    image = torch.tensor(ax.images[0].get_array().data)
    assert image.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [1, 1, 2, 1], [1, 1, 1, 2]]


def test_a_line_ends_where_nothing_is_heard_and_a_mark_says_where_it_should():
    ax = reach_by_layers({1: torch.tensor([1.0, 0.5, 0.0, 0.0]), 2: torch.tensor([1.0, 0.5, 0.1, 0.0])}, {1: 2, 2: 3})
    one, mark, two, _ = ax.lines
    assert one.get_xdata().tolist() == [0, 1] and two.get_xdata().tolist() == [0, 1, 2]
    assert mark.get_xdata()[0] == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1 layer", "2 layers"]


def test_accuracy_starts_at_distance_one_and_recorded_seeds_stand_beside_it():
    ax = accuracy_by_distance(
        {"window": [1.0, 0.9, 0.1]}, chance=0.125, reach=2, recorded={"window": [[1, 1, 0.2]], "other": [[0, 0, 0]]}
    )
    chance, seed, line = ax.lines
    assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == [1.0, 0.9, 0.1]
    assert list(seed.get_ydata()) == [1, 1, 0.2] and seed.get_linestyle() == "None"
    assert chance.get_ydata()[0] == 0.125


def test_a_point_of_a_loss_is_the_mean_of_its_places():
    ax = loss_along_row({"full": torch.tensor([1.0, 3.0, 4.0, 6.0])}, trained=2, group=2)
    line, end = ax.lines
    assert list(line.get_xdata()) == [1, 3] and list(line.get_ydata()) == [2, 5] and end.get_xdata()[0] == 2


def test_every_seed_of_a_text_model_is_a_dot_and_the_live_one_is_ringed():
    recorded = {"full": {"short": [1.0, 2.0], "beyond": [3.0, 4.0]}, "window, long": {"short": [5.0], "beyond": [6.0]}}
    short, beyond = text_by_seed(recorded, {"full": {"short": 1.5, "beyond": 3.5}}).axes
    for ax, values in ((short, [[1.0, 2.0], [1.5], [5.0]]), (beyond, [[3.0, 4.0], [3.5], [6.0]])):
        assert [list(line.get_ydata()) for line in ax.lines] == values
    assert [tick.get_text() for tick in short.get_xticklabels()] == ["full", "window,\nlong"]


def test_a_bar_stands_for_each_character():
    ax = weight_along_text("a b\n", torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "␣", "b", "↵"]


def test_what_a_window_adds_is_counted_from_the_loss_with_all_keys():
    found = {"share": [0.2], "full": [2.0], "window": [2.5], "window, 1 sink": [2.1]}
    live = {"fixed first token": {name: values[0] + 1 for name, values in found.items()}}
    figure = sink_by_seed({"fixed first token": found, "any first token": found}, live)
    share, added = figure.axes
    heights = [value for line in share.lines for value in line.get_ydata()]
    assert heights == pytest.approx([0.2, 1.2, 0.2])
    dots = [value for line in added.lines for value in line.get_ydata()]
    assert dots == pytest.approx([0.5, 0.5, 0.1, 0.1, 0.5, 0.1, 0, 0])


def test_the_cone_marks_what_the_last_token_hears_and_the_band_what_a_query_sees():
    (ax,) = band_and_cone(n=5, window=2, layers=2).axes
    written = texts(ax)
    # Key and query numbers once each; then tokens by layer: 5; 4 and 5; 3, 4 and 5.
    assert [written.count(str(j)) for j in range(1, 6)] == [2, 2, 2 + 1, 2 + 2, 2 + 3]
    assert {"layer 2", "layer 1", "input"} <= set(written)


def test_a_ring_says_what_is_written_over_what():
    (ax,) = ring_of_slots(n=5, window=2).axes
    assert [text for text in texts(ax) if text.startswith("written")] == [f"written over {p}" for p in range(3)]
