"""The two decoders and what is measured of them."""

import math

import pytest
import torch

from attncourse.lessons.self_cross_causal import study
from attncourse.lessons.self_cross_causal.cheating import (
    CAUSAL,
    LENGTH,
    MEASURES,
    build,
    held_out_rows,
    loss_by_frequency,
    loss_in_one_call,
    loss_without_future,
    measure,
    share_of_known_words,
    train_on_text,
    write,
)
from attncourse.models.study import read_study
from attncourse.models.text import CHARACTERS, decode, encode, read_text


def test_the_two_differ_in_the_mask_alone():
    causal, open_one = (build(causal=causal, seed=3) for causal in CAUSAL.values())
    for a, b in zip(causal.parameters(), open_one.parameters(), strict=True):
        assert torch.equal(a, b)
    row = held_out_rows(1)[:, :-1]
    other = row.clone()
    other[:, 5] = (other[:, 5] + 1) % len(CHARACTERS)
    moved = [(model(other) != model(row)).any(dim=-1)[0, :5].any().item() for model in (causal, open_one)]
    assert moved == [False, True]


def test_a_causal_model_loses_the_same_with_and_without_the_future():
    rows = held_out_rows(3)
    one_call, prefixes = (f(build(causal=True), rows) for f in (loss_in_one_call, loss_without_future))
    assert one_call.shape == prefixes.shape == (LENGTH,)
    torch.testing.assert_close(one_call, prefixes, rtol=1e-4, atol=1e-4)
    open_one = build(causal=False)
    assert not torch.allclose(loss_in_one_call(open_one, rows), loss_without_future(open_one, rows), atol=1e-4)
    torch.testing.assert_close(loss_in_one_call(open_one, rows)[-1], loss_without_future(open_one, rows)[-1])


def test_the_frequency_table_is_better_than_nothing():
    assert 2 < loss_by_frequency(held_out_rows(50)) < math.log(len(CHARACTERS))


def test_held_out_rows_are_the_same_at_every_call_and_stand_in_the_held_out_text():
    rows = held_out_rows(4)
    assert torch.equal(rows, held_out_rows(4)) and rows.shape == (4, LENGTH + 1)
    assert all(decode(row) in read_text(held_out=True) for row in rows)


def test_words_are_known_if_the_training_text_holds_them():
    assert share_of_known_words(["cut the object xqzzy cut"]) == 2 / 3
    assert share_of_known_words(["cut is of cut"]) == 0, "no word of three letters"


def test_every_measure_is_taken(monkeypatch):
    monkeypatch.setattr("attncourse.lessons.self_cross_causal.cheating.held_out_rows", lambda count: held_out_rows(2))
    model = build(causal=True)
    losses = train_on_text(model, steps=2)
    found = measure(model, losses)
    assert tuple(found) == MEASURES
    assert found["training"] == pytest.approx(sum(losses) / 50) and 0 <= found["known words"] <= 1
    texts = write(model, held_out_rows(2), steps=3)
    assert [len(encode(text)) for text in texts] == [3, 3]


def test_the_study_holds_every_measure_of_five_seeds():
    results = read_study(study.NAME).results
    for name in CAUSAL:
        assert {what: len(values) for what, values in results[name].items()} == dict.fromkeys(MEASURES, 5)
    cheat, causal = results["no mask"], results["causal"]
    assert max(cheat["training"]) < min(causal["training"]) and max(causal["no future"]) < min(cheat["no future"])


def test_the_study_asks_each_model_once_a_seed(monkeypatch):
    monkeypatch.setattr(study, "train_on_text", lambda model, seed: [float(seed)])
    monkeypatch.setattr(study, "measure", lambda model, losses: dict.fromkeys(MEASURES, losses[0]))
    results = study.study(2)
    assert results["causal"]["training"] == results["no mask"]["known words"] == [0.0, 1.0]
    assert {"by frequency", "held-out text"} <= {*results}
