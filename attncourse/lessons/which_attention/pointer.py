"""A pointer task: the question names a place, and the answer is the symbol that stands there."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.validate import require
from attncourse.softmax_attention import softmax_attention

SYMBOLS, SHORTEST, LONGEST = 8, 4, 16  # rows in training hold 4 to 16 symbols


def sinusoids(n: int, d_model: int) -> Float[Tensor, "n d"]:
    """Return a code for each of n places, which needs no training (Vaswani et al. 2017, section 3.5)."""
    angles = torch.arange(n)[:, None] * 10_000 ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class PointerReader(nn.Module):
    """The reader is one attention: the query is made of the place that is asked for, keys and values of symbols and places.

    No parameter belongs to a place, so that none is untrained in a longer row.
    """

    def __init__(self, d_model: int = 32, *, most: int = 64):
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, d_model)
        self.w_q, self.w_k, self.w_v = (nn.Linear(d_model, d_model) for _ in range(3))
        self.to_symbol = nn.Linear(d_model, SYMBOLS)
        self.register_buffer("places", sinusoids(most, d_model))

    def forward(self, row: Int[Tensor, "b n"], asked: Int[Tensor, " b"]) -> Float[Tensor, "b symbols"]:
        """Return logits of the symbol that stands at the place asked for."""
        x = self.embed(row) + self.places[: row.shape[1]]
        q = self.w_q(self.places[asked])[:, None, None]
        return self.to_symbol(softmax_attention(q, self.w_k(x)[:, None], self.w_v(x)[:, None])[:, 0, 0])


def pointer_loss(model: nn.Module, rng: torch.Generator) -> Float[Tensor, ""]:
    """Return the loss of 64 fresh rows of one length."""
    n = int(torch.randint(SHORTEST, LONGEST + 1, (1,), generator=rng))
    row, asked = torch.randint(SYMBOLS, (64, n), generator=rng), torch.randint(n, (64,), generator=rng)
    return cross_entropy(model(row, asked), row[torch.arange(64), asked])


@torch.no_grad()
def right_at_each_place(model: PointerReader, *, length: int, rows: int = 400) -> Float[Tensor, " length"]:
    """Return the share of right answers for each place of rows of this length.

    Raises:
        ValueError: the rows are longer than the reader has places.
    """
    require(length <= len(model.places), f"the reader has {len(model.places)} places, got rows of {length}")
    row = torch.randint(SYMBOLS, (rows, length), generator=torch.Generator().manual_seed(7))
    shares = [(model(row, torch.full((rows,), p)).argmax(dim=-1) == row[:, p]).float().mean() for p in range(length)]
    return torch.stack(shares)
