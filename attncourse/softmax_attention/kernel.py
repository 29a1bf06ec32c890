"""Softmax attention as Triton kernels, forward and backward, that never store the (t, s) weights.

Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithms 1 and 2: the forward keeps a running maximum
and sum over key tiles, and the backward recomputes the weights from them. Differences: query heads share key/value heads
without copies; the two halves of the backward are kernels of their own, so that neither needs atomic additions; and under
an added mask the backward reads a row's maximum and the logarithm of its sum as two numbers, since next to a maximum of
-1e9 (a row whose every key carries such a mask) a float32 has no room for the other.
"""

from typing import Literal, Unpack, overload

import torch
from torch import Tensor

from attncourse._shared.kernel import (
    ADDED_MASK,
    exponent_factor,
    exponents,
    finish_softmax,
    head_of,
    length_of,
    load_lse,
    load_rows,
    mask_arguments,
    masked_scores,
    online_softmax,
    row_delta,
    score_gradients,
    store_rows,
    tanh,
    visible_keys,
)
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import (
    check_backward_fits,
    check_launch,
    check_mask_is_constant,
    chip_of,
    in_exact_dtype,
    output_gradient,
    padded,
    positive,
    tile_config,
)
from attncourse._shared.masks import Masking
from attncourse._shared.validate import check_attention


