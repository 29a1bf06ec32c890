"""Global and local attention as Triton kernels, forward and backward, that visit only the tiles that a row may see.

One kernel reads a band of keys or all of them, and gives each row's log-sum-exp (Dao 2023, FlashAttention-2,
https://arxiv.org/abs/2307.08691, algorithms 1 and 2). Three calls make the mechanism (Beltagy et al. 2020,
https://arxiv.org/abs/2004.05150): tokens to their neighbours, tokens to the global tokens, global tokens to all. The first
two see disjoint keys and are merged by their log-sum-exps. Inside kernels logarithms are to base 2; outside, natural.
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from attncourse._shared.kernel import tl, triton
from attncourse._shared.launch import check_runs_here, device_capability, in_exact_dtype
from attncourse._shared.masks import blank_padding
from attncourse._shared.merge import merge_partial
from attncourse._shared.validate import require

from .checks import check_global_local
from .hubs import blank_missing, existing_indices, global_flags, put_rows, take_rows, tokens_that_exist

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _load_rows(base, rows, stride_row, stride_width, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a matrix with n rows; zeros outside."""
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < WIDTH)
    return tl.load(base + rows[:, None] * stride_row + cols[None, :] * stride_width, mask=inside, other=0.0)


@triton.jit
def _store_rows(base, x, rows, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of a contiguous matrix (n, WIDTH)."""
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < WIDTH)
    tl.store(base + rows[:, None] * WIDTH + cols[None, :], x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _scores(q, k, visible_base, rows, cols, s, radius, scale, BAND: tl.constexpr):
    """Scores to base 2 of one tile (BLOCK_T, BLOCK_S), -inf where a row may not look."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
    visible = (tl.load(visible_base + cols, mask=cols < s, other=0) != 0)[None, :]
    if BAND:
        distance = rows[:, None] - cols[None, :]
        visible = visible & (distance <= radius) & (distance >= -radius)
    return tl.where(visible, scores, float("-inf"))


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
    q_ptr, k_ptr, v_ptr, visible_ptr, out32_ptr, lse_ptr, q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d,
    h, t, s, radius, scale, GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    begin, end = _reach(first_row, BLOCK_T, BLOCK_S, s, radius, BAND)
    for start in range(begin, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_base, cols, k_s, k_d, s, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = _load_rows(v_base, cols, v_s, v_d, s, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        scores = _scores(q, k, visible_ptr + batch * s, rows, cols, s, radius, scale, BAND)
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        rescale = tl.exp2(top - shift)
        weights = tl.exp2(scores - shift[:, None])
        total = total * rescale + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        top = new_top

    seen = total > 0
    acc = acc / tl.where(seen, total, 1.0)[:, None]
    lse = tl.where(seen, (top + tl.log2(tl.where(seen, total, 1.0))) / LOG2E, float("-inf"))
    at = (batch * h + head) * t
    tl.store(lse_ptr + at + rows, lse, mask=rows < t)
    _store_rows(out32_ptr + at * DV, acc, rows, t, DV, BLOCK_DV)


@triton.jit
def _global_local_bwd_delta_kernel(
    out32_ptr, dout32_ptr, dlse_ptr, delta_ptr, n, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_DV: tl.constexpr
):
    """delta = sum(out * dout) - dlse of each of n rows: what every weight's gradient is lowered by."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    out = _load_rows(out32_ptr, rows, DV, 1, n, DV, BLOCK_DV)
    dout = _load_rows(dout32_ptr, rows, DV, 1, n, DV, BLOCK_DV)
    dlse = tl.load(dlse_ptr + rows, mask=rows < n, other=0.0)
    tl.store(delta_ptr + rows, tl.sum(out * dout, 1) - dlse, mask=rows < n)


@triton.jit
def _load_lse(lse_ptr, rows, t):
    """Log-sum-exp to base 2; +inf (so every weight is 0) for rows that saw nothing or do not exist."""
    lse = tl.load(lse_ptr + rows, mask=rows < t, other=float("inf"))
    return tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)


@triton.jit
def _global_local_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, visible_ptr, dout32_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, h, t, s, radius, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S keys of one key/value head against every query, of every head it serves, that sees them."""
    first_col = tl.program_id(0) * BLOCK_S
    g = h // GROUP
    batch = (tl.program_id(1) // g).to(tl.int64)
    kv_head = (tl.program_id(1) % g).to(tl.int64)
    cols = first_col + tl.arange(0, BLOCK_S)
    k = _load_rows(k_ptr + batch * k_b + kv_head * k_g, cols, k_s, k_d, s, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
    v = _load_rows(v_ptr + batch * v_b + kv_head * v_g, cols, v_s, v_d, s, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)

    dk = tl.zeros((BLOCK_S, BLOCK_DK), tl.float32)
    dv = tl.zeros((BLOCK_S, BLOCK_DV), tl.float32)
    begin, end = _reach(first_col, BLOCK_S, BLOCK_T, t, radius, BAND)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        at = (batch * h + head) * t
        for start in range(begin, end, BLOCK_T):
            rows = start + tl.arange(0, BLOCK_T)
            q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
            dout = _load_rows(dout32_ptr + at * DV, rows, DV, 1, t, DV, BLOCK_DV).to(v.dtype)  # (BLOCK_T, BLOCK_DV)
            scores = _scores(q, k, visible_ptr + batch * s, rows, cols, s, radius, scale, BAND)
            weights = tl.exp2(scores - _load_lse(lse_ptr + at, rows, t)[:, None])
            dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
            dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
            delta = tl.load(delta_ptr + at + rows, mask=rows < t, other=0.0)
            dscores = weights * (dweights - delta[:, None])
            dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")

    kv_at = (batch * g + kv_head) * s
    _store_rows(dk_ptr + kv_at * DK, dk * scale, cols, s, DK, BLOCK_DK)
    _store_rows(dv_ptr + kv_at * DV, dv, cols, s, DV, BLOCK_DV)


@triton.jit
def _global_local_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, visible_ptr, dout32_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, h, t, s, radius, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they saw in the forward pass."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    at = (batch * h + head) * t
    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    lse = _load_lse(lse_ptr + at, rows, t)
    delta = tl.load(delta_ptr + at + rows, mask=rows < t, other=0.0)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    dout = _load_rows(dout32_ptr + at * DV, rows, DV, 1, t, DV, BLOCK_DV).to(v_ptr.dtype.element_ty)

    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    begin, end = _reach(first_row, BLOCK_T, BLOCK_S, s, radius, BAND)
    for start in range(begin, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_base, cols, k_s, k_d, s, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = _load_rows(v_base, cols, v_s, v_d, s, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        weights = tl.exp2(_scores(q, k, visible_ptr + batch * s, rows, cols, s, radius, scale, BAND) - lse[:, None])
        dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
        dscores = weights * (dweights - delta[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    _store_rows(dq_ptr + at * DK, dq * scale, rows, t, DK, BLOCK_DK)


def padded(width: int) -> int:
    """The tile's width: a power of two, and at least the 16 that a tensor core multiplies at once."""
    return max(16, triton.next_power_of_2(width))


# (BLOCK_T, BLOCK_S, warps, stages) by padded width; tests compile every entry and hold it to its chip's shared memory, and
# those of 16-bit inputs to no spilled register. Products on FMA units (float32, and all of sm_75) take small tiles.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
        80: {64: (64, 64, 4, 3), 128: (128, 32, 8, 3), 256: (64, 32, 8, 2)},
        90: {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (64, 32, 4, 2)},
    },
    "bwd_dkdv": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
        80: {64: (32, 32, 4, 2), 128: (32, 32, 8, 2), 256: (16, 32, 8, 1)},
        90: {64: (32, 64, 4, 2), 128: (32, 32, 8, 2), 256: (16, 32, 8, 1)},
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


def _arguments(q, k, v, *, radius, scale):
    """What three of the kernels take alike: strides and sizes, what is known at compile time, what picks the tiles."""
    (_, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    numbers = (*q.stride(), *k.stride(), *v.stride(), h, t, s, radius or 0, scale)
    constants = {
        "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv), "BAND": radius is not None,
    }  # fmt: skip
    chip = dict(width=padded(max(dk, dv)), bits=8 * q.element_size(), capability=device_capability(q))
    return numbers, constants, chip


def _forward(q, k, v, visible, options):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = torch.empty(b, h, t, dv, dtype=torch.float32, device=q.device)
    lse = torch.empty(b, h, t, dtype=torch.float32, device=q.device)
    if out.numel() == 0:
        return out, lse
    numbers, constants, chip = _arguments(q, k, v, **options)
    config = launch_config("fwd", **chip)
    _global_local_fwd_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, visible, out, lse, *numbers, **constants, **config
    )
    return out, lse


def _backward(q, k, v, visible, out, lse, dout, dlse, options):
    (b, h, t, _), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    dq, dk, dvalue = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if 0 in (b, t, s):
        return dq.zero_(), dk.zero_(), dvalue.zero_()
    numbers, constants, chip = _arguments(q, k, v, **options)
    require(
        chip["capability"] >= 80 or chip["bits"] == 16 or chip["width"] <= 128,
        "the backward pass of float32 heads wider than 128 does not fit this chip's shared memory: use float16",
    )
    delta, dout = torch.empty_like(lse), dout.contiguous()
    _global_local_bwd_delta_kernel[(triton.cdiv(b * h * t, 16),)](
        out, dout, dlse.contiguous(), delta, b * h * t, DV=dv, BLOCK_T=16, BLOCK_DV=padded(dv), enable_fp_fusion=True
    )
    config = launch_config("bwd_dkdv", **chip)
    _global_local_bwd_dkdv_kernel[(triton.cdiv(s, config["BLOCK_S"]), b * g)](
        q, k, v, visible, dout, lse, delta, dk, dvalue, *numbers, **constants, **config
    )
    config = launch_config("bwd_dq", **chip)
    _global_local_bwd_dq_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, visible, dout, lse, delta, dq, *numbers, **constants, **config
    )
    return dq, dk, dvalue


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
    check_runs_here("global_local_triton", q)
    (b, _, t, dk), device = q.shape, q.device
    widest = max(dk, v.shape[-1])
    require(widest <= 256, f"global_local_triton takes widths to 256, got {widest}: use impl='blocked' for it")
    for name, x in (("q", q), ("k", k), ("v", v)):
        span = x.shape[2] * x.stride(2)
        require(span < 2**31, f"global_local_triton addresses 2^31 elements a head, {name} spans {span}")
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
