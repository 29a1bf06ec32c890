"""Memories are trained as their names say, and the study holds what the chapter draws."""

import pytest

from attncourse.lessons.linear_attention.recalling import MEMORIES, PAIRS, train_memory
from attncourse.lessons.linear_attention.streaming import EDGES
from attncourse.lessons.linear_attention.study import LONG_SEEDS, LONGER, NAME, REWRITING, SEEDS
from attncourse.models.study import read_study


@pytest.mark.parametrize("width", [16, 5])
def test_heads_are_as_wide_as_asked(width):
    for make in MEMORIES.values():
        layer = make(width)
        assert layer.w_k.weight.shape == layer.w_v.weight.shape == (width, 64)


def test_a_seed_decides_what_is_learned():
    first, again, other = (train_memory("delta rule", rewrite=True, seed=seed, steps=20) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == len(PAIRS) and all(0 <= share <= 1 for share in first)


def test_the_study_has_every_seed_and_every_curve():
    results = read_study(NAME).results
    assert list(results) == [str(seed) for seed in SEEDS]
    for seed in results.values():
        assert list(seed["recall"]) == list(MEMORIES) and list(seed["rewritten"]) == list(REWRITING)
        assert {len(row) for part in ("recall", "rewritten") for row in seed[part].values()} == {len(PAIRS)}
        assert {len(row) for row in seed["loss"].values()} == {len(EDGES) - 1}
        assert set(seed["afresh"]) < set(seed["loss"])


def test_the_longer_study_has_every_memory_but_softmax():
    results = read_study(LONGER).results
    assert list(results) == [str(seed) for seed in LONG_SEEDS]
    for seed in results.values():
        assert ["softmax", *seed] == list(MEMORIES) and {len(row) for row in seed.values()} == {len(PAIRS)}
