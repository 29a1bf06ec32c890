"""Kinds of keys are marked as their names say, and shares are compared with even weights."""

import torch
from torch import nn

from attncourse.lessons.multi_head import text_heads
from attncourse.models.decoder import DecoderLM
from attncourse.models.text import encode


def marked(kind, text, query):
    marks = text_heads.kinds_of_keys(encode(text)[None])[kind][0]
    return marks[query].nonzero().flatten().tolist()


def test_kinds_are_of_keys_before_the_query():
    text = "to (be) o"
    assert marked("itself", text, 5) == [5]
    assert marked("the one before", text, 5) == [4] and marked("the one before", text, 0) == []
    assert marked("the last space", text, 5) == [2] and marked("the last space", text, 1) == []
    assert marked("the last space", text, 7) == [], "a space that looks is not the last one before itself"
    assert marked("punctuation", text, 8) == [3, 6] and marked("punctuation", text, 3) == []
    assert marked("the same letter", text, 8) == [1]


class Even(DecoderLM):
    """Looks at all that it may, in two layers of eight heads."""

    def __init__(self):
        nn.Module.__init__(self)

    def attention_weights(self, windows):
        n = windows.shape[1]
        even = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
        return even.expand(2, len(windows), 8, n, n)


def test_even_weights_have_the_share_of_chance():
    shares, chance = text_heads.shares_by_kind(Even(), rng=torch.Generator().manual_seed(2))
    for kind, share in shares.items():
        assert share.shape == (16,)
        torch.testing.assert_close(share, torch.full((16,), chance[kind]))


def test_curves_silence_heads_from_either_end(monkeypatch):
    costs = dict(enumerate([3.0, 1.0, 2.0] + [4.0 + i for i in range(13)]))
    monkeypatch.setattr(text_heads, "loss_without", lambda model, heads, windows: sum(costs[h] for h in heads))
    order, curves = text_heads.ablation_curves(Even(), rng=torch.Generator().manual_seed(2))
    assert order[:4] == [1, 2, 0, 3]
    assert curves["least important first"][:4] == [0, 1.0, 3.0, 6.0]
    assert curves["most important first"][:3] == [0, 16.0, 31.0]
