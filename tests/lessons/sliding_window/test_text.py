"""The text models, their long rows, the control with capped distances, and the sink."""

import pytest
import torch

from attncourse.lessons.sliding_window import study
from attncourse.lessons.sliding_window.text import (
    FIRST,
    LENGTH,
    LONG,
    CappedDistances,
    capped_distances,
    loss_by_place,
    losses_on_long_rows,
    sink_measures,
    text_rows,
    train_text,
    weight_on_first,
)
from attncourse.models.decoder import next_token_loss
from attncourse.models.study import read_study
from attncourse.models.text import decode, read_text


@pytest.fixture(scope="module")
def model():
    return train_text(steps=2)


def test_rows_are_pieces_of_the_text_and_begin_alike_if_they_shall():
    rows = text_rows(5, 30, torch.Generator().manual_seed(0), held_out=True)
    assert all(decode(row) in read_text(held_out=True) for row in rows)
    fixed = text_rows(5, 30, torch.Generator().manual_seed(0), held_out=True, first_token=True)
    assert (fixed[:, 0] == FIRST).all() and torch.equal(fixed[:, 1:], rows[:, 1:])


def test_the_mean_over_places_is_the_loss(model):
    rows = text_rows(3, 21, torch.Generator().manual_seed(1), held_out=True)
    with torch.no_grad():
        wanted = next_token_loss(model, rows)
    torch.testing.assert_close(loss_by_place(model, 20, count=3).mean(), wanted)


def test_a_window_hides_and_a_sink_shows_the_first_token(model):
    whole, same, narrow = (loss_by_place(model, 20, count=3, **seen) for seen in ({}, {"window": 20}, {"window": 4}))
    torch.testing.assert_close(whole, same)
    torch.testing.assert_close(whole[:4], narrow[:4])
    assert not torch.allclose(whole[8:], narrow[8:])
    kept = loss_by_place(model, 20, count=3, window=4, sinks=1)
    assert not torch.allclose(kept[8:], narrow[8:])


def test_capped_distances_change_nothing_within_the_cap_and_see_all_keys(model):
    layer = model.stack.blocks[0].self_attention
    x = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, same, capped = layer(x), CappedDistances(layer, 11)(x), CappedDistances(layer, 4)(x)
        torch.testing.assert_close(wanted, same)
        torch.testing.assert_close(wanted[:, :5], capped[:, :5])
        assert not torch.allclose(wanted[:, 5:], capped[:, 5:])
        x[:, 0] += 1
        assert not torch.allclose(CappedDistances(layer, 4)(x)[:, -1], capped[:, -1]), "the first key is still seen"


def test_a_key_beyond_the_cap_is_turned_as_one_at_the_cap(model):
    layer = model.stack.blocks[0].self_attention
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        q, k, v = (w(x)[0].view(9, 2, 32).transpose(0, 1) for w in (layer.w_q, layer.w_k, layer.w_v))
        far = [min(8 - j, 4) for j in range(9)]
        turned = torch.cat([layer.rope(q[None, :, 8:], torch.tensor([d])) for d in far], dim=2)[0]
        scores = (turned * k).sum(dim=-1) / 32**0.5
        wanted = layer.w_o((scores.softmax(dim=-1)[:, None] @ v).flatten())
        torch.testing.assert_close(CappedDistances(layer, 4)(x)[0, 8], wanted)


def test_the_layers_come_back_after_the_control(model):
    before = [block.self_attention for block in model.stack.blocks]
    with pytest.raises(KeyError), capped_distances(model, 4):
        assert all(isinstance(block.self_attention, CappedDistances) for block in model.stack.blocks)
        raise KeyError
    assert [block.self_attention for block in model.stack.blocks] == before


def test_a_long_row_differs_by_the_cap_behind_it_alone(model):
    free, capped = losses_on_long_rows(model), losses_on_long_rows(model, cap=LENGTH - 1)
    assert free.shape == (LONG,)
    torch.testing.assert_close(free[:LENGTH], capped[:LENGTH])
    assert not torch.allclose(free[LENGTH:], capped[LENGTH:])


def test_weights_on_the_first_token_belong_to_the_characters_beside_them(model):
    weights, asking = weight_on_first(model, first_token=True)
    assert weights.shape == (2, 2, 128, LENGTH - LENGTH // 2) and asking.shape == weights.shape[2:]
    rows = text_rows(128, LENGTH, torch.Generator().manual_seed(3), held_out=True, first_token=True)
    whole = model.attention_weights(rows[:4])
    torch.testing.assert_close(weights[1, 0, :4], whole[1, :4, 0, LENGTH // 2 :, 0])
    assert torch.equal(asking, rows[:, LENGTH // 2 :])


def test_the_study_holds_every_seed_and_says_what_the_chapter_says(model):
    results = read_study(study.NAME).results
    counts = {name: len(values["short"]) for name, values in results["text"].items()}
    assert counts == {"full": 4, "full, distances capped": 4, "window": 4, "full, trained on long rows": 3}
    full, capped = (results["text"][name] for name in ("full", "full, distances capped"))
    for short, beyond, held in zip(full["short"], full["beyond"], capped["beyond"], strict=True):
        assert beyond - short > 2 * (held - short)
    fixed = results["sinks"]["fixed first token"]
    assert set(fixed) == set(sink_measures(model, first_token=True))
    for full, window, kept in zip(fixed["full"], fixed["window"], fixed["window, 1 sink"], strict=True):
        assert window - full > 1.5 * (kept - full)
    assert {name: len(seeds) for name, seeds in results["recall"].items()} == dict.fromkeys(results["recall"], 4)


def test_numbers_of_seeds_are_collected_in_order(monkeypatch):
    def of_seed(seed):
        found = {"full": {"short": float(seed), "beyond": 0.5}}
        return {"text": found | ({"long": {"short": 9.0}} if seed < study.FEWER else {}), "sinks": {}}

    monkeypatch.setattr(study, "text_of_seed", of_seed)
    monkeypatch.setattr(study, "longer_of_seed", lambda seed: {"full": 10.0 + seed})
    assert study.text_study(4) == {
        "text": {"full": {"short": [0, 1, 2, 3], "beyond": [0.5] * 4}, "long": {"short": [9.0] * 3}},
        "sinks": {},
        "longer": {"full": [10, 11, 12]},
    }
