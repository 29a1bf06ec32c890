"""A small language model told its positions in three ways: not at all, by a learned vector each, by rotary embedding."""

from functools import cache

import torch
from torch import Tensor

from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import mean_loss, train
from attncourse.multi_head import MultiHeadAttention

POSITIONS = ("none", "learned", "rotary")
LENGTH, WIDTH, HEADS = 64, 64, 4


def build_model(positions: str) -> DecoderLM:
    """Return a language model of two layers, told its positions in one of the ways of `POSITIONS`."""
    sizes = {"d_model": WIDTH, "n_heads": HEADS, "n_layers": 2, "context": LENGTH}
    if positions == "none":
        return DecoderLM(
            len(CHARACTERS), **sizes, attention=lambda: MultiHeadAttention(WIDTH, HEADS, bias=True, causal=True)
        )
    return DecoderLM(len(CHARACTERS), **sizes, positions=positions)


def held_out_loss(positions: str, *, seed: int, steps: int) -> float:
    """Return the loss in nats per character on held-out text, after so many steps on Python's documentation."""
    torch.manual_seed(seed)
    model = build_model(positions)
    train(model, _loss_on(held_out=False), steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return mean_loss(model, _loss_on(held_out=True), draws=40)


def _loss_on(*, held_out: bool):
    return lambda model, rng: next_token_loss(
        model, draw_windows(_text(held_out), count=16, length=LENGTH + 1, rng=rng)
    )


@cache
def _text(held_out: bool) -> Tensor:
    return encode(read_text(held_out=held_out))
