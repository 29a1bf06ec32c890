"""Decoding: few queries a sequence against a long cache, whose keys and values are read where they lie."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attncourse._shared.cache import visible_in_cache
from attncourse._shared.masks import masked_softmax, soft_cap
from attncourse._shared.precision import outside_autocast, wide

from .inputs import check_decode

# Where few heads serve many queries the keys are cut, as a GPU's kernel does it: into so many pieces, none shorter than this.
FEW_HEADS, SPLITS, LEAST_SPLIT = 4, 16, 256


@outside_autocast
def grouped_query_decode(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    cache_seqlens: Int[Tensor, " b"] | None = None,
    mask: Bool[Tensor, "b 1 t s"] | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """The last t tokens of each sequence attend to its cache, without copying keys to h heads.

    A cache of 16 bits is read in float32, a copy for the time of the call: scores of 16 bits would be rounded. Equally
    long sequences are read in one pass; others one by one, each to its own end, so padding costs no time.

    Args:
        cache_seqlens: how many of the s tokens in the cache are the sequence's, those of q included (default: all).
            Query i of sequence b stands at cache_seqlens[b] - t + i and sees nothing after it.
        mask: True where a query may look, in place of cache_seqlens and window: for caches that are not in order.
        window: a query sees this many keys, its own included.
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, as `soft_cap`.

    Raises:
        ValueError: a shape, dtype, device or range is wrong, or a mask beside cache_seqlens or window; the message
            names the rule and the values.
    """
    check_decode(q, k, v, cache_seqlens=cache_seqlens, mask=mask, window=window, softcap=softcap)
    dtype, q = q.dtype, wide(q) * (q.shape[-1] ** -0.5 if scale is None else scale)
    t, s = q.shape[2], k.shape[2]
    if mask is None:
        full = cache_seqlens is None or bool((cache_seqlens == s).all())
        if full and t == 1 and (window is None or window >= s):  # the usual step pays for no mask
            return _read(q, k, v, None, softcap).to(dtype)
        mask = _mask(q, k, cache_seqlens, window)
    if mask.all():
        return _read(q, k, v, None, softcap).to(dtype)
    # A sequence of padding alone still gives a row.
    rows = [_read_visible(*(x[i : i + 1] for x in (q, k, v, mask)), softcap=softcap) for i in range(len(q))]
    return (torch.cat(rows) if rows else q.new_zeros(*q.shape[:3], v.shape[-1])).to(dtype)


def _mask(q, k, cache_seqlens, window) -> Bool[Tensor, "b 1 t s"]:
    """Return who sees whom where the cache holds position j in place j."""
    b, t, s = len(q), q.shape[2], k.shape[2]
    lengths = torch.full((b,), s, device=q.device) if cache_seqlens is None else cache_seqlens
    keys = torch.arange(s, device=q.device)
    queries = lengths[:, None] - t + torch.arange(t, device=q.device)
    return visible_in_cache(queries, torch.where(keys < lengths[:, None], keys, -1), window=window)


def _read_visible(q, k, v, mask, *, softcap):
    """Let one sequence `_read` no more keys than up to the last that any query sees."""
    used = mask[0, 0].any(dim=0)
    end = int(used.nonzero().max()) + 1 if used.any() else 0
    k, v, mask, used = k[:, :, :end], v[:, :, :end], mask[..., :end], used[:end]
    if not used.all():  # what no query sees is undefined, and a weight of 0 times NaN is NaN
        v = v.masked_fill(~used[:, None], 0.0)
    return _read(q, k, v, None if mask.all() and end > 0 else mask, softcap)


def _read(q, k, v, mask: Bool[Tensor, "b 1 t s"] | None, softcap: float | None):
    """A group's queries are the rows of one matrix, which meets the group's keys in one product, and its values in one."""
    k, v, (b, g, s) = wide(k), wide(v), k.shape[:3]
    r = q.shape[1] // g
    rows = rearrange(q, "b (g r) t dk -> b g (r t) dk", g=g)
    if mask is None and r > 1 and b * g <= FEW_HEADS and s >= SPLITS * LEAST_SPLIT:
        heads = [_read_in_splits(rows[i, j], k[i, j], v[i, j], softcap) for i in range(b) for j in range(g)]
        out = torch.stack(heads).unflatten(0, (b, g))
        return rearrange(out, "b g (r t) dv -> b (g r) t dv", r=r)
    # Keys first: a row of the cache is read once and meets all of the group's queries.
    scores = soft_cap((k @ rows.transpose(-1, -2)).transpose(-1, -2), softcap)
    if mask is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        weights = masked_softmax(scores.masked_fill(~mask.repeat(1, 1, r, 1), -torch.inf))
    return rearrange(weights @ v, "b g (r t) dv -> b (g r) t dv", r=r)


def _read_in_splits(
    rows: Float[Tensor, "rt dk"], k: Float[Tensor, "s dk"], v: Float[Tensor, "s dv"], softcap: float | None
) -> Float[Tensor, "rt dv"]:
    """Read one head's cache in equal pieces, a product each, and what is left over: pieces keep every core busy."""
    length = len(k) // SPLITS
    cut = SPLITS * length
    pieces = torch.bmm(rows.expand(SPLITS, -1, -1), k[:cut].unflatten(0, (SPLITS, length)).mT)
    scores = torch.cat([rearrange(pieces, "n rt s -> rt (n s)"), rows @ k[cut:].T], dim=1)
    weights = torch.softmax(soft_cap(scores, softcap), dim=-1)
    by_piece = rearrange(weights[:, :cut], "rt (n s) -> n rt s", n=SPLITS)
    mixed = torch.bmm(by_piece, v[:cut].unflatten(0, (SPLITS, length))).sum(dim=0)
    return mixed + weights[:, cut:] @ v[cut:]
