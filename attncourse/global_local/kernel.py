"""Global and local attention as Triton kernels, forward and backward, that visit only the tiles that a row may see.

One kernel reads a band of keys or all of them, and gives each row's log-sum-exp (Dao 2023, FlashAttention-2,
https://arxiv.org/abs/2307.08691, algorithms 1 and 2). Three calls make the mechanism (Beltagy et al. 2020,
https://arxiv.org/abs/2004.05150): tokens to their neighbours, tokens to the global tokens, global tokens to all. The first
two see disjoint keys and are merged by their log-sum-exps.
"""

import torch
from einops import rearrange
from torch import Tensor

from attncourse._shared.kernel import (
    LOG2E,
    finish_softmax,
    head_of,
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
    padded,
    positive,
    tile_config,
)
from attncourse._shared.masks import blank_padding
from attncourse._shared.merge import merge_partial

from .checks import check_global_local
from .hubs import blank_missing, existing_indices, global_flags, put_rows, take_rows, tokens_that_exist


@triton.jit
def _scores(q, k, visible_base, rows, cols, s, radius, BAND: tl.constexpr):
    """Products of one tile (BLOCK_T, BLOCK_S), -inf where a row may not look."""
    visible = (tl.load(visible_base + cols, mask=cols < s, other=0) != 0)[None, :]
    if BAND:
        distance = rows[:, None] - cols[None, :]
        visible = visible & (distance <= radius) & (distance >= -radius)
    return tl.where(visible, tl.dot(q, tl.trans(k), input_precision="ieee"), float("-inf"))


@triton.jit
def _reach(first, BLOCK: tl.constexpr, STEP: tl.constexpr, n, radius, BAND: tl.constexpr):
    """Where the tiles of STEP begin and end, among n rows or keys, that a tile of BLOCK from `first` meets."""
    begin, end = 0, n
    if BAND:
        begin = tl.maximum(first - radius, 0) // STEP * STEP
        end = tl.minimum(first + BLOCK + radius, n)
    return begin, end


