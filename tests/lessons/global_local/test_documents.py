"""The document encoder reads as far as its layers reach, and its two tasks are what they say."""

import pytest
import torch

from attncourse.lessons.global_local.documents import (
    FILLERS,
    FIRST,
    NAMES,
    TOPICS,
    VALUES,
    DocumentEncoder,
    draw_documents,
    draw_recall,
)


def encoder(radii=(1, 3), hubs=(), impl="blocked"):
    torch.manual_seed(0)
    return DocumentEncoder(9, 3, radii=radii, context=20, global_indices=hubs, d_model=8, n_heads=2, impl=impl).double()


@pytest.mark.parametrize(("hubs", "reached"), [((), range(6, 15)), ((0,), range(20))])
def test_an_output_knows_what_windows_and_hubs_carry_to_it(hubs, reached):
    x = torch.randn(1, 20, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(hubs=hubs).from_embedded(x)[0, 10].sum(), x)
    assert (gradient[0].abs().sum(dim=-1) > 0).nonzero().flatten().tolist() == list(reached)


def test_every_impl_and_padding_give_one_result():
    tokens, lengths = torch.randint(9, (2, 20)), torch.tensor([20, 13])
    blocked = encoder(hubs=(0,))(tokens, key_lengths=lengths)
    torch.testing.assert_close(encoder(hubs=(0,), impl="reference")(tokens, key_lengths=lengths), blocked)
    torch.testing.assert_close(encoder(hubs=(0,))(tokens[1:, :13]), blocked[1:, :13])


def test_documents_hold_three_words_of_their_topic_and_one_of_each_other_far_away():
    tokens, topics = draw_documents(200, 31, far=9, rng=torch.Generator().manual_seed(0))
    assert tokens.shape == (200, 31) and (tokens[:, 0] == FIRST).all()
    assert (tokens[:, 1:9] > TOPICS).all(), "near the first token stand fillers alone"
    said = torch.stack([(tokens == 1 + topic).sum(dim=-1) for topic in range(TOPICS)], dim=-1)
    assert (said.sum(dim=-1) == TOPICS + 2).all() and torch.equal(said.argmax(dim=-1), topics)
    assert (said.amax(dim=-1) == 3).all() and tokens.max() <= TOPICS + FILLERS
    assert topics.bincount(minlength=TOPICS).min() > 20


def test_recall_asks_for_what_was_told_and_leaves_a_gap():
    tokens, asked, values = draw_recall(50, 41, pairs=5, gap=10, rng=torch.Generator().manual_seed(0))
    for row, places, answers in zip(tokens, asked, values, strict=True):
        told = {(int(x) - 2) // VALUES: (int(x) - 2) % VALUES for x in row[1:16] if x >= 2}
        names = (row[places] - 2 - NAMES * VALUES).tolist()
        assert len(set(names)) == 5 and [told[name] for name in names] == answers.tolist()
        assert (row[16:26] == 1).all() and places.min() >= 26
    assert (tokens[:, 0] == FIRST).all()


@pytest.mark.bad_input
def test_what_does_not_fit_is_named():
    rng = torch.Generator()
    with pytest.raises(ValueError, match="6 words must fit into 9..13"):
        draw_documents(1, 14, far=9, rng=rng)
    with pytest.raises(ValueError, match="pairs must lie in 1..4, got 5"):
        draw_recall(1, 11, pairs=5, gap=2, rng=rng)
    with pytest.raises(ValueError, match="at least one, got \\(\\)"):
        encoder(radii=())
