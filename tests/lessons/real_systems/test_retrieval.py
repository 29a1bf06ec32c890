"""The library, its search and its reader."""

import math
from collections import Counter

import pytest
import torch

from attncourse.lessons.real_systems import retrieval
from attncourse.lessons.real_systems.retrieval import (
    HIDDEN,
    MIDDLE,
    PAD,
    Cloze,
    Passages,
    Reader,
    bm25_weights,
    count_words,
    draw_cloze,
    make_passages,
    pointer_loss,
    read_answers,
    read_passages,
    read_words,
    retrieve,
)
from attncourse.models.training import train


def passages_of(*texts, held_out=None) -> Passages:
    return make_passages([read_words(text) for text in texts], held_out or [False] * len(texts))


def draw_passages(b, p, s, *, seed=0):
    """Random tokens and lengths, of which at least one is whole and at least one is not."""
    rng = torch.Generator().manual_seed(seed)
    tokens, lengths = torch.randint(2, 60, (b, p, s), generator=rng), torch.randint(1, s, (b, p), generator=rng)
    lengths[:, 0] = s
    return tokens.masked_fill(torch.arange(s) >= lengths[..., None], PAD), lengths


def test_words_are_words_numbers_and_marks():
    assert read_words('The "__enter__()" of 42 x[1:2].') == [
        "The", '"', "__enter__", "(", ")", '"', "of", "42", "x", "[", "1", ":", "2", "]", ".",
    ]  # fmt: skip
    library = passages_of("Word sword word", "a Word")
    assert library.vocabulary == {"word": 2, "sword": 3, "a": 4} and library.tokens_in_all == 5
    assert library.tokens.tolist() == [[2, 3, 2], [4, 2, 0]] and library.lengths.tolist() == [3, 2]


def test_the_library_holds_the_documentation_in_pieces():
    library = read_passages()
    assert len(library.words) == len(library.tokens) == len(library.held_out) > 500
    assert 0.03 < library.held_out.double().mean() < 0.4
    assert {len(words) for words in library.words} <= set(range(12, 33))
    for words, tokens, length in zip(library.words[::50], library.tokens[::50], library.lengths[::50], strict=True):
        assert (
            tokens[:length].tolist() == [library.vocabulary[word.lower()] for word in words]
            and not tokens[length:].any()
        )


def test_questions_are_pieces_of_their_passages():
    library = passages_of(
        "the quick brown fox jumps over the lazy dogs today again",
        "a short but valid passage about seven different words here",
        held_out=[True, False],
    )
    for held_out, home in ((True, 0), (False, 1)):
        cloze = draw_cloze(library, count=50, held_out=held_out, rng=torch.Generator().manual_seed(0))
        assert cloze.homes.unique().tolist() == [home]
        assert (cloze.tokens[:, MIDDLE] == HIDDEN).all()
        windows = library.tokens[home].unfold(0, 9, 1)
        whole = cloze.tokens.clone()
        whole[:, MIDDLE] = cloze.answers
        assert all((windows == question).all(dim=1).any() for question in whole)
    answers = {word for word in read_words("jumps over") if len(word) >= 4}
    asked = draw_cloze(library, count=99, held_out=True, rng=torch.Generator().manual_seed(1)).answers.unique()
    assert set(asked.tolist()) == {library.vocabulary[word] for word in answers}


def test_bm25_is_its_formula_word_by_word():
    """In plain Python, from the words themselves."""
    texts = ["a b c a", "b b d", "e", "a d d d d f g h"]
    library = passages_of(*texts)
    query = "a d d"
    for k1, b in ((1.2, 0.75), (0.7, 0.0), (2.0, 1.0)):
        counts = count_words(library.tokens, tokens_in_all=library.tokens_in_all)
        asked = torch.tensor([[library.vocabulary[word] for word in query.split()]])
        got = count_words(asked, tokens_in_all=library.tokens_in_all) @ bm25_weights(counts, k1=k1, b=b).T
        mean = sum(len(t.split()) for t in texts) / len(texts)
        for text, score in zip(texts, got[0].tolist(), strict=True):
            held, wanted = Counter(text.split()), 0.0
            for word in query.split():
                holding = sum(word in other.split() for other in texts)
                rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                f = held[word]
                wanted += rarity * f * (k1 + 1) / (f + k1 * (1 - b + b * len(text.split()) / mean))
            assert score == pytest.approx(wanted, rel=1e-5)


