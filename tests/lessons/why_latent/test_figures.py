"""Figures of what a cache costs say what they are given."""

from attncourse.lessons.why_latent.figures import (
    bars_by_design,
    bounds_and_measured,
    cache_against_context,
    decode_roofline,
    step_times,
)


def test_a_bar_has_its_models_size_and_its_designs_colour():
    ax = bars_by_design({"a": ("MHA", 500.0), "b": ("MLA", 7.25), "c": ("MHA", 20.0)}, xlabel="KB", digits=1)
    assert [bar.get_width() for bar in ax.patches] == [500.0, 7.25, 20.0]
    one, two, three = (bar.get_facecolor() for bar in ax.patches)
    assert one == three != two
    assert [text.get_text() for text in ax.texts] == ["500.0", "7.2", "20.0"]
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == ["MHA", "MLA"]
    low, high = ax.get_ylim()
    assert low > high, "the first model stands on top"


def test_curves_are_in_gigabytes():
    ax = cache_against_context([512, 1024], {"a": [1e9, 2e9], "b": [3e8, 3e8]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 2.0], [0.3, 0.3]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_parts_of_a_step_are_stacked_in_milliseconds():
    figure = step_times(
        {"a": {"weights": 1e-3, "cache": 2e-3}, "b": {"weights": 1e-3, "cache": 0.0}}, longest=5e-3, title="t"
    )
    (ax,) = figure.axes
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 1.0), (0, 1.0), (1.0, 2.0), (1.0, 0.0)]
    assert [text.get_text().strip() for text in ax.texts] == ["3.0", "1.0"]
    assert ax.get_xlim()[1] > 5.0 and ax.get_title() == "t"


def test_a_model_stands_on_the_line_up_to_the_ridge_and_not_above_it():
    ax = decode_roofline({"low": ("MHA", 1.0), "high": ("MLA", 400.0), "also": ("MHA", 2.0)}, ridge=200.0, device="d")
    points = {tuple(line.get_xdata()): line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
    assert points == {(1.0,): 1 / 200, (400.0,): 1.0, (2.0,): 2 / 200}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["MHA", "MLA"], "each design once"
    assert {"low", "high", "also"} < {text.get_text() for text in ax.texts}


def test_bounds_stand_beside_what_was_measured():
    ax = bounds_and_measured({"a": (1e-3, 2e-3), "b": (3e-3, 4e-3)}, {"a": 5e-3, "b": 6e-3}, device="d")
    assert [bar.get_height() for bar in ax.patches] == [1.0, 3.0, 2.0, 4.0, 5.0, 6.0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
