"""Local attention: what it is, once as a loop over each query's neighbours and once as softmax under a mask.

Beltagy et al. 2020, Longformer, https://arxiv.org/abs/2004.05150, section 3.1, for the window and its dilation; Xiao et
al. 2023, https://arxiv.org/abs/2309.17453, section 3.2, for the first keys that stay visible. There a window of w means
w / 2 keys on each side; here a causal window counts its keys, and a radius those on one side. There the first keys are
also told positions within the cache; here positions are not attention's business.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from attncourse._shared.masks import apply_mask, blank_padding, length_mask, masked_softmax, query_positions
from attncourse._shared.precision import outside_autocast, wide

from .pattern import check_local, local_band


def local_mask(
    t: int,
    s: int,
    *,
    window: int | None = None,
    radius: int | None = None,
    dilation: int = 1,
    sinks: int = 0,
    device=None,
) -> Bool[Tensor, "t s"]:
    """Return True where query i of t, at position s - t + i, sees key j of s.

    Args:
        window: keys at distances 0, dilation, ..., (window - 1) dilation before the query (its own included).
        radius: keys at distances of at most radius dilation on both sides, in steps of the dilation.
        dilation: the step between neighbours.
        sinks: the first keys stay visible, whatever their distance (with a window; not before their time).
        device: where the mask is made.

    Raises:
        ValueError: not exactly one of window and radius, one of them below 1, a dilation below 1, sinks below 0, or
            sinks beside a radius or a dilation.
    """
    band = local_band(window=window, radius=radius, dilation=dilation, sinks=sinks)
    keys = torch.arange(s, device=device)
    distance = query_positions(t, s, device=device) - keys
    near = (distance >= -band.after * dilation) & (distance <= band.before * dilation) & (distance % dilation == 0)
    return near | ((keys < sinks) & (distance >= 0))


def sliding_window_attention_loop(
    q: Float[Tensor, "t dk"],
    k: Float[Tensor, "s dk"],
    v: Float[Tensor, "s dv"],
    *,
    window: int | None = None,
    radius: int | None = None,
    dilation: int = 1,
    sinks: int = 0,
) -> Float[Tensor, "t dv"]:
    """Read query by query, in one head and one sequence:
    each visits its neighbours alone, so t (window + sinks) pairs in all.

    The oracle that every other form is compared with.

    Args:
        window: keys that a query sees, its own included, each `dilation` before the next.
        radius: keys on either side, in place of a window.
        dilation: the step between neighbours.
        sinks: the first keys stay visible, whatever their distance.
    """
    band = local_band(window=window, radius=radius, dilation=dilation, sinks=sinks)
    (t, dk), (s, dv) = q.shape, v.shape
    out = torch.zeros(t, dv, dtype=v.dtype, device=v.device)
    q, k, v = wide(q), wide(k), wide(v)
    for i in range(t):
        own = s - t + i
        near = (own + step * dilation for step in range(-band.before, band.after + 1))
        seen = sorted({j for j in near if 0 <= j < s} | set(range(min(sinks, own + 1))))
        if seen:
            weights = torch.softmax(k[seen] @ q[i] * dk**-0.5, dim=0)
            out[i] = weights @ v[seen]
    return out


@outside_autocast
def sliding_window_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    window: int | None = None,
    radius: int | None = None,
    dilation: int = 1,
    sinks: int = 0,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Return softmax attention in which a query sees its neighbours alone: `local_mask` on all t s pairs.

    Args:
        window: keys that a query sees, its own included, each `dilation` before the next.
        radius: keys on either side, in place of a window; 2 radius + 1 with the query's own.
        dilation: the step between neighbours.
        sinks: the first keys stay visible, whatever their distance (with a window; not before their time).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).

    Raises:
        ValueError: a shape, dtype, device or range is wrong; not exactly one of window and radius.
    """
    check_local(q, k, v, key_lengths)
    t, (g, s) = q.shape[2], k.shape[1:3]
    visible = local_mask(t, s, window=window, radius=radius, dilation=dilation, sinks=sinks, device=q.device)
    if key_lengths is not None:
        visible = visible & length_mask(key_lengths, s)
    k, v = wide(blank_padding(k, key_lengths)), wide(blank_padding(v, key_lengths))
    grouped = rearrange(wide(q), "b (g r) t dk -> b g r t dk", g=g)
    scores = einsum(grouped, k, "b g r t dk, b g s dk -> b g r t s") * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = masked_softmax(apply_mask(rearrange(scores, "b g r t s -> b (g r) t s"), visible))
    out = einsum(rearrange(weights, "b (g r) t s -> b g r t s", g=g), v, "b g r t s, b g s dv -> b g r t dv")
    return rearrange(out, "b g r t dv -> b (g r) t dv").to(q.dtype)
