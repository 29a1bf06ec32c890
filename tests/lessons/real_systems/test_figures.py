"""Figures of whole systems say what they are given."""

import matplotlib

matplotlib.use("Agg")

import pytest
import torch

from attncourse.lessons.real_systems.figures import (
    alignments_side_by_side,
    books,
    both_sides,
    changes,
    diagrams,
    gaze,
    hearing,
    more_passages,
    passages_read,
    two_ways,
    weight_by_distance,
)
from attncourse.lessons.real_systems.schematic import four_systems


def texts(ax):
    return [text.get_text() for text in ax.texts]


def dots(ax):
    """What a column of dots shows, a list per line."""
    return [list(line.get_ydata()) for line in ax.lines]


def test_diagrams_draw_the_matrix_its_grid_and_part_its_groups():
    visible = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    figure = diagrams({"a": (visible, {"source": 2, "target": 1}), "b": (visible, {"tokens": 3})})
    left, right = figure.axes
    torch.testing.assert_close(torch.tensor(left.images[0].get_array()), visible.float(), check_dtype=False)
    assert [t.get_text() for t in left.get_xticklabels()] == ["source", "target"]
    assert left.get_xticks().tolist() == [0.5, 2.0]
    assert [line.get_ydata()[0] for line in left.lines] == [1.5, 0.0] and not right.lines
    assert left.get_xticks(minor=True).tolist() == left.get_yticks(minor=True).tolist() == [0.5, 1.5]
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        diagrams({"a": (visible, {"tokens": 2})})


def test_the_schematic_names_each_system_and_cross_attention_in_two():
    written = texts(four_systems().axes[0])
    assert {"Encoder-only", "Decoder-only", "Encoder-decoder", "Multimodal", "keys, values", "or here"} <= set(written)
    assert written.count("cross-\nattention") == 2 and written.count("self-attention,\ncausal") == 3


def test_sides_and_tables_stand_beside_each_other():
    results = {"hidden characters": {"left": [0.1, 0.2], "both": [0.4]}, "next character": {"decoder": [2.0]}}
    left, right = both_sides(results, {"both": 0.5}, {"one": 3.0, "two": 2.5}).axes
    assert dots(left) == [[0.1, 0.2], [0.4], [0.5]]
    assert dots(right) == [[2.0], [3.0, 3.0], [2.5, 2.5]] and texts(right) == ["one", "two"]


def test_distances_are_signed_and_the_hidden_place_is_marked():
    ax = weight_by_distance(torch.rand(2, 3), [-1, 0, 1])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-1", "?", "+1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["head 0", "head 1"]
    assert {text.get_fontsize() for text in ax.texts} == {9}


def test_sentences_have_maps_of_their_own_words():
    weights = torch.rand(2, 3)
    figure = alignments_side_by_side({"a": (weights, ["x", "y", "z"], "01"), "b": (weights[:, :1], ["w"], "23")})
    first, second = figure.axes
    torch.testing.assert_close(torch.tensor(first.images[0].get_array()), weights, check_dtype=False)
    assert [t.get_text() for t in second.get_xticklabels()] == ["w"]
    assert [t.get_text() for t in second.get_yticklabels()] == ["2", "3"]


def test_a_gaze_frames_what_is_meant():
    boxes = torch.zeros(2, 6, 6, dtype=torch.bool)
    boxes[:, 2:5, 1:3] = True
    weights = torch.rand(2, 3, 3)
    figure = gaze(torch.rand(2, 6, 6), weights, boxes, ["one", "two"])
    above, below = figure.axes[0], figure.axes[2]
    frame = above.patches[0]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((0.5, 1.5), 2, 3)
    torch.testing.assert_close(torch.tensor(below.images[0].get_array()), weights[0], check_dtype=False)
    assert below.images[0].get_extent() == [-0.5, 5.5, 5.5, -0.5]


def test_a_note_is_framed_in_its_letters_row_where_it_sounds():
    playing = torch.tensor([-1, 0, 0, -1, 1, 1, 1, -1])
    weights = torch.rand(3, 8)
    top, bottom, _ = hearing(torch.rand(8, 5), weights, playing, ["C", "D", "end"], hertz=(100, 200)).axes
    assert top.images[0].get_extent() == [-0.5, 7.5, 100, 200] and top.images[0].get_array().shape == (5, 8)
    frames = [(p.get_xy(), p.get_width()) for p in bottom.patches]
    assert frames == [((0.5, -0.5), 2), ((3.5, 0.5), 3)]
    torch.testing.assert_close(torch.tensor(bottom.images[0].get_array()), weights, check_dtype=False)


def test_changes_carry_their_shares_as_numbers():
    ax = changes(torch.tensor([[1.0, 0.25], [0.0, 0.5]]))
    assert texts(ax) == ["1.00", "0.25", "0.00", "0.50"] and {text.get_fontsize() for text in ax.texts} == {9}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2"]


def test_both_ways_stand_side_by_side_for_each_task():
    names = [f"pictures, {way}{longer}" for way in ("cross-attention", "one sequence") for longer in ("", ", longer")]
    results = {name: {"digits": [i / 10]} for i, name in enumerate(names)}
    results |= {f"melodies, {way}": {"right": [0.9]} for way in ("cross-attention", "one sequence")}
    short, longer, sounds = two_ways(results, {"pictures": 0.55, "melodies": 0.8}).axes
    assert dots(short) == [[0.0], [0.55], [0.2]]
    assert dots(longer) == [[0.1], [0.3]]
    assert dots(sounds) == [[0.9], [0.8], [0.9]]


def test_books_have_a_column_each():
    ax = books({"closed": [0.1, 0.2], "open": [0.6]}, {"open": 0.5})
    assert dots(ax) == [[0.1, 0.2], [0.6], [0.5]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["closed", "open"]


def test_passages_show_the_weights_of_their_own_words():
    weights = torch.tensor([[0.5, 0.25, 0.0], [0.25, 0.0, 0.0]])
    figure = passages_read([["a", "b"], ["c"]], weights)
    assert [ax.images[0].get_array().tolist() for ax in figure.axes] == [[[0.5, 0.25]], [[0.25]]]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b"]


def test_search_and_reader_stand_over_the_number_of_passages():
    results = {"open book": {"passages read: 1": [0.6, 0.7], "passages read: 4": [0.5]}}
    ax = more_passages({"1": 0.8, "4": 0.9}, results, {"1": 0.65})
    assert dots(ax) == [[0.8, 0.9], [0.6, 0.7], [0.65], [0.5]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "4"]
