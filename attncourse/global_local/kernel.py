"""Global and local attention as Triton kernels, forward and backward, that visit only the tiles that a row may see.

One kernel reads a band of keys, keys that stand anywhere, or all, and gives each row's log-sum-exp (Dao 2023,
FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithms 1 and 2). Three calls make the mechanism (Beltagy et al. 2020,
https://arxiv.org/abs/2004.05150): tokens to their neighbours, tokens to the global tokens beyond these, global tokens to
all. The first two see disjoint keys and are merged by their log-sum-exps. A neighbour that is global is read as a neighbour,
so that tiles between the band's edges ask nothing.
"""

import torch
from einops import rearrange
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
    output_gradient,
    padded,
    positive,
    tile_config,
)
from attncourse._shared.masks import blank_padding
from attncourse._shared.merge import merge_partial

from .hubs import blank_missing, existing_indices, put_rows, take_rows, tokens_that_exist
from .inputs import check_global_local

ALL, BAND, HUBS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # which keys a row reads


@triton.jit
def _scores(q, k, index, rows, cols, s, length, radius, KEYS: tl.constexpr, EDGE: tl.constexpr):
    """Products of one tile (BLOCK_T, BLOCK_S), at an edge with -inf where a row may not look."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if EDGE:
        first, last = (rows - radius)[:, None], (rows + radius)[:, None]
        if KEYS == HUBS:
            place = tl.load(index + cols, mask=cols < s, other=-1).to(tl.int32)[None, :]
            visible = (place >= 0) & ((place < first) | (place > last))
        else:
            visible = cols[None, :] < length
            if KEYS == BAND:
                visible &= (cols[None, :] >= first) & (cols[None, :] <= last)
        scores = tl.where(visible, scores, float("-inf"))
    return scores


@triton.jit
def _tiles_of(first, n, radius, KEYS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr):
    """For a tile of BLOCK rows or keys from `first`: the tiles of STEP, among n of the other, that it meets.

    Those of hubs all ask who sees whom: hubs stand anywhere.
    """
    begin, left, right, end = 0, 0, n, n
    if KEYS == BAND:
        end = tl.minimum(n, first + BLOCK + radius)
        begin = tl.minimum(tl.maximum(first - radius, 0) // STEP * STEP, end)
        left, right = first + BLOCK - 1 - radius, tl.minimum(first + radius + 1, n)
    if KEYS == HUBS:
        right = 0
    return band_tiles(begin, left, right, end, 0, STEP)


@triton.jit
def _fwd_tiles(
    acc, top, total, q, k_base, v_base, k_strides, v_strides, index, rows, tiles, path, s, length, radius, factor,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
    KEYS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The online softmax over the key tiles of a path."""
    for tile in range(0, tiles):
        cols = tile_start(tile, path, BLOCK_S) + tl.arange(0, BLOCK_S)
        exists = None
        if EDGE:
            exists = cols < length
        k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        scores = _scores(q, k, index, rows, cols, s, length, radius, KEYS, EDGE)  # (BLOCK_T, BLOCK_S)
        v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        acc, top, total = online_softmax(acc, top, total, scores, v, factor)
    return acc, top, total


@triton.jit
def _global_local_fwd_kernel(
    q_ptr, k_ptr, v_ptr, lengths_ptr, index_ptr, out32_ptr, lse_ptr, q_strides, k_strides, v_strides, out_strides,
    h, t, s, radius, scale, GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr, KEYS: tl.constexpr,
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
    index = index_ptr + batch * s
    edges, along, whole, across = _tiles_of(first_row, length, radius, KEYS, BLOCK_T, BLOCK_S)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    if KEYS != HUBS:
        acc, top, total = _fwd_tiles(
            acc, top, total, q, k_base, v_base, k_strides, v_strides, index, rows, whole, across, s, length, radius,
            scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, KEYS, False,
        )  # fmt: skip
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, k_strides, v_strides, index, rows, edges, along, s, length, radius,
        scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, KEYS, True,
    )  # fmt: skip

    out, lse = finish_softmax(acc, top, total, scale * LOG2E)
    tl.store(lse_ptr + (batch * h + head) * t + rows, lse, mask=exists)
    store_rows(head_of(out32_ptr, out_strides, batch, head), out_strides, out, rows, exists, DV, BLOCK_DV)


