"""What kernels share: tiles, the online softmax, its statistics, the merge of splits, fp8.

A matrix of one head lies at four strides (batch, head, row, entry), which kernels take as one tuple. Scores are kept as
they come, and `factor` makes them exponents to base 2, which the hardware has exp2 for: `scale * LOG2E` of a plain product
of queries and keys. Log-sum-exps in memory are natural.
"""

import math

import torch
from torch import Tensor

from .language import tl, triton
from .launch import padded

__all__ = [
    "ADDED_MASK", "BOOLEAN_MASK", "LOG2E", "NO_MASK", "band_tiles", "exponent_factor", "exponents", "finish_softmax",
    "from_fp8", "head_of", "length_of", "load_lse", "load_rows", "load_vectors", "mask_arguments", "masked_scores",
    "merge_splits", "online_softmax", "place_of", "row_delta", "score_gradients", "store_rows", "tanh", "tile_start",
    "vectors_at", "visible_keys",
]  # fmt: skip

LOG2E = tl.constexpr(math.log2(math.e))
NO_MASK, BOOLEAN_MASK, ADDED_MASK = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def from_fp8(code):
    """The float32 of a float8_e4m3fn's bits, for chips before sm_89 and the interpreter, which cannot convert them.

    A float16 of the same mantissa and exponent counts exponents from 15 where float8 counts from 7: a factor of 2^8. Its
    one pair of NaNs is all ones (Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433, table 1).
    """
    code = code.to(tl.int32)
    bits = ((code & 0x80) << 8) | ((code & 0x7F) << 7)
    x = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return tl.where((code & 0x7F) == 0x7F, float("nan"), x)


@triton.jit
def head_of(ptr, strides, batch, head):
    """Where the matrix of one head begins; batch and head of 64 bits, since a tensor may hold more than 2^31 elements."""
    return ptr + batch * strides[0] + head * strides[1]


@triton.jit
def length_of(lengths_ptr, batch, s, LENGTHS: tl.constexpr):
    """How many keys of a sequence exist; never more than s, since nobody may have looked at the lengths."""
    length = s
    if LENGTHS:
        length = tl.minimum(tl.load(lengths_ptr + batch).to(tl.int32), s)
    return length