@triton.jit
def _scores(
    products, rows, cols, mask, mask_strides, t, s, length, window, scale, softcap,
    EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Scores from q . k, with -inf where a row may not look, and the slope of the softcap.

    Products are scaled where a bound or a mask needs their true size; elsewhere `exponent_factor` does it.
    """
    scores, slope = products, 1.0
    if SOFTCAP:
        bounded = tanh(products * (scale / softcap))
        slope = 1.0 - bounded * bounded
        scores = softcap * bounded
    elif MASK == ADDED_MASK:
        scores = products * scale
    scores = masked_scores(scores, mask, mask_strides, rows, cols, t, s, MASK)
    if EDGE:
        scores = tl.where(visible_keys(rows, cols, t, s, length, window, CAUSAL, WINDOW), scores, float("-inf"))
    return scores, slope


@triton.jit
def _keys_of(first_row, t, s, length, window, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
):  # fmt: skip
    """For a block of queries: key tiles [begin, whole) are visible to every row, [whole, end) hold an edge."""
    begin, whole, end = 0, length, length
    if CAUSAL:
        end = tl.maximum(tl.minimum(end, first_row + BLOCK_T + s - t), 0)
        whole = tl.maximum(tl.minimum(whole, first_row + s - t + 1), 0)
    if WINDOW:
        begin = tl.maximum(first_row + s - t - window + 1, 0) // BLOCK_S * BLOCK_S
        whole = begin
    return begin, whole // BLOCK_S * BLOCK_S, end


@triton.jit
def _fwd_tiles(
    acc, top, total, q, k_base, v_base, mask, k_strides, v_strides, mask_strides, rows, first, last, t, s, length, window,
    scale, softcap, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """The online softmax over key tiles first..last; only tiles with an edge look which keys exist."""
    factor = exponent_factor(scale, SOFTCAP, MASK)
    for start in range(first, last, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        exists = None
        if EDGE:
            exists = cols < length
        k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_T, BLOCK_S)
        scores, _ = _scores(
            products, rows, cols, mask, mask_strides, t, s, length, window, scale, softcap,
            EDGE, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        acc, top, total = online_softmax(acc, top, total, scores, v, factor, MASK == ADDED_MASK)
    return acc, top, total


@triton.jit
def _softmax_attention_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, top_ptr, sum_ptr, lengths_ptr, mask_ptr,
    q_strides, k_strides, v_strides, out_strides, mask_strides, h, t, s, window, scale, softcap,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    mask = head_of(mask_ptr, mask_strides, batch, head)
    begin, whole, end = _keys_of(first_row, t, s, length, window, BLOCK_T, BLOCK_S, CAUSAL, WINDOW)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, mask, k_strides, v_strides, mask_strides, rows, begin, whole, t, s, length,
        window, scale, softcap, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, False, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, mask, k_strides, v_strides, mask_strides, rows, whole, end, t, s, length,
        window, scale, softcap, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, True, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip

    out, lse = finish_softmax(acc, top, total, exponent_factor(scale, SOFTCAP, MASK))
    at = (batch * h + head) * t + rows
    tl.store(lse_ptr + at, lse, mask=exists)
    if MASK == ADDED_MASK:
        # +inf for a row that saw nothing: in the backward pass all its weights are 0.
        tl.store(top_ptr + at, tl.where(total > 0, top, float("inf")), mask=exists)
        tl.store(sum_ptr + at, tl.log2(tl.where(total > 0, total, 1.0)), mask=exists)
    store_rows(head_of(out_ptr, out_strides, batch, head), out_strides, out, rows, exists, DV, BLOCK_DV)


@triton.jit
def _load_statistics(lse_ptr, top_ptr, sum_ptr, rows, exists, MASK: tl.constexpr):
    """Each row's log-sum-exp to base 2 and 0, or its maximum and the logarithm of its sum; 0 weighs what does not exist."""
    if MASK == ADDED_MASK:
        top = tl.load(top_ptr + rows, mask=exists, other=float("inf"))
        log_sum = tl.load(sum_ptr + rows, mask=exists, other=0.0)
    else:
        top = load_lse(lse_ptr, rows, exists)
        log_sum = 0.0
    return top, log_sum


@triton.jit
def _weights(scores, top, log_sum, factor, MASK: tl.constexpr):
    if MASK == ADDED_MASK:
        exponent = exponents(scores, top[:, None], factor, True) - log_sum[:, None]
    else:
        exponent = scores * factor - top[:, None]
    return tl.exp2(exponent)


@triton.jit
def _dkdv_tiles(
    dk, dv, k, v, q_base, dout_base, mask, lse_ptr, top_ptr, sum_ptr, delta_ptr, q_strides, dout_strides, mask_strides, cols,
    first, last, t, s, length, window, scale, softcap, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Gradients of one key tile from the query tiles first..last of one head; weights are (BLOCK_T, BLOCK_S)."""
    factor = exponent_factor(scale, SOFTCAP, MASK)
    for start in range(first, last, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        exists = rows < t
        q = load_rows(q_base, q_strides, rows, exists, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
        dout = load_rows(dout_base, dout_strides, rows, exists, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores, slope = _scores(
            products, rows, cols, mask, mask_strides, t, s, length, window, scale, softcap,
            EDGE, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        top, log_sum = _load_statistics(lse_ptr, top_ptr, sum_ptr, rows, exists, MASK)
        weights = _weights(scores, top, log_sum, factor, MASK)
        dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
        delta = tl.load(delta_ptr + rows, mask=exists, other=0.0)
        dscores = score_gradients(weights, dout, v, delta) * slope
        dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _softmax_attention_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, top_ptr, sum_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr, mask_ptr,
    q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides, mask_strides, h, t, s, window, scale, softcap,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S keys of one key/value head against every query, of every head it serves, that sees them."""
    first_col = tl.program_id(0) * BLOCK_S
    g = h // GROUP
    batch = (tl.program_id(1) // g).to(tl.int64)
    kv_head = (tl.program_id(1) % g).to(tl.int64)
    cols = first_col + tl.arange(0, BLOCK_S)
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    exists = cols < length
    k = load_rows(head_of(k_ptr, k_strides, batch, kv_head), k_strides, cols, exists, DK, BLOCK_DK)
    v = load_rows(head_of(v_ptr, v_strides, batch, kv_head), v_strides, cols, exists, DV, BLOCK_DV)

    # Query tiles [begin, whole) hold an edge of the mask; [whole, end) see all of this key tile.
    begin, whole, end = 0, 0, t
    if CAUSAL:
        begin = tl.maximum(first_col - (s - t), 0) // BLOCK_T * BLOCK_T
        whole = tl.cdiv(tl.maximum(first_col + BLOCK_S - 1 - (s - t), 0), BLOCK_T) * BLOCK_T
        whole = tl.minimum(whole, tl.cdiv(t, BLOCK_T) * BLOCK_T)
    if WINDOW:
        end = tl.maximum(tl.minimum(end, first_col + BLOCK_S - 1 + window - (s - t)), 0)
        whole = tl.cdiv(t, BLOCK_T) * BLOCK_T
    if first_col >= length:
        end = 0
    whole = tl.minimum(whole, tl.cdiv(end, BLOCK_T) * BLOCK_T)

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base = head_of(q_ptr, q_strides, batch, head)
        dout_base = head_of(dout_ptr, dout_strides, batch, head)
        mask = head_of(mask_ptr, mask_strides, batch, head)
        at = (batch * h + head) * t
        dk, dv = _dkdv_tiles(
            dk, dv, k, v, q_base, dout_base, mask, lse_ptr + at, top_ptr + at, sum_ptr + at, delta_ptr + at, q_strides,
            dout_strides, mask_strides, cols, begin, whole, t, s, length, window, scale, softcap, DK, DV, BLOCK_T,
            BLOCK_DK, BLOCK_DV, True, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        dk, dv = _dkdv_tiles(
            dk, dv, k, v, q_base, dout_base, mask, lse_ptr + at, top_ptr + at, sum_ptr + at, delta_ptr + at, q_strides,
            dout_strides, mask_strides, cols, whole, end, t, s, length, window, scale, softcap, DK, DV, BLOCK_T,
            BLOCK_DK, BLOCK_DV, False, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip

    # Keys past the end of their row were not masked in whole tiles: what they gathered is no gradient.
    dk, dv = tl.where(exists[:, None], dk * scale, 0.0), tl.where(exists[:, None], dv, 0.0)
    store_rows(head_of(dk_ptr, dk_strides, batch, kv_head), dk_strides, dk, cols, cols < s, DK, BLOCK_DK)
    store_rows(head_of(dv_ptr, dv_strides, batch, kv_head), dv_strides, dv, cols, cols < s, DV, BLOCK_DV)


@triton.jit
def _dq_tiles(
    dq, q, dout, top, log_sum, delta, k_base, v_base, mask, k_strides, v_strides, mask_strides, rows, first, last, t, s,
    length, window, scale, softcap, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """Gradient of one query tile from the key tiles first..last."""
    factor = exponent_factor(scale, SOFTCAP, MASK)
    for start in range(first, last, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        exists = None
        if EDGE:
            exists = cols < length
        k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores, slope = _scores(
            products, rows, cols, mask, mask_strides, t, s, length, window, scale, softcap,
            EDGE, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        weights = _weights(scores, top, log_sum, factor, MASK)
        dscores = score_gradients(weights, dout, v, delta) * slope
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _softmax_attention_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, top_ptr, sum_ptr, delta_ptr, dq_ptr, lengths_ptr, mask_ptr,
    q_strides, k_strides, v_strides, dout_strides, dq_strides, mask_strides, h, t, s, window, scale, softcap,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they saw in the forward pass."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    dout = load_rows(head_of(dout_ptr, dout_strides, batch, head), dout_strides, rows, exists, DV, BLOCK_DV)
    at = (batch * h + head) * t
    top, log_sum = _load_statistics(lse_ptr + at, top_ptr + at, sum_ptr + at, rows, exists, MASK)
    delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    mask = head_of(mask_ptr, mask_strides, batch, head)
    begin, whole, end = _keys_of(first_row, t, s, length, window, BLOCK_T, BLOCK_S, CAUSAL, WINDOW)

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    dq = _dq_tiles(
        dq, q, dout, top, log_sum, delta, k_base, v_base, mask, k_strides, v_strides, mask_strides, rows, begin, whole, t,
        s, length, window, scale, softcap, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, False, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip
    dq = _dq_tiles(
        dq, q, dout, top, log_sum, delta, k_base, v_base, mask, k_strides, v_strides, mask_strides, rows, whole, end, t,
        s, length, window, scale, softcap, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, True, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip
    store_rows(head_of(dq_ptr, dq_strides, batch, head), dq_strides, dq * scale, rows, exists, DK, BLOCK_DK)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width. The compile-only gate holds every entry to its chip's shared
# memory, and those of 16-bit inputs to no spilled register. Without tensor cores (float32 everywhere, all of sm_75)
# products run on FMA units out of registers: tiles must be small.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (128, 64, 4, 3), 128: (128, 32, 4, 3), 256: (64, 32, 8, 2)},
        90: {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (64, 32, 4, 2)},
    },
    "bwd_dkdv": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
        80: {64: (32, 64, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
        90: {64: (32, 64, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 4, 1)},
    },
    "bwd_dq": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 8, 1)},
        90: {64: (64, 64, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 4, 1)},
    },
}


def launch_config(which: str, *, width: int, bits: int, capability: int) -> dict[str, int]:
    """Return tile sizes and warps of a kernel.

    Args:
        which: "fwd", "bwd_dkdv" or "bwd_dq".
        width: padded.
        bits: of an element of the inputs.
        capability: the chip, two digits.
    """
    return tile_config(CONFIGS[which], width=width, bits=bits, capability=capability)


def _arguments(q, k, v, key_lengths, mask, *, causal, window, scale, softcap):
    """Return what all kernels take alike:
    masks' pointers, their strides and numbers, and what is known at compile time.
    """
    (b, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    mask, mask_strides, kind = mask_arguments(mask, (b, h, t, s), like=q)
    masks = (q if key_lengths is None else key_lengths.contiguous(), mask)
    numbers = (mask_strides, h, t, s, window or 0, scale, softcap or 1.0)
    constants = {
        "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv),
        "CAUSAL": causal or window is not None, "WINDOW": window is not None, "LENGTHS": key_lengths is not None,
        "SOFTCAP": softcap is not None, "MASK": kind,
    }  # fmt: skip
    return masks, numbers, constants, chip_of(q, width=padded(max(dk, dv)))


def _forward(q, k, v, key_lengths, mask, **options):
    """Return the output, its log-sum-exp and, under an added mask,
    the maximum and the sum that the backward pass needs.
    """
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, h, t, dv)
    lse = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    added = mask is not None and mask.dtype != torch.bool
    top, log_sum = (torch.empty_like(lse) if added else lse for _ in range(2))
    if out.numel() == 0:
        return out, lse.fill_(-torch.inf), top, log_sum
    masks, numbers, constants, chip = _arguments(q, k, v, key_lengths, mask, **options)
    config = launch_config("fwd", **chip)
    strides = (x.stride() for x in (q, k, v, out))
    _softmax_attention_fwd_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, out, lse, top, log_sum, *masks, *strides, *numbers, **constants, **config
    )
    return out, lse, top, log_sum


def _backward(q, k, v, out, dout, lse, top, log_sum, dlse, key_lengths, mask, **options):
    (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
    if 0 in (*out.shape, s):
        return tuple(x.new_zeros(x.shape) for x in (q, k, v))
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    masks, numbers, constants, chip = _arguments(q, k, v, key_lengths, mask, **options)
    check_backward_fits(**chip)
    rows = (lse, top, log_sum, row_delta(out, dout, dlse))
    inputs = (q, k, v, dout)
    strides = [x.stride() for x in inputs]
    config = launch_config("bwd_dkdv", **chip)
    _softmax_attention_bwd_dkdv_kernel[(triton.cdiv(s, config["BLOCK_S"]), b * g)](
        *inputs, *rows, dk, dv, *masks, *strides, dk.stride(), dv.stride(), *numbers, **constants, **config
    )
    config = launch_config("bwd_dq", **chip)
    _softmax_attention_bwd_dq_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        *inputs, *rows, dq, *masks, *strides, dq.stride(), *numbers, **constants, **config
    )
    return dq, dk, dv


class _SoftmaxAttention(torch.autograd.Function):
    """The backward pass needs the inputs, the output and each row's log-sum-exp: memory linear in the length."""

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, mask, options):
        out, *statistics = in_exact_dtype(lambda *qkv: _forward(*qkv, key_lengths, mask, **options), q, k, v)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, *statistics, key_lengths, mask)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return out, statistics[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, out, *statistics, key_lengths, mask = ctx.saved_tensors
        grads = in_exact_dtype(
            lambda q, k, v, out, dout: _backward(
                q, k, v, out, dout, *statistics, dlse, key_lengths, mask, **ctx.options
            ),
            q, k, v, out, output_gradient(out, dout),
        )  # fmt: skip
        return *(grad.to(q.dtype) for grad in grads), None, None, None


@overload
def softmax_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[False] = False, **masking: Unpack[Masking]
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def softmax_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[True], **masking: Unpack[Masking]
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


def softmax_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what `softmax_attention` does, by the kernels, with gradients.

    Products accumulate in float32, and those of float32 inputs are exact (no tf32).

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), float32, float16 or bfloat16, widths to 256, any strides.
        causal: query i of t stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.
        return_lse: give also the float32 log-sum-exp (b, h, t), with its gradient.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what no kernel here can do (float64, a wider head, the
            gradient of an added mask, CPU tensors where Triton compiles).
    """
    name = "softmax_attention_triton"
    check_attention(q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap)
    check_launch(name, q, k, v, instead="blocked")
    check_mask_is_constant(name, mask)
    q, scale = positive(q, q.shape[-1] ** -0.5 if scale is None else scale)
    options = dict(causal=causal, window=window, scale=scale, softcap=softcap)
    out, lse = _SoftmaxAttention.apply(q, k, v, key_lengths, mask, options)
    return (out, lse) if return_lse else out