@triton.jit
def _dkdv_tiles(
    dk, dv, k, v, q_base, dout_base, lse_ptr, delta_ptr, q_strides, dout_strides, index, cols, tiles, path, t, s, length,
    radius, factor, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr, KEYS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Gradients of one key tile from the query tiles of a path."""
    for tile in range(0, tiles):
        rows = tile_start(tile, path, BLOCK_T) + tl.arange(0, BLOCK_T)
        exists = rows < t
        q = load_rows(q_base, q_strides, rows, exists, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
        dout = load_rows(dout_base, dout_strides, rows, exists, DV, BLOCK_DV).to(v.dtype)  # (BLOCK_T, BLOCK_DV)
        scores = _scores(q, k, index, rows, cols, s, length, radius, KEYS, EDGE)
        weights = tl.exp2(scores * factor - load_lse(lse_ptr, rows, exists)[:, None])
        dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
        delta = tl.load(delta_ptr + rows, mask=exists, other=0.0)
        dscores = score_gradients(weights, dout, v, delta)
        dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _global_local_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, lengths_ptr, index_ptr, dout32_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides, h, t, s, radius, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr, KEYS: tl.constexpr,
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
    index = index_ptr + batch * s
    # Queries that do not exist have no weight, so that the last tile of them is a whole one.
    n = tl.where(first_col < length, tl.cdiv(t, BLOCK_T) * BLOCK_T, 0)
    edges, along, whole, across = _tiles_of(first_col, n, radius, KEYS, BLOCK_S, BLOCK_T)

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base, dout_base = head_of(q_ptr, q_strides, batch, head), head_of(dout32_ptr, dout_strides, batch, head)
        at = (batch * h + head) * t
        if KEYS != HUBS:
            dk, dv = _dkdv_tiles(
                dk, dv, k, v, q_base, dout_base, lse_ptr + at, delta_ptr + at, q_strides, dout_strides, index, cols, whole,
                across, t, s, length, radius, scale * LOG2E, DK, DV, BLOCK_T, BLOCK_DK, BLOCK_DV, KEYS, False,
            )  # fmt: skip
        if KEYS != ALL:
            dk, dv = _dkdv_tiles(
                dk, dv, k, v, q_base, dout_base, lse_ptr + at, delta_ptr + at, q_strides, dout_strides, index, cols, edges,
                along, t, s, length, radius, scale * LOG2E, DK, DV, BLOCK_T, BLOCK_DK, BLOCK_DV, KEYS, True,
            )  # fmt: skip

    # Keys past the end of their row were not masked in whole tiles: what they gathered is no gradient.
    dk, dv = tl.where(exists[:, None], dk * scale, 0.0), tl.where(exists[:, None], dv, 0.0)
    store_rows(head_of(dk_ptr, dk_strides, batch, kv_head), dk_strides, dk, cols, cols < s, DK, BLOCK_DK)
    store_rows(head_of(dv_ptr, dv_strides, batch, kv_head), dv_strides, dv, cols, cols < s, DV, BLOCK_DV)


@triton.jit
def _dq_tiles(
    dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, index, rows, tiles, path, s, length, radius, factor,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
    KEYS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Gradient of one query tile from the key tiles of a path."""
    for tile in range(0, tiles):
        cols = tile_start(tile, path, BLOCK_S) + tl.arange(0, BLOCK_S)
        exists = None
        if EDGE:
            exists = cols < length
        k = load_rows(k_base, k_strides, cols, exists, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = load_rows(v_base, v_strides, cols, exists, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        scores = _scores(q, k, index, rows, cols, s, length, radius, KEYS, EDGE)
        weights = tl.exp2(scores * factor - lse[:, None])
        dq = tl.dot(score_gradients(weights, dout, v, delta).to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _global_local_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, lengths_ptr, index_ptr, dout32_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_strides, k_strides, v_strides, dout_strides, dq_strides, h, t, s, radius, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they saw in the forward pass."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    at = (batch * h + head) * t
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    dout = load_rows(head_of(dout32_ptr, dout_strides, batch, head), dout_strides, rows, exists, DV, BLOCK_DV)
    dout = dout.to(v_ptr.dtype.element_ty)
    lse = load_lse(lse_ptr + at, rows, exists)
    delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    index = index_ptr + batch * s
    edges, along, whole, across = _tiles_of(first_row, length, radius, KEYS, BLOCK_T, BLOCK_S)

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    if KEYS != HUBS:
        dq = _dq_tiles(
            dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, index, rows, whole, across, s, length, radius,
            scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, KEYS, False,
        )  # fmt: skip
    dq = _dq_tiles(
        dq, q, dout, lse, delta, k_base, v_base, k_strides, v_strides, index, rows, edges, along, s, length, radius,
        scale * LOG2E, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV, KEYS, True,
    )  # fmt: skip
    store_rows(head_of(dq_ptr, dq_strides, batch, head), dq_strides, dq * scale, rows, exists, DK, BLOCK_DK)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width; tests compile every entry and hold it to its chip's shared memory, and
# those of 16-bit inputs to no spilled register. Products on FMA units (float32, and all of sm_75) take small tiles.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 32, 4, 3), 128: (128, 32, 8, 3), 256: (64, 32, 8, 2)},
        90: {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (64, 32, 4, 2)},
        100: {64: (128, 64, 8, 3), 128: (128, 64, 8, 3), 256: (64, 32, 4, 2)},
    },
    "bwd_dkdv": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
        80: {64: (32, 32, 4, 2), 128: (32, 32, 8, 2), 256: (16, 32, 8, 1)},
        90: {64: (32, 64, 4, 2), 128: (32, 32, 8, 2), 256: (16, 32, 8, 1)},
    },
    "bwd_dq": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 2), 128: (64, 64, 8, 1), 256: (32, 32, 8, 1)},
        90: {64: (64, 64, 4, 2), 128: (64, 64, 8, 2), 256: (32, 32, 4, 1)},
        100: {64: (64, 64, 4, 2), 128: (64, 32, 8, 2), 256: (32, 32, 4, 1)},
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


