"""Figures of global and local attention say what they are given."""

import torch

from attncourse.global_local import global_local_mask
from attncourse.lessons.global_local.figures import (
    pattern_maps,
    rank_against_tokens,
    reach_against_layers,
    topics_by_seed,
    values_by_seed,
)
from attncourse.lessons.global_local.schematic import funnel, two_hops


def drawn(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_pattern_tells_rows_of_global_tokens_from_columns_and_from_the_rest():
    seen = torch.eye(4).bool()
    seen[1], seen[:, 1] = True, True
    seen[1, 3] = False  # a global token that should read this one and does not: white, not painted over
    figure = pattern_maps({"local": (torch.eye(4).bool(), []), "one global": (seen, [1])})
    local, both = (ax.images[0].get_array().tolist() for ax in figure.axes)
    assert local == torch.eye(4).int().tolist()
    assert both == [[1, 2, 0, 0], [3, 3, 3, 0], [0, 2, 1, 0], [0, 2, 0, 1]]
    assert figure.axes[1].get_title() == "one global\n9 of 16 pairs"
    assert figure.legends[0].texts[0].get_text() == "two ordinary tokens"


def test_reach_stands_at_its_layer():
    ax = reach_against_layers({"local": [3, 5, 7], "global": [4, 9]}, length=9)
    lines = drawn(ax)
    assert lines["local"] == ([1, 2, 3], [3, 5, 7]) and lines["global"] == ([1, 2], [4, 9])
    assert ax.get_ylim()[1] > 9 and ax.get_xticks().tolist() == [1, 2, 3]


def test_ranks_are_points_on_predicted_lines():
    ax = rank_against_tokens([1, 2], {"none": [0, 0], "full": [8, 16]}, {"none": [0, 1], "full": [8, 17]})
    points = {line.get_label(): list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "None"}
    lines = [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "-"]
    assert points == {"none": [0, 0], "full": [8, 16]} and lines[:2] == [[0, 1], [8, 17]]


def test_each_reader_has_a_column_with_its_seeds_and_the_one_that_ran():
    ax = topics_by_seed({"local": [0.2, 0.3], "one global token": [1.0, 0.9]}, {"local": 0.25}, guessing=0.25)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["local", "one global\ntoken"]
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.2, 0.3], [0.25], [1.0, 0.9], [0.25, 0.25]]


def test_values_stand_in_the_column_of_their_pairs_beside_what_the_most_common_gives():
    recorded = {"one": {"1": [1.0, 0.9], "8": [0.3, 0.2]}, "full": {"1": [0.8, 0.7], "8": [0.6, 0.5]}}
    ax = values_by_seed(recorded, {"one": {"8": 0.4}}, [1.0, 0.33])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "8"]
    heights = [list(line.get_ydata()) for line in ax.lines]
    assert heights == [[1.0, 0.9], [0.3, 0.2], [0.4], [0.8, 0.7], [0.6, 0.5], [1.0, 1.0], [0.33, 0.33]]
    first, other = ax.lines[0], ax.lines[3]
    assert max(first.get_xdata()) < min(other.get_xdata()) < 0.5, "readers stand side by side in a column"


def test_the_schematic_draws_the_pattern_and_the_two_reads_of_the_path():
    seen = global_local_mask(4, radius=1, global_indices=torch.tensor([0]))[0, 0]
    figure = two_hops(["g", "x", "y", "z"], seen, global_token=0, start=3, goal=1)
    assert f"{int(seen.sum())} of 16 pairs" in texts(figure)
    arrows = [p for p in figure.axes[0].patches if hasattr(p, "get_arrowstyle")]
    assert len(arrows) == 2 and len(figure.axes[0].lines) == 2 * int(seen.sum()) - 2


def test_the_funnel_says_what_passes():
    words = texts(funnel(5, width=4))
    assert "rank of what arrives: 4 at most" in words and "rank of what arrives: 20" in words
    assert words.count("5 tokens hold 5 × 4 numbers") == 2
