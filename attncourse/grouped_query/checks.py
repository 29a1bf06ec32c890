"""Input errors of decoding in plain PyTorch."""

import torch
from torch import Tensor

from attncourse._shared.validate import check_key_lengths, check_qkv, check_softcap, check_window


def check_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cache_seqlens: Tensor | None,
    mask: Tensor | None,
    window: int | None,
    softcap: float | None,
) -> None:
    """q, k, v fit each other, cache_seqlens (b,) the cache, and a boolean mask (b, 1, t, s) the scores."""
    check_qkv(q, k, v)
    check_window(window)
    check_softcap(softcap)
    (b, _, t, _), s = q.shape, k.shape[2]
    check_key_lengths(cache_seqlens, b=b, s=s, like=q)
    if mask is None:
        return
    if cache_seqlens is not None or window is not None:
        raise ValueError("a mask says all: give it without cache_seqlens and window")
    if not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
        raise ValueError("mask must be boolean (True = visible)")
    if mask.shape != (b, 1, t, s):
        raise ValueError(f"mask must be (b, 1, t, s) = {(b, 1, t, s)}, got {tuple(mask.shape)}")
    if mask.device != q.device:
        raise ValueError(f"mask must be on {q.device}, got {mask.device}")
