"""Input errors of decoding: in plain PyTorch, and by kernels that read a cache as it is stored."""

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from attncourse._shared.validate import check_key_lengths, check_qkv, check_softcap, check_window, shapes_of

WIDEST = 256  # entries of a vector that a kernel takes


class Decoding(TypedDict, total=False):
    """The options are what kernels that decode take beside q, k and v.

    `plan_grouped_query_decode` says what each of them means.
    """

    cache_seqlens: Tensor | None
    starts: Tensor | None
    block_table: Tensor | None
    k_scale: Tensor | None
    v_scale: Tensor | None
    k_zero: Tensor | None
    v_zero: Tensor | None
    window: int | None
    scale: float | None
    softcap: float | None
    splits: int | None


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
    """Check that q, k, v fit each other, cache_seqlens (b,) the cache, and a boolean mask (b, 1, t, s) the scores.

    Args:
        window: at least 1; None passes.
        softcap: above 0; None passes.

    Raises:
        ValueError: the message names the rule and what was received.
    """
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


class Codes(NamedTuple):
    """Codes say how a dtype is read: how many codes an element holds,
    and whether a zero point stands beside each scale.
    """

    each: int
    zeros: bool


CODES = {torch.int8: Codes(1, True), torch.uint8: Codes(2, True), torch.float8_e4m3fn: Codes(1, False)}


def codes_each(dtype: torch.dtype) -> int:
    """Return how many entries of a vector an element of a cache of this dtype holds: two of 4 bits in a byte, else one."""
    return CODES[dtype].each if dtype in CODES else 1


def check_cached(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    k_zero: Tensor | None,
    v_zero: Tensor | None,
    cache_seqlens: Tensor | None,
    starts: Tensor | None,
    block_table: Tensor | None,
    window: int | None,
    softcap: float | None,
    splits: int | None,
) -> int:
    """Return how many tokens of a sequence a cache has room for, once what a kernel that decodes takes is checked.

    Args:
        name: of the launcher, for the message.
        q, k, v: queries (b, h, t, dk) and a cache as it is stored, contiguous or in pages.
        k_scale, v_scale, k_zero, v_zero: float32 beside codes; None where there are none.
        cache_seqlens, starts: (b,) integers; None passes.
        block_table: (b, max_pages) int32; None for contiguous caches.
        window, softcap, splits: None, or at least 1, above 0, at least 1.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    _check_storage(name, q, k, v)
    _check_scales(k, v, k_scale, v_scale, k_zero, v_zero)
    tensors = [x for x in (q, k, v, k_scale, v_scale, k_zero, v_zero) if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise ValueError(
            f"{name} is for inference and gives no gradients: call it under torch.no_grad(), or use impl='blocked'"
        )
    if any(x.device != q.device for x in tensors):
        raise ValueError(f"{name} takes tensors of one device")
    for x in tensors[1:]:
        if x.stride(-1) != 1:
            raise ValueError(f"entries of a vector must be neighbours in memory, got strides {x.stride()}")
    check_window(window)
    check_softcap(softcap)
    b, capacity = len(q), k.shape[2]
    if block_table is not None:
        capacity *= _check_table(block_table, b=b, like=q)
    elif len(k) != b:
        raise ValueError(f"q and the caches must share the batch, got {b} and {len(k)}")
    check_key_lengths(cache_seqlens, b=b, s=capacity, like=q)
    if starts is not None and (starts.shape != (b,) or starts.device != q.device or starts.is_floating_point()):
        raise ValueError(
            f"starts must be ({b},) integers on {q.device}, got {tuple(starts.shape)} {starts.dtype} on {starts.device}"
        )
    if splits is not None and splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    return capacity


def _check_storage(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    each, got = codes_each(k.dtype), shapes_of(q=q, k=k, v=v)
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"q, k and v must have four axes, {got}")
    if q.shape[-1] != each * k.shape[-1] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"q, k and v do not fit each other, {got}" + ": a byte holds two codes of 4 bits" * (each - 1))
    if k.shape[1] < 1 or q.shape[1] % k.shape[1] != 0:
        raise ValueError(f"the {k.shape[1]} key/value heads must divide the {q.shape[1]} query heads")
    widest = max(q.shape[-1], each * v.shape[-1])
    if not 1 <= widest <= WIDEST:
        raise ValueError(f"{name} takes widths to {WIDEST}, got {widest}: use impl='blocked' for it")
    if k.dtype != v.dtype or (k.dtype not in CODES and k.dtype != q.dtype):
        raise ValueError(
            f"k and v must be of q's dtype {q.dtype}, or both int8, uint8 (int4) or float8_e4m3fn codes, "
            f"got {k.dtype} and {v.dtype}"
        )


def _check_scales(k, v, k_scale, v_scale, k_zero, v_zero) -> None:
    coded, zeros = k.dtype in CODES, k.dtype in CODES and CODES[k.dtype].zeros
    for which, cache, x, needed in (
        ("k_scale", k, k_scale, coded), ("v_scale", v, v_scale, coded), ("k_zero", k, k_zero, zeros), ("v_zero", v, v_zero, zeros),
    ):  # fmt: skip
        if (x is not None) != needed:
            raise ValueError(f"{which} {'is needed' if needed else 'has no place'} beside {k.dtype} caches")
        if x is not None:
            width = codes_each(cache.dtype) * cache.shape[-1]
            fits = x.ndim == 4 and x.shape[:3] == cache.shape[:3] and x.shape[-1] >= 1 and width % x.shape[-1] == 0
            if not fits or x.dtype != torch.float32:
                raise ValueError(
                    f"{which} must be float32 (..., width / group) for a cache {tuple(cache.shape)}, "
                    f"got {x.dtype} {tuple(x.shape)}"
                )
    for scale, zero in ((k_scale, k_zero), (v_scale, v_zero)):
        if zero is not None and (zero.shape, zero.stride()) != (scale.shape, scale.stride()):
            raise ValueError("scales and zeros must share shape and strides")


def _check_table(table: Tensor, *, b: int, like: Tensor) -> int:
    """Return how many pages a row of the table has."""
    if table.ndim != 2 or len(table) != b or table.dtype != torch.int32 or table.device != like.device:
        raise ValueError(
            f"block_table must be ({b}, max_pages) int32 on {like.device}, "
            f"got {tuple(table.shape)} {table.dtype} on {table.device}"
        )
    if table.shape[1] > 0 and table.stride(1) != 1:
        raise ValueError(f"rows of block_table must be contiguous, got {table.stride()}")
    return table.shape[1]
