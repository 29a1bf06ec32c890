"""Pictures of heads say what they are given."""

import pytest
import torch
from matplotlib.patches import Arc

from attncourse.lessons.multi_head import figures

RECORDED, LIVE = {"1": [0.7, 0.75], "2": [1.0, 0.9]}, {"2": 0.95}


def test_the_schematic_names_what_every_head_has_of_its_own():
    (ax,) = figures.split_into_heads().axes
    texts = {text.get_text() for text in ax.texts}
    assert {f"${letter}_{head}$" for letter in "QKV" for head in (1, 2)} <= texts
    assert {"head 1", "head 2", "side by side", "$W_O$"} <= texts
    assert all(text.get_fontsize() >= 9 for text in ax.texts)


def test_two_heads_shows_what_is_read_and_a_dot_per_seed():
    reads = {"any": [0.0, 1.0, 1.0], "mean": [0.0, 0.5, 1.0], "any - mean": [0.0, 0.5, 0.0]}
    left, right = figures.two_heads(["00", "01", "11"], reads, RECORDED, LIVE, bound=0.75).axes
    assert [list(line.get_ydata()) for line in left.lines[:3]] == list(reads.values())
    bound, one, two, here = right.lines
    assert list(bound.get_ydata()) == [0.75, 0.75]
    assert [list(line.get_ydata()) for line in (one, two, here)] == [[0.7, 0.75], [1.0, 0.9], [0.95]]
    places = [*two.get_xdata(), *here.get_xdata()]
    assert len(set(places)) == 3, "dots of equal height hide each other"
    assert [label.get_text() for label in right.get_xticklabels()] == ["1", "2"]


def test_each_kind_has_its_seeds_and_its_chance():
    ax = figures.best_of_each_kind(RECORDED, {"1": 0.6, "2": 0.95}, {"1": 0.1, "2": 0.2})
    heights = [list(line.get_ydata()) for line in ax.lines]
    assert heights == [[0.7, 0.75], [0.6], [1.0, 0.9], [0.95], [0.1, 0.1], [0.2, 0.2]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "recorded seeds", "trained here", "even weights",
    ]  # fmt: skip


def test_arcs_join_who_looks_to_what_is_looked_at():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.2, 0.0], [0.5, 0.1, 0.4]])
    (ax,) = figures.head_arcs({"a head": weights}, text="a b", least=0.3).axes
    arcs = [(arc.center[0], arc.width) for arc in ax.patches if isinstance(arc, Arc)]
    assert arcs == [(0.5, 1), (1.0, 2)]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0], [2]], "who looks at itself has a dot"
    assert [text.get_text() for text in ax.texts] == ["a", "␣", "b"]
    thin, thick = sorted(arc.get_linewidth() for arc in ax.patches)
    assert thick == pytest.approx(thin * 0.8 / 0.5)


def test_phrase_heads_shows_models_and_silenced_heads_side_by_side():
    left, right = figures.phrase_heads(RECORDED, LIVE, {"1.1": [0.3]}, {"1.1": 0.4}, chance=0.2).axes
    assert [list(line.get_ydata()) for line in left.lines[:3]] == [[0.7, 0.75], [1.0, 0.9], [0.95]]
    assert [list(line.get_ydata()) for line in right.lines[:2]] == [[0.3], [0.4]]
    assert all(list(ax.lines[-1].get_ydata()) == [0.2, 0.2] for ax in (left, right))


def test_an_ablation_starts_at_no_head_silenced():
    live = {"least": [1.0, 2.0], "most": [1.0, 3.0]}
    ax = figures.ablation([{"least": [1.1, 2.1], "most": [1.1, 3.1]}], live)
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1]] * 4
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.1, 2.1], [1.0, 2.0], [1.1, 3.1], [1.0, 3.0]]
