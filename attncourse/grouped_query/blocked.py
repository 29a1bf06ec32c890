"""Decoding: few queries a sequence against a long cache, whose keys and values are read where they lie."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attncourse._shared.cache import visible_in_cache
from attncourse._shared.masks import masked_softmax

from .checks import check_decode


def grouped_query_decode(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    cache_seqlens: Int[Tensor, " b"] | None = None,
    mask: Bool[Tensor, "b 1 t s"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Attention from the last t tokens of each sequence to its cache, without copying keys to h heads.

    Args:
        cache_seqlens: how many of the s tokens in the cache are the sequence's, those of q included; all unless told.
            Query i of sequence b stands at cache_seqlens[b] - t + i and sees nothing after it.
        mask: True where a query may look, in place of cache_seqlens and window: for caches that are not in order.
        window: a query sees this many keys, its own included.
        scale: factor on q . k, dk ** -0.5 unless told.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the message names the rule and the values.
    """
    check_decode(q, k, v, cache_seqlens=cache_seqlens, mask=mask, window=window)
    (b, h, t, dk), (g, s) = q.shape, k.shape[1:3]
    if mask is None:
        lengths = torch.full((b,), s, device=q.device) if cache_seqlens is None else cache_seqlens
        keys = torch.arange(s, device=q.device).expand(b, s)
        queries = lengths[:, None] - t + torch.arange(t, device=q.device)
        mask = visible_in_cache(queries, torch.where(keys < lengths[:, None], keys, -1), window=window)
    rows = rearrange(q, "b (g r) t dk -> b g (r t) dk", g=g) * (dk**-0.5 if scale is None else scale)
    scores = rows @ k.transpose(-1, -2)
    scores = scores.masked_fill(~mask.repeat(1, 1, h // g, 1), -torch.inf)
    v = v.masked_fill(~mask.any(dim=2).unsqueeze(-1), 0.0)
    return rearrange(masked_softmax(scores) @ v, "b g (r t) dv -> b (g r) t dv", t=t)
