"""What is called an optimization of attention, each item beside what it would replace, for `same_function` to place.

A candidate is given what the standard form is given: the same queries, keys and values, or the same tokens and weights. Where
a mechanism has fewer or other weights than the standard form, it gets those that come nearest (means of heads, the best
latents of a given width), so that what differs is the mechanism and not its training.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, repeat
from torch import Tensor

from attncourse import additive, block_sparse, grouped_query, latent, linear_attention, sliding_window
from attncourse._shared.cache import CacheShape
from attncourse.kv_cache import ContiguousCache, Fp8, Int4, Int8, PagedCache, PagePool, RingCache, kv_cache_attention
from attncourse.softmax_attention import (
    online_softmax_attention,
    softmax_attention,
    softmax_attention_blocked,
    softmax_attention_torch,
)

from .same_function import Comparison, same_function

HEADS, GROUPS, WIDTH, WINDOW, PIECE = 4, 2, 8, 16, 3
SQUARE = ((1, 1), (7, 7), (2 * WINDOW + 1, 2 * WINDOW + 1))
OBLONG = (*SQUARE, (5, 37), (37, 41))


@dataclass(frozen=True)
class Item:
    """An item is something to place.

    Attributes:
        listed: "mechanism" or "implementation", where a list of optimizations usually has it; "" where it has not.
        candidate, standard: the functions.
        instead_of: the standard form in words.
        draw, sizes, gradients: as in `same_function`.
    """

    listed: str
    candidate: Callable[..., Tensor]
    standard: Callable[..., Tensor]
    instead_of: str
    draw: Callable[..., tuple[Tensor, ...]]
    sizes: tuple[tuple[int, int], ...] = OBLONG
    gradients: bool = True

    def place(self, *, draws: int = 3, seed: int = 0) -> Comparison:
        """Run the test."""
        options = dict(sizes=self.sizes, draws=draws, seed=seed, gradients=self.gradients)
        return same_function(self.candidate, self.standard, self.draw, **options)


def draw_qkv(t: int, s: int, *, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Draw queries (2, h, t, d), keys and values (2, h, s, d)."""
    return tuple(torch.randn(2, HEADS, n, WIDTH, generator=rng, dtype=torch.float64) for n in (t, s, s))


