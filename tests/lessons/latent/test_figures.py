"""Figures of latent attention say what they are given."""

import pytest

from attncourse.lessons.latent.figures import (
    crossover_of_forms,
    energy_against_rank,
    interval,
    losses_of_conversion,
    losses_of_designs,
)
from attncourse.lessons.latent.schematic import two_forms


def test_the_schematic_names_every_matrix_and_puts_the_up_projections_where_each_form_has_them():
    (ax,) = two_forms().axes
    texts = [text.get_text() for text in ax.texts]
    for name in ("DQ", "UQ", "QR", "DKV", "KR"):
        assert texts.count(f"$W_{{{name}}}$") == 2, name
    assert texts.count("$W_{UK}$") == 1 and texts.count("$W_{UV}$") == 2 and texts.count(r"$W_{UK}^{\top}$") == 1
    assert texts.count("key $k_j$") == texts.count("value $v_j$") == texts.count("mixture of latents") == 1
    assert texts.count("cached") == 2


def test_lines_carry_the_values_they_were_given_and_those_before_training_are_dashed():
    ax = energy_against_rank({"a": [0.5, 1.0], "before training, a": [0.9, 1.0]}, share=0.95)
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.5, 1.0], [0.9, 1.0], [0.95, 0.95]]
    assert list(ax.lines[0].get_xdata()) == [1, 2]
    assert [line.get_linestyle() for line in ax.lines[:2]] == ["-", "--"]


def test_designs_are_compared_seed_by_seed():
    recorded = {"one, wide": [float(i) for i in range(8)], "two": [i + 0.5 + 0.1 * (i % 2) for i in range(8)]}
    figure = losses_of_designs(recorded, {"two": 3.3}, numbers={"one, wide": 4, "two": 2}, pairs=[("two", "one, wide")])
    left, right = figure.axes
    assert [x.get_text() for x in left.get_xticklabels()] == ["one\nwide\n(4)", "two\n(2)"]
    assert [list(line.get_ydata()) for line in left.lines] == [recorded["one, wide"], recorded["two"], [3.3]]
    assert list(right.lines[0].get_xdata()) == pytest.approx([0.5, 0.6] * 4)
    assert [x.get_text() for x in right.get_yticklabels()] == ["two\nminus one, wide"]


def test_an_interval_is_that_of_students_t():
    mean, low, high = interval([1.0, 2, 3, 4, 5])
    assert mean == 3 and high - mean == pytest.approx(mean - low) == pytest.approx(2.776 * (2.5 / 5) ** 0.5)


def test_each_way_to_convert_has_a_dot_per_seed_and_one_for_the_model_here():
    recorded = {
        "left out": {"plain": {"2": [0.4, 0.5], "4": [0.2, 0.3]}, "weighted": {"2": [0.3, 0.4], "4": [0.1, 0.2]}},
        "added": {"plain": {"2": [0.2, 0.3], "4": [0.1, 0.1]}, "weighted": {"2": [0.2, 0.2], "4": [0.01, 0.02]}},
    }
    live = {measure: {way: {"2": 0.25, "4": 0.05} for way in ways} for measure, ways in recorded.items()}
    figure = losses_of_conversion(recorded, live, ylabels=("share", "nats"))
    for ax, measure in zip(figure.axes, recorded, strict=True):
        drawn = [list(line.get_ydata()) for line in ax.lines]
        assert drawn == [
            part for way in ("plain", "weighted") for rank in ("2", "4")
            for part in (recorded[measure][way][rank], [live[measure][way][rank]])
        ]  # fmt: skip
    assert [ax.get_ylabel() for ax in figure.axes] == ["share", "nats"]


def test_operations_stand_beside_seconds_and_both_have_the_predicted_place():
    figure = crossover_of_forms([1, 2], {"a": [1e6, 2e6]}, {"a": [0.001, 0.003]}, predicted=1.5)
    left, right = figure.axes
    assert list(left.lines[0].get_ydata()) == [1.0, 2.0] and list(right.lines[0].get_ydata()) == [1.0, 3.0]
    assert all(list(ax.lines[1].get_xdata()) == [1.5, 1.5] for ax in (left, right))