@triton.jit
def _global_local_fwd_kernel(
    q_ptr, k_ptr, v_ptr, visible_ptr, out32_ptr, lse_ptr, q_strides, k_strides, v_strides, out_strides,
    h, t, s, radius, scale, GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    visible = visible_ptr + batch * s

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    begin, end = _reach(first_row, BLOCK_T, BLOCK_S, s, radius, BAND)
    for start in range(begin, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = load_rows(k_base, k_strides, cols, cols < s, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = load_rows(v_base, v_strides, cols, cols < s, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        scores = _scores(q, k, visible, rows, cols, s, radius, BAND)
        acc, top, total = online_softmax(acc, top, total, scores, v, scale * LOG2E)

    out, lse = finish_softmax(acc, top, total, scale * LOG2E)
    tl.store(lse_ptr + (batch * h + head) * t + rows, lse, mask=exists)
    store_rows(head_of(out32_ptr, out_strides, batch, head), out_strides, out, rows, exists, DV, BLOCK_DV)


@triton.jit
def _global_local_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, visible_ptr, dout32_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides, h, t, s, radius, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S keys of one key/value head against every query, of every head it serves, that sees them."""
    first_col = tl.program_id(0) * BLOCK_S
    g = h // GROUP
    batch = (tl.program_id(1) // g).to(tl.int64)
    kv_head = (tl.program_id(1) % g).to(tl.int64)
    cols = first_col + tl.arange(0, BLOCK_S)
    k = load_rows(head_of(k_ptr, k_strides, batch, kv_head), k_strides, cols, cols < s, DK, BLOCK_DK)
    v = load_rows(head_of(v_ptr, v_strides, batch, kv_head), v_strides, cols, cols < s, DV, BLOCK_DV)
    visible = visible_ptr + batch * s

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    begin, end = _reach(first_col, BLOCK_S, BLOCK_T, t, radius, BAND)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_base, dout_base = head_of(q_ptr, q_strides, batch, head), head_of(dout32_ptr, dout_strides, batch, head)
        at = (batch * h + head) * t
        for start in range(begin, end, BLOCK_T):
            rows = start + tl.arange(0, BLOCK_T)
            exists = rows < t
            q = load_rows(q_base, q_strides, rows, exists, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
            dout = load_rows(dout_base, dout_strides, rows, exists, DV, BLOCK_DV).to(v.dtype)  # (BLOCK_T, BLOCK_DV)
            scores = _scores(q, k, visible, rows, cols, s, radius, BAND)
            weights = tl.exp2(scores * (scale * LOG2E) - load_lse(lse_ptr + at, rows, exists)[:, None])
            dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
            delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
            dscores = score_gradients(weights, dout, v, delta)
            dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")

    store_rows(head_of(dk_ptr, dk_strides, batch, kv_head), dk_strides, dk * scale, cols, cols < s, DK, BLOCK_DK)
    store_rows(head_of(dv_ptr, dv_strides, batch, kv_head), dv_strides, dv, cols, cols < s, DV, BLOCK_DV)


@triton.jit
def _global_local_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, visible_ptr, dout32_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_strides, k_strides, v_strides, dout_strides, dq_strides, h, t, s, radius, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they saw in the forward pass."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    at = (batch * h + head) * t
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    dout = load_rows(head_of(dout32_ptr, dout_strides, batch, head), dout_strides, rows, exists, DV, BLOCK_DV)
    dout = dout.to(v_ptr.dtype.element_ty)
    lse = load_lse(lse_ptr + at, rows, exists)
    delta = tl.load(delta_ptr + at + rows, mask=exists, other=0.0)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    visible = visible_ptr + batch * s

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    begin, end = _reach(first_row, BLOCK_T, BLOCK_S, s, radius, BAND)
    for start in range(begin, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = load_rows(k_base, k_strides, cols, cols < s, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = load_rows(v_base, v_strides, cols, cols < s, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        scores = _scores(q, k, visible, rows, cols, s, radius, BAND)
        weights = tl.exp2(scores * (scale * LOG2E) - lse[:, None])
        dq = tl.dot(score_gradients(weights, dout, v, delta).to(k.dtype), k, dq, input_precision="ieee")
    store_rows(head_of(dq_ptr, dq_strides, batch, head), dq_strides, dq * scale, rows, exists, DK, BLOCK_DK)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width; tests compile every entry and hold it to its chip's shared memory, and
# those of 16-bit inputs to no spilled register. Products on FMA units (float32, and all of sm_75) take small tiles.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 3), 128: (128, 32, 8, 3), 256: (64, 32, 8, 2)},
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
    },
}


def launch_config(which: str, *, width: int, bits: int, capability: int) -> dict[str, int]:
    """Tile sizes and warps of the kernel "fwd", "bwd_dkdv" or "bwd_dq" for a padded width, a dtype and a chip."""
    return tile_config(CONFIGS[which], width=width, bits=bits, capability=capability)


def _arguments(q, k, v, *, radius, scale):
    """What all kernels take alike: numbers, what is known at compile time, what picks the tiles."""
    (_, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    constants = {
        "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv), "BAND": radius is not None,
    }  # fmt: skip
    return (h, t, s, radius or 0, scale), constants, chip_of(q, width=padded(max(dk, dv)))


def _forward(q, k, v, visible, options):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = torch.empty(b, h, t, dv, dtype=torch.float32, device=q.device)
    lse = torch.empty(b, h, t, dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse
    numbers, constants, chip = _arguments(q, k, v, **options)
    config = launch_config("fwd", **chip)
    strides = (x.stride() for x in (q, k, v, out))
    _global_local_fwd_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, visible, out, lse, *strides, *numbers, **constants, **config
    )
    return out, lse


def _backward(q, k, v, visible, out, lse, dout, dlse, options):
    (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if 0 in (b, t, s):
        return dq.zero_(), dk.zero_(), dv.zero_()
    numbers, constants, chip = _arguments(q, k, v, **options)
    check_backward_fits(**chip)
    read = (q, k, v, visible, dout, lse, row_delta(out, dout, dlse))
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
    """Rows of q read the visible keys, of a band or of all: (out, lse) in float32. Saves inputs, output, log-sum-exp."""

    @staticmethod
    def forward(ctx, q, k, v, visible, options):
        visible = visible.to(torch.uint8).contiguous()
        out, lse = in_exact_dtype(lambda *qkv: _forward(*qkv, visible, options), q, k, v)
        ctx.save_for_backward(q, k, v, visible, out, lse)
        ctx.options = options
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, visible, out, lse = ctx.saved_tensors
        grads = in_exact_dtype(lambda *qkv: _backward(*qkv, visible, out, lse, dout, dlse, ctx.options), q, k, v)
        return *(grad.to(q.dtype) for grad in grads), None, None


def _read(q, k, v, visible, *, scale, radius=None):
    q, scale = positive(q, scale)
    return _Read.apply(q, k, v, visible, dict(radius=radius, scale=scale))


def global_local_triton(
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
    """Global and local attention by the kernels: the signature and the result of the definition, with gradients.

    Float32, float16 or bfloat16, widths to 256, any strides; products accumulate in float32, and those of float32 inputs
    are exact (no tf32).

    Raises:
        ValueError: as the reference, and for what no kernel here can do (float64, a wider head, CPU tensors where Triton
            compiles).
    """
    check_global_local(
        q, k, v, radius=radius, global_indices=global_indices, global_qkv=global_qkv, key_lengths=key_lengths
    )
    check_launch("global_local_triton", q, k, v, instead="blocked")
    (b, _, t, dk), device = q.shape, q.device
    scale = dk**-0.5 if scale is None else scale
    index = existing_indices(global_indices, key_lengths, b=b, device=device)
    exists = tokens_that_exist(t, key_lengths, b=b, device=device)
    q_global, k_global, v_global = (take_rows(q, index), k, v) if global_qkv is None else global_qkv
    q, k, v, k_global, v_global = (blank_padding(x, key_lengths) for x in (q, k, v, k_global, v_global))
    near = _read(q, k, v, exists & ~global_flags(index, t), scale=scale, radius=radius)
    hubs = _read(q, take_rows(k, index), take_rows(v, index), index >= 0, scale=scale)
    # A row of padding may see nothing in either part, and their merge would have NaN for a gradient.
    padding = rearrange(~exists, "b t -> b 1 t")
    out, _ = merge_partial(near[0], near[1].masked_fill(padding, 0.0), hubs[0], hubs[1].masked_fill(padding, 0.0))
    rows, _ = _read(blank_missing(q_global, index), k_global, v_global, exists, scale=scale)
    return blank_padding(put_rows(out, rows, index), key_lengths).to(q.dtype)
