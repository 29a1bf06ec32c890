"""Figures of global and local attention say what they are given."""

import torch

from attncourse.lessons.global_local.figures import hub_patterns, reach_against_layers


def test_a_pattern_tells_rows_of_global_tokens_from_columns_and_from_the_rest():
    seen = torch.eye(4).bool()
    seen[1], seen[:, 1] = True, True
    seen[1, 3] = False  # a global token that should read this one and does not: white, not painted over
    figure = hub_patterns({"local": (torch.eye(4).bool(), []), "with a hub": (seen, [1])})
    local, hub = (ax.images[0].get_array().tolist() for ax in figure.axes)
    assert local == torch.eye(4).int().tolist()
    assert hub == [[1, 2, 0, 0], [3, 3, 3, 0], [0, 2, 1, 0], [0, 2, 0, 1]]
    assert figure.axes[1].get_title() == "with a hub\n9 of 16 pairs"
    assert figure.legends[0].texts[0].get_text() == "two ordinary tokens"


def test_reach_stands_at_its_layer():
    ax = reach_against_layers({"local": [3, 5, 7], "hub": [4, 9]}, length=9)
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines[:2]}
    assert drawn == {"local": ([1, 2, 3], [3, 5, 7]), "hub": ([1, 2], [4, 9])}
    assert ax.get_ylim()[1] > 9 and ax.get_xticks().tolist() == [1, 2, 3]
