"""Attention from the last tokens of a sequence to all that a cache holds of it: the definition of decoding.

With a cache of what earlier tokens left, the outputs are those of causal attention over the whole sequence: a token's key
and value depend on nothing after it, so what was computed once stays true. (Incremental decoding: Shazeer 2019,
https://arxiv.org/abs/1911.02150, section 2.4.1.)
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.cache import KeyValueCache, read_cache
from attncourse._shared.validate import check_window, has_values
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
    """Let the last c tokens attend to the cache, which holds their own keys and values already.

    Args:
        counts: how many of the c queries of each sequence exist, as `append` was told; the others give finite numbers.
        window: a query sees this many tokens, its own included (a cache may hold more); of a ring no more than its own.
        sinks: first tokens that every query sees whatever the window.
        scale: factor on q . k (default: dk ** -0.5).

    Raises:
        ValueError: a cache that is not of keys and values, or that holds fewer tokens than there are queries.
    """
    check_window(window)
    queries = query_positions(q, cache, counts=counts)
    streams, visible = read_cache(cache, queries, dtype=q.dtype, window=window, sinks=sinks)
    if len(streams) != 2:
        raise ValueError(f"kv_cache_attention reads keys and values, got a cache of {len(streams)} streams")
    return softmax_attention(q, *streams, mask=visible, scale=scale)


def query_positions(
    q: Float[Tensor, "b h c dk"], cache: KeyValueCache, *, counts: Int[Tensor, " b"] | None = None
) -> Int[Tensor, "b c"]:
    """Return where the queries of the tokens that went into the cache last stand: lengths - counts + 0, 1, ..."""
    c = q.shape[2]
    first = cache.lengths - (c if counts is None else counts)
    if len(cache.lengths) != len(q) or (has_values(first) and bool((first < 0).any())):
        raise ValueError(
            f"the queries are the last {c} tokens of the cache's sequences, got q {tuple(q.shape)} for lengths "
            f"{cache.lengths.tolist()}"
        )
    return first[:, None] + torch.arange(c, device=q.device)
