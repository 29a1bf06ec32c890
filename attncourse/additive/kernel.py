"""Additive attention as Triton kernels, forward and backward, that never store the (t, s, a) hidden layer.

The score of Bahdanau, Cho and Bengio 2014, https://arxiv.org/abs/1409.0473, under the online softmax of Milakov and
Gimelshein 2018, https://arxiv.org/abs/1805.02867. Queries and keys arrive projected, (b, h, t, a) and (b, h, s, a).
A tile of the hidden layer, (BLOCK_T, BLOCK_S, BLOCK_A), lives in registers, is summed over a, and is gone.
"""

import torch
from torch import Tensor

from attncourse._shared.kernel import (
    ADDED_MASK,
    LOG2E,
    exponents,
    head_of,
    length_of,
    mask_arguments,
    masked_scores,
    online_softmax,
    row_delta,
    tanh,
)
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import check_mask_is_constant, check_runs_here, in_exact_dtype, padded
from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import require

from .inputs import check_additive


@triton.jit
def _load(base, rows, stride, n, first, width, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a matrix (n, width), from column `first`; zeros outside."""
    cols = first + tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < width)
    return tl.load(base + rows[:, None] * stride + cols[None, :], mask=inside, other=0.0)


@triton.jit
def _hidden(pq, pk, rows, cols, t, s, first, A: tl.constexpr, BLOCK_A: tl.constexpr):
    """tanh(W q + U k) for one tile of pairs and BLOCK_A hidden units."""
    from_q = _load(pq, rows, A, t, first, A, BLOCK_A).to(tl.float32)  # (BLOCK_T, BLOCK_A)
    from_k = _load(pk, cols, A, s, first, A, BLOCK_A).to(tl.float32)  # (BLOCK_S, BLOCK_A)
    return tanh(from_q[:, None, :] + from_k[None, :, :])  # (BLOCK_T, BLOCK_S, BLOCK_A)


@triton.jit
def _unit(ws_ptr, first, A: tl.constexpr, BLOCK_A: tl.constexpr):
    units = first + tl.arange(0, BLOCK_A)
    return tl.load(ws_ptr + units, mask=units < A, other=0.0).to(tl.float32)


@triton.jit
def _scores(
    pq, pk, ws_ptr, mask, mask_strides, rows, cols, t, s, length, A: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_A: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Scores of one tile of pairs, -inf where a row may not look."""
    scores = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    for first in range(0, A, BLOCK_A):
        scores += tl.sum(_hidden(pq, pk, rows, cols, t, s, first, A, BLOCK_A) * _unit(ws_ptr, first, A, BLOCK_A), 2)
    scores = masked_scores(scores, mask, mask_strides, rows, cols, t, s, MASK)
    return tl.where(cols[None, :] < length, scores, float("-inf"))


@triton.jit
def _additive_fwd_kernel(
    pq_ptr, pk_ptr, v_ptr, ws_ptr, out_ptr, top_ptr, sum_ptr, lengths_ptr, mask_ptr, mask_strides, h, t, s,
    DV: tl.constexpr, A: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_A: tl.constexpr,
    BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key, by the online softmax."""
    index = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    length = length_of(lengths_ptr, index // h, s, LENGTHS)
    pq, pk, v_base = pq_ptr + index * t * A, pk_ptr + index * s * A, v_ptr + index * s * DV
    mask = head_of(mask_ptr, mask_strides, index // h, index % h)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(0, length, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        scores = _scores(
            pq, pk, ws_ptr, mask, mask_strides, rows, cols, t, s, length, A, BLOCK_T, BLOCK_S, BLOCK_A, MASK
        )
        v = _load(v_base, cols, DV, length, 0, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        acc, top, total = online_softmax(acc, top, total, scores, v, LOG2E, MASK == ADDED_MASK)

    seen = total > 0
    safe = tl.where(seen, total, 1.0)
    # Two numbers, not their sum: next to a maximum of -1e9, a mask's, the other would round away. And +inf for a row that
    # saw nothing: in the backward pass all its weights are 0.
    tl.store(top_ptr + index * t + rows, tl.where(seen, top, float("inf")), mask=rows < t)
    tl.store(sum_ptr + index * t + rows, tl.log2(safe), mask=rows < t)
    cols_v = tl.arange(0, BLOCK_DV)
    inside = (rows[:, None] < t) & (cols_v[None, :] < DV)
    out = (acc / safe[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + index * t * DV + rows[:, None] * DV + cols_v[None, :], out, mask=inside)


@triton.jit
def _weights_and_dscores(
    pq, pk, v_base, dout, ws_ptr, top, log_sum, delta, mask, mask_strides, rows, cols, t, s, length, DV: tl.constexpr,
    A: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_DV: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    scores = _scores(pq, pk, ws_ptr, mask, mask_strides, rows, cols, t, s, length, A, BLOCK_T, BLOCK_S, BLOCK_A, MASK)
    weights = tl.exp2(exponents(scores, top[:, None], LOG2E, True) - log_sum[:, None])
    v = _load(v_base, cols, DV, length, 0, DV, BLOCK_DV)
    dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
    return weights, weights * (dweights - delta[:, None])


@triton.jit
def _load_statistics(top_ptr, sum_ptr, rows, t):
    """Each row's maximum, and the logarithm to base 2 of its sum; weights of 0 for rows that do not exist."""
    top = tl.load(top_ptr + rows, mask=rows < t, other=float("inf"))
    return top, tl.load(sum_ptr + rows, mask=rows < t, other=0.0)


@triton.jit
def _additive_bwd_dq_kernel(
    pq_ptr, pk_ptr, v_ptr, ws_ptr, dout_ptr, top_ptr, sum_ptr, delta_ptr, dpq_ptr, dscore_ptr, lengths_ptr, mask_ptr,
    mask_strides, h, t, s,
    DV: tl.constexpr, A: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_A: tl.constexpr,
    BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK_T projected queries, and this program's own share of the gradient of w_score."""
    index = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    length = length_of(lengths_ptr, index // h, s, LENGTHS)
    pq, pk, v_base = pq_ptr + index * t * A, pk_ptr + index * s * A, v_ptr + index * s * DV
    mask = head_of(mask_ptr, mask_strides, index // h, index % h)
    dout = _load(dout_ptr + index * t * DV, rows, DV, t, 0, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
    top, log_sum = _load_statistics(top_ptr + index * t, sum_ptr + index * t, rows, t)
    delta = tl.load(delta_ptr + index * t + rows, mask=rows < t, other=0.0)
    own_share = dscore_ptr + (index * tl.num_programs(0) + tl.program_id(0)) * A
    for start in range(0, length, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        _, dscores = _weights_and_dscores(
            pq, pk, v_base, dout, ws_ptr, top, log_sum, delta, mask, mask_strides, rows, cols, t, s, length, DV, A,
            BLOCK_T, BLOCK_S, BLOCK_A, BLOCK_DV, MASK,
        )  # fmt: skip
        for first in range(0, A, BLOCK_A):
            units = first + tl.arange(0, BLOCK_A)
            hidden = _hidden(pq, pk, rows, cols, t, s, first, A, BLOCK_A)
            slope = (1.0 - hidden * hidden) * _unit(ws_ptr, first, A, BLOCK_A)
            # No other program touches these rows: the atomic is here for its order of write and read, not for races.
            at = dpq_ptr + index * t * A + rows[:, None] * A + units[None, :]
            inside = (rows[:, None] < t) & (units[None, :] < A)
            tl.atomic_add(at, tl.sum(dscores[:, :, None] * slope, 1), mask=inside, sem="relaxed")
            dunit = tl.sum(tl.sum(dscores[:, :, None] * hidden, 1), 0)
            tl.atomic_add(own_share + units, dunit, mask=units < A, sem="relaxed")


@triton.jit
def _additive_bwd_dkdv_kernel(
    pq_ptr, pk_ptr, v_ptr, ws_ptr, dout_ptr, top_ptr, sum_ptr, delta_ptr, dpk_ptr, dv_ptr, lengths_ptr, mask_ptr,
    mask_strides, h, t, s,
    DV: tl.constexpr, A: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_A: tl.constexpr,
    BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK_S projected keys and of their values."""
    index = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    length = length_of(lengths_ptr, index // h, s, LENGTHS)
    pq, pk, v_base = pq_ptr + index * t * A, pk_ptr + index * s * A, v_ptr + index * s * DV
    mask = head_of(mask_ptr, mask_strides, index // h, index % h)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    for start in range(0, t, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        dout = _load(dout_ptr + index * t * DV, rows, DV, t, 0, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
        top, log_sum = _load_statistics(top_ptr + index * t, sum_ptr + index * t, rows, t)
        delta = tl.load(delta_ptr + index * t + rows, mask=rows < t, other=0.0)
        weights, dscores = _weights_and_dscores(
            pq, pk, v_base, dout, ws_ptr, top, log_sum, delta, mask, mask_strides, rows, cols, t, s, length, DV, A,
            BLOCK_T, BLOCK_S, BLOCK_A, BLOCK_DV, MASK,
        )  # fmt: skip
        dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
        for first in range(0, A, BLOCK_A):
            units = first + tl.arange(0, BLOCK_A)
            hidden = _hidden(pq, pk, rows, cols, t, s, first, A, BLOCK_A)
            slope = (1.0 - hidden * hidden) * _unit(ws_ptr, first, A, BLOCK_A)
            at = dpk_ptr + index * s * A + cols[:, None] * A + units[None, :]
            inside = (cols[:, None] < s) & (units[None, :] < A)
            tl.atomic_add(at, tl.sum(dscores[:, :, None] * slope, 0), mask=inside, sem="relaxed")
    cols_v = tl.arange(0, BLOCK_DV)
    inside = (cols[:, None] < s) & (cols_v[None, :] < DV)
    tl.store(
        dv_ptr + index * s * DV + cols[:, None] * DV + cols_v[None, :], dv.to(dv_ptr.dtype.element_ty), mask=inside
    )


def launch_config(width: int) -> dict[str, int]:
    """Return tile sizes and warps for a padded width of the values: a hidden tile of 16 x 16 x 16 fits in registers.

    Four warps spill from width 128 on, in float32 and on chips without mma. With these nothing spills but
    half-precision values wider than 128 on sm_75.
    """
    # The default of FP fusion differs between versions of Triton.
    return {
        "BLOCK_T": 16, "BLOCK_S": 16, "BLOCK_A": 16, "num_warps": 4 if width <= 64 else 8, "num_stages": 1,
        "enable_fp_fusion": True,
    }  # fmt: skip


def _arguments(pq, pk, v, key_lengths, mask):
    (b, h, t, a), (s, dv) = pq.shape, v.shape[2:]
    mask, mask_strides, kind = mask_arguments(mask, (b, h, t, s), like=pq)
    block_dv = padded(dv)
    constants = {"DV": dv, "A": a, "BLOCK_DV": block_dv, "LENGTHS": key_lengths is not None, "MASK": kind}
    lengths = pq if key_lengths is None else key_lengths.contiguous()
    return (lengths, mask, mask_strides, h, t, s), constants | launch_config(block_dv)


def _forward(pq, pk, v, w_score, key_lengths, mask):
    (b, h, t, _), dv = pq.shape, v.shape[-1]
    out = pq.new_empty(b, h, t, dv)
    statistics = tuple(torch.empty(b, h, t, device=pq.device, dtype=torch.float32) for _ in range(2))
    if out.numel():
        arguments, config = _arguments(pq, pk, v, key_lengths, mask)
        grid = (triton.cdiv(t, config["BLOCK_T"]), b * h)
        _additive_fwd_kernel[grid](pq, pk, v, w_score, out, *statistics, *arguments, **config)
    return out, *statistics


def _backward(pq, pk, v, w_score, out, dout, top, log_sum, key_lengths, mask):
    (b, h, t, a), s = pq.shape, pk.shape[2]
    sums = dict(device=pq.device, dtype=torch.float32)
    dpq, dpk, dv = torch.zeros(pq.shape, **sums), torch.zeros(pk.shape, **sums), torch.zeros_like(v)
    if 0 in (*out.shape, s):
        return dpq, dpk, dv, torch.zeros(a, **sums)
    delta = row_delta(out, dout)
    arguments, config = _arguments(pq, pk, v, key_lengths, mask)
    grid = (triton.cdiv(t, config["BLOCK_T"]), b * h)
    shares = torch.zeros(grid[0] * grid[1], a, **sums)
    _additive_bwd_dq_kernel[grid](pq, pk, v, w_score, dout, top, log_sum, delta, dpq, shares, *arguments, **config)
    _additive_bwd_dkdv_kernel[(triton.cdiv(s, config["BLOCK_S"]), b * h)](
        pq, pk, v, w_score, dout, top, log_sum, delta, dpk, dv, *arguments, **config
    )
    return dpq, dpk, dv, shares.sum(dim=0)


class _AdditiveAttention(torch.autograd.Function):
    """The backward pass computes each hidden tile again, from the saved projections,
    output and each row's maximum and sum.
    """

    @staticmethod
    def forward(ctx, pq, pk, v, w_score, key_lengths, mask):
        pq, pk, v, w_score = (x.contiguous() for x in (pq, pk, v, w_score))
        out, *statistics = in_exact_dtype(lambda *x: _forward(*x, key_lengths, mask), pq, pk, v, w_score)
        out = out.to(pq.dtype)
        ctx.save_for_backward(pq, pk, v, w_score, out, *statistics, key_lengths, mask)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        pq, pk, v, w_score, out, *statistics, key_lengths, mask = ctx.saved_tensors
        grads = in_exact_dtype(
            lambda *x: _backward(*x, *statistics, key_lengths, mask), pq, pk, v, w_score, out, dout.contiguous()
        )
        return *(grad.to(pq.dtype) for grad in grads), None, None


@outside_autocast
def additive_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_score: Tensor,
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return what `additive_attention` does, by the kernels, with gradients;
    the two projections are ordinary matrix products.

    On sm_75 the scoring is the same arithmetic as on newer chips, and the product with the values falls back to FMA.

    Args:
        q, k, v: (b, h, t, dq), (b, h, s, dk), (b, h, s, dv), float32, float16 or bfloat16.
        w_q, w_k, w_score: (a, dq), (a, dk), (a,).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).

    Raises:
        ValueError: a shape, dtype or device does not fit, the values are wider than 256, an added mask asks for a
            gradient, or the tensors are on a CPU and Triton compiles.
    """
    _check(q, k, v, w_q, w_k, w_score, key_lengths, mask)
    k, v = blank_padding(k, key_lengths), blank_padding(v, key_lengths)
    return _AdditiveAttention.apply(q @ w_q.T, k @ w_k.T, v, w_score, key_lengths, mask)


def _check(q, k, v, w_q, w_k, w_score, key_lengths, mask):
    check_additive(q, k, w_q, w_k, w_score, v=v, key_lengths=key_lengths, mask=mask)
    check_runs_here("additive_attention_triton", q)
    require(v.shape[-1] <= 256, f"additive_attention_triton takes values to width 256, got {v.shape[-1]}")
    check_mask_is_constant("additive_attention_triton", mask)