@triton.jit
def load_vectors(base, at, stride, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(vectors, BLOCK) from where each begins; zeros for those that do not exist (`exists` None: all do) and beyond the width."""
    cols = tl.arange(0, BLOCK)[None, :]
    places = base + at[:, None] + cols * stride
    if exists is not None:
        tile = tl.load(places, mask=exists[:, None] & (cols < WIDTH), other=0)
    elif WIDTH < BLOCK:
        tile = tl.load(places, mask=cols < WIDTH, other=0)
    else:
        tile = tl.load(places)
    return tile


@triton.jit
def load_rows(base, strides, rows, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a head's matrix; zeros for rows that do not exist (`exists` None: all do) and beyond the width."""
    return load_vectors(base, rows * strides[2], strides[3], exists, WIDTH, BLOCK)


@triton.jit
def store_rows(base, strides, x, rows, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of x (rows, BLOCK) that exist, into a head's matrix, in its dtype."""
    cols = tl.arange(0, BLOCK)
    at = base + rows[:, None] * strides[2] + cols[None, :] * strides[3]
    tl.store(at, x.to(base.dtype.element_ty), mask=exists[:, None] & (cols[None, :] < WIDTH))


@triton.jit
def tanh(x):
    """The hyperbolic tangent. libdevice does not run in the interpreter; this form is exact at both infinities."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def masked_scores(scores, mask, mask_strides, rows, cols, t, s, MASK: tl.constexpr):
    """Scores of rows and cols under a mask (t, s) of one head: -inf where it forbids, plus what it adds."""
    if MASK != NO_MASK:
        # A mask may hold more than 2^31 elements a head.
        at = mask + rows[:, None].to(tl.int64) * mask_strides[2] + cols[None, :].to(tl.int64) * mask_strides[3]
        tile = tl.load(at, mask=(rows[:, None] < t) & (cols[None, :] < s), other=0)
        if MASK == BOOLEAN_MASK:
            scores = tl.where(tile != 0, scores, float("-inf"))
        else:
            scores += tile.to(tl.float32)
    return scores


@triton.jit
def visible_keys(rows, cols, t, s, length, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """(rows, cols): keys that exist, none after the query's position s - t + row, of a window its last."""
    visible = cols[None, :] < length
    distance = rows[:, None] + (s - t) - cols[None, :]
    if CAUSAL:
        visible &= distance >= 0
    if WINDOW:
        visible &= distance < window
    return visible


@triton.jit
def tile_start(tile, path, STEP: tl.constexpr):
    """Where a tile of a path begins; (first, turn, jump, second turn, second jump) leave out what no edge runs through."""
    return path[0] + tile * STEP + tl.where(tile >= path[1], path[2], 0) + tl.where(tile >= path[3], path[4], 0)


@triton.jit
def band_tiles(begin, left, right, end, aside, STEP: tl.constexpr):
    """A band [begin, end) whose tiles [left, right) are whole: edge tiles and whole tiles, each a count and a path.

    `aside` further tiles at 0, before the band, are edge tiles too.
    """
    last = begin + tl.cdiv(tl.maximum(end - begin, 0), STEP) * STEP
    left = tl.minimum(tl.maximum(tl.cdiv(tl.maximum(left, 0), STEP) * STEP, begin), last)
    right = tl.maximum(tl.minimum(tl.maximum(right, 0) // STEP * STEP, last), left)
    turn = aside + (left - begin) // STEP
    edges = turn + (last - right) // STEP
    whole = (right - left) // STEP
    return edges, (0, aside, begin - aside * STEP, turn, right - left), whole, (left, whole, 0, whole, 0)


@triton.jit
def exponent_factor(scale, SOFTCAP: tl.constexpr = False, MASK: tl.constexpr = NO_MASK):
    """What makes exponents to base 2 of scores, which are scaled already where a bound or an added mask needs their true size."""
    factor = LOG2E
    if not SOFTCAP and MASK != ADDED_MASK:
        factor = scale * LOG2E
    return factor


@triton.jit
def exponents(scores, shift, factor, FAR: tl.constexpr):
    """(scores - shift) factor, to base 2: one multiply-add a score (Dao 2023, FlashAttention-2, section 3.1).

    FAR: scores may stand so far from 0 (next to a mask of -1e9) that a product rounds away what tells them apart, or
    overflows (of float32's lowest number): they are subtracted first, which costs an instruction more.
    """
    return (scores - shift) * factor if FAR else scores * factor - shift * factor


@triton.jit
def online_softmax(acc, top, total, scores, v, factor, FAR: tl.constexpr = False):
    """One tile more: the running maximum of scores, the running sum of weights and the accumulator, rescaled to it.

    Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867, algorithm 3; scores (rows, tile), v (tile, width).
    `factor` is positive, so that the largest score is that of the largest exponent.
    """
    new_top = tl.maximum(top, tl.max(scores, 1))
    # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
    shift = tl.where(new_top == float("-inf"), 0.0, new_top)
    rescale = tl.exp2(exponents(top, shift, factor, FAR))
    weights = tl.exp2(exponents(scores, shift[:, None], factor, FAR))
    total = total * rescale + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    return acc, new_top, total


@triton.jit
def finish_softmax(acc, top, total, factor):
    """The mixture (rows, width) and the natural log-sum-exp (rows,): zeros and -inf for rows that saw nothing."""
    seen = total > 0
    some = tl.where(seen, total, 1.0)
    # Natural at once: float32's lowest number, which a mask may hold, would overflow to base 2.
    lse = tl.where(seen, top * (factor / LOG2E) + tl.log2(some) / LOG2E, float("-inf"))
    return acc / some[:, None], lse


@triton.jit
def load_lse(lse_ptr, rows, exists):
    """Log-sum-exps to base 2; +inf, under which every weight is 0, for rows that saw nothing or do not exist."""
    lse = tl.load(lse_ptr + rows, mask=exists, other=float("inf"))
    return tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)


@triton.jit
def score_gradients(weights, dout, v, delta):
    """Gradients of scores before their factor, (rows, keys): Dao 2023, FlashAttention-2, algorithm 2, line 15."""
    dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
    return weights * (dweights - delta[:, None])


@triton.jit
def _row_delta_kernel(
    out_ptr, dout_ptr, dlse_ptr, delta_ptr, out_strides, dout_strides, h, t,
    DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_DV: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T rows of one head."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    exists = rows < t
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    out = load_rows(head_of(out_ptr, out_strides, batch, head), out_strides, rows, exists, DV, BLOCK_DV)
    dout = load_rows(head_of(dout_ptr, dout_strides, batch, head), dout_strides, rows, exists, DV, BLOCK_DV)
    at = (batch * h + head) * t + rows
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1)
    if LSE:
        delta -= tl.load(dlse_ptr + at, mask=exists, other=0.0)
    tl.store(delta_ptr + at, delta, mask=exists)


def row_delta(out: Tensor, dout: Tensor, dlse: Tensor | None = None) -> Tensor:
    """Return delta = sum(out * dout) - dlse of each row, float32 (b, h, t): what every weight's gradient is lowered by.

    Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithm 2, line 4; the log-sum-exp's own gradient
    enters each score times its weight, which is the same as lowering delta. out, dout (b, h, t, dv); dlse (b, h, t),
    None where no gradient of the log-sum-exp arrives.
    """
    b, h, t, dv = out.shape
    delta = torch.empty(b, h, t, device=out.device, dtype=torch.float32)
    _row_delta_kernel[(triton.cdiv(t, 16), b * h)](
        out, dout, delta if dlse is None else dlse.contiguous(), delta, out.stride(), dout.stride(), h, t,
        DV=dv, BLOCK_T=16, BLOCK_DV=padded(dv), LSE=dlse is not None, enable_fp_fusion=True,
    )  # fmt: skip
    return delta


@triton.jit
def place_of(
    table_ptr, batch, start, end, size, PAGED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK_S: tl.constexpr
):  # fmt: skip
    """Where a tile of keys lies: its block (a sequence's cache, or a page), the slot of its first key, and the others'.

    Pages of whole tiles are looked up once a tile; in others each key has a block and a slot of its own.
    """
    lanes = tl.arange(0, BLOCK_S)
    if not PAGED:
        block, slot = batch, batch * 0 + start  # of 64 bits, and a plain integer in the interpreter's loop
    elif ALIGNED:
        block, slot = tl.load(table_ptr + start // size).to(tl.int64), batch * 0 + start % size
    else:
        keys = start + lanes
        block = tl.load(table_ptr + keys // size, mask=keys < end, other=0).to(tl.int64)
        slot, lanes = (keys % size).to(tl.int64), lanes * 0
    return block, slot, lanes


@triton.jit
def vectors_at(block, slot, lanes, head, strides):
    """Of a tile's vectors, one a key: the large part of 64 bits is one number a tile, where the tile lies in one block."""
    return block * strides[0] + head * strides[1] + slot * strides[2] + lanes * strides[2]


@triton.jit
def _merge_splits_kernel(
    part_ptr, part_lse_ptr, out_ptr, lse_ptr, splits,
    WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_W entries of one row, from all of the row's splits, BLOCK_N a tile.

    The largest log-sum-exp is found before any part is read, so that no tile waits for the one before it.
    """
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    top = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    for first in range(0, splits, BLOCK_N):
        split = first + tl.arange(0, BLOCK_N)
        top = tl.maximum(top, tl.load(part_lse_ptr + row * splits + split, mask=split < splits, other=float("-inf")))
    top = tl.max(top, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)  # a row that saw nothing
    acc = tl.zeros((BLOCK_W,), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, splits, BLOCK_N):
        split = first + tl.arange(0, BLOCK_N)
        exists = split < splits
        lse = tl.load(part_lse_ptr + row * splits + split, mask=exists, other=float("-inf"))
        weights = tl.exp2((lse - shift) * LOG2E)
        at = part_ptr + (row * splits + split)[:, None] * WIDTH + cols[None, :]
        parts = tl.load(at, mask=exists[:, None] & (cols[None, :] < WIDTH), other=0.0)
        acc += tl.sum(weights[:, None] * parts, 0)
        total += weights
    total = tl.sum(total, 0)
    some = tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + row * WIDTH + cols, (acc / some).to(out_ptr.dtype.element_ty), mask=cols < WIDTH)
    if tl.program_id(1) == 0:
        tl.store(lse_ptr + row, tl.where(total > 0, shift + tl.log2(some) / LOG2E, float("-inf")))


def merge_splits(parts: Tensor, part_lse: Tensor, out: Tensor, lse: Tensor) -> None:
    """Merge rows whose keys were cut in splits, parts (rows, splits, width) float32,
    into out (rows, width) and lse (rows,).

    Dao et al. 2023, Flash-Decoding, https://crfm.stanford.edu/2023/10/12/flashdecoding.html. All contiguous; part_lse
    (rows, splits) and lse natural and float32. In tiles of 64 splits by 64 entries: 32 registers a thread of four
    warps.
    """
    rows, splits, width = parts.shape
    block_n, block_w = min(triton.next_power_of_2(splits), 64), min(padded(width), 64)
    _merge_splits_kernel[(rows, triton.cdiv(width, block_w))](
        parts, part_lse, out, lse, splits,
        WIDTH=width, BLOCK_N=block_n, BLOCK_W=block_w, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


def mask_arguments(mask: Tensor | None, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, tuple[int, ...], int]:
    """Return what a kernel takes for a mask: the tensor, its strides, and which kind it is.

    Broadcast axes get stride 0: nothing is copied. Without a mask the pointer, never read, is that of `like`.

    Args:
        mask: boolean, or floats to add; None for no mask.
        shape: (b, h, t, s) of the scores.
        like: a tensor on the kernel's device.
    """
    if mask is None:
        return like, (0, 0, 0, 0), NO_MASK.value
    mask = mask.expand(shape)
    if mask.dtype == torch.bool:
        return mask.view(torch.uint8), mask.stride(), BOOLEAN_MASK.value
    return mask, mask.stride(), ADDED_MASK.value
