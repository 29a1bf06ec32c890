"""Local attention as Triton kernels, forward and backward, that visit only the key tiles which a block of queries may see.

The online softmax and the recomputing backward pass of Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691,
algorithms 1 and 2, over the tiles of a band and those of the first keys. Tiles at the band's two edges look who sees whom,
those between do not. A dilated band is an undilated one on every dilation-th position, so it needs strides and no kernel of
its own.
"""

import torch
from torch import Tensor

from attncourse._shared.kernel import (
    LOG2E,
    band_tiles,
    finish_softmax,
    head_of,
    length_of,
    load_lse,
    load_rows,
    online_softmax,
    row_delta,
    score_gradients,
    store_rows,
    tile_start,
)
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import (
    check_backward_fits,
    check_launch,
    chip_of,
    in_exact_dtype,
    padded,
    positive,
    tile_config,
)

from .pattern import by_residue, check_local, local_band


@triton.jit
def _scores(q, k, rows, cols, t, s, length, before, after, sinks, EDGE: tl.constexpr):
    """Products of one tile, (rows, cols), at an edge with -inf where a query may not look."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if EDGE:
        distance = rows[:, None] + (s - t) - cols[None, :]
        visible = (distance >= -after) & ((distance <= before) | (cols[None, :] < sinks))
        scores = tl.where(visible & (cols[None, :] < length), scores, float("-inf"))
    return scores


@triton.jit
def _keys_of(first_row, t, s, length, before, after, sinks, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """For a block of queries: the key tiles of the first keys and of the band."""
    first = first_row + s - t
    end = tl.maximum(tl.minimum(length, first + BLOCK_T + after), 0)
    begin = tl.minimum(tl.maximum(first - before, 0) // BLOCK_S * BLOCK_S, end)
    aside = tl.cdiv(tl.minimum(tl.minimum(sinks, length), begin), BLOCK_S)
    return band_tiles(begin, first + BLOCK_T - 1 - before, tl.minimum(first + after + 1, length), end, aside, BLOCK_S)


@triton.jit
def _fwd_tiles(
    acc, top, total, q, k_base, v_base, k_strides, v_strides, rows, tiles, path, t, s, length, before, after, sinks, factor,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """The online softmax over the key tiles of a path."""
    for tile in range(0, tiles):
        cols = tile_start(tile, path, BLOCK_S) + tl.arange(0, BLOCK_S)
        exists = None
        if EDGE:
            exists = cols < length
        k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        scores = _scores(q, k, rows, cols, t, s, length, before, after, sinks, EDGE)  # (BLOCK_T, BLOCK_S)
        v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        acc, top, total = online_softmax(acc, top, total, scores, v, factor)
    return acc, top, total


@triton.jit
def _sliding_window_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, lengths_ptr, q_strides, k_strides, v_strides, out_strides,
    h, t, s, before, after, sinks, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against the keys that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    edges, along, whole, across = _keys_of(first_row, t, s, length, before, after, sinks, BLOCK_T, BLOCK_S)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, k_strides, v_strides, rows, edges, along, t, s, length, before, after, sinks,
        scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, True,
    )  # fmt: skip
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, k_strides, v_strides, rows, whole, across, t, s, length, before, after, sinks,
        scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, False,
    )  # fmt: skip
    out, lse = finish_softmax(acc, top, total, scale * LOG2E)
    tl.store(lse_ptr + (batch * h + head) * t + rows, lse, mask=exists)
    store_rows(head_of(out_ptr, out_strides, batch, head), out_strides, out, rows, exists, DV, BLOCK_DV)


@triton.jit
def _sliding_window_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr,
    q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides, h, t, s, before, after, sinks, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S keys of one key/value head against every query, of every head it serves, that sees them.

    All tiles look who sees whom: a second loop for those between the edges would take more registers than there are.
    """
    first_col = tl.program_id(0) * BLOCK_S
    g = h // GROUP
    batch = (tl.program_id(1) // g).to(tl.int64)
    kv_head = (tl.program_id(1) % g).to(tl.int64)
    cols = first_col + tl.arange(0, BLOCK_S)
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    k = load_rows(head_of(k_ptr, k_strides, batch, kv_head), k_strides, cols, cols < length, DK, BLOCK_DK)
    v = load_rows(head_of(v_ptr, v_strides, batch, kv_head), v_strides, cols, cols < length, DV, BLOCK_DV)

    # The first keys are seen by every later query.
    begin = tl.maximum(first_col - after - (s - t), 0) // BLOCK_T * BLOCK_T
    end = tl.maximum(tl.minimum(t, first_col + BLOCK_S + before - (s - t)), 0)
    if first_col < sinks:
        end = t
    if first_col >= length:
        end = 0

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base, dout_base = head_of(q_ptr, q_strides, batch, head), head_of(dout_ptr, dout_strides, batch, head)
        at = (batch * h + head) * t
        for start in range(begin, end, BLOCK_T):
            rows = start + tl.arange(0, BLOCK_T)
            exists = rows < t
            q = load_rows(q_base, q_strides, rows, exists, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
            dout = load_rows(dout_base, dout_strides, rows, exists, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
            lse = load_lse(lse_ptr + at, rows, exists)
            delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
            scores = _scores(q, k, rows, cols, t, s, length, before, after, sinks, True)
            weights = tl.exp2(scores * (scale * LOG2E) - lse[:, None])
            dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
            dscores = score_gradients(weights, dout, v, delta)
            dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    store_rows(head_of(dk_ptr, dk_strides, batch, kv_head), dk_strides, dk * scale, cols, cols < s, DK, BLOCK_DK)
    store_rows(head_of(dv_ptr, dv_strides, batch, kv_head), dv_strides, dv, cols, cols < s, DV, BLOCK_DV)


@triton.jit
def _dq_tiles(
    dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, rows, tiles, path, t, s, length, before, after, sinks,
    factor, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """Gradient of one query tile from the key tiles of a path."""
    for tile in range(0, tiles):
        cols = tile_start(tile, path, BLOCK_S) + tl.arange(0, BLOCK_S)
        exists = None
        if EDGE:
            exists = cols < length
        k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        scores = _scores(q, k, rows, cols, t, s, length, before, after, sinks, EDGE)
        weights = tl.exp2(scores * factor - lse[:, None])
        dq = tl.dot(score_gradients(weights, dout, v, delta).to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _sliding_window_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, lengths_ptr,
    q_strides, k_strides, v_strides, dout_strides, dq_strides, h, t, s, before, after, sinks, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
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
    lse = load_lse(lse_ptr + at, rows, exists)
    delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    edges, along, whole, across = _keys_of(first_row, t, s, length, before, after, sinks, BLOCK_T, BLOCK_S)
    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    dq = _dq_tiles(
        dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, rows, edges, along, t, s, length, before, after,
        sinks, scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, True,
    )  # fmt: skip
    dq = _dq_tiles(
        dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, rows, whole, across, t, s, length, before, after,
        sinks, scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, False,
    )  # fmt: skip
    store_rows(head_of(dq_ptr, dq_strides, batch, head), dq_strides, dq * scale, rows, exists, DK, BLOCK_DK)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width. Without tensor cores (float32 everywhere, all of sm_75) products run
# on FMA units out of registers: tiles must be small. The compile-only gate holds the others to no spilled register.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 3), 128: (64, 32, 4, 3), 256: (64, 32, 8, 2)},
    },
    "bwd_dkdv": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
        80: {64: (32, 64, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
    },
    "bwd_dq": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 2), 128: (64, 32, 8, 2), 256: (32, 32, 8, 1)},
        90: {64: (64, 64, 4, 2), 128: (64, 32, 8, 2), 256: (32, 32, 4, 1)},
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


def _arguments(q, k, v, key_lengths, band, scale):
    """Return what all kernels take alike:
    the lengths, numbers, what is known at compile time, and what picks the tiles.
    """
    (_, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    lengths = q if key_lengths is None else key_lengths.contiguous()
    constants = {
        "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv),
        "LENGTHS": key_lengths is not None,
    }  # fmt: skip
    numbers = (h, t, s, band.before, band.after, band.sinks, scale)
    return lengths, numbers, constants, chip_of(q, width=padded(max(dk, dv)))


def _forward(q, k, v, key_lengths, band, scale):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, h, t, dv)
    lse = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    lengths, numbers, constants, chip = _arguments(q, k, v, key_lengths, band, scale)
    config = launch_config("fwd", **chip)
    strides = (x.stride() for x in (q, k, v, out))
    _sliding_window_fwd_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, out, lse, lengths, *strides, *numbers, **constants, **config
    )
    return out, lse


def _backward(q, k, v, out, dout, lse, key_lengths, band, scale):
    (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
    if 0 in (*out.shape, s):
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    lengths, numbers, constants, chip = _arguments(q, k, v, key_lengths, band, scale)
    check_backward_fits(**chip)
    read = (q, k, v, dout, lse, row_delta(out, dout))
    strides = [x.stride() for x in (q, k, v, dout)]
    config = launch_config("bwd_dkdv", **chip)
    _sliding_window_bwd_dkdv_kernel[(triton.cdiv(s, config["BLOCK_S"]), b * g)](
        *read, dk, dv, lengths, *strides, dk.stride(), dv.stride(), *numbers, **constants, **config
    )
    config = launch_config("bwd_dq", **chip)
    _sliding_window_bwd_dq_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        *read, dq, lengths, *strides, dq.stride(), *numbers, **constants, **config
    )
    return dq, dk, dv


class _SlidingWindow(torch.autograd.Function):
    """The backward pass needs the inputs, the output and the log-sum-exp: memory linear in the length."""

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, band, scale):
        out, lse = in_exact_dtype(lambda *qkv: _forward(*qkv, key_lengths, band, scale), q, k, v)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse, key_lengths)
        ctx.sizes = band, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        q, k, v, out, lse, key_lengths = ctx.saved_tensors
        grads = in_exact_dtype(
            lambda q, k, v, out, dout: _backward(q, k, v, out, dout, lse, key_lengths, *ctx.sizes), q, k, v, out, dout
        )
        return *(grad.to(q.dtype) for grad in grads), None, None, None


def sliding_window_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    radius: int | None = None,
    dilation: int = 1,
    sinks: int = 0,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return what `sliding_window_attention` does, by the kernels, with gradients.

    Products accumulate in float32, and those of float32 inputs are exact (no tf32).

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), float32, float16 or bfloat16, widths to 256, any strides.
        window: keys that a query sees, its own included, each `dilation` before the next.
        radius: keys on either side, in place of a window; 2 radius + 1 with the query's own.
        dilation: the step between neighbours.
        sinks: the first keys stay visible, whatever their distance (with a window; not before their time).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).

    Raises:
        ValueError: a shape, dtype, device or range is wrong; not exactly one of window and radius; what no kernel here
            can do (float64, a wider head, CPU tensors where Triton compiles).
    """
    check_local(q, k, v, key_lengths)
    band = local_band(window=window, radius=radius, dilation=dilation, sinks=sinks)
    check_launch("sliding_window_attention_triton", q, k, v, instead="blocked")
    q, scale = positive(q, q.shape[-1] ** -0.5 if scale is None else scale)
    return by_residue(
        lambda q, k, v, lengths: _SlidingWindow.apply(q, k, v, lengths, band, scale), q, k, v, key_lengths, dilation
    )
