"""The needle: what is drawn, that readers side by side are readers apart, and that each reading learns to find it."""

import pytest
import torch

from attncourse.hard_attention import hard_attention
from attncourse.lessons.hard_attention.needle import SYMBOLS, NeedleReaders, draw_needles, needle_accuracy, train_needle
from attncourse.softmax_attention import softmax_attention


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_token_is_marked_and_holds_the_answer():
    needles = draw_needles(500, length=7, generator=rng())
    symbols, marks = needles.tokens.split([SYMBOLS, 1], dim=-1)
    assert (symbols.sum(dim=-1) == 1).all() and (marks[..., 0].sum(dim=-1) == 1).all()
    each = torch.arange(500)
    assert (marks[each, needles.place, 0] == 1).all()
    assert torch.equal(symbols[each, needles.place].argmax(dim=-1), needles.answer)
    assert needles.place.bincount(minlength=7).min() > 0 and needles.answer.bincount(minlength=SYMBOLS).min() > 0
    assert torch.equal(draw_needles(500, length=7, generator=rng()).tokens, needles.tokens)


@pytest.mark.parametrize("reading", ["soft", "score_function"])
def test_readers_side_by_side_are_readers_apart(reading):
    readers = NeedleReaders(3, reading, generator=rng(1)).eval()
    tokens = torch.stack([draw_needles(4, length=5, generator=rng(i)).tokens for i in range(3)])
    logits, read = readers(tokens)
    assert (read is None) == (reading == "soft")
    for i in range(3):
        q = readers.query[i].expand(4, 1, 1, -1)
        k, v = (tokens[i] @ w[i] for w in (readers.w_k, readers.w_v))
        attend = softmax_attention if reading == "soft" else lambda *x: hard_attention(*x).out
        wanted = attend(q, k[:, None], v[:, None])[:, 0, 0] @ readers.w_out[i]
        torch.testing.assert_close(logits[i], wanted)
    first = torch.autograd.grad(logits[0].sum(), readers.w_out, retain_graph=True)[0]
    assert first[0].any() and not first[1:].any()  # no reader meets another's gradient


def test_hard_readers_sample_in_training_and_not_in_evaluation():
    readers = NeedleReaders(2, "straight_through", generator=rng(1))
    tokens = draw_needles(50, length=9, generator=rng()).tokens.expand(2, -1, -1, -1)
    drawn = [readers(tokens, generator=rng(seed))[1].index for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    readers.eval()
    assert torch.equal(readers(tokens)[1].index, readers(tokens, generator=rng(5))[1].index)


@pytest.mark.parametrize("way", [("soft", False), ("straight_through", False), ("score_function", True)], ids=str)
def test_each_reading_learns_to_find_the_needle(way):
    reading, baseline = way
    readers, curve = train_needle(reading, baseline=baseline, models=3, length=8, steps=300, every=100)
    assert curve.shape == (4, 3) and curve[0].max() < 0.5
    assert curve[-1].median() > 0.95
    fresh = draw_needles(500, length=8, generator=rng(9))
    torch.testing.assert_close(needle_accuracy(readers, fresh), curve[-1], atol=0.08, rtol=0)


@pytest.mark.bad_input
def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="reading must be one of soft, straight_through, score_function, got 'hard'"):
        NeedleReaders(1, "hard", generator=rng())
    with pytest.raises(ValueError, match="a baseline belongs to 'score_function', got reading='soft'"):
        train_needle("soft", baseline=True)
    with pytest.raises(ValueError, match="samples in training: give it a generator"):
        NeedleReaders(1, "score_function", generator=rng())(torch.zeros(1, 2, 3, SYMBOLS + 1))
