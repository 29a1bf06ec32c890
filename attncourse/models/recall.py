"""Associative recall: pairs of a key and a value go by, then a key is shown, and the answer is the value it last had.

A memory's plainest test. Arora et al. 2023, Zoology, https://arxiv.org/abs/2312.04927, found that it explains most of what
attention-free language models lose. There keys and values are tokens that follow each other; here a pair is one token,
so that nothing but the memory is asked for.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.validate import check_widths, require

from .training import DrawLoss


class Recall(NamedTuple):
    """This is a batch of the task."""

    keys: Int[Tensor, "b n"]
    values: Int[Tensor, "b n"]
    asked: Int[Tensor, " b"]
    answers: Int[Tensor, " b"]


def draw_recall(
    batch: int, *, n_pairs: int, n_keys: int, n_values: int, repeat: bool = False, rng: torch.Generator
) -> Recall:
    """Draw pairs with values drawn freely; keys are all different, or, with repeat, drawn freely too.

    With repeat a key may come again, with another value, which is then the one that counts.

    Raises:
        ValueError: a count below 1, or more different keys asked for than there are.
    """
    check_widths(batch=batch, n_pairs=n_pairs, n_keys=n_keys, n_values=n_values)
    require(repeat or n_pairs <= n_keys, f"{n_keys} keys do not make {n_pairs} different ones: use repeat=True")
    if repeat:
        keys = torch.randint(n_keys, (batch, n_pairs), generator=rng)
    else:
        keys = torch.rand(batch, n_keys, generator=rng).argsort(dim=-1)[:, :n_pairs]
    values = torch.randint(n_values, (batch, n_pairs), generator=rng)
    asked = keys.gather(1, torch.randint(n_pairs, (batch, 1), generator=rng))
    last = (torch.arange(n_pairs) * (keys == asked)).argmax(dim=-1, keepdim=True)
    return Recall(keys, values, asked[:, 0], values.gather(1, last)[:, 0])


class Recaller(nn.Module):
    """The model is one layer that mixes tokens, (b, t, d) to (b, t, d), between the pairs and the answer; nothing else.

    Args:
        mixer: the layer, causal or at least one whose last output may read all tokens.
        n_keys, n_values: how many there are.
        d_model: width of the tokens.
    """

    def __init__(self, mixer: nn.Module, *, n_keys: int, n_values: int, d_model: int):
        super().__init__()
        self.mixer = mixer
        self.embed_key = nn.Embedding(n_keys, d_model)
        self.embed_value = nn.Embedding(n_values, d_model)
        self.embed_question = nn.Embedding(n_keys, d_model)
        self.to_value = nn.Linear(d_model, n_values)

    def forward(
        self, keys: Int[Tensor, "b n"], values: Int[Tensor, "b n"], asked: Int[Tensor, " b"]
    ) -> Float[Tensor, "b values"]:
        """Return logits of the value that the asked key last had."""
        pairs = self.embed_key(keys) + self.embed_value(values)
        return self.to_value(self.mixer(torch.cat([pairs, self.embed_question(asked)[:, None]], dim=1))[:, -1])


def recall_loss(draw: Callable[[torch.Generator], Recall]) -> DrawLoss:
    """Return what draws the loss of a fresh batch, for `train`."""

    def draw_loss(model: nn.Module, rng: torch.Generator) -> Float[Tensor, ""]:
        batch = draw(rng)
        return nn.functional.cross_entropy(model(*batch[:3]), batch.answers)

    return draw_loss


@torch.no_grad()
def recall_accuracy(model: nn.Module, batch: Recall) -> float:
    """Return the share of a batch that is answered right."""
    return (model(*batch[:3]).argmax(dim=-1) == batch.answers).float().mean().item()
