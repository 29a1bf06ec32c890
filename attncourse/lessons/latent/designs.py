"""Small character models that differ in what they cache: heads of their own, shared heads, and latents."""

from collections.abc import Callable
from functools import cache

from torch import Tensor, manual_seed

from attncourse._shared.layer import LayerOfHeads
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.latent import LatentAttention
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.text import CHARACTERS, draw_windows, encode, read_text
from attncourse.models.training import mean_loss, train
from attncourse.positions import RotaryEmbedding

D_MODEL, N_HEADS, N_LAYERS, LENGTH, ROWS = 64, 8, 2, 64, 8


def grouped(n_kv_heads: int, *, rotary: bool = True) -> Callable[[], LayerOfHeads]:
    """Return what builds a layer of eight heads of width 8 that share so many keys and values."""
    return lambda: GroupedQueryAttention(
        D_MODEL, N_HEADS, n_kv_heads=n_kv_heads, bias=False, causal=True, rope=RotaryEmbedding(8) if rotary else None
    )


def latent(rank: int, rotary: int) -> Callable[[], LatentAttention]:
    """Return what builds a layer of eight heads that caches a latent and a rotary key of these widths."""
    return lambda: LatentAttention(
        D_MODEL, N_HEADS, kv_lora_rank=rank, qk_nope_head_dim=8, qk_rope_head_dim=rotary, v_head_dim=8
    )


DESIGNS = {
    "multi-head": grouped(8),
    "grouped, 2 heads": grouped(2),
    "latent, 16 + 16": latent(16, 16),
    "latent, 24 + 8": latent(24, 8),
    "multi-query": grouped(1),
    "latent, 8 + 8": latent(8, 8),
}


def build(attention: Callable, *, seed: int, positions: str = "rotary") -> DecoderLM:
    """Return an untrained decoder of two layers of this attention; positions that are "learned" are added to tokens."""
    manual_seed(seed)
    return DecoderLM(
        len(CHARACTERS), d_model=D_MODEL, n_heads=N_HEADS, n_layers=N_LAYERS, context=2 * LENGTH, positions=positions,
        attention=attention,
    )  # fmt: skip


@cache
def text(*, held_out: bool) -> Tensor:
    """Return the characters to train on, or those held out, as integers."""
    return encode(read_text(held_out=held_out))


def text_loss(*, held_out: bool) -> Callable:
    """Return a loss for `train` and `mean_loss`: the next character, in rows drawn from the text."""
    return lambda model, rng: next_token_loss(
        model, draw_windows(text(held_out=held_out), count=ROWS, length=LENGTH + 1, rng=rng)
    )


def train_on_text(model: DecoderLM, *, steps: int, seed: int, learning_rate: float = 5e-3) -> DecoderLM:
    """Train the model on the text, on rows that the seed decides, and return it."""
    train(model, text_loss(held_out=False), steps=steps, learning_rate=learning_rate, seed=seed, progress=False)
    return model


def held_out_loss(model: DecoderLM) -> float:
    """Return the mean loss on held-out rows, in nats per character; the same rows for all models."""
    return mean_loss(model, text_loss(held_out=True), draws=20, seed=9)
