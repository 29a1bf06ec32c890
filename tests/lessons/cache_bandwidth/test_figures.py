"""Figures of bandwidth say what they are given."""

import pytest

from attncourse.lessons.cache_bandwidth.decode_record import DESIGNS
from attncourse.lessons.cache_bandwidth.figures import (
    FAMILIES,
    bandwidth_reached,
    chip_use,
    floor_and_wall,
    splits_saw,
    step_panels,
    tokens_against_batch,
    two_programs,
)
from attncourse.lessons.cache_bandwidth.schematic import SEQUENCES, step_of_decoding


def curves_of(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_every_design_stands_in_a_family_and_no_colour_is_used_twice():
    assert {name for names in FAMILIES.values() for name in names} == set(DESIGNS.values())
    figure = step_panels({name: {1: 1.0, 2: 2.0} for name in DESIGNS.values()})
    colors = {line.get_label(): line.get_color() for ax in figure.axes for line in ax.lines}
    assert len(set(colors.values())) == len(colors) == len(DESIGNS)


def test_predicted_and_measured_steps_are_milliseconds_in_the_panels_of_their_families():
    predicted = {"MHA": {256: 1e-3, 1024: 4e-3}, "latent": {256: 2e-3, 1024: 2e-3}}
    measured = {"MHA": {256: 3e-3, 1024: 5e-3}}
    figure = step_panels(predicted, measured)
    heads, contents, storage = figure.axes
    dashed, solid = heads.lines
    assert dashed.get_linestyle() == "--" and list(dashed.get_ydata()) == [1.0, 4.0]
    assert solid.get_linestyle() == "-" and list(solid.get_ydata()) == [3.0, 5.0]
    assert dashed.get_color() == solid.get_color() and texts(heads.get_legend()) == ["MHA"]
    assert [list(line.get_ydata()) for line in contents.lines] == [[2.0, 2.0]] and not storage.lines
    assert [label.get_text() for label in heads.get_xticklabels()] == ["256", "1,024"]


def test_the_bandwidth_is_in_gigabytes_beside_a_plain_read_in_each_panel():
    rows = {"1 sequence": {"MHA": {256: 2e9}, "int8": {256: 3e9}}, "4 sequences": {"MHA": {256: 4e9}}}
    figure = bandwidth_reached(rows, read=5e9)
    panels = [[list(line.get_ydata()) for line in ax.lines] for ax in figure.axes]
    assert panels == [[[5.0, 5.0], [2.0]], [[5.0, 5.0]], [[5.0, 5.0], [3.0]], [[5.0, 5.0], [4.0]], [[5, 5]], [[5, 5]]]
    assert texts(figure.legends[0]) == ["plain read", "MHA", "int8"]
    assert "4 sequences" in figure.axes[3].get_ylabel()


def test_calls_from_python_stand_hollow_beside_replayed_graphs():
    graphs, calls = ({"x": {"MHA": {256: rate, 512: rate}}} for rate in (4e9, 1e9))
    figure = bandwidth_reached(graphs, read=5e9, calls=calls)
    _, graph, call = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in (graph, call)] == [[4.0, 4.0], [1.0, 1.0]]
    assert graph.get_color() == call.get_color() and call.get_markerfacecolor() == "none"
    assert graph.get_markerfacecolor() != "none"
    assert texts(figure.legends[0]) == ["plain read", "MHA", "graph replayed", "call from Python"]
    ax = floor_and_wall({"MHA": ([1e4], [2e-5])}, {"MHA": (1e-5, 1e10)}, calls={"MHA": ([1e4], [9e-5])})
    assert list(ax.lines[-1].get_ydata()) == pytest.approx([90]) and ax.lines[-1].get_markerfacecolor() == "none"
    assert texts(ax.figure.legends[0]) == ["MHA", "graph replayed", "call from Python"]


def test_a_line_of_overhead_and_bandwidth_runs_through_its_points_and_others_have_none():
    points = {"MHA": ([1e4, 1e8], [2e-5, 1.01e-2]), "MQA": ([1e4], [3e-5])}
    ax = floor_and_wall(points, {"MHA": (1e-5, 1e10)})
    marks, line, half, other = ax.lines
    assert list(marks.get_xdata()) == [0.01, 100.0] and list(marks.get_ydata()) == pytest.approx([20, 10100])
    assert line.get_ydata()[0] == pytest.approx(11) and line.get_ydata()[-1] == pytest.approx(10010)
    assert half.get_xdata()[0] == pytest.approx(0.1)
    assert list(other.get_ydata()) == pytest.approx([30])
    endless = floor_and_wall(points, {"MHA": (1e-5, float("inf"))})
    assert len(endless.lines) == 3, "no size at which both are equal"


def test_two_programs_stand_in_a_row_of_their_design():
    ax = two_programs({"int8": (4e-3, 1e-3), "paged": (2e-3, 1.5e-3)})
    copied, in_place = ax.lines
    assert list(copied.get_xdata()) == [4.0, 2.0] and list(in_place.get_xdata()) == [1.0, 1.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["int8", "paged"]


def test_use_is_in_percent():
    ax = chip_use([1, 2], {"alone": [0.25, 0.5]})
    assert curves_of(ax) == {"alone": ([1, 2], [25.0, 50.0])} and ax.get_ylim() == (0, 105)


def test_the_splits_that_a_rule_chooses_are_marked_on_the_saw():
    ax = splits_saw({1: 0.2, 2: 0.4, 3: 0.3}, {"best": 2})
    saw, mark = ax.lines
    assert list(saw.get_ydata()) == pytest.approx([20, 40, 30])
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([2], [40.0])
    assert texts(ax.get_legend()) == ["best: 2"]


def test_a_model_is_thick_as_far_as_it_fits_and_has_a_star_where_it_turns():
    curves = {"a": {1: 10.0, 2: 20.0, 4: 30.0}, "b": {1: 5.0, 2: 6.0, 4: 7.0}}
    ax = tokens_against_batch(curves, full={"a": 2, "b": 4}, turning={"a": None, "b": 2})
    thick = [list(line.get_xdata()) for line in ax.lines if line.get_linewidth() > 2]
    assert thick == [[1, 2], [1, 2, 4]]
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [6.0])


def test_the_schematic_reads_what_the_formula_counts():
    (ax,) = step_of_decoding().axes
    written = [text.get_text() for text in ax.texts]
    assert sum(text.startswith("cache ") for text in written) == SEQUENCES
    assert "reading: (W + b s m) / β" in written and "computing: operations / π" in written
