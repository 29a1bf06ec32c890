"""Who may see whom: boolean masks (True = visible) and the rule that turns scores into weights."""

from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .precision import wide


class Masking(TypedDict, total=False):
    """Masking holds what forms of softmax attention take beside q, k and v: who sees whom, and what becomes of q . k.

    `softmax_attention.attention_scores` says what each of them means.
    """

    causal: bool
    window: int | None
    key_lengths: Int[Tensor, " b"] | None
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None
    scale: float | None
    softcap: float | None


def query_positions(t: int, s: int, *, device=None) -> Int[Tensor, "t 1"]:
    """Return the position of query i among the s keys, on a device:
    queries are the last t of s positions, so s - t + i.
    """
    return torch.arange(s - t, s, device=device)[:, None]


def causal_mask(t: int, s: int, *, device=None) -> Bool[Tensor, "t s"]:
    """Return True where a query sees a key: its own position and everything before it, aligned to the end.

    PyTorch's `is_causal` aligns to the start instead: the two differ when t != s.

    Args:
        t, s: queries and keys.
        device: where the mask is made.
    """
    return torch.arange(s, device=device) <= query_positions(t, s, device=device)


def window_mask(t: int, s: int, *, window: int, device=None) -> Bool[Tensor, "t s"]:
    """Return True in a causal band: a query sees `window` keys, its own included.

    Args:
        t, s: queries and keys.
        window: at least 1.
        device: where the mask is made.
    """
    distance = query_positions(t, s, device=device) - torch.arange(s, device=device)
    return (distance >= 0) & (distance < window)


def length_mask(key_lengths: Int[Tensor, " b"], s: int) -> Bool[Tensor, "b 1 1 s"]:
    """Return True where a key exists: in batch row i the first key_lengths[i] of s keys do, and the rest is padding."""
    return torch.arange(s, device=key_lengths.device) < key_lengths[:, None, None, None]


def visible_keys(
    t: int, s: int, *, causal=False, window=None, key_lengths=None, device=None
) -> Bool[Tensor, "..."] | None:
    """Return the structural masks combined, broadcastable to (b, h, t, s); None where every key is visible.

    Args:
        t, s: queries and keys.
        causal: query i stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding.
        device: where the mask is made.
    """
    masks = []
    if window is not None:
        masks.append(window_mask(t, s, window=window, device=device))
    elif causal:
        masks.append(causal_mask(t, s, device=device))
    if key_lengths is not None:
        masks.append(length_mask(key_lengths, s))
    if not masks:
        return None
    visible = masks[0]
    for mask in masks[1:]:
        visible = visible & mask
    return visible


def blank_padding(x: Float[Tensor, "b g s d"], key_lengths: Int[Tensor, " b"] | None) -> Float[Tensor, "b g s d"]:
    """Return x with zeros in place of padded positions, whose content is undefined: a weight of 0 times NaN is NaN."""
    if key_lengths is None:
        return x
    exists = length_mask(key_lengths, x.shape[-2]).transpose(-1, -2)
    return x.masked_fill(~exists, 0.0)


def apply_mask(scores: Float[Tensor, "*scores"], mask: Tensor | None) -> Float[Tensor, "*scores"]:
    """Return the scores under a mask: a boolean one turns invisible scores into -inf, one of floats is added."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    return scores + mask


def narrow_mask(mask: Float[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Return a mask of floats in this dtype, in which what is finite stays so: hidden for good is -inf alone."""
    if mask.dtype == dtype:
        return mask
    return mask.clamp_min(torch.finfo(dtype).min).masked_fill(mask == -torch.inf, -torch.inf).to(dtype)


def soft_cap(scores: Float[Tensor, "*scores"], softcap: float | None) -> Float[Tensor, "*scores"]:
    """Return scores bounded smoothly, softcap * tanh(score / softcap); as they are where softcap is None.

    Gemma 2 (2024), https://arxiv.org/abs/2408.00118, section 2.
    """
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def masked_softmax(scores: Float[Tensor, "b h t s"]) -> Float[Tensor, "b h t s"]:
    """Return the softmax over keys, in which a row of nothing but -inf gives zeros, not NaN (and zero gradients)."""
    empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return torch.softmax(scores.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)


def masked_logsumexp(scores: Float[Tensor, "b h t s"]) -> Float[Tensor, "b h t"]:
    """Return the log-sum-exp over keys in float32 or better;
    -inf for a row of nothing but -inf, with gradient 0 (PyTorch's: NaN).
    """
    scores = wide(scores)
    empty = (scores == -torch.inf).all(dim=-1)
    return scores.masked_fill(empty[..., None], 0.0).logsumexp(dim=-1).masked_fill(empty, -torch.inf)
