"""Softmax attention as Triton kernels, forward and backward, that never store the (t, s) weights.

Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithms 1 and 2: the forward keeps a running maximum
and sum over key tiles, and the backward recomputes the weights from them. Differences: query heads share key/value heads
without copies; the two halves of the backward are kernels of their own, so that neither needs atomic additions; and under
an added mask the backward reads a row's maximum and the logarithm of its sum as two numbers, since next to a maximum of
-1e9 (a row whose every key carries such a mask) a float32 has no room for the other. Scores go to base 2, which the
hardware has exp2 for, once the maximum is subtracted: a mask of float32's lowest number would overflow there before.
"""

import math

import torch
from torch import Tensor

from attncourse._shared.kernel import tl, triton
from attncourse._shared.launch import check_runs_here, device_capability, in_exact_dtype
from attncourse._shared.validate import check_attention, require

LOG2E = tl.constexpr(math.log2(math.e))
NO_MASK, BOOLEAN_MASK, ADDED_MASK = 0, 1, 2


@triton.jit
def _load_rows(base, rows, stride_row, stride_width, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a matrix with n rows; zeros outside."""
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < WIDTH)
    return tl.load(base + rows[:, None] * stride_row + cols[None, :] * stride_width, mask=inside, other=0.0)


@triton.jit
def _store_rows(base, x, rows, stride_row, stride_width, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < WIDTH)
    tl.store(base + rows[:, None] * stride_row + cols[None, :] * stride_width, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _tanh(x):
    # libdevice does not run in the interpreter; this form is exact at both infinities.
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _scores(
    products, rows, cols, t, s, length, window, scale, softcap, mask, mask_t, mask_s,
    EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Scores from q . k, with -inf where a row may not look, and the slope of the softcap."""
    scores = products * scale
    slope = 1.0
    if SOFTCAP:
        bounded = _tanh(scores / softcap)
        slope = 1.0 - bounded * bounded
        scores = softcap * bounded
    if MASK != 0:
        inside = (rows[:, None] < t) & (cols[None, :] < s)
        # A mask may hold more than 2^31 elements a head.
        at = mask + rows[:, None].to(tl.int64) * mask_t + cols[None, :].to(tl.int64) * mask_s
        tile = tl.load(at, mask=inside, other=0)
        if MASK == 1:
            scores = tl.where(tile != 0, scores, float("-inf"))
        else:
            scores += tile.to(tl.float32)
    if EDGE:
        visible = cols[None, :] < length
        distance = rows[:, None] + (s - t) - cols[None, :]
        if CAUSAL:
            visible &= distance >= 0
        if WINDOW:
            visible &= distance < window
        scores = tl.where(visible, scores, float("-inf"))
    return scores, slope


@triton.jit
def _fwd_tiles(
    acc, top, total, q, k_base, v_base, rows, first, last, t, s, length, window, scale, softcap, mask, mask_t, mask_s,
    k_s, k_d, v_s, v_d, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """The online softmax over key tiles first..last: running maximum, running sum, rescaled accumulator."""
    for start in range(first, last, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_base, cols, k_s, k_d, length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_T, BLOCK_S)
        scores, _ = _scores(
            products, rows, cols, t, s, length, window, scale, softcap, mask, mask_t, mask_s,
            EDGE, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        rescale = tl.exp2((top - shift) * LOG2E)
        weights = tl.exp2((scores - shift[:, None]) * LOG2E)
        total = total * rescale + tl.sum(weights, 1)
        v = _load_rows(v_base, cols, v_s, v_d, length, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        top = new_top
    return acc, top, total


@triton.jit
def _softmax_attention_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, top_ptr, sum_ptr, lengths_ptr, mask_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, out_b, out_h, out_t, out_d,
    mask_b, mask_h, mask_t, mask_s, h, t, s, window, scale, softcap,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)

    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    mask = mask_ptr + batch * mask_b + head * mask_h

    # Tiles [begin, whole) are visible to every row of this block; [whole, end) hold an edge.
    begin, whole, end = 0, length, length
    if CAUSAL:
        end = tl.maximum(tl.minimum(end, first_row + BLOCK_T + s - t), 0)
        whole = tl.maximum(tl.minimum(whole, first_row + s - t + 1), 0)
    if WINDOW:
        begin = tl.maximum(first_row + s - t - window + 1, 0) // BLOCK_S * BLOCK_S
        whole = begin
    whole = whole // BLOCK_S * BLOCK_S

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, rows, begin, whole, t, s, length, window, scale, softcap, mask, mask_t,
        mask_s, k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, False, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, rows, whole, end, t, s, length, window, scale, softcap, mask, mask_t,
        mask_s, k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, True, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip

    seen = total > 0
    total = tl.where(seen, total, 1.0)
    acc = acc / total[:, None]
    at = (batch * h + head) * t + rows
    tl.store(lse_ptr + at, tl.where(seen, top + tl.log2(total) / LOG2E, float("-inf")), mask=rows < t)
    shift = top
    if MASK == 2:
        tl.store(sum_ptr + at, tl.log2(total), mask=rows < t)
    else:
        shift += tl.log2(total) / LOG2E
    # +inf for a row that saw nothing: in the backward pass all its weights are 0.
    tl.store(top_ptr + at, tl.where(seen, shift, float("inf")), mask=rows < t)
    _store_rows(out_ptr + batch * out_b + head * out_h, acc, rows, out_t, out_d, t, DV, BLOCK_DV)


@triton.jit
def _softmax_attention_bwd_delta_kernel(
    out_ptr, dout_ptr, dlse_ptr, delta_ptr, out_b, out_h, out_t, out_d, dout_b, dout_h, dout_t, dout_d, h, t,
    DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """delta = sum(out * dout) - dlse a row: what every weight's gradient is lowered by."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    out = _load_rows(out_ptr + batch * out_b + head * out_h, rows, out_t, out_d, t, DV, BLOCK_DV).to(tl.float32)
    dout = _load_rows(dout_ptr + batch * dout_b + head * dout_h, rows, dout_t, dout_d, t, DV, BLOCK_DV).to(tl.float32)
    at = (batch * h + head) * t + rows
    dlse = tl.load(dlse_ptr + at, mask=rows < t, other=0.0)
    tl.store(delta_ptr + at, tl.sum(out * dout, 1) - dlse, mask=rows < t)


@triton.jit
def _load_statistics(top_ptr, sum_ptr, rows, t, MASK: tl.constexpr):
    """Each row's maximum and the logarithm to base 2 of its sum, or both in one; weights of 0 for rows that do not exist."""
    top = tl.load(top_ptr + rows, mask=rows < t, other=float("inf"))
    log_sum = 0.0
    if MASK == 2:
        log_sum = tl.load(sum_ptr + rows, mask=rows < t, other=0.0)
    return top, log_sum


@triton.jit
def _weights(scores, top, log_sum, MASK: tl.constexpr):
    exponents = (scores - top[:, None]) * LOG2E
    if MASK == 2:
        exponents -= log_sum[:, None]
    return tl.exp2(exponents)


@triton.jit
def _dkdv_tiles(
    dk, dv, k, v, q_base, dout_base, top_ptr, sum_ptr, delta_ptr, cols, first, last, t, s, length, window, scale, softcap,
    mask, mask_t, mask_s, q_t, q_d, dout_t, dout_d, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Gradients of one key tile from the query tiles first..last of one head; weights are (BLOCK_T, BLOCK_S)."""
    for start in range(first, last, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        q = _load_rows(q_base, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
        dout = _load_rows(dout_base, rows, dout_t, dout_d, t, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores, slope = _scores(
            products, rows, cols, t, s, length, window, scale, softcap, mask, mask_t, mask_s,
            EDGE, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        top, log_sum = _load_statistics(top_ptr, sum_ptr, rows, t, MASK)
        weights = _weights(scores, top, log_sum, MASK)
        dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
        dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
        delta = tl.load(delta_ptr + rows, mask=rows < t, other=0.0)
        dscores = weights * (dweights - delta[:, None]) * slope
        dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _softmax_attention_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, top_ptr, sum_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr, mask_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, dout_b, dout_h, dout_t, dout_d,
    mask_b, mask_h, mask_t, mask_s, h, t, s, window, scale, softcap,
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
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)

    k = _load_rows(k_ptr + batch * k_b + kv_head * k_g, cols, k_s, k_d, length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
    v = _load_rows(v_ptr + batch * v_b + kv_head * v_g, cols, v_s, v_d, length, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)

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
        q_base = q_ptr + batch * q_b + head * q_h
        dout_base = dout_ptr + batch * dout_b + head * dout_h
        at = (batch * h + head) * t
        mask = mask_ptr + batch * mask_b + head * mask_h
        dk, dv = _dkdv_tiles(
            dk, dv, k, v, q_base, dout_base, top_ptr + at, sum_ptr + at, delta_ptr + at, cols, begin, whole, t, s, length,
            window, scale, softcap, mask, mask_t, mask_s, q_t, q_d, dout_t, dout_d, DK, DV, BLOCK_T, BLOCK_DK, BLOCK_DV,
            True, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        dk, dv = _dkdv_tiles(
            dk, dv, k, v, q_base, dout_base, top_ptr + at, sum_ptr + at, delta_ptr + at, cols, whole, end, t, s, length,
            window, scale, softcap, mask, mask_t, mask_s, q_t, q_d, dout_t, dout_d, DK, DV, BLOCK_T, BLOCK_DK, BLOCK_DV,
            False, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip

    # Keys past the end of their row were not masked in whole tiles: what they gathered is no gradient.
    exists = (cols < length)[:, None]
    kv_at = (batch * g + kv_head) * s
    _store_rows(dk_ptr + kv_at * DK, tl.where(exists, dk * scale, 0.0), cols, DK, 1, s, DK, BLOCK_DK)
    _store_rows(dv_ptr + kv_at * DV, tl.where(exists, dv, 0.0), cols, DV, 1, s, DV, BLOCK_DV)


@triton.jit
def _dq_tiles(
    dq, q, dout, top, log_sum, delta, k_base, v_base, rows, first, last, t, s, length, window, scale, softcap, mask, mask_t,
    mask_s, k_s, k_d, v_s, v_d, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """Gradient of one query tile from the key tiles first..last."""
    for start in range(first, last, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_base, cols, k_s, k_d, length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = _load_rows(v_base, cols, v_s, v_d, length, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores, slope = _scores(
            products, rows, cols, t, s, length, window, scale, softcap, mask, mask_t, mask_s,
            EDGE, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
        weights = _weights(scores, top, log_sum, MASK)
        dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
        dscores = weights * (dweights - delta[:, None]) * slope
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _softmax_attention_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, top_ptr, sum_ptr, delta_ptr, dq_ptr, lengths_ptr, mask_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, dout_b, dout_h, dout_t, dout_d,
    mask_b, mask_h, mask_t, mask_s, h, t, s, window, scale, softcap,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they saw in the forward pass."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)

    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    dout = _load_rows(dout_ptr + batch * dout_b + head * dout_h, rows, dout_t, dout_d, t, DV, BLOCK_DV)
    at = (batch * h + head) * t
    top, log_sum = _load_statistics(top_ptr + at, sum_ptr + at, rows, t, MASK)
    delta = tl.load(delta_ptr + at + rows, mask=rows < t, other=0.0)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    mask = mask_ptr + batch * mask_b + head * mask_h

    begin, whole, end = 0, length, length
    if CAUSAL:
        end = tl.maximum(tl.minimum(end, first_row + BLOCK_T + s - t), 0)
        whole = tl.maximum(tl.minimum(whole, first_row + s - t + 1), 0)
    if WINDOW:
        begin = tl.maximum(first_row + s - t - window + 1, 0) // BLOCK_S * BLOCK_S
        whole = begin
    whole = whole // BLOCK_S * BLOCK_S

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    dq = _dq_tiles(
        dq, q, dout, top, log_sum, delta, k_base, v_base, rows, begin, whole, t, s, length, window, scale, softcap, mask,
        mask_t, mask_s, k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, False, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip
    dq = _dq_tiles(
        dq, q, dout, top, log_sum, delta, k_base, v_base, rows, whole, end, t, s, length, window, scale, softcap, mask,
        mask_t, mask_s, k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, True, CAUSAL, WINDOW, SOFTCAP, MASK,
    )  # fmt: skip
    _store_rows(dq_ptr + at * DK, dq * scale, rows, DK, 1, t, DK, BLOCK_DK)


def padded(width: int) -> int:
    """The tile's width: a power of two, and at least the 16 that a tensor core multiplies at once."""
    return max(16, triton.next_power_of_2(width))


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
    """Tile sizes and warps of the kernel "fwd", "bwd_dkdv" or "bwd_dq" for a padded width, a dtype and a chip."""
    chip = "fma" if bits == 32 or capability < 80 else 90 if capability >= 90 else 80
    block_t, block_s, num_warps, num_stages = CONFIGS[which][chip][max(width, 64)]
    # The default of FP fusion differs between versions of Triton.
    return {
        "BLOCK_T": block_t, "BLOCK_S": block_s, "num_warps": num_warps, "num_stages": num_stages,
        "enable_fp_fusion": True,
    }  # fmt: skip


def _arguments(q, k, v, key_lengths, mask, *, causal, window, scale, softcap):
    """What all kernels take alike: pointers of the masks, numbers, and what is known at compile time."""
    (b, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    kind = NO_MASK if mask is None else BOOLEAN_MASK if mask.dtype == torch.bool else ADDED_MASK
    if mask is not None:
        mask = mask.expand(b, h, t, s)  # broadcast axes get stride 0: nothing is copied
        mask = mask.view(torch.uint8) if kind == BOOLEAN_MASK else mask
    masks = (q if key_lengths is None else key_lengths.contiguous(), q if mask is None else mask)
    strides = (0, 0, 0, 0) if mask is None else mask.stride()
    numbers = (*strides, h, t, s, window or 0, scale, softcap or 1.0)
    constants = {
        "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv),
        "CAUSAL": causal or window is not None, "WINDOW": window is not None, "LENGTHS": key_lengths is not None,
        "SOFTCAP": softcap is not None, "MASK": kind,
    }  # fmt: skip
    return masks, numbers, constants


def _chip(q, constants):
    width = max(constants["BLOCK_DK"], constants["BLOCK_DV"])
    return dict(width=width, bits=q.element_size() * 8, capability=device_capability(q))


def _forward(q, k, v, key_lengths, mask, **options):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, h, t, dv)
    lse, *statistics = (torch.empty(b, h, t, device=q.device, dtype=torch.float32) for _ in range(3))
    if out.numel() == 0:
        return out, lse.fill_(-torch.inf), *statistics
    masks, numbers, constants = _arguments(q, k, v, key_lengths, mask, **options)
    config = launch_config("fwd", **_chip(q, constants))
    grid = (triton.cdiv(t, config["BLOCK_T"]), b * h)
    strides = (*q.stride(), *k.stride(), *v.stride(), *out.stride())
    _softmax_attention_fwd_kernel[grid](
        q, k, v, out, lse, *statistics, *masks, *strides, *numbers, **constants, **config
    )
    return out, lse, *statistics


def _backward(q, k, v, out, dout, top, log_sum, dlse, key_lengths, mask, **options):
    (b, h, t, _), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    dq, dkey, dvalue = (x.new_zeros(x.shape) if 0 in (*out.shape, s) else x.new_empty(x.shape) for x in (q, k, v))
    if 0 in (*out.shape, s):
        return dq, dkey, dvalue
    masks, numbers, constants = _arguments(q, k, v, key_lengths, mask, **options)
    chip = _chip(q, constants)
    require(
        chip["capability"] >= 80 or chip["bits"] == 16 or chip["width"] <= 128,
        "the backward pass of float32 heads wider than 128 does not fit this chip's shared memory: use float16",
    )
    delta = torch.empty_like(top)
    _softmax_attention_bwd_delta_kernel[(triton.cdiv(t, 16), b * h)](
        out, dout, dlse.contiguous(), delta, *out.stride(), *dout.stride(), h, t,
        DV=dv, BLOCK_T=16, BLOCK_DV=constants["BLOCK_DV"], enable_fp_fusion=True,
    )  # fmt: skip
    strides = (*q.stride(), *k.stride(), *v.stride(), *dout.stride())
    config = launch_config("bwd_dkdv", **chip)
    _softmax_attention_bwd_dkdv_kernel[(triton.cdiv(s, config["BLOCK_S"]), b * g)](
        q, k, v, dout, top, log_sum, delta, dkey, dvalue, *masks, *strides, *numbers, **constants, **config
    )
    config = launch_config("bwd_dq", **chip)
    _softmax_attention_bwd_dq_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, dout, top, log_sum, delta, dq, *masks, *strides, *numbers, **constants, **config
    )
    return dq, dkey, dvalue


class _SoftmaxAttention(torch.autograd.Function):
    """Saves the inputs, the output and each row's maximum and sum: memory linear in the length."""

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, mask, options):
        out, lse, *statistics = in_exact_dtype(lambda *qkv: _forward(*qkv, key_lengths, mask, **options), q, k, v)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, *statistics, key_lengths, mask)
        ctx.options = options
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, out, *statistics, key_lengths, mask = ctx.saved_tensors
        grads = in_exact_dtype(
            lambda q, k, v, out, dout: _backward(
                q, k, v, out, dout, *statistics, dlse, key_lengths, mask, **ctx.options
            ),
            q, k, v, out, dout,
        )  # fmt: skip
        return *(grad.to(q.dtype) for grad in grads), None, None, None


def softmax_attention_triton(q: Tensor, k: Tensor, v: Tensor, **masking) -> Tensor:
    """Softmax attention by the kernels: the signature and the result of `softmax_attention`, with gradients.

    Float32, float16 or bfloat16, widths to 256, any strides; products accumulate in float32, and those of float32
    inputs are exact (no tf32).

    Raises:
        ValueError: as the reference, and for what no kernel here can do (float64, a wider head, the gradient of an
            added mask, CPU tensors where Triton compiles).
    """
    return softmax_attention_triton_with_lse(q, k, v, **masking)[0]


def softmax_attention_triton_with_lse(
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
) -> tuple[Tensor, Tensor]:
    """The output (b, h, t, dv) and the float32 log-sum-exp (b, h, t), both with gradients."""
    check_inputs(
        "softmax_attention_triton", q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap,
        instead="blocked",
    )  # fmt: skip
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    options = dict(causal=causal, window=window, scale=scale, softcap=softcap)
    return _SoftmaxAttention.apply(q, k, v, key_lengths, mask, options)


def check_inputs(name: str, q, k, v, *, window, key_lengths, mask, softcap, instead: str) -> None:
    """What the launcher `name` takes; `instead` is the impl that takes wider heads."""
    check_attention(q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap)
    check_runs_here(name, q)
    widest = max(q.shape[-1], v.shape[-1])
    require(widest <= 256, f"{name} takes widths to 256, got {widest}: use impl='{instead}' for it")
    require(
        mask is None or not mask.requires_grad,
        f"{name} gives no gradient to an added mask: detach it, or use impl='reference'",
    )
    for which, x in (("q", q), ("k", k), ("v", v)):
        span = x.shape[2] * x.stride(2)
        require(span < 2**31, f"{name} addresses 2^31 elements a head, {which} spans {span}")