def draw_sequences(t: int, s: int, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a sequence that asks and one that may be read, as heads: (2, 1, t, d) and (2, 1, s, d)."""
    return tuple(torch.randn(2, 1, n, WIDTH, generator=rng, dtype=torch.float64) for n in (t, s))


def draw_latent(t: int, s: int, *, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Draw queries, tokens (2, 1, s, d_model), and each head's weights of keys and values (h, d, d_model)."""
    model = 2 * WIDTH
    shapes = (2, HEADS, t, WIDTH), (2, 1, s, model), (HEADS, WIDTH, model), (HEADS, WIDTH, model)
    return tuple(torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to every pair that is not in the future: the standard."""
    return softmax_attention(q, k, v, causal=True)


def all_pairs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend blind to order: the standard."""
    return softmax_attention(q, k, v)


def scored_by_a_network(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend additively with fixed weights; it has weights of its own, which nothing else has."""
    rng = torch.Generator().manual_seed(1)
    w_q, w_k, w = (torch.randn(shape, generator=rng, dtype=q.dtype) for shape in ((8, WIDTH), (8, WIDTH), (8,)))
    return additive.additive_attention(q, k, v, w_q, w_k, w)


def strided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to the last 4 positions, and every fourth before them."""
    pattern = block_sparse.strided(q.shape[2], stride=4, block=4)
    return block_sparse.block_sparse_attention(q, k, v, pattern=pattern)


def in_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to the last WINDOW positions."""
    return sliding_window.sliding_window_attention(q, k, v, window=WINDOW)


def shared_heads(n_kv_heads: int) -> Callable[..., Tensor]:
    """Return attention with heads of keys and values that are means of those they replace (Ainslie et al. 2023, section
    2.1).
    """

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.unflatten(1, (n_kv_heads, -1)).mean(dim=2) for x in (k, v))
        return grouped_query.grouped_query_attention(q, k, v, causal=True)

    return call


def repeated_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by grouped heads as multi-head attention has them: each is copied for every query head that reads it."""
    k, v = (repeat(x, "b g s d -> b (g r) s d", r=q.shape[1] // x.shape[1]) for x in (k, v))
    return causal(q, k, v)


def draw_grouped(t: int, s: int, *, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Draw what `draw_qkv` does, with fewer heads of keys and values."""
    q, k, v = draw_qkv(t, s, rng=rng)
    return q, k[:, :GROUPS].contiguous(), v[:, :GROUPS].contiguous()


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by grouped heads, no head copied."""
    return grouped_query.grouped_query_attention(q, k, v, causal=True)


def keys_by_head(q: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Attend by many heads from tokens: each head makes its own keys and values."""
    k, v = (einsum(x[:, 0], w, "b s m, h d m -> b h s d") for w in (w_k, w_v))
    return causal(q, k, v)


def through_latents(form: Callable[..., Tensor], rank: int) -> Callable[..., Tensor]:
    """Return latent attention whose latents are the best of this rank:
    the leading right singular vectors of all the weights.
    """

    def call(q: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
        with torch.no_grad():
            _, _, rows = torch.linalg.svd(torch.cat([w_k, w_v]).flatten(0, 1), full_matrices=False)
        down = rows[:rank]  # (r, m)
        w_uk, w_uv = (einsum(w, down, "h d m, r m -> h d r") for w in (w_k, w_v))
        no_rope = q.new_zeros(*q.shape[:3], 0), x.new_zeros(*x.shape[:3], 0)
        return form(q, no_rope[0], x @ down.T, no_rope[1], w_uk, w_uv, causal=True)

    return call


def key_by_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by the online softmax in each head."""
    return torch.stack([online_softmax_attention(*x) for x in zip(*(y.flatten(0, 1) for y in (q, k, v)), strict=True)])


def all_pairs_flat(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as `all_pairs` does, in the shape of `key_by_key`."""
    return all_pairs(q, k, v).flatten(0, 1)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend linearly and causally, by weights."""
    return linear_attention.linear_attention(q, k, v, causal=True)


def linear_by_state(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend linearly and causally, key by key."""
    return linear_attention.linear_attention_recurrent(q, k, v)[0]


def through_cache(make: Callable[..., object], *, window: int | None = None) -> Callable[..., Tensor]:
    """Decode in pieces through a cache: make(b, shape, length) gives an empty one."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache, pieces = make(len(q), CacheShape(HEADS, (WIDTH, WIDTH)), k.shape[2]), []
        for piece in zip(*(x.split(PIECE, dim=2) for x in (q, k, v)), strict=True):
            cache.append(*piece[1:])
            pieces.append(kv_cache_attention(piece[0], cache, window=window))
        return torch.cat(pieces, dim=2)

    return call


def pages(b: int, shape: CacheShape, length: int) -> PagedCache:
    """Return a cache in pages of 4 tokens."""
    return PagedCache(b, PagePool(b * (length // 4 + 1), shape, page_size=4, dtype=torch.float64))


def slots(codec=None) -> Callable[..., ContiguousCache]:
    """Return what makes a cache of one stretch per sequence, stored by a codec."""
    return lambda b, shape, length: ContiguousCache(b, shape, capacity=length, dtype=torch.float64, codec=codec)


def ring(b: int, shape: CacheShape, length: int) -> RingCache:
    """Return a ring with room for what a window sees of a piece."""
    return RingCache(b, shape, window=WINDOW, piece=PIECE, dtype=torch.float64)


def _cached(make, **window) -> tuple:
    return through_cache(make, **window), causal, "causal attention, no cache", draw_qkv, SQUARE, False


RANK = 12  # of 16 that the tokens have
ITEMS = {
    "additive attention": Item("mechanism", scored_by_a_network, all_pairs, "dot-product attention", draw_qkv),
    "self-attention": Item(
        "mechanism", lambda x, other: all_pairs(x, x, x), lambda x, other: all_pairs(x, other, other),
        "attention into another sequence", draw_sequences,
    ),
    "sparse attention, strided": Item("mechanism", strided, causal, "causal attention", draw_qkv, SQUARE),
    "sparse attention, a window": Item("mechanism", in_window, causal, "causal attention", draw_qkv),
    "linear attention": Item("mechanism", linear, causal, "causal attention", draw_qkv),
    "MQA": Item("mechanism", shared_heads(1), causal, "multi-head attention", draw_qkv),
    "GQA": Item("mechanism", shared_heads(GROUPS), causal, "multi-head attention", draw_qkv),
    "MLA": Item(
        "mechanism", through_latents(latent.latent_attention, RANK), keys_by_head, "multi-head attention", draw_latent
    ),
    "FlashAttention: tiles": Item(
        "implementation", lambda *qkv: softmax_attention_blocked(*qkv, causal=True, block=8), causal,
        "causal attention", draw_qkv,
    ),
    "FlashAttention: online softmax": Item(
        "implementation", key_by_key, all_pairs_flat, "softmax over whole rows", draw_qkv
    ),
    "fused kernel: PyTorch's": Item(
        "implementation", lambda *qkv: softmax_attention_torch(*qkv, causal=True), causal, "three calls", draw_qkv
    ),
    "cache layout: contiguous": Item("implementation", *_cached(slots())),
    "cache layout: pages": Item("implementation", *_cached(pages)),
    "quantised cache: int8": Item("implementation", *_cached(slots(Int8()))),
    "quantised cache: fp8": Item("implementation", *_cached(slots(Fp8()))),
    "quantised cache: int4": Item("implementation", *_cached(slots(Int4()))),
    "window: ring cache": Item(
        "", through_cache(ring, window=WINDOW), in_window, "a window over everything", draw_qkv, SQUARE, False
    ),
    "linear: running state": Item("", linear_by_state, linear, "linear attention by its weights", draw_qkv),
    "GQA: no head copied": Item("", grouped, repeated_heads, "multi-head attention over copied heads", draw_grouped),
    "MLA: absorbed": Item(
        "", through_latents(latent.latent_attention_absorbed, RANK), through_latents(latent.latent_attention, RANK),
        "MLA, keys and values expanded", draw_latent,
    ),
}  # fmt: skip
"""The items of both usual lists, and what else the course has that looks like the one and is the other."""
