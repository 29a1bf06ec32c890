"""Block-sparse attention as Triton kernels, forward and backward, that visit the live blocks and no others.

Each program walks the list of its line of blocks: first the whole blocks, which need no mask, then the partial ones,
each with a mask of its own. The softmax is FlashAttention-2's (Dao 2023, https://arxiv.org/abs/2307.08691, algorithms 1
and 2); the lists are those of Child et al. 2019, https://arxiv.org/abs/1904.10509, section 5.4, and, told apart in this
way, of FlexAttention (https://arxiv.org/abs/2412.05496, section 4.2). A block is cut into tiles that fit the chip, so any
side of it works.
"""

from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn.functional import pad

from attncourse._shared.kernel import (
    LOG2E,
    finish_softmax,
    head_of,
    length_of,
    load_lse,
    load_rows,
    online_softmax,
    row_delta,
    score_gradients,
    store_rows,
)
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import (
    check_backward_fits,
    check_launch,
    chip_of,
    in_exact_dtype,
    output_gradient,
    padded,
    positive,
    tile_config,
)

from .inputs import check_pattern
from .pattern import BlockPattern


@triton.jit
def _scores(q, k, exists, masks_ptr, which, place_t, place_s, SIDE: tl.constexpr, PARTIAL: tl.constexpr):
    """Products of a tile, (BLOCK_T, BLOCK_S), with -inf where a key does not exist (None: all do) or a mask hides it."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if PARTIAL:
        at = masks_ptr + which.to(tl.int64) * SIDE * SIDE + place_t[:, None] * SIDE + place_s[None, :]
        visible = tl.load(at, mask=exists[None, :] & (place_t < SIDE)[:, None], other=0) != 0
        scores = tl.where(visible, scores, float("-inf"))
    elif exists is not None:
        scores = tl.where(exists[None, :], scores, float("-inf"))
    return scores


@triton.jit
def _inside(blocks_ptr, first, middle, length, SIDE: tl.constexpr, BLOCK_S: tl.constexpr):
    """Where of the whole blocks first..middle of a list, which ascend, those end that no length cuts.

    Their tiles ask for no mask. Where tiles do not divide a block's side, all blocks have an edge.
    """
    end = first
    if SIDE % BLOCK_S == 0:
        end = middle
        block = tl.load(blocks_ptr + end - 1, mask=end > first, other=-1)
        while (block + 1) * SIDE > length:
            end -= 1
            block = tl.load(blocks_ptr + end - 1, mask=end > first, other=-1)
    return end


@triton.jit
def _fwd_blocks(
    acc, top, total, q, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, first, last, length,
    factor, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """The online softmax over the blocks of keys at first..last of the list."""
    for at in range(first, last):
        block = tl.load(blocks_ptr + at)
        which = tl.load(which_ptr + at)
        for start in range(0, SIDE, BLOCK_S):
            place_s = start + tl.arange(0, BLOCK_S)
            cols = block * SIDE + place_s
            exists = None
            if EDGE:
                exists = (place_s < SIDE) & (cols < length)
            k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
            scores = _scores(q, k, exists, masks_ptr, which, place_t, place_s, SIDE, PARTIAL)
            v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
            acc, top, total = online_softmax(acc, top, total, scores, v, factor)
    return acc, top, total


@triton.jit
def _queries_of(tile, t, s, SIDE: tl.constexpr, BLOCK_T: tl.constexpr):
    """Of a program's tile of queries: its line of blocks, places in the block, rows of q, and which of them exist."""
    TILES: tl.constexpr = (SIDE + BLOCK_T - 1) // BLOCK_T
    line = (s - t) // SIDE + tile // TILES
    place = tile % TILES * BLOCK_T + tl.arange(0, BLOCK_T)
    rows = line * SIDE + place - (s - t)
    return line, place, rows, (place < SIDE) & (rows >= 0) & (rows < t)


@triton.jit
def _block_sparse_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, lengths_ptr, starts_ptr, middles_ptr, blocks_ptr, which_ptr, masks_ptr,
    q_strides, k_strides, v_strides, out_strides, h, t, s, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one block and head against the live blocks of that block's list."""
    line, place_t, rows, exists = _queries_of(tl.program_id(0), t, s, SIDE, BLOCK_T)
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    first = tl.load(starts_ptr + line)
    middle = tl.load(middles_ptr + line)
    last = tl.load(starts_ptr + line + 1)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    inside = _inside(blocks_ptr, first, middle, length, SIDE, BLOCK_S)
    acc, top, total = _fwd_blocks(
        acc, top, total, q, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, first, inside,
        length, scale * LOG2E, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, False, False,
    )  # fmt: skip
    acc, top, total = _fwd_blocks(
        acc, top, total, q, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, inside, middle,
        length, scale * LOG2E, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, True, False,
    )  # fmt: skip
    acc, top, total = _fwd_blocks(
        acc, top, total, q, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, middle, last,
        length, scale * LOG2E, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, True, True,
    )  # fmt: skip
    out, lse = finish_softmax(acc, top, total, scale * LOG2E)
    tl.store(lse_ptr + (batch * h + head) * t + rows, lse, mask=exists)
    store_rows(head_of(out_ptr, out_strides, batch, head), out_strides, out, rows, exists, DV, BLOCK_DV)