def _arguments(q, k, v, lengths, index, *, keys, radius, scale):
    """Return what all kernels take alike:
    which keys there are, numbers, what is known at compile time, what picks the tiles.
    """
    (_, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    constants = {
        "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv),
        "LENGTHS": lengths is not None, "KEYS": keys.value,
    }  # fmt: skip
    which = [q if x is None else x.contiguous() for x in (lengths, index)]  # an absent one is never read
    return which, (h, t, s, radius, scale), constants, chip_of(q, width=padded(max(dk, dv)))


def _forward(q, k, v, lengths, index, options):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = torch.empty(b, h, t, dv, dtype=torch.float32, device=q.device)
    lse = torch.empty(b, h, t, dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse
    which, numbers, constants, chip = _arguments(q, k, v, lengths, index, **options)
    config = launch_config("fwd", **chip)
    strides = (x.stride() for x in (q, k, v, out))
    _global_local_fwd_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, *which, out, lse, *strides, *numbers, **constants, **config
    )
    return out, lse


def _backward(q, k, v, lengths, index, out, lse, dout, dlse, options):
    (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if 0 in (b, t, s):
        return dq.zero_(), dk.zero_(), dv.zero_()
    which, numbers, constants, chip = _arguments(q, k, v, lengths, index, **options)
    check_backward_fits(**chip)
    read = (q, k, v, *which, dout, lse, row_delta(out, dout, dlse))
    strides = [x.stride() for x in (q, k, v, dout)]
    config = launch_config("bwd_dkdv", **chip)
    _global_local_bwd_dkdv_kernel[(triton.cdiv(s, config["BLOCK_S"]), b * g)](
        *read, dk, dv, *strides, dk.stride(), dv.stride(), *numbers, **constants, **config
    )
    config = launch_config("bwd_dq", **chip)
    _global_local_bwd_dq_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        *read, dq, *strides, dq.stride(), *numbers, **constants, **config
    )
    return dq, dk, dv


class _Read(torch.autograd.Function):
    """Rows of q read keys of a kind: (out, lse) in float32, of which inputs, output and log-sum-exp are saved."""

    @staticmethod
    def forward(ctx, q, k, v, lengths, index, options):
        out, lse = in_exact_dtype(lambda *qkv: _forward(*qkv, lengths, index, options), q, k, v)
        ctx.save_for_backward(q, k, v, lengths, index, out, lse)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, *which, out, lse = ctx.saved_tensors
        dout = output_gradient(out, dout)
        grads = in_exact_dtype(lambda *qkv: _backward(*qkv, *which, out, lse, dout, dlse, ctx.options), q, k, v)
        return *(grad.to(q.dtype) for grad in grads), None, None, None


def _read(q, k, v, *, keys, scale, radius=0, lengths=None, index=None):
    q, scale = positive(q, scale)
    return _Read.apply(q, k, v, lengths, index, dict(keys=keys, radius=radius, scale=scale))


def global_local_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    radius: int,
    global_indices: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return what `global_local_attention` does, by the kernels, with gradients.

    Products accumulate in float32, and those of float32 inputs are exact (no tf32).

    Args:
        q, k, v: (b, h, t, dk), (b, g, t, dk), (b, g, t, dv), float32, float16 or bfloat16, widths to 256, any strides.
        radius: neighbours on either side; a row keeps 2 radius + 1 tokens, its own included.
        global_indices: positions of the global tokens, (n,) for all sequences alike or (b, n), where -1 fills rows that
            have fewer.
        global_qkv: what global tokens read with, (b, h, n, dk), (b, g, t, dk), (b, g, t, dv) (default: q, k and v, as
            all others).
        key_lengths: (b,) integers; later tokens are padding, global ones too.
        scale: factor on q . k (default: dk ** -0.5).

    Raises:
        ValueError: a radius below 1; global indices out of range or twice; a shape, dtype or device is wrong; what no
            kernel here can do (float64, a wider head, CPU tensors where Triton compiles).
    """
    check_global_local(
        q, k, v, radius=radius, global_indices=global_indices, global_qkv=global_qkv, key_lengths=key_lengths
    )
    check_launch("global_local_attention_triton", q, k, v, instead="blocked")
    (b, _, t, dk), device = q.shape, q.device
    scale = dk**-0.5 if scale is None else scale
    index = existing_indices(global_indices, key_lengths, b=b, device=device)
    exists = tokens_that_exist(t, key_lengths, b=b, device=device)
    q_global, k_global, v_global = (take_rows(q, index), k, v) if global_qkv is None else global_qkv
    q = blank_padding(q, key_lengths)
    near = _read(q, k, v, keys=BAND, radius=radius, lengths=key_lengths, scale=scale)
    hubs = _read(q, take_rows(k, index), take_rows(v, index), keys=HUBS, radius=radius, index=index, scale=scale)
    # A row of padding may see nothing in either part, and their merge would have NaN for a gradient.
    padding = rearrange(~exists, "b t -> b 1 t")
    out, _ = merge_partial(near[0], near[1].masked_fill(padding, 0.0), hubs[0], hubs[1].masked_fill(padding, 0.0))
    rows, _ = _read(blank_missing(q_global, index), k_global, v_global, keys=ALL, lengths=key_lengths, scale=scale)
    return blank_padding(put_rows(out, rows, index), key_lengths).to(q.dtype)
