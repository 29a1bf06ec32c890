"""Attention from the last tokens of a sequence to all that a cache holds of it: the definition of decoding.

With a cache of what earlier tokens left, the outputs are those of causal attention over the whole sequence: a token's key
and value depend on nothing after it, so what was computed once stays true. (Incremental decoding: Shazeer 2019,
https://arxiv.org/abs/1911.02150, section 2.4.1.)
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attncourse._shared.cache import KeyValueCache, visible_in_cache, visible_through
from attncourse._shared.validate import check_window, has_values, require
from attncourse.softmax_attention import softmax_attention


def kv_cache_attention(
    q: Float[Tensor, "b h c dk"],
    cache: KeyValueCache,
    *,
    counts: Int[Tensor, " b"] | None = None,
    window: int | None = None,
    sinks: int = 0,
    scale: float | None = None,
) -> Float[Tensor, "b h c dv"]:
    """The last c tokens attend to the cache, which holds their own keys and values already.

    Args:
        counts: how many of the c queries of each sequence exist, as `append` was told; the others give finite numbers.
        window: a query sees this many tokens, its own included (a cache may hold more); of a ring no more than its own.
        sinks: first tokens that every query sees whatever the window.
        scale: factor on q . k, dk ** -0.5 unless told.

    Raises:
        ValueError: a cache that is not of keys and values, or that holds fewer tokens than there are queries.
    """
    k, v, visible = read_cache(q, cache, counts=counts, window=window, sinks=sinks)
    return softmax_attention(q, k, v, mask=visible, scale=scale)


def read_cache(
    q: Float[Tensor, "b h c dk"],
    cache: KeyValueCache,
    *,
    counts: Int[Tensor, " b"] | None = None,
    window: int | None = None,
    sinks: int = 0,
) -> tuple[Float[Tensor, "b g s dk"], Float[Tensor, "b g s dv"], Bool[Tensor, "b 1 c s"]]:
    """Keys and values as the cache holds them, zeros for padding, and which of them each query sees."""
    check_window(window)
    queries, keys, streams = query_positions(q, cache, counts=counts), cache.positions(), cache.view()
    require(len(streams) == 2, f"kv_cache_attention reads keys and values, got a cache of {len(streams)} streams")
    visible = visible_through(cache, queries, window=window)
    if sinks:
        visible = visible | visible_in_cache(queries, keys) & (keys < sinks)[:, None, None, :]
    # What a cache gives as padding is undefined, and a weight of 0 times NaN is NaN. Under autocast q may be narrower.
    k, v = (x.masked_fill((keys < 0)[:, None, :, None], 0.0).to(q.dtype) for x in streams)
    return k, v, visible


def query_positions(
    q: Float[Tensor, "b h c dk"], cache: KeyValueCache, *, counts: Int[Tensor, " b"] | None = None
) -> Int[Tensor, "b c"]:
    """Where the queries of the tokens that went in last stand: lengths - counts + 0, 1, ..."""
    c = q.shape[2]
    first = cache.lengths - (c if counts is None else counts)
    enough = not has_values(first) or bool((first >= 0).all())
    require(
        len(cache.lengths) == len(q) and enough,
        f"the queries are the last {c} tokens of the cache's sequences, got q {tuple(q.shape)} for lengths "
        f"{cache.lengths.tolist()}",
    )
    return first[:, None] + torch.arange(c, device=q.device)
