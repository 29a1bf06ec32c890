"""Figures say what they are given, and refuse what does not fit."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from attncourse.plot import (
    alignments,
    memory_against_length,
    seconds_against_length,
    seed_dots,
    signed_heatmap,
    slider,
    weights_heatmap,
)
from attncourse.plot.schematic import arrow, box, canvas, cells, note


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_heatmap_names_its_axes_and_prints_its_numbers():
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    ax = weights_heatmap(weights, queries=["a", "b"], keys=["x", "y"], numbers=True, title="w")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.texts] == ["0.25", "0.75", "1.00", "0.00"]
    torch.testing.assert_close(torch.tensor(ax.images[0].get_array()), weights, check_dtype=False)
    assert ax.images[0].get_clim() == (0.0, 1.0)


def test_signed_values_have_white_in_the_middle():
    ax = signed_heatmap(torch.tensor([[-3.0, 1.0]]), rows=["a"], columns=["x", "y"])
    assert ax.images[0].get_clim() == (-3.0, 3.0)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"1 row and 2 column labels for values of shape \(2, 2\)"):
        weights_heatmap(torch.ones(2, 2), queries=["a"], keys=["x", "y"])


def test_alignments_draw_a_panel_a_model():
    panels = {name: torch.rand(3, 2) for name in "abcd"}
    figure = alignments(panels, source=["x", "y"], target="123", columns=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:4] == list("abcd")
    assert not any(ax.axison for ax in figure.axes[4:])
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("word read", "character written")


def test_lines_carry_the_values_they_were_given():
    ax = memory_against_length([1, 2], {"a": [10**6, 3 * 10**6], "b": [2, 4]}, device="here")
    assert list(ax.lines[0].get_ydata()) == [1.0, 3.0] and ax.get_title() == "here"


def test_a_logarithmic_height_is_named_more_than_once():
    for seconds, names in (([0.001, 0.004], ["1", "2"]), ([0.001, 0.3], ["1", "3", "10", "30", "100", "300"])):
        ax = seconds_against_length([1, 2], {"a": seconds}, device="here")
        assert [label.get_text() for label in ax.get_yticklabels()] == names


def test_a_slider_holds_every_frame_and_needs_no_network():
    frames = {name: plt.figure(figsize=(1, 1)) for name in ("one", "t<o")}
    html = slider(frames, label="which", alt='a "picture"').data
    assert html.count("data:image/png;base64,") == 3  # the first one stands in the page as well
    assert 'max="1"' in html and "t&lt;o" in html and "a &quot;picture&quot;" in html
    assert "http" not in html
    assert not plt.get_fignums(), "the frames stay open"


def test_a_slider_of_one_frame_is_none():
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        slider({"one": plt.figure()}, label="x", alt="y")


def test_a_schematic_has_a_unit_of_an_inch_and_says_what_it_is_given():
    figure, ax = canvas(4, 2)
    box(ax, (1, 1), "query", role="query")
    arrow(ax, (1.6, 1), (2.5, 1))
    cells(ax, (2.5, 1.5), [[1, None], ["0.5", 2]], role="weight")
    note(ax, (3, 0.3), "a note")
    assert [text.get_text() for text in ax.texts] == ["query", "1", "0.5", "2", "a note"]
    assert tuple(figure.get_size_inches()) == (4, 2) and ax.get_xlim() == (0, 4) and ax.get_ylim() == (0, 2)
    with pytest.raises(KeyError):
        box(ax, (1, 1), "x", role="queries")


def test_every_seed_is_a_dot_in_its_column_and_the_live_one_is_ringed():
    _, ax = plt.subplots()
    seed_dots(ax, {"a": [1.0, 1.0], "b": [3.0]}, {"a": 1.0, "b": 4.0}, aside=0.2)
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 1.0], [1.0], [3.0], [4.0]]
    places = [x for line in ax.lines[:2] for x in line.get_xdata()]
    assert len(set(places)) == 3, "dots of equal height hide each other"
    assert sum(places) / 3 == pytest.approx(0.2)
    assert [line.get_markeredgewidth() > 1.5 for line in ax.lines] == [False, True, False, True]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    assert ax.get_legend_handles_labels()[1] == ["recorded seeds", "trained here"]


def test_two_models_stand_next_to_each_other_and_ring_has_one_label():
    _, ax = plt.subplots()
    for aside, model in ((-0.2, "one"), (0.2, "two")):
        seed_dots(ax, {"a": [1.0]}, {"a": 2.0}, aside=aside, label=model)
    assert ax.get_legend_handles_labels()[1] == ["one", "trained here", "two"]
