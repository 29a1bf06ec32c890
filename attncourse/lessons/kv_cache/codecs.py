"""What fewer bits cost the writer: the error of its keys and values, and the change of its loss."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from attncourse._shared.cache import KeyValueCache
from attncourse.kv_cache import ChannelCache, Fp8, Int4, Int8
from attncourse.models.caches import new_caches
from attncourse.models.decoder import DecoderLM
from attncourse.models.text import draw_windows, encode, read_text
from attncourse.models.training import one_thread

STORED = {
    "int8": dict(codec=Int8()),
    "fp8": dict(codec=Fp8()),
    "int4, groups of 8": dict(codec=Int4(group=8)),
    "int4, groups of 16": dict(codec=Int4(group=16)),
    "int4": dict(codec=Int4()),
    "int4, by channel": dict(codec=Int4(), layout=ChannelCache, block=32),
}
ROWS, LENGTH, PIECE = 16, 96, 24


def held_out_rows() -> Int[Tensor, "rows length"]:
    """Return rows of held-out text, one token longer than what is read of them."""
    held_out = encode(read_text(held_out=True))
    return draw_windows(held_out, count=ROWS, length=LENGTH + 1, rng=torch.Generator().manual_seed(1))


@torch.no_grad()
def read_through(model: DecoderLM, **options) -> tuple[float, list[KeyValueCache]]:
    """Return the loss of reading held-out text in pieces through caches of these options, and the caches."""
    rows = held_out_rows()
    caches = new_caches(model, ROWS, capacity=LENGTH, **options)
    pieces = rows[:, :-1].split(PIECE, dim=1)
    logits = torch.cat([model(piece, caches=caches) for piece in pieces], dim=1)
    return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item(), caches


def relative_error(got: list[KeyValueCache], wanted: list[KeyValueCache]) -> float:
    """Return the length of the difference of all that caches hold, as a share of the length of what is wanted."""
    pairs = [(x, y) for a, b in zip(got, wanted, strict=True) for x, y in zip(a.view(), b.view(), strict=True)]
    off = sum((x - y).square().sum() for x, y in pairs)
    return float(off / sum(y.square().sum() for _, y in pairs)) ** 0.5


def bits_per_number(cache: KeyValueCache) -> float:
    """Return the bits that a cache of the held-out rows stores per number, scales and zero points included."""
    return 8 * cache.used_nbytes / (ROWS * LENGTH * cache.shape.n_kv_heads * sum(cache.shape.widths))


def measure_codecs(model: DecoderLM) -> dict[str, dict[str, float]]:
    """Return, for each way to store, the relative error of keys and values and the change of the loss in nats."""
    with one_thread():
        exact_loss, exact = read_through(model)
        found = {name: read_through(model, **options) for name, options in STORED.items()}
    return {
        name: {"error": relative_error(caches, exact), "change of the loss": loss - exact_loss}
        for name, (loss, caches) in found.items()
    }
