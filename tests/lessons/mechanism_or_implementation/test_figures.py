"""Figures of mechanism and implementation say what they are given."""

from attncourse.lessons.mechanism_or_implementation.figures import (
    against_bits,
    day_of_requests,
    differences,
    traffic_against_cache,
)


def test_a_dot_an_item_and_zero_stands_at_the_floor():
    ax = differences({"a": ("x", 1.0), "b": ("y", 1e-15), "c": ("x", 0.0)}, tolerance=1e-9, floor=1e-16)
    dots = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [float(*line.get_xdata()) for line in dots] == [1.0, 1e-15, 1e-16]
    assert dots[0].get_color() == dots[2].get_color() != dots[1].get_color()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["x", "y"]
    low, high = ax.get_ylim()
    assert low > high and ax.lines[-1].get_xdata()[0] == 1e-9


def test_traffic_has_a_line_an_algorithm_and_length():
    ax = traffic_against_cache(
        [1024, 2048], {"s": {8: [4.0, 3.0], 16: [9.0, 8.0]}, "f": {8: [2.0, 1.0], 16: [5.0, 4.0]}}
    )
    assert [list(line.get_ydata()) for line in ax.lines] == [[4.0, 3.0], [9.0, 8.0], [2.0, 1.0], [5.0, 4.0]]
    assert [line.get_label() for line in ax.lines] == ["s, n = 8", "s, n = 16", "f, n = 8", "f, n = 16"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2"]


def test_a_day_has_a_panel_a_quantity():
    figure = day_of_requests([0, 12], {"a": {"x": [1, 2], "y": [3, 4]}, "b": {"x": [5, 6], "y": [7, 8]}})
    assert [ax.get_ylabel() for ax in figure.axes] == ["x", "y"]
    assert [list(line.get_ydata()) for ax in figure.axes for line in ax.lines] == [[1, 2], [5, 6], [3, 4], [7, 8]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_bits_have_a_panel_a_quantity():
    figure = against_bits(
        [2, 3], {"k": {"a": [0.4, 0.2]}, "l": {"b": [0.1, 0.05]}}, ylabels={"k": "error", "l": "nats"}
    )
    assert [(ax.get_title(), ax.get_ylabel()) for ax in figure.axes] == [("k", "error"), ("l", "nats")]
    assert [list(ax.lines[0].get_ydata()) for ax in figure.axes] == [[0.4, 0.2], [0.1, 0.05]]
