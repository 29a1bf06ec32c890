"""Texts whose class stands in them as words of evidence, and a reader whose one attention says where it looked.

What Jain and Wallace 2019, https://arxiv.org/abs/1902.10186, tried on sentiment and topics, small enough to be asked
everything: a recurrent encoder or none, one attention with a learned query, and a class.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.validate import require
from attncourse.models.training import DrawLoss
from attncourse.softmax_attention import attention_weights

CLASSES, WORDS = 4, 20


def draw_evidence(
    n: int, *, times: int, against: int = 0, length: int = 24, rng: torch.Generator
) -> tuple[Int[Tensor, "n s"], Int[Tensor, " n"]]:
    """Draw n texts, in each the word of its class `times` times and another class's `against` times; and the classes.

    Words 0 to 3 are evidence of the classes, the others say nothing.

    Raises:
        ValueError: no evidence, more against than for a class, or a text too short for both.
    """
    require(
        0 <= against < times and times + against <= length,
        f"evidence must fit and decide: 0 <= against < times, got {against}, {times} in {length} words",
    )
    texts = torch.randint(CLASSES, WORDS, (n, length), generator=rng)
    classes = torch.randint(CLASSES, (n,), generator=rng)
    others = (classes + torch.randint(1, CLASSES, (n,), generator=rng)) % CLASSES
    places = torch.rand(n, length, generator=rng).argsort(dim=1)
    texts.scatter_(1, places[:, :times], classes[:, None].expand(n, times))
    texts.scatter_(1, places[:, times : times + against], others[:, None].expand(n, against))
    return texts, classes


class EvidenceReader(nn.Module):
    """The reader is words, a two-way GRU over them or none, one attention over what stands there, a class.

    Args:
        encoder: whether there is a GRU, after which each place holds something of the whole text.
    """

    def __init__(self, *, encoder: bool, d_model: int = 16, v_head_dim: int = 6):
        super().__init__()
        self.embed = nn.Embedding(WORDS, d_model)
        self.encoder = nn.GRU(d_model, d_model // 2, batch_first=True, bidirectional=True) if encoder else None
        self.query = nn.Parameter(0.3 * torch.randn(d_model))
        self.w_k, self.w_v = nn.Linear(d_model, d_model), nn.Linear(d_model, v_head_dim)
        self.to_class = nn.Linear(v_head_dim, CLASSES)

    def read(self, texts: Int[Tensor, "n s"]) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s dv"]]:
        """Return the weight of each place, and the value that stands there."""
        states = self.embed(texts)
        if self.encoder is not None:
            states = self.encoder(states)[0]
        query = self.query.expand(len(texts), 1, 1, -1)
        return attention_weights(query, self.w_k(states)[:, None])[:, 0, 0], self.w_v(states)

    def forward(self, texts: Int[Tensor, "n s"], weights: Float[Tensor, "n s"] | None = None) -> Float[Tensor, "n c"]:
        """Return logits of the classes, by its own weights or by those given in their place."""
        own, values = self.read(texts)
        return self.to_class(((own if weights is None else weights)[:, None] @ values)[:, 0])


def evidence_loss(**kind) -> DrawLoss:
    """Return what draws the loss of 64 fresh texts, for `train`; `kind` as in `draw_evidence`."""

    def draw_loss(model: nn.Module, rng: torch.Generator) -> Float[Tensor, ""]:
        texts, classes = draw_evidence(64, rng=rng, **kind)
        return cross_entropy(model(texts), classes)

    return draw_loss
