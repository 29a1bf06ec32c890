"""Readers see what they are said to see, and the study records each of them."""

import pytest
import torch

from attncourse.lessons.global_local import study
from attncourse.lessons.global_local.documents import VALUES
from attncourse.lessons.global_local.readers import (
    LENGTH,
    LOOKUP_READERS,
    TOPIC_READERS,
    answers,
    most_common_right,
    topics_right,
    train_lookup,
    train_topic,
)


@pytest.mark.parametrize(
    ("name", "last"), [("local", 8), ("one global token", LENGTH - 1), ("full attention", LENGTH - 1)]
)
def test_token_0_depends_on_what_its_reader_can_reach(name, last):
    model = TOPIC_READERS[name].build(9, 3, LENGTH, seed=0)
    x = torch.randn(1, LENGTH, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.from_embedded(x)[0, 0].sum(), x)
    assert gradient[0].abs().sum(dim=-1).nonzero().max() == last


def test_shared_matrices_are_one_and_others_are_not():
    for name, shared in (("one global token", False), ("one global token, shared matrices", True)):
        for block in TOPIC_READERS[name].build(9, 3, LENGTH, seed=0).blocks:
            layer = block.attention
            pairs = zip(
                (layer.w_q, layer.w_k, layer.w_v), (layer.w_q_global, layer.w_k_global, layer.w_v_global), strict=True
            )
            assert all((ours.weight is theirs.weight) == shared for ours, theirs in pairs)


def test_training_is_seeded_and_scored():
    first, again = (train_topic(TOPIC_READERS["local"], seed=1, steps=2) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), again.parameters(), strict=True))
    assert 0 <= topics_right(first) <= 1


def test_answers_stand_beside_their_values():
    model = train_lookup(LOOKUP_READERS["four global tokens"], pairs=3, seed=0, steps=1)
    logits, values = answers(model, 7, pairs=3, rng=torch.Generator().manual_seed(0))
    assert logits.shape == (7, 3, VALUES) and values.shape == (7, 3)


@pytest.mark.parametrize(("pairs", "share"), [(1, 1.0), (2, 0.5 + 0.5 / VALUES)])
def test_the_most_common_value_is_right_as_often_as_counting_says(pairs, share):
    assert most_common_right(pairs) == pytest.approx(share, abs=0.01)


def test_the_study_records_every_reader_and_seed(monkeypatch):
    monkeypatch.setattr(study, "train_topic", lambda reader, *, seed: seed)
    monkeypatch.setattr(study, "train_lookup", lambda reader, *, pairs, seed: 10 * pairs + seed)
    monkeypatch.setattr(study, "topics_right", lambda model: model + 0.1234)
    monkeypatch.setattr(study, "values_right", lambda model, *, pairs: model)
    found = study.measure(seeds=2)
    assert found["topics"] == {key: [0.123, 1.123] for key in TOPIC_READERS}
    assert found["values"] == {key: {str(p): [10 * p, 10 * p + 1] for p in study.PAIRS} for key in LOOKUP_READERS}
