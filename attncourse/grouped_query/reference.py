"""Grouped-query attention: h query heads read g key/value heads, first head after head, then without a copy.

Shazeer 2019, https://arxiv.org/abs/1911.02150, for one head of keys and values ("multi-query", g = 1); Ainslie et al. 2023,
https://arxiv.org/abs/2305.13245, section 2.2, for the g in between. With g = h it is multi-head attention.
"""

from typing import Unpack

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import Masking, apply_mask, blank_padding, masked_softmax, soft_cap, visible_keys
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import check_attention, check_qkv
from attncourse.softmax_attention import softmax_attention


def grouped_query_attention_loop(
    q: Float[Tensor, "b h t dk"], k: Float[Tensor, "b g s dk"], v: Float[Tensor, "b g s dv"], **masking: Unpack[Masking]
) -> Float[Tensor, "b h t dv"]:
    """Attend head after head: query head i is softmax attention to the keys and values of head i // (h / g).

    The oracle of every other form.

    Args:
        masking: causal, window, key_lengths, mask, scale, softcap, as in `softmax_attention`; a mask is the same for
            every head.
    """
    check_qkv(q, k, v)
    h, g = q.shape[1], k.shape[1]
    heads = []
    for i in range(h):
        own, shared = slice(i, i + 1), slice(i // (h // g), i // (h // g) + 1)
        heads.append(softmax_attention(q[:, own], k[:, shared], v[:, shared], **masking))
    return torch.cat(heads, dim=1)


@outside_autocast
def grouped_query_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    causal: bool = False,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Attend with all heads at once: the r = h / g query heads of a group are an axis of q alone,
    so keys and values stay g heads.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the message names the rule and the values.
    """
    check_attention(q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap)
    (t, dk), (g, s) = q.shape[2:], k.shape[1:3]
    k, v = wide(blank_padding(k, key_lengths)), wide(blank_padding(v, key_lengths))
    grouped = rearrange(wide(q), "b (g r) t dk -> b g r t dk", g=g) * (dk**-0.5 if scale is None else scale)
    scores = rearrange(einsum(grouped, k, "b g r t dk, b g s dk -> b g r t s"), "b g r t s -> b (g r) t s")
    visible = visible_keys(t, s, causal=causal, window=window, key_lengths=key_lengths, device=q.device)
    weights = masked_softmax(apply_mask(apply_mask(soft_cap(scores, softcap), mask), visible))
    weights = rearrange(weights, "b (g r) t s -> b g r t s", g=g)
    out = einsum(weights, v, "b g r t s, b g s dv -> b g r t dv")
    return rearrange(out, "b g r t dv -> b (g r) t dv").to(q.dtype)
