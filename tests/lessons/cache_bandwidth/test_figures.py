"""Figures of bandwidth say what they are given."""

import pytest

from attncourse.lessons.cache_bandwidth.figures import (
    bandwidth_reached,
    chip_use,
    floor_and_wall,
    step_against_context,
    tokens_against_batch,
)


def curves_of(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_steps_are_in_milliseconds_and_a_tick_stands_at_each_context():
    ax = step_against_context({"a": {256: 1e-3, 1024: 4e-3}, "b": {256: 2e-3}}, title="where it was measured")
    assert curves_of(ax) == {"a": ([256, 1024], [1.0, 4.0]), "b": ([256], [2.0])}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["256", "1,024"]
    assert ax.get_title() == "where it was measured"
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["a", "b"]


def test_the_bandwidth_is_in_gigabytes_beside_a_plain_read_in_each_panel():
    panels = {"1 sequence": {"a": {256: 2e9}, "b": {256: 3e9}}, "4 sequences": {"a": {256: 4e9}}}
    figure = bandwidth_reached(panels, read=5e9, title="device, driver, versions, date")
    assert figure.get_suptitle() == "device, driver, versions, date"
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("1 sequence", "4 sequences")
    assert [list(line.get_ydata()) for line in left.lines] == [[5.0, 5.0], [2.0], [3.0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[5.0, 5.0], [4.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain read", "a", "b"]
    assert len({line.get_color() for line in left.lines}) == 3


def test_calls_from_python_stand_hollow_beside_replayed_graphs():
    graphs, calls = ({"x": {"a": {256: rate, 512: rate}}} for rate in (4e9, 1e9))
    figure = bandwidth_reached(graphs, read=5e9, title="t", calls=calls)
    _, graph, call = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in (graph, call)] == [[4.0, 4.0], [1.0, 1.0]]
    assert graph.get_color() == call.get_color() and call.get_markerfacecolor() == "none"
    assert graph.get_markerfacecolor() != "none"
    names = ["plain read", "a", "graph replayed", "call from Python"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    ax = floor_and_wall({"a": ([1e4], [2e-5])}, {"a": (1e-5, 1e10)}, title="t", calls={"a": ([1e4], [9e-5])})
    assert list(ax.lines[-1].get_ydata()) == pytest.approx([90]) and ax.lines[-1].get_markerfacecolor() == "none"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "graph replayed", "call from Python"]


def test_a_design_that_the_first_panel_lacks_has_its_own_colour_and_name():
    figure = bandwidth_reached({"x": {"a": {1: 1e9}}, "y": {"b": {1: 1e9}}}, read=1e9, title="t")
    colors = [ax.lines[1].get_color() for ax in figure.axes]
    assert colors[0] != colors[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain read", "a", "b"]


def test_nine_designs_stay_apart():
    ax = step_against_context({str(i): {1: 1.0, 2: 2.0} for i in range(9)}, title="t")
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 9


def test_a_line_of_overhead_and_bandwidth_runs_through_its_points():
    ax = floor_and_wall({"a": ([1e4, 1e8], [2e-5, 1.01e-2])}, {"a": (1e-5, 1e10)}, title="t")
    points, line, half = ax.lines
    assert list(points.get_xdata()) == [0.01, 100.0] and list(points.get_ydata()) == pytest.approx([20, 10100])
    assert line.get_ydata()[0] == pytest.approx(11) and line.get_ydata()[-1] == pytest.approx(10010)
    assert half.get_xdata()[0] == pytest.approx(0.1)


def test_use_is_in_percent():
    ax = chip_use([1, 2], {"alone": [0.25, 0.5]}, title="t")
    assert curves_of(ax) == {"alone": ([1, 2], [25.0, 50.0])} and ax.get_ylim() == (0, 105)


def test_a_model_is_thick_as_far_as_it_fits_and_has_a_star_where_it_turns():
    curves = {"a": {1: 10.0, 2: 20.0, 4: 30.0}, "b": {1: 5.0, 2: 6.0, 4: 7.0}}
    ax = tokens_against_batch(curves, full={"a": 2, "b": 4}, turning={"a": None, "b": 2}, title="t")
    thick = [list(line.get_xdata()) for line in ax.lines if line.get_linewidth() > 2]
    assert thick == [[1, 2], [1, 2, 4]]
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [6.0])