def test_the_best_passages_come_first_and_blanks_do_not_count():
    library = passages_of("red green blue", "blue blue blue white", "black white", "red red")
    weights = bm25_weights(count_words(library.tokens, tokens_in_all=library.tokens_in_all))
    token = library.vocabulary
    queries = torch.tensor([[token["white"], token["black"]], [HIDDEN, token["green"]]])
    assert retrieve(queries, weights, top=2)[:, 0].tolist() == [2, 0]
    assert retrieve(queries, weights, top=2)[0].tolist() == [2, 1]
    counts = count_words(torch.tensor([[PAD, HIDDEN, 7, 7]]), tokens_in_all=9)
    assert counts.tolist() == [[0, 0, 0, 0, 0, 0, 0, 2, 0]]


def make_reader() -> Reader:
    torch.manual_seed(0)
    return Reader(60, d_model=12, n_heads=3).double().eval()


def test_all_passages_share_one_softmax_and_padding_gets_nothing():
    reader = make_reader()
    passages, lengths = draw_passages(3, 4, 11)
    questions = torch.randint(2, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    weights = reader(questions, passages, lengths)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(3).double())
    assert not weights[passages == PAD].any()
    # By hand: each passage alone, its words' scores beside those of all others.
    asking = reader.point.w_q(reader.stack(reader.embed(questions), mask=retrieval.near(9, radius=2))[:, MIDDLE])
    for row in range(3):
        keys = []
        for passage, n in zip(passages[row], lengths[row], strict=True):
            features = reader.stack(reader.embed(passage[None, :n]), mask=retrieval.near(int(n), radius=2))[0]
            keys.append(reader.point.w_k(features))
        wanted = torch.softmax(torch.cat(keys) @ asking[row] * 12**-0.5, dim=0)
        torch.testing.assert_close(weights[row][passages[row] != PAD], wanted)


def test_a_word_is_known_by_two_words_on_either_side():
    near = retrieval.near(7, radius=2)
    assert near[3].tolist() == [False, True, True, True, True, True, False]
    reader = make_reader()
    x = torch.randn(7, 12, generator=torch.Generator().manual_seed(0)).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: reader.stack(x[None], mask=near)[0], x)
    assert torch.equal(jacobian.abs().sum(dim=(1, 3)) > 0, near)


def test_the_answer_is_the_word_with_the_most_weight_in_all():
    passages = torch.tensor([[[5, 6, 5], [7, 5, 0]]])
    weights = torch.tensor([[[0.2, 0.35, 0.2], [0.1, 0.15, 0.0]]])
    assert read_answers(weights, passages).tolist() == [5]
    assert pointer_loss(weights, passages, torch.tensor([5])).item() == pytest.approx(-math.log(0.55))
    assert pointer_loss(weights, passages, torch.tensor([8])).item() == pytest.approx(-math.log(1e-6))


def test_a_reader_learns_to_find_neighbours():
    """Random words: only by its neighbours can the hidden one be found."""
    rng = torch.Generator().manual_seed(0)
    passages = torch.randint(2, 500, (64, 2, 16), generator=rng)
    lengths = torch.full((64, 2), 16)
    at = torch.randint(0, 7, (64,), generator=rng)
    questions = passages[torch.arange(64), 1][torch.arange(64)[:, None], at[:, None] + torch.arange(9)]
    cloze = Cloze(questions.clone(), questions[:, MIDDLE].clone(), torch.ones(64, dtype=torch.long))
    cloze.tokens[:, MIDDLE] = HIDDEN
    torch.manual_seed(0)
    reader = Reader(500, d_model=32, n_heads=2)
    train(
        reader,
        lambda model, _: pointer_loss(model(cloze.tokens, passages, lengths), passages, cloze.answers),
        steps=60,
        learning_rate=1e-2,
    )
    with torch.no_grad():
        found = read_answers(reader(cloze.tokens, passages, lengths), passages) == cloze.answers
    assert found.double().mean() > 0.8
