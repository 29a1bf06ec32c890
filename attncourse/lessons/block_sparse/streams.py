"""Several texts in one sequence, packet by packet in turn: a task whose structure is known and can be the pattern."""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attncourse.block_sparse import BlockPattern, from_blocks, local
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import DrawLoss, mean_loss, train

from .reader import sparse_reader

STREAMS, PACKET, LENGTH = 8, 8, 256
RIVALS = ("own connection", "local", "dense")


def in_turn(texts: Int[Tensor, "... streams characters"]) -> Int[Tensor, "... n"]:
    """Return the texts as one sequence: a packet of each, then the next packet of each."""
    return texts.unflatten(-1, (-1, PACKET)).transpose(-3, -2).flatten(-3)


def pattern_of(rival: str) -> BlockPattern:
    """Return who sees whom: a connection its own packets, a band of as many pairs at least, or everybody the past.

    Raises:
        KeyError: no such rival.
    """
    at = torch.arange(LENGTH // PACKET)
    own = from_blocks((at[:, None] - at) % STREAMS == 0, LENGTH, causal=True, block=PACKET)
    widths = (local(LENGTH, steps=steps, block=PACKET) for steps in range(LENGTH))
    band = next(band for band in widths if band.count() >= own.count())
    return {"own connection": own, "local": band, "dense": local(LENGTH, steps=LENGTH, block=PACKET)}[rival]


@functools.cache
def _texts() -> dict[bool, Int[Tensor, " n"]]:
    return {held_out: encode(read_text(held_out=held_out)) for held_out in (False, True)}


def draw_loss(*, held_out: bool, count: int = 4) -> DrawLoss:
    """Return the loss of predicting each connection's next character, over so many fresh sequences."""
    tokens = _texts()[held_out]

    def loss(model: Callable[[Tensor], Tensor], rng: torch.Generator) -> Float[Tensor, ""]:
        windows = draw_windows(tokens, count=count * STREAMS, length=LENGTH // STREAMS + 1, rng=rng)
        windows = windows.unflatten(0, (count, STREAMS))
        logits, targets = model(in_turn(windows[..., :-1])), in_turn(windows[..., 1:])
        return cross_entropy(logits.flatten(0, 1), targets.flatten())

    return loss


def held_out_loss(rival: str, *, seed: int, steps: int = 100) -> float:
    """Return the loss on held-out texts, in nats per character, of a model that was trained with this pattern."""
    torch.manual_seed(seed)
    model = sparse_reader(len(CHARACTERS), pattern_of(rival), d_model=64, n_heads=4, n_layers=2)
    train(model, draw_loss(held_out=False), steps=steps, seed=seed, progress=False)
    return mean_loss(model, draw_loss(held_out=True), draws=32, seed=1)
