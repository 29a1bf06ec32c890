"""Designs differ in their heads alone; the study trains each of them and converts the multi-head one in every way."""

import pytest

from attncourse.lessons.grouped_query import study
from attncourse.lessons.grouped_query.sharing import DESIGNS, HEAD_DIM, build, trained
from attncourse.lessons.grouped_query.uptraining import WAYS


def parameters(name):
    return sum(parameter.numel() for parameter in build(DESIGNS[name]).parameters())


@pytest.mark.parametrize("name", DESIGNS)
def test_a_model_keeps_what_its_design_says(name):
    layer = build(DESIGNS[name]).stack.blocks[0].self_attention
    assert (layer.n_heads, layer.n_kv_heads, layer.head_dim) == (DESIGNS[name].heads, DESIGNS[name].kv_heads, HEAD_DIM)
    assert layer.cache_shape.n_kv_heads * sum(layer.cache_shape.widths) == DESIGNS[name].numbers_kept


def test_the_wider_design_has_as_many_parameters_as_own_heads():
    own, shared, wider = (parameters(f"h 8, g {end}") for end in ("8", "1", "1, wider"))
    assert shared < 0.94 * own and abs(wider / own - 1) < 0.001


def test_a_seed_decides_the_model():
    first, again, other = (trained(DESIGNS["h 8, g 2"], seed=seed, steps=2) for seed in (0, 0, 1))
    same = [[(a == b).all() for a, b in zip(first.parameters(), x.parameters(), strict=True)] for x in (again, other)]
    assert all(same[0]) and not all(same[1])


def test_every_design_and_way_is_recorded(monkeypatch):
    monkeypatch.setattr(study, "UPTRAINING", (0, 1))
    found = study.measure(seeds=2, steps=1)
    assert found["losses"].keys() == DESIGNS.keys()
    assert all(len(losses) == 2 for losses in found["losses"].values())
    own = found["losses"]["h 8, g 8"]
    assert found["converted"].keys() == {"0", "1"}
    assert all(ways.keys() == set(WAYS) for ways in found["converted"].values())
    assert found["converted"]["0"]["not converted"] == own != found["converted"]["0"]["mean"]
