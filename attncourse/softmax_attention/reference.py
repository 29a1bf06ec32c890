"""Scaled dot-product attention: what it is, once as a loop and once as a formula.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1. Here a query that sees no key gives
zeros; there it is undefined.
"""

from typing import Literal, Unpack, overload

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import (
    Masking,
    apply_mask,
    blank_padding,
    masked_logsumexp,
    masked_softmax,
    soft_cap,
    visible_keys,
)
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import check_attention, check_qkv


def softmax_attention_loop(
    q: Float[Tensor, "t dk"], k: Float[Tensor, "s dk"], v: Float[Tensor, "s dv"], *, causal: bool = False
) -> Float[Tensor, "t dv"]:
    """Read token by token, in one head and one sequence: each query reads a weighted mean of the values.

    The oracle that every other form is compared with. If causal, query i of t stands at position s - t + i.
    """
    (t, dk), (s, dv) = q.shape, v.shape
    out = torch.zeros(t, dv, dtype=v.dtype, device=v.device)
    q, k, v = wide(q), wide(k), wide(v)
    for i in range(t):
        seen = range(s - t + i + 1) if causal else range(s)
        if len(seen) == 0:
            continue
        scores = torch.stack([q[i] @ k[j] * dk**-0.5 for j in seen])
        weights = torch.exp(scores - scores.max())
        weights = weights / weights.sum()
        out[i] = sum(w * v[j] for w, j in zip(weights, seen, strict=True))
    return out


@outside_autocast
def attention_scores(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    *,
    causal: bool = False,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "b h t s"]:
    """Return scaled scores q . k in float32 or better, with -inf where a query may not look.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, of q's dtype or of the scores', broadcastable to (b, h, t, s).
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the message names the rule and the values.
    """
    check_attention(q, k, k, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap)
    (t, dk), (g, s) = q.shape[2:], k.shape[1:3]
    grouped = rearrange(wide(q), "b (g r) t dk -> b g r t dk", g=g)
    scores = einsum(grouped, wide(blank_padding(k, key_lengths)), "b g r t dk, b g s dk -> b g r t s")
    scores = rearrange(scores, "b g r t s -> b (g r) t s") * (dk**-0.5 if scale is None else scale)
    scores = apply_mask(soft_cap(scores, softcap), mask)
    visible = visible_keys(t, s, causal=causal, window=window, key_lengths=key_lengths, device=q.device)
    return apply_mask(scores, visible)


def attention_weights(
    q: Float[Tensor, "b h t dk"], k: Float[Tensor, "b g s dk"], **masking: Unpack[Masking]
) -> Float[Tensor, "b h t s"]:
    """Return rows of non-negative weights that sum to 1, or to 0 where no key is visible, in q's dtype.

    Args:
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.
    """
    return masked_softmax(attention_scores(q, k, **masking)).to(q.dtype)


@outside_autocast
def mix_values(
    weights: Float[Tensor, "b h t s"], v: Float[Tensor, "b g s dv"], *, key_lengths: Tensor | None = None
) -> Float[Tensor, "b h t dv"]:
    """Return the weighted sum of values, in their dtype; h / g query heads read one value head.

    Args:
        key_lengths: (b,) integers; later values are padding, whatever they hold.
    """
    grouped = rearrange(wide(weights), "b (g r) t s -> b g r t s", g=v.shape[1])
    out = einsum(grouped, wide(blank_padding(v, key_lengths)), "b g r t s, b g s dv -> b g r t dv")
    return rearrange(out, "b g r t dv -> b (g r) t dv").to(v.dtype)


@overload
def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[False] = False, **masking: Unpack[Masking]
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[True], **masking: Unpack[Masking]
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


def softmax_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    return_lse: bool = False,
    **masking: Unpack[Masking],
) -> Float[Tensor, "b h t dv"] | tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b h t"]]:
    """Return softmax(Q K^T / sqrt(dk)) V: every query mixes the values it may see, by similarity of key.

    g key/value heads serve h = g r query heads.

    Args:
        return_lse: give also the log-sum-exp of each row of scores (b, h, t), in float32 or better (natural; -inf where
            no key is visible).
        masking: causal, window, key_lengths, mask, scale, softcap, as in `attention_scores`.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the message names the rule and the values.
    """
    check_qkv(q, k, v)
    scores = attention_scores(q, k, **masking)
    out = mix_values(masked_softmax(scores), v, key_lengths=masking.get("key_lengths"))
    return (out, masked_logsumexp(scores)) if return_lse else out
