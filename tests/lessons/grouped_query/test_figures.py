"""Figures of shared keys and values say what they are given."""

import math

import pytest
from matplotlib.patches import FancyArrowPatch, Rectangle

from attncourse.lessons.grouped_query import figures
from attncourse.lessons.grouped_query.schematic import three_designs


def test_the_schematic_has_an_arrow_per_query_head_and_says_what_is_kept():
    (ax,) = three_designs({"own": 4, "two": 2, "one": 1}, heads=4).axes
    texts = [text.get_text() for text in ax.texts]
    arrows = [patch._posA_posB[1][0] for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    keys = sorted(
        text.get_position()[0] for text in ax.texts if text.get_text().startswith("k") and len(text.get_text()) == 2
    )
    read = [min(range(len(keys)), key=lambda i: abs(keys[i] - end)) for end in arrows]
    assert read == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6]
    assert [texts.count(key) for key in ("q4", "k1", "k2", "v4")] == [3, 3, 2, 1]
    assert {f"kept per token: {what}" for what in ("4 keys, 4 values", "2 keys, 2 values", "1 key, 1 value")} <= {
        *texts
    }
    assert all(text.get_fontsize() >= 9 for text in ax.texts)


def test_copies_on_further_devices_are_pale():
    figure = figures.heads_on_devices({"own": [0, 1, 2, 3], "one": [0, 0, 0, 0]}, devices=2)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["own\none device", "one\none device", "2 devices: the cache once", "2 devices: the cache 2 times"]
    frames = [sum(isinstance(patch, Rectangle) for patch in ax.patches) for ax in figure.axes]
    assert frames == [1, 1, 2, 2]
    one, two = figure.axes[1], figure.axes[3]
    assert [tuple(line.get_xdata()) for line in one.lines] == [(0, 1.5), (1, 1.5), (2, 1.5), (3, 1.5)]
    assert [tuple(line.get_xdata()) for line in two.lines] == [(0, 0.5), (1, 0.5), (2, 2.5), (3, 2.5)]
    inks = [text.get_color() for text in two.texts if text.get_position()[1] == 0]
    assert len(inks) == 2 and inks[0] != inks[1]
    assert all(text.get_fontsize() >= 9 for ax in figure.axes for text in ax.texts)


def test_steps_are_in_milliseconds():
    seconds = {"plain PyTorch": [0.004, 0.002], "bound by bytes": [0.003, math.nan]}
    ax = figures.step_times([8, 1], seconds)
    assert list(ax.lines[0].get_ydata()) == [4.0, 2.0] and ax.get_xscale() == ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(seconds)


def test_designs_stand_over_what_they_keep():
    ax = figures.losses_of_designs({"h 8, g 8": [2.5, 2.6], "h 1, g 1": [2.7]}, {"h 8, g 8": 2.55}, kept={"h 8, g 8": 64, "h 1, g 1": 8})  # fmt: skip
    assert [label.get_text() for label in ax.get_xticklabels()] == ["h 8\ng 8\n64 numbers", "h 1\ng 1\n8 numbers"]
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.5, 2.6], [2.55], [2.7]]


@pytest.mark.parametrize("steps", ["0", "9"])
def test_conversion_has_a_panel_per_number_of_steps(steps):
    recorded = {"0": {"mean": [3.0, 3.2], "first": [3.3]}, "9": {"mean": [2.6, 2.7], "first": [2.8]}}
    figure = figures.losses_of_conversion(recorded, {steps: {"mean": 2.9}})
    assert [ax.get_title() for ax in figure.axes] == ["right after conversion", "after 9 more steps"]
    drawn = [list(line.get_ydata()) for line in figure.axes[steps == "9"].lines]
    assert drawn == [recorded[steps]["mean"], [2.9], recorded[steps]["first"]]