@triton.jit
def _dkdv_blocks(
    dk, dv, k, v, q_base, dout_base, q_strides, dout_strides, lse_ptr, delta_ptr, blocks_ptr, which_ptr, masks_ptr, seen,
    place_s, first, last, t, s, factor, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of keys from the blocks of queries at first..last of its list.

    Of keys that are not `seen` they mean nothing; of queries that do not exist no weight is left.
    """
    for at in range(first, last):
        block = tl.load(blocks_ptr + at)
        which = tl.load(which_ptr + at)
        for start in range(0, SIDE, BLOCK_T):
            place_t = start + tl.arange(0, BLOCK_T)
            rows = block * SIDE + place_t - (s - t)
            exists = (place_t < SIDE) & (rows >= 0) & (rows < t)
            q = load_rows(q_base, q_strides, rows, exists, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
            dout = load_rows(dout_base, dout_strides, rows, exists, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
            scores = _scores(q, k, seen if PARTIAL else None, masks_ptr, which, place_t, place_s, SIDE, PARTIAL)
            weights = tl.exp2(scores * factor - load_lse(lse_ptr, rows, exists)[:, None])
            dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
            delta = tl.load(delta_ptr + rows, mask=exists, other=0.0)
            dscores = score_gradients(weights, dout, v, delta)
            dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _block_sparse_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr, starts_ptr, middles_ptr,
    blocks_ptr, which_ptr, masks_ptr, q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides, h, t, s, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S keys of one block and key/value head against the blocks of queries that see that block."""
    TILES: tl.constexpr = (SIDE + BLOCK_S - 1) // BLOCK_S
    line = tl.program_id(0) // TILES
    place_s = tl.program_id(0) % TILES * BLOCK_S + tl.arange(0, BLOCK_S)
    g = h // GROUP
    batch = (tl.program_id(1) // g).to(tl.int64)
    kv_head = (tl.program_id(1) % g).to(tl.int64)
    cols = line * SIDE + place_s
    seen = (place_s < SIDE) & (cols < length_of(lengths_ptr, batch, s, LENGTHS))
    k = load_rows(head_of(k_ptr, k_strides, batch, kv_head), k_strides, cols, seen, DK, BLOCK_DK)
    v = load_rows(head_of(v_ptr, v_strides, batch, kv_head), v_strides, cols, seen, DV, BLOCK_DV)
    first = tl.load(starts_ptr + line)
    middle = tl.load(middles_ptr + line)
    last = tl.load(starts_ptr + line + 1)

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base, dout_base = head_of(q_ptr, q_strides, batch, head), head_of(dout_ptr, dout_strides, batch, head)
        at = (batch * h + head) * t
        dk, dv = _dkdv_blocks(
            dk, dv, k, v, q_base, dout_base, q_strides, dout_strides, lse_ptr + at, delta_ptr + at, blocks_ptr, which_ptr,
            masks_ptr, seen, place_s, first, middle, t, s, scale * LOG2E, DK, DV, SIDE, BLOCK_T, BLOCK_DK, BLOCK_DV, False,
        )  # fmt: skip
        dk, dv = _dkdv_blocks(
            dk, dv, k, v, q_base, dout_base, q_strides, dout_strides, lse_ptr + at, delta_ptr + at, blocks_ptr, which_ptr,
            masks_ptr, seen, place_s, middle, last, t, s, scale * LOG2E, DK, DV, SIDE, BLOCK_T, BLOCK_DK, BLOCK_DV, True,
        )  # fmt: skip

    # Padding is written too: its gradient is 0.
    written = (place_s < SIDE) & (cols < s)
    dk, dv = tl.where(seen[:, None], dk, 0.0), tl.where(seen[:, None], dv, 0.0)
    store_rows(head_of(dk_ptr, dk_strides, batch, kv_head), dk_strides, dk * scale, cols, written, DK, BLOCK_DK)
    store_rows(head_of(dv_ptr, dv_strides, batch, kv_head), dv_strides, dv, cols, written, DV, BLOCK_DV)


@triton.jit
def _dq_blocks(
    dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, first, last,
    length, factor, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, EDGE: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """Gradient of one tile of queries from the blocks of keys at first..last of its list."""
    for at in range(first, last):
        block = tl.load(blocks_ptr + at)
        which = tl.load(which_ptr + at)
        for start in range(0, SIDE, BLOCK_S):
            place_s = start + tl.arange(0, BLOCK_S)
            cols = block * SIDE + place_s
            exists = None
            if EDGE:
                exists = (place_s < SIDE) & (cols < length)
            k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
            v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
            scores = _scores(q, k, exists, masks_ptr, which, place_t, place_s, SIDE, PARTIAL)
            weights = tl.exp2(scores * factor - lse[:, None])
            dq = tl.dot(score_gradients(weights, dout, v, delta).to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _block_sparse_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, lengths_ptr, starts_ptr, middles_ptr, blocks_ptr,
    which_ptr, masks_ptr, q_strides, k_strides, v_strides, dout_strides, dq_strides, h, t, s, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one block and head against the live blocks of that block's list."""
    line, place_t, rows, exists = _queries_of(tl.program_id(0), t, s, SIDE, BLOCK_T)
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    dout = load_rows(head_of(dout_ptr, dout_strides, batch, head), dout_strides, rows, exists, DV, BLOCK_DV)
    at = (batch * h + head) * t
    lse = load_lse(lse_ptr + at, rows, exists)
    delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    first = tl.load(starts_ptr + line)
    middle = tl.load(middles_ptr + line)
    last = tl.load(starts_ptr + line + 1)

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    inside = _inside(blocks_ptr, first, middle, length, SIDE, BLOCK_S)
    dq = _dq_blocks(
        dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, first,
        inside, length, scale * LOG2E, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, False, False,
    )  # fmt: skip
    dq = _dq_blocks(
        dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, inside,
        middle, length, scale * LOG2E, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, True, False,
    )  # fmt: skip
    dq = _dq_blocks(
        dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, blocks_ptr, which_ptr, masks_ptr, place_t, middle,
        last, length, scale * LOG2E, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, True, True,
    )  # fmt: skip
    store_rows(head_of(dq_ptr, dq_strides, batch, head), dq_strides, dq * scale, rows, exists, DK, BLOCK_DK)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width, the most that a tile may be; a block smaller than its tile makes the
# tile smaller. The compile-only gate holds every entry to its chip's shared memory, and those of 16-bit inputs to no
# spilled register. Without tensor cores (float32 everywhere, all of sm_75) tiles must be small.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 2), 128: (64, 32, 4, 2), 256: (64, 32, 8, 1)},
        90: {64: (64, 64, 4, 2), 128: (64, 64, 4, 2), 256: (64, 32, 8, 1)},
    },
    "bwd_dkdv": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
        80: {64: (32, 32, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
        90: {64: (32, 32, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
    },
    "bwd_dq": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 32, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 8, 1)},
        90: {64: (64, 64, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 8, 1)},
    },
}


def launch_config(which: str, *, width: int, side: int, bits: int, capability: int) -> dict[str, int]:
    """Return tile sizes and warps of a kernel.

    Args:
        which: "fwd", "bwd_dkdv" or "bwd_dq".
        width: padded.
        side: of the pattern's blocks.
        bits: of an element of the inputs.
        capability: the chip, two digits.
    """
    config = tile_config(CONFIGS[which], width=width, bits=bits, capability=capability)
    return config | {name: min(config[name], padded(side)) for name in ("BLOCK_T", "BLOCK_S")}


def _arguments(q, k, v, key_lengths, pattern):
    """Return what all kernels take alike: the lengths, what is known at compile time, and what picks the tiles."""
    dk, dv = q.shape[-1], v.shape[-1]
    constants = {
        "GROUP": q.shape[1] // k.shape[1], "DK": dk, "DV": dv, "SIDE": pattern.block, "BLOCK_DK": padded(dk),
        "BLOCK_DV": padded(dv), "LENGTHS": key_lengths is not None,
    }  # fmt: skip
    return q if key_lengths is None else key_lengths, constants, chip_of(q, width=padded(max(dk, dv)))


def _query_tiles(t, s, side, block_t) -> int:
    """Return the number of programs along the queries: the blocks from the first query's to the last, in tiles."""
    return (triton.cdiv(s, side) - (s - t) // side) * triton.cdiv(side, block_t)


def _lists(lists, pattern):
    """Return starts, middles, blocks, which mask, masks; a pointer must point somewhere, also where nothing is live."""
    masks = pattern.masks.view(torch.uint8)
    return [x if x.numel() > 0 else x.new_zeros(1) for x in (*lists, masks)]


def _forward(q, k, v, key_lengths, pattern, scale):
    (b, h, t, _), s = q.shape, k.shape[2]
    out = q.new_empty(b, h, t, v.shape[-1])
    lse = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    lengths, constants, chip = _arguments(q, k, v, key_lengths, pattern)
    config = launch_config("fwd", side=pattern.block, **chip)
    strides = (x.stride() for x in (q, k, v, out))
    _block_sparse_fwd_kernel[(_query_tiles(t, s, pattern.block, config["BLOCK_T"]), b * h)](
        q, k, v, out, lse, lengths, *_lists(pattern.by_query, pattern), *strides, h, t, s, scale, **constants, **config
    )
    return out, lse


def _backward(q, k, v, out, dout, lse, dlse, key_lengths, pattern, scale):
    (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    lengths, constants, chip = _arguments(q, k, v, key_lengths, pattern)
    check_backward_fits(**chip)
    read = (q, k, v, dout, lse, row_delta(out, dout, dlse))
    strides = [x.stride() for x in (q, k, v, dout)]
    config = launch_config("bwd_dkdv", side=pattern.block, **chip)
    grid = (triton.cdiv(s, pattern.block) * triton.cdiv(pattern.block, config["BLOCK_S"]), b * g)
    _block_sparse_bwd_dkdv_kernel[grid](
        *read, dk, dv, lengths, *_lists(pattern.by_key, pattern), *strides, dk.stride(), dv.stride(), h, t, s, scale,
        **constants, **config,
    )  # fmt: skip
    config = launch_config("bwd_dq", side=pattern.block, **chip)
    _block_sparse_bwd_dq_kernel[(_query_tiles(t, s, pattern.block, config["BLOCK_T"]), b * h)](
        *read,
        dq,
        lengths,
        *_lists(pattern.by_query, pattern),
        *strides,
        dq.stride(),
        h,
        t,
        s,
        scale,
        **constants,
        **config,
    )
    return dq, dk, dv


class _BlockSparseAttention(torch.autograd.Function):
    """The backward pass needs the inputs, the output and the log-sum-exp: memory linear in the length."""

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, pattern, scale):
        out, lse = in_exact_dtype(lambda *qkv: _forward(*qkv, key_lengths, pattern, scale), q, k, v)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse, key_lengths)
        ctx.pattern, ctx.scale = pattern, scale
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, out, lse, key_lengths = ctx.saved_tensors
        grads = in_exact_dtype(
            lambda q, k, v, out, dout: _backward(
                q, k, v, out, dout, lse, dlse, key_lengths, ctx.pattern, ctx.scale
            ),
            q, k, v, out, output_gradient(out, dout),
        )  # fmt: skip
        return *(grad.to(q.dtype) for grad in grads), None, None, None


@overload
def block_sparse_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    return_lse: Literal[False] = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def block_sparse_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    return_lse: Literal[True],
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


def block_sparse_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what `block_sparse_attention` does, by the kernels, with gradients.

    Blocks may have any side; a multiple of 16 wastes nothing. Products accumulate in float32, and those of float32
    inputs are exact (no tf32).

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), float32, float16 or bfloat16, widths to 256, any strides.
        pattern: who sees whom; its first s positions are used. Query i of t stands at position s - t + i.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).
        return_lse: give also the float32 log-sum-exp (b, h, t), with its gradient.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the pattern has fewer than s positions; what no kernel
            here can do (float64, a wider head, CPU tensors where Triton compiles).
    """
    check_pattern(pattern, q, k, v, key_lengths)
    check_launch("block_sparse_attention_triton", q, k, v, instead="blocked")
    s, before = k.shape[2], max(q.shape[2] - k.shape[2], 0)  # queries that stand before position 0 see nothing
    rows = q[:, :, before:]
    if rows.numel() == 0 or v.shape[-1] == 0:
        nothing = q.sum() * 0 + k.sum() * 0 + v.sum() * 0
        out, lse = nothing.expand(*q.shape[:3], v.shape[-1]), (nothing.float() - torch.inf).expand(q.shape[:3])
    else:
        rows, scale = positive(rows, q.shape[-1] ** -0.5 if scale is None else scale)
        lengths = None if key_lengths is None else key_lengths.contiguous()
        out, lse = _BlockSparseAttention.apply(rows, k, v, lengths, pattern.first(s), scale)
        out, lse = pad(out, (0, 0, before, 0)), pad(lse, (before, 0), value=-torch.inf)
    return (out, lse) if return_lse else out
