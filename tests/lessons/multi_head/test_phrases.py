"""Texts of repeated phrases, what is certain in them, and where an induction head would look."""

from itertools import pairwise

import torch
from torch import nn

from attncourse.lessons.multi_head import phrases
from attncourse.models.decoder import DecoderLM


def rng(seed=3):
    return torch.Generator().manual_seed(seed)


def test_a_phrase_is_a_piece_of_its_list_and_its_inner_letters_are_certain():
    texts, certain = phrases.draw_phrases(20, rng=rng())
    assert texts.shape == (20, phrases.LENGTH) and certain.shape == (20, phrases.LENGTH - 1)
    for text, sure in zip(texts.tolist(), certain.tolist(), strict=True):
        letters = text[: phrases.LIST]
        assert len(set(letters)) == phrases.LIST
        follows = dict(pairwise(letters))
        starts = range(phrases.LIST, phrases.LENGTH, phrases.PHRASE)
        inner = {start + i for start in starts for i in range(phrases.PHRASE - 1)}
        assert {place for place, known in enumerate(sure) if known} == inner
        assert all(text[place + 1] == follows[text[place]] for place in inner)


def test_after_earlier_marks_what_followed_the_same_letter():
    marks = phrases.after_earlier(torch.tensor([[5, 7, 9, 5, 7, 5]]))[0]
    assert marks.nonzero().tolist() == [[3, 1], [4, 2], [5, 1], [5, 4]]


class Copies(DecoderLM):
    """Names what followed the last letter in the list, as a model that had learned the task."""

    def __init__(self):
        nn.Module.__init__(self)
        self.stack = nn.Module()
        self.stack.blocks = nn.ModuleList([nn.Identity(), nn.Identity()])

    def forward(self, texts, *, head_mask):
        marks = phrases.after_earlier(texts).float()
        marks[:, :, phrases.LIST :] = 0.0
        return (marks @ nn.functional.one_hot(texts, phrases.ALPHABET).float()) * head_mask.prod()


def test_the_share_continued_is_of_certain_letters_with_heads_silenced():
    assert phrases.share_continued(Copies()) == 1.0
    assert phrases.share_continued(Copies(), without=[(1, 0)]) < 0.3


class Looks(DecoderLM):
    """Has one layer of two heads: one looks one back, the other spreads over what an induction head would look at."""

    def __init__(self):
        nn.Module.__init__(self)

    def attention_weights(self, texts):
        previous = torch.diag_embed(torch.ones(texts.shape[1] - 1), offset=-1).expand(len(texts), -1, -1)
        marks = phrases.after_earlier(texts).float()
        induction = marks / marks.sum(dim=-1, keepdim=True).clamp_min(1)
        return torch.stack([previous, induction], dim=1)[None]


def test_head_shares_tell_the_two_heads_apart():
    shares = phrases.head_shares(Looks())
    assert shares["previous"] == [1.0, 0.0] and shares["itself"] == [0.0, 0.0]
    assert shares["induction"][1] == 1.0 and shares["induction"][0] < 0.5
