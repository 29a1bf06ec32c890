"""Input errors of decoding in plain PyTorch."""

import torch
from torch import Tensor

from attncourse._shared.validate import check_key_lengths, check_qkv, check_window, require


def check_decode(
    q: Tensor, k: Tensor, v: Tensor, *, cache_seqlens: Tensor | None, mask: Tensor | None, window: int | None
) -> None:
    """q, k, v fit each other, cache_seqlens (b,) the cache, and a boolean mask (b, 1, t, s) the scores."""
    check_qkv(q, k, v)
    check_window(window)
    (b, _, t, _), s = q.shape, k.shape[2]
    check_key_lengths(cache_seqlens, b=b, s=s, like=q)
    if mask is None:
        return
    require(cache_seqlens is None and window is None, "a mask says all: give it without cache_seqlens and window")
    require(isinstance(mask, Tensor) and mask.dtype == torch.bool, "mask must be boolean (True = visible)")
    require(mask.shape == (b, 1, t, s), f"mask must be (b, 1, t, s) = {(b, 1, t, s)}, got {tuple(mask.shape)}")
    require(mask.device == q.device, f"mask must be on {q.device}, got {mask.device}")
