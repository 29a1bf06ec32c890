"""Figures of latent attention say what they are given."""

from matplotlib.patches import Rectangle

from attncourse.lessons.latent.figures import crossover_of_forms, energy_against_rank, latent_diagram, loss_against_rank


def test_boxes_are_as_wide_as_their_vectors():
    sizes = dict(kv_lora_rank=6, qk_nope_head_dim=3, qk_rope_head_dim=2, v_head_dim=4)
    ax = latent_diagram(d_model=20, n_heads=5, **sizes)
    widths = [patch.get_width() for patch in ax.patches if isinstance(patch, Rectangle)]
    assert widths == [20, 6, 2] + 5 * [3, 2, 4]
    texts = [text.get_text() for text in ax.texts]
    assert {"token, 20", "latent, 6", "2"} <= set(texts) and texts.count("k") == texts.count("v") == 5


def test_lines_carry_the_values_they_were_given():
    ax = energy_against_rank({"a": [0.5, 1.0], "b": [0.9, 1.0]}, share=0.95)
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.5, 1.0], [0.9, 1.0], [0.95, 0.95]]
    assert list(ax.lines[0].get_xdata()) == [1, 2]
    ax = loss_against_rank([2, 4], {"before": [0.3, 0.1], "after": [0.2]})
    assert list(ax.lines[0].get_ydata()) == [0.3, 0.1] and list(ax.lines[1].get_xdata()) == [2]


def test_operations_stand_beside_seconds_and_both_have_the_predicted_place():
    figure = crossover_of_forms([1, 2], {"a": [1e6, 2e6]}, {"a": [0.001, 0.003]}, predicted=1.5)
    left, right = figure.axes
    assert list(left.lines[0].get_ydata()) == [1.0, 2.0] and list(right.lines[0].get_ydata()) == [1.0, 3.0]
    assert all(list(ax.lines[1].get_xdata()) == [1.5, 1.5] for ax in (left, right))
