"""The needle: what is drawn, that readers side by side are readers apart, and that each reading learns to find it."""

import pytest
import torch

from attncourse.hard_attention import gumbel_noise, hard_attention
from attncourse.lessons.hard_attention.needle import (
    SYMBOLS,
    NeedleReaders,
    draw_needles,
    needle_accuracy,
    steps_to,
    top_k_weights,
    train_needle,
    weight_on_needle,
)
from attncourse.softmax_attention import softmax_attention


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("marked", [1, 3])
def test_the_marked_tokens_hold_the_answer(marked):
    needles = draw_needles(500, length=7, marked=marked, generator=rng())
    symbols, marks = needles.tokens.split([SYMBOLS, 1], dim=-1)
    assert (symbols.sum(dim=-1) == 1).all() and (marks[..., 0].sum(dim=-1) == marked).all()
    assert (marks[..., 0].gather(1, needles.places) == 1).all()
    assert torch.equal((symbols * marks).sum(dim=1), needles.answer)
    assert (needles.answer.sum(dim=1) == marked).all()  # no symbol twice
    assert needles.places.flatten().bincount(minlength=7).min() > 0 and needles.answer.sum(dim=0).min() > 0
    assert torch.equal(draw_needles(500, length=7, marked=marked, generator=rng()).tokens, needles.tokens)


def test_top_k_mixes_the_best_keys_alone():
    scores = torch.randn(50, 7, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(top_k_weights(scores, 7), scores.softmax(dim=-1))
    weights = top_k_weights(scores, 3)
    least = scores.sort(descending=True).values[:, 2:3]
    wanted = scores.exp() * (scores >= least)
    torch.testing.assert_close(weights, wanted / wanted.sum(dim=-1, keepdim=True))


def test_noise_chooses_and_does_not_weigh():
    scores = torch.tensor([2.0, 1.0, 0.0])
    weights = top_k_weights(scores, 2, noise=torch.tensor([-9.0, 0.0, 3.0]))
    torch.testing.assert_close(weights, torch.cat([torch.zeros(1), scores[1:].softmax(dim=0)]))
    noise = gumbel_noise(20_000, 3, generator=rng(3))
    both = (top_k_weights(scores.expand(20_000, 3), 2, noise=noise) > 0).double().mean(dim=0)
    a, b, c = scores.softmax(dim=0).tolist()
    left_out = [b * c / (1 - b) + c * b / (1 - c), a * c / (1 - a) + c * a / (1 - c), a * b / (1 - a) + b * a / (1 - b)]
    torch.testing.assert_close(both, 1 - torch.tensor(left_out).double(), atol=0.015, rtol=0)


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


@pytest.mark.parametrize(
    "way", [("soft", False), ("straight_through", False), ("score_function", True), ("noisy_top_k", False)], ids=str
)
def test_each_reading_learns_to_find_the_needle(way):
    reading, baseline = way
    readers, curve = train_needle(reading, baseline=baseline, models=3, length=8, steps=300, every=100)
    assert curve.shape == (4, 3) and curve[0].max() < 0.5
    assert curve[-1].median() > 0.95
    fresh = draw_needles(500, length=8, generator=rng(9))
    torch.testing.assert_close(needle_accuracy(readers, fresh), curve[-1], atol=0.08, rtol=0)


def test_an_answer_of_two_symbols_is_right_if_both_are():
    readers = NeedleReaders(1, "soft", generator=rng())
    needles = draw_needles(300, length=2, marked=2, generator=rng(1))
    with torch.no_grad():  # a read of two marked tokens tells both symbols: values are the symbols themselves
        readers.query.zero_()
        readers.w_v.zero_()[0, :, :SYMBOLS].fill_diagonal_(1.0)
        readers.w_out.zero_()[0, :SYMBOLS].fill_diagonal_(1.0)
        assert needle_accuracy(readers, needles).tolist() == [1.0]
        readers.w_out[0, :, 0] = 9.0  # now it names the symbol 0 always
        named = needles.answer[:, 0].mean()
        assert needle_accuracy(readers, needles).item() == pytest.approx(named.item()) and named < 0.5


def test_a_reader_can_be_read_in_another_way_and_stays_as_it_was():
    readers = NeedleReaders(2, "soft", generator=rng(1))
    needles = draw_needles(300, length=9, generator=rng())
    soft, hard = needle_accuracy(readers, needles), needle_accuracy(readers, needles, reading="score_function")
    assert readers.reading == "soft" and readers.training and not torch.equal(soft, hard)
    readers.reading = "score_function"
    assert torch.equal(needle_accuracy(readers, needles), hard)


def test_the_weight_on_the_needle_is_that_of_the_softmax():
    readers = NeedleReaders(2, "soft", generator=rng(1))
    with torch.no_grad():
        readers.w_k.zero_()
        readers.query.fill_(1.0)
        readers.w_k[0, SYMBOLS] = 0.25  # 16 entries of 0.25, by 1, by 1 / 4: a mark is worth 1
        readers.w_k[1, 3] = 0.5  # the second reader sees symbol 3 alone, worth 2
    needles = draw_needles(400, length=5, generator=rng())
    first, second = weight_on_needle(readers, needles)
    e = torch.tensor(1.0).exp()
    torch.testing.assert_close(first, (e / (e + 4)).expand(SYMBOLS))
    assert second[3] > 0.5 and max(second[:3].max(), second[4:].max()) < 0.25


def test_the_first_step_above_the_share_counts():
    curve = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.2, 0.5], [0.5, 0.97, 0.5]])
    assert steps_to(curve, every=10) == [10, 20, None]


@pytest.mark.bad_input
def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="reading must be one of soft, .*, noisy_top_k, got 'hard'"):
        NeedleReaders(1, "hard", generator=rng())
    with pytest.raises(ValueError, match="a baseline belongs to 'score_function', got reading='soft'"):
        train_needle("soft", baseline=True)
    with pytest.raises(ValueError, match="samples in training: give it a generator"):
        NeedleReaders(1, "score_function", generator=rng())(torch.zeros(1, 2, 3, SYMBOLS + 1))
