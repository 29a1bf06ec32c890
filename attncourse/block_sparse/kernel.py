"""Block-sparse attention as Triton kernels, forward and backward, that visit the live blocks and no others.

Each program walks the list of its line of blocks: first the whole blocks, which need no mask, then the partial ones,
each with a mask of its own. The softmax is FlashAttention-2's (Dao 2023, https://arxiv.org/abs/2307.08691, algorithms 1
and 2); the lists are those of Child et al. 2019, https://arxiv.org/abs/1904.10509, section 5.4, and, told apart in this
way, of FlexAttention (https://arxiv.org/abs/2412.05496, section 4.2). A block is cut into tiles that fit the chip, so any
side of it works.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from attncourse._shared.kernel import tl, triton
from attncourse._shared.launch import check_runs_here, device_capability, in_exact_dtype
from attncourse._shared.validate import require

from .checks import check_pattern
from .pattern import BlockPattern

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _load_rows(base, rows, exists, stride_row, stride_width, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a matrix; zeros where a row does not exist."""
    cols = tl.arange(0, BLOCK)
    inside = exists[:, None] & (cols[None, :] < WIDTH)
    return tl.load(base + rows[:, None] * stride_row + cols[None, :] * stride_width, mask=inside, other=0.0)


@triton.jit
def _store_rows(base, x, rows, exists, stride_row, stride_width, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = exists[:, None] & (cols[None, :] < WIDTH)
    tl.store(base + rows[:, None] * stride_row + cols[None, :] * stride_width, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _scores(
    q, k, exists, masks_ptr, which, place_t, place_s, scale, SIDE: tl.constexpr, PARTIAL: tl.constexpr
):  # fmt: skip
    """Scores to base 2 of a tile, (BLOCK_T, BLOCK_S), with -inf where a key does not exist or the block's mask hides it."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
    visible = exists[None, :] & (place_t < SIDE)[:, None]
    if PARTIAL:
        at = masks_ptr + which.to(tl.int64) * SIDE * SIDE + place_t[:, None] * SIDE + place_s[None, :]
        visible &= tl.load(at, mask=visible, other=0) != 0
    return tl.where(visible, scores, float("-inf"))


@triton.jit
def _fwd_blocks(
    acc, top, total, q, k_base, v_base, blocks_ptr, which_ptr, masks_ptr, place_t, first, last, length, scale,
    k_s, k_d, v_s, v_d, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """The online softmax over the blocks of keys at first..last of the list."""
    for at in range(first, last):
        block = tl.load(blocks_ptr + at)
        which = tl.load(which_ptr + at)
        for start in range(0, SIDE, BLOCK_S):
            place_s = start + tl.arange(0, BLOCK_S)
            cols = block * SIDE + place_s
            exists = (place_s < SIDE) & (cols < length)
            k = _load_rows(k_base, cols, exists, k_s, k_d, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
            scores = _scores(q, k, exists, masks_ptr, which, place_t, place_s, scale, SIDE, PARTIAL)
            new_top = tl.maximum(top, tl.max(scores, 1))
            # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
            shift = tl.where(new_top == float("-inf"), 0.0, new_top)
            rescale = tl.exp2(top - shift)
            weights = tl.exp2(scores - shift[:, None])
            total = total * rescale + tl.sum(weights, 1)
            v = _load_rows(v_base, cols, exists, v_s, v_d, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
            acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
            top = new_top
    return acc, top, total


@triton.jit
def _block_sparse_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, lengths_ptr, starts_ptr, middles_ptr, blocks_ptr, which_ptr, masks_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, h, t, s, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one block and head against the live blocks of that block's list."""
    TILES: tl.constexpr = (SIDE + BLOCK_T - 1) // BLOCK_T
    line = (s - t) // SIDE + tl.program_id(0) // TILES
    place_t = tl.program_id(0) % TILES * BLOCK_T + tl.arange(0, BLOCK_T)
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = line * SIDE + place_t - (s - t)
    real = (place_t < SIDE) & (rows >= 0) & (rows < t)
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)

    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, real, q_t, q_d, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    first = tl.load(starts_ptr + line)
    middle = tl.load(middles_ptr + line)
    last = tl.load(starts_ptr + line + 1)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    acc, top, total = _fwd_blocks(
        acc, top, total, q, k_base, v_base, blocks_ptr, which_ptr, masks_ptr, place_t, first, middle, length, scale,
        k_s, k_d, v_s, v_d, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, False,
    )  # fmt: skip
    acc, top, total = _fwd_blocks(
        acc, top, total, q, k_base, v_base, blocks_ptr, which_ptr, masks_ptr, place_t, middle, last, length, scale,
        k_s, k_d, v_s, v_d, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, True,
    )  # fmt: skip

    seen = total > 0
    acc = acc / tl.where(seen, total, 1.0)[:, None]
    lse = tl.where(seen, (top + tl.log2(tl.where(seen, total, 1.0))) / LOG2E, float("-inf"))
    at = (batch * h + head) * t
    tl.store(lse_ptr + at + rows, lse, mask=real)
    _store_rows(out_ptr + at * DV, acc, rows, real, DV, 1, DV, BLOCK_DV)


@triton.jit
def _block_sparse_bwd_delta_kernel(
    out_ptr, dout_ptr, dlse_ptr, delta_ptr, dout_b, dout_h, dout_t, dout_d, h, t,
    DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """delta = sum(out * dout) - dlse a row: what every weight's gradient is lowered by."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    real = rows < t
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    at = (batch * h + head) * t
    out = _load_rows(out_ptr + at * DV, rows, real, DV, 1, DV, BLOCK_DV).to(tl.float32)
    dout = _load_rows(dout_ptr + batch * dout_b + head * dout_h, rows, real, dout_t, dout_d, DV, BLOCK_DV)
    dlse = tl.load(dlse_ptr + at + rows, mask=real, other=0.0)
    tl.store(delta_ptr + at + rows, tl.sum(out * dout.to(tl.float32), 1) - dlse, mask=real)


@triton.jit
def _load_lse(lse_ptr, rows, real):
    """Log-sum-exp to base 2; +inf (so every weight is 0) for rows that saw nothing or do not exist."""
    lse = tl.load(lse_ptr + rows, mask=real, other=float("inf"))
    return tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)


@triton.jit
def _dkdv_blocks(
    dk, dv, k, v, q_base, dout_base, lse_ptr, delta_ptr, blocks_ptr, which_ptr, masks_ptr, exists, place_s, first, last,
    t, s, scale, q_t, q_d, dout_t, dout_d, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of keys from the blocks of queries at first..last of its list, for one head."""
    for at in range(first, last):
        block = tl.load(blocks_ptr + at)
        which = tl.load(which_ptr + at)
        for start in range(0, SIDE, BLOCK_T):
            place_t = start + tl.arange(0, BLOCK_T)
            rows = block * SIDE + place_t - (s - t)
            real = (place_t < SIDE) & (rows >= 0) & (rows < t)
            q = _load_rows(q_base, rows, real, q_t, q_d, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
            dout = _load_rows(dout_base, rows, real, dout_t, dout_d, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
            scores = _scores(q, k, exists, masks_ptr, which, place_t, place_s, scale, SIDE, PARTIAL)
            weights = tl.exp2(scores - _load_lse(lse_ptr, rows, real)[:, None])
            dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
            dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
            delta = tl.load(delta_ptr + rows, mask=real, other=0.0)
            dscores = weights * (dweights - delta[:, None])
            dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _block_sparse_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr, starts_ptr, middles_ptr,
    blocks_ptr, which_ptr, masks_ptr, q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d,
    dout_b, dout_h, dout_t, dout_d, h, t, s, scale,
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
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)
    exists = (place_s < SIDE) & (cols < length)

    k = _load_rows(k_ptr + batch * k_b + kv_head * k_g, cols, exists, k_s, k_d, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
    v = _load_rows(v_ptr + batch * v_b + kv_head * v_g, cols, exists, v_s, v_d, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
    first = tl.load(starts_ptr + line)
    middle = tl.load(middles_ptr + line)
    last = tl.load(starts_ptr + line + 1)

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base = q_ptr + batch * q_b + head * q_h
        dout_base = dout_ptr + batch * dout_b + head * dout_h
        at = (batch * h + head) * t
        dk, dv = _dkdv_blocks(
            dk, dv, k, v, q_base, dout_base, lse_ptr + at, delta_ptr + at, blocks_ptr, which_ptr, masks_ptr, exists,
            place_s, first, middle, t, s, scale, q_t, q_d, dout_t, dout_d, DK, DV, SIDE, BLOCK_T, BLOCK_DK, BLOCK_DV,
            False,
        )  # fmt: skip
        dk, dv = _dkdv_blocks(
            dk, dv, k, v, q_base, dout_base, lse_ptr + at, delta_ptr + at, blocks_ptr, which_ptr, masks_ptr, exists,
            place_s, middle, last, t, s, scale, q_t, q_d, dout_t, dout_d, DK, DV, SIDE, BLOCK_T, BLOCK_DK, BLOCK_DV,
            True,
        )  # fmt: skip

    # Padding is written too: its gradient is 0.
    written = (place_s < SIDE) & (cols < s)
    kv_at = (batch * g + kv_head) * s
    _store_rows(dk_ptr + kv_at * DK, dk * scale, cols, written, DK, 1, DK, BLOCK_DK)
    _store_rows(dv_ptr + kv_at * DV, dv, cols, written, DV, 1, DV, BLOCK_DV)


@triton.jit
def _dq_blocks(
    dq, q, dout, lse, delta, k_base, v_base, blocks_ptr, which_ptr, masks_ptr, place_t, first, last, length, scale,
    k_s, k_d, v_s, v_d, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """Gradient of one tile of queries from the blocks of keys at first..last of its list."""
    for at in range(first, last):
        block = tl.load(blocks_ptr + at)
        which = tl.load(which_ptr + at)
        for start in range(0, SIDE, BLOCK_S):
            place_s = start + tl.arange(0, BLOCK_S)
            cols = block * SIDE + place_s
            exists = (place_s < SIDE) & (cols < length)
            k = _load_rows(k_base, cols, exists, k_s, k_d, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
            v = _load_rows(v_base, cols, exists, v_s, v_d, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
            scores = _scores(q, k, exists, masks_ptr, which, place_t, place_s, scale, SIDE, PARTIAL)
            weights = tl.exp2(scores - lse[:, None])
            dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
            dscores = weights * (dweights - delta[:, None])
            dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _block_sparse_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, lengths_ptr, starts_ptr, middles_ptr, blocks_ptr,
    which_ptr, masks_ptr, q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, dout_b, dout_h, dout_t, dout_d,
    h, t, s, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, SIDE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one block and head against the live blocks of that block's list."""
    TILES: tl.constexpr = (SIDE + BLOCK_T - 1) // BLOCK_T
    line = (s - t) // SIDE + tl.program_id(0) // TILES
    place_t = tl.program_id(0) % TILES * BLOCK_T + tl.arange(0, BLOCK_T)
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = line * SIDE + place_t - (s - t)
    real = (place_t < SIDE) & (rows >= 0) & (rows < t)
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)

    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, real, q_t, q_d, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    dout = _load_rows(dout_ptr + batch * dout_b + head * dout_h, rows, real, dout_t, dout_d, DV, BLOCK_DV)
    at = (batch * h + head) * t
    lse = _load_lse(lse_ptr + at, rows, real)
    delta = tl.load(delta_ptr + at + rows, mask=real, other=0.0)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    first = tl.load(starts_ptr + line)
    middle = tl.load(middles_ptr + line)
    last = tl.load(starts_ptr + line + 1)

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    dq = _dq_blocks(
        dq, q, dout, lse, delta, k_base, v_base, blocks_ptr, which_ptr, masks_ptr, place_t, first, middle, length,
        scale, k_s, k_d, v_s, v_d, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, False,
    )  # fmt: skip
    dq = _dq_blocks(
        dq, q, dout, lse, delta, k_base, v_base, blocks_ptr, which_ptr, masks_ptr, place_t, middle, last, length,
        scale, k_s, k_d, v_s, v_d, DK, DV, SIDE, BLOCK_S, BLOCK_DK, BLOCK_DV, True,
    )  # fmt: skip
    _store_rows(dq_ptr + at * DK, dq * scale, rows, real, DK, 1, DK, BLOCK_DK)


def padded(width: int) -> int:
    """The tile's width: a power of two, and at least the 16 that a tensor core multiplies at once."""
    return max(16, triton.next_power_of_2(width))


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
        80: {64: (64, 64, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 8, 1)},
        90: {64: (64, 64, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 4, 1)},
    },
}


def launch_config(which: str, *, width: int, side: int, bits: int, capability: int) -> dict[str, int]:
    """Tile sizes and warps of the kernel "fwd", "bwd_dkdv" or "bwd_dq" for a padded width, a block, a dtype and a chip."""
    chip = "fma" if bits == 32 or capability < 80 else 90 if capability >= 90 else 80
    block_t, block_s, num_warps, num_stages = CONFIGS[which][chip][max(width, 64)]
    # The default of FP fusion differs between versions of Triton.
    return {
        "BLOCK_T": min(block_t, padded(side)), "BLOCK_S": min(block_s, padded(side)), "num_warps": num_warps,
        "num_stages": num_stages, "enable_fp_fusion": True,
    }  # fmt: skip


def _constants(q, k, v, key_lengths, pattern):
    dk, dv = q.shape[-1], v.shape[-1]
    return {
        "GROUP": q.shape[1] // k.shape[1], "DK": dk, "DV": dv, "SIDE": pattern.block, "BLOCK_DK": padded(dk),
        "BLOCK_DV": padded(dv), "LENGTHS": key_lengths is not None,
    }  # fmt: skip


def _config(which, q, constants):
    width = max(constants["BLOCK_DK"], constants["BLOCK_DV"])
    chip = dict(bits=q.element_size() * 8, capability=device_capability(q))
    return launch_config(which, width=width, side=constants["SIDE"], **chip)


def _query_tiles(t, s, side, block_t) -> int:
    """Programs along the queries: the blocks from the first query's to the last, in tiles."""
    return (triton.cdiv(s, side) - (s - t) // side) * triton.cdiv(side, block_t)


def _lists(lists, pattern):
    """Starts, middles, blocks, which mask, masks; a pointer must point somewhere, also where nothing is live."""
    masks = pattern.masks.view(torch.uint8)
    return [x if x.numel() > 0 else x.new_zeros(1) for x in (*lists, masks)]


def _forward(q, k, v, key_lengths, pattern, scale):
    (b, h, t, _), s = q.shape, k.shape[2]
    out = q.new_empty(b, h, t, v.shape[-1])
    lse = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    constants = _constants(q, k, v, key_lengths, pattern)
    config = _config("fwd", q, constants)
    grid = (_query_tiles(t, s, pattern.block, config["BLOCK_T"]), b * h)
    _block_sparse_fwd_kernel[grid](
        q, k, v, out, lse, q if key_lengths is None else key_lengths, *_lists(pattern.by_query, pattern),
        *q.stride(), *k.stride(), *v.stride(), h, t, s, scale, **constants, **config,
    )  # fmt: skip
    return out, lse


def _backward(q, k, v, out, dout, lse, dlse, key_lengths, pattern, scale):
    (b, h, t, _), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    dq, dkey, dvalue = (x.new_empty(x.shape) for x in (q, k, v))
    constants = _constants(q, k, v, key_lengths, pattern)
    require(
        device_capability(q) >= 80 or q.element_size() == 2 or max(constants["BLOCK_DK"], constants["BLOCK_DV"]) <= 128,
        "the backward pass of float32 heads wider than 128 does not fit this chip's shared memory: use float16",
    )
    delta = torch.empty_like(lse)
    _block_sparse_bwd_delta_kernel[(triton.cdiv(t, 16), b * h)](
        out, dout, dlse.contiguous(), delta, *dout.stride(), h, t,
        DV=dv, BLOCK_T=16, BLOCK_DV=constants["BLOCK_DV"], enable_fp_fusion=True,
    )  # fmt: skip
    lengths = q if key_lengths is None else key_lengths
    numbers = (*q.stride(), *k.stride(), *v.stride(), *dout.stride(), h, t, s, scale)
    config = _config("bwd_dkdv", q, constants)
    grid = (triton.cdiv(s, pattern.block) * triton.cdiv(pattern.block, config["BLOCK_S"]), b * g)
    _block_sparse_bwd_dkdv_kernel[grid](
        q, k, v, dout, lse, delta, dkey, dvalue, lengths, *_lists(pattern.by_key, pattern), *numbers,
        **constants, **config,
    )  # fmt: skip
    config = _config("bwd_dq", q, constants)
    grid = (_query_tiles(t, s, pattern.block, config["BLOCK_T"]), b * h)
    _block_sparse_bwd_dq_kernel[grid](
        q, k, v, dout, lse, delta, dq, lengths, *_lists(pattern.by_query, pattern), *numbers, **constants, **config
    )
    return dq, dkey, dvalue


class _BlockSparseAttention(torch.autograd.Function):
    """Saves the inputs, the output and the log-sum-exp: memory linear in the length."""

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, pattern, scale):
        out, lse = in_exact_dtype(lambda *qkv: _forward(*qkv, key_lengths, pattern, scale), q, k, v)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse, key_lengths)
        ctx.pattern, ctx.scale = pattern, scale
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, out, lse, key_lengths = ctx.saved_tensors
        grads = in_exact_dtype(
            lambda q, k, v, out, dout: _backward(
                q, k, v, out, dout, lse, dlse, key_lengths, ctx.pattern, ctx.scale
            ),
            q, k, v, out, dout,
        )  # fmt: skip
        return *(grad.to(q.dtype) for grad in grads), None, None, None


def block_sparse_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Block-sparse attention by the kernels: the signature and the result of `block_sparse_attention`, with gradients.

    Float32, float16 or bfloat16, widths to 256, any strides, blocks of any side (a multiple of 16 wastes nothing).
    Products accumulate in float32, and those of float32 inputs are exact (no tf32).

    Raises:
        ValueError: as the reference, and for what no kernel here can do (float64, a wider head, CPU tensors where Triton
            compiles).
    """
    return block_sparse_attention_triton_with_lse(q, k, v, pattern=pattern, key_lengths=key_lengths, scale=scale)[0]


def block_sparse_attention_triton_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The output (b, h, t, dv) and the float32 log-sum-exp (b, h, t), both with gradients."""
    check_pattern(pattern, q, k, v, key_lengths)
    check_runs_here("block_sparse_attention_triton", q)
    widest = max(q.shape[-1], v.shape[-1])
    require(
        widest <= 256, f"block_sparse_attention_triton takes widths to 256, got {widest}: use impl='blocked' for it"
    )
    for name, x in (("q", q), ("k", k), ("v", v)):
        span = x.shape[2] * x.stride(2)
        require(span < 2**31, f"block_sparse_attention_triton addresses 2^31 elements a head, {name} spans {span}")
    s, before = k.shape[2], max(q.shape[2] - k.shape[2], 0)  # queries that stand before position 0 see nothing
    rows = q[:, :, before:]
    if rows.numel() == 0 or v.shape[-1] == 0:
        nothing = q.sum() * 0 + k.sum() * 0 + v.sum() * 0
        return nothing.expand(*q.shape[:3], v.shape[-1]), (nothing.float() - torch.inf).expand(q.shape[:3])
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    lengths = None if key_lengths is None else key_lengths.contiguous()
    out, lse = _BlockSparseAttention.apply(rows, k, v, lengths, pattern.first(s), scale)
    return pad(out, (0, 0, before, 0)), pad(lse, (before, 0), value=-torch.inf)
