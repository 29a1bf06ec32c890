"""Local attention as Triton kernels, forward and backward, that visit only the key tiles which a block of queries may see.

The online softmax and the recomputing backward pass of Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691,
algorithms 1 and 2, over the tiles of a band and those of the first keys. A dilated band is an undilated one on every
dilation-th position, so it needs strides and no kernel of its own. Inside kernels logarithms are to base 2.
"""

import math

import torch
from torch import Tensor

from attncourse._shared.kernel import tl, triton
from attncourse._shared.launch import check_runs_here, device_capability, in_exact_dtype
from attncourse._shared.validate import require

from .pattern import by_residue, check_local, local_band

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _load_rows(base, rows, stride_row, stride_width, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a matrix with n rows; zeros outside."""
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < WIDTH)
    return tl.load(base + rows[:, None] * stride_row + cols[None, :] * stride_width, mask=inside, other=0.0)


@triton.jit
def _store_rows(base, x, rows, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Into a contiguous matrix with n rows."""
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < WIDTH)
    tl.store(base + rows[:, None] * WIDTH + cols[None, :], x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _scores(q, k, rows, cols, t, s, length, before, after, sinks, scale):
    """Scores to base 2 of one tile, (rows, cols), with -inf where a query may not look."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
    distance = rows[:, None] + (s - t) - cols[None, :]
    visible = (distance >= -after) & ((distance <= before) | (cols[None, :] < sinks))
    return tl.where(visible & (cols[None, :] < length) & (rows[:, None] < t), scores, float("-inf"))


@triton.jit
def _keys_of(first_row, t, s, length, before, after, sinks, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr):
    """For a block of queries: the band's key tiles [begin, end), and where the tiles of the first keys end."""
    first = first_row + s - t
    end = tl.maximum(tl.minimum(length, first + BLOCK_T + after), 0)
    begin = tl.minimum(tl.maximum(first - before, 0) // BLOCK_S * BLOCK_S, end)
    return begin, end, tl.minimum(tl.minimum(sinks, length), begin)


@triton.jit
def _fwd_tiles(
    acc, top, total, q, k_base, v_base, rows, first, last, t, s, length, before, after, sinks, scale, k_s, k_d, v_s, v_d,
    DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """The online softmax over the key tiles first..last."""
    for start in range(first, last, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_base, cols, k_s, k_d, length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        scores = _scores(q, k, rows, cols, t, s, length, before, after, sinks, scale)  # (BLOCK_T, BLOCK_S)
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        rescale = tl.exp2(top - shift)
        weights = tl.exp2(scores - shift[:, None])
        total = total * rescale + tl.sum(weights, 1)
        v = _load_rows(v_base, cols, v_s, v_d, length, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        top = new_top
    return acc, top, total


@triton.jit
def _sliding_window_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, lengths_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, h, t, s, before, after, sinks, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against the keys that they may see; lse is kept to base 2."""
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
    begin, end, sink_end = _keys_of(first_row, t, s, length, before, after, sinks, BLOCK_T, BLOCK_S)

    acc = tl.zeros((BLOCK_T, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, rows, 0, sink_end, t, s, length, before, after, sinks, scale,
        k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
    )  # fmt: skip
    acc, top, total = _fwd_tiles(
        acc, top, total, q, k_base, v_base, rows, begin, end, t, s, length, before, after, sinks, scale,
        k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
    )  # fmt: skip

    seen = total > 0
    total = tl.where(seen, total, 1.0)
    at = (batch * h + head) * t
    # +inf for a row that saw nothing: in the backward pass all its weights are 0.
    tl.store(lse_ptr + at + rows, tl.where(seen, top + tl.log2(total), float("inf")), mask=rows < t)
    _store_rows(out_ptr + at * DV, acc / total[:, None], rows, t, DV, BLOCK_DV)


@triton.jit
def _dkdv_tiles(
    dk, dv, k, v, q_base, dout_base, lse_ptr, delta_ptr, cols, first, last, t, s, length, before, after, sinks, scale,
    q_t, q_d, dout_t, dout_d, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Gradients of one key tile from the query tiles first..last of one head."""
    for start in range(first, last, BLOCK_T):
        rows = start + tl.arange(0, BLOCK_T)
        q = _load_rows(q_base, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
        dout = _load_rows(dout_base, rows, dout_t, dout_d, t, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
        lse = tl.load(lse_ptr + rows, mask=rows < t, other=float("inf"))
        delta = tl.load(delta_ptr + rows, mask=rows < t, other=0.0)
        weights = tl.exp2(_scores(q, k, rows, cols, t, s, length, before, after, sinks, scale) - lse[:, None])
        dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, dv, input_precision="ieee")
        dscores = weights * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta[:, None])
        dk = tl.dot(tl.trans(dscores.to(q.dtype)), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def _sliding_window_bwd_dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, lengths_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, dout_b, dout_h, dout_t, dout_d,
    h, t, s, before, after, sinks, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
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
        at = (batch * h + head) * t
        dk, dv = _dkdv_tiles(
            dk, dv, k, v, q_ptr + batch * q_b + head * q_h, dout_ptr + batch * dout_b + head * dout_h, lse_ptr + at,
            delta_ptr + at, cols, begin, end, t, s, length, before, after, sinks, scale, q_t, q_d, dout_t, dout_d,
            DK, DV, BLOCK_T, BLOCK_DK, BLOCK_DV,
        )  # fmt: skip
    at = (batch * g + kv_head) * s
    _store_rows(dk_ptr + at * DK, dk * scale, cols, s, DK, BLOCK_DK)
    _store_rows(dv_ptr + at * DV, dv, cols, s, DV, BLOCK_DV)


@triton.jit
def _dq_tiles(
    dq, q, dout, lse, delta, k_base, v_base, rows, first, last, t, s, length, before, after, sinks, scale,
    k_s, k_d, v_s, v_d, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Gradient of one query tile from the key tiles first..last."""
    for start in range(first, last, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = _load_rows(k_base, cols, k_s, k_d, length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        v = _load_rows(v_base, cols, v_s, v_d, length, DV, BLOCK_DV)  # (BLOCK_S, BLOCK_DV)
        weights = tl.exp2(_scores(q, k, rows, cols, t, s, length, before, after, sinks, scale) - lse[:, None])
        dscores = weights * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _sliding_window_bwd_dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, lengths_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, dout_b, dout_h, dout_t, dout_d,
    h, t, s, before, after, sinks, scale,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, LENGTHS: tl.constexpr,
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
    lse = tl.load(lse_ptr + at + rows, mask=rows < t, other=float("inf"))
    delta = tl.load(delta_ptr + at + rows, mask=rows < t, other=0.0)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    begin, end, sink_end = _keys_of(first_row, t, s, length, before, after, sinks, BLOCK_T, BLOCK_S)
    dq = tl.zeros((BLOCK_T, BLOCK_DK), tl.float32)
    dq = _dq_tiles(
        dq, q, dout, lse, delta, k_base, v_base, rows, 0, sink_end, t, s, length, before, after, sinks, scale,
        k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
    )  # fmt: skip
    dq = _dq_tiles(
        dq, q, dout, lse, delta, k_base, v_base, rows, begin, end, t, s, length, before, after, sinks, scale,
        k_s, k_d, v_s, v_d, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
    )  # fmt: skip
    _store_rows(dq_ptr + at * DK, dq * scale, rows, t, DK, BLOCK_DK)


def padded(width: int) -> int:
    """The tile's width: a power of two, and at least the 16 that a tensor core multiplies at once."""
    return max(16, triton.next_power_of_2(width))


# (BLOCK_T, BLOCK_S, warps, stages) by padded width. Without tensor cores (float32 everywhere, all of sm_75) products run
# on FMA units out of registers: tiles must be small. The compile-only gate holds the others to no spilled register.
CONFIGS = {
    "fwd": {
        "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
        "mma": {64: (64, 64, 4, 3), 128: (64, 32, 4, 3), 256: (64, 32, 8, 2)},
    },
    "bwd_dkdv": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
        "mma": {64: (32, 64, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
    },
    "bwd_dq": {
        "fma": {64: (32, 16, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
        "mma": {64: (64, 64, 4, 2), 128: (64, 32, 8, 2), 256: (32, 32, 8, 1)},
    },
}


def launch_config(which: str, *, width: int, bits: int, capability: int) -> dict[str, int]:
    """Tile sizes and warps of the kernel "fwd", "bwd_dkdv" or "bwd_dq" for a padded width, a dtype and a chip."""
    units = "fma" if bits == 32 or capability < 80 else "mma"
    block_t, block_s, num_warps, num_stages = CONFIGS[which][units][max(width, 64)]
    # The default of FP fusion differs between versions of Triton.
    return {
        "BLOCK_T": block_t, "BLOCK_S": block_s, "num_warps": num_warps, "num_stages": num_stages,
        "enable_fp_fusion": True,
    }  # fmt: skip


class _Launch:
    """What the kernels of one call take alike."""

    def __init__(self, q, k, v, key_lengths, band, scale):
        (_, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
        self.lengths = q if key_lengths is None else key_lengths.contiguous()
        self.numbers = (h, t, s, band.before, band.after, band.sinks, scale)
        self.constants = {
            "GROUP": h // g, "DK": dk, "DV": dv, "BLOCK_DK": padded(dk), "BLOCK_DV": padded(dv),
            "LENGTHS": key_lengths is not None,
        }  # fmt: skip
        self.chip = dict(width=max(padded(dk), padded(dv)), bits=q.element_size() * 8, capability=device_capability(q))

    def __call__(self, kernel, which, rows, heads, tensors, strided):
        """Run over `rows` queries or keys, as the kernel's tiles cut them, and over batch and heads."""
        config = launch_config(which, **self.chip)
        size = config["BLOCK_S"] if which == "bwd_dkdv" else config["BLOCK_T"]
        strides = [n for x in strided for n in x.stride()]
        kernel[triton.cdiv(rows, size), heads](
            *tensors, self.lengths, *strides, *self.numbers, **self.constants, **config
        )


def _forward(q, k, v, key_lengths, band, scale):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, h, t, dv)
    lse = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    if out.numel() > 0:
        launch = _Launch(q, k, v, key_lengths, band, scale)
        launch(_sliding_window_fwd_kernel, "fwd", t, b * h, (q, k, v, out, lse), (q, k, v))
    return out, lse


def _backward(q, k, v, out, dout, lse, key_lengths, band, scale):
    (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
    if 0 in (*out.shape, s):
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    dq, dkey, dvalue = (x.new_empty(x.shape) for x in (q, k, v))
    launch = _Launch(q, k, v, key_lengths, band, scale)
    require(
        launch.chip["capability"] >= 80 or launch.chip["bits"] == 16 or launch.chip["width"] <= 128,
        "the backward pass of float32 heads wider than 128 does not fit this chip's shared memory: use float16",
    )
    delta = (out.float() * dout.float()).sum(dim=-1)
    read, strided = (q, k, v, dout, lse, delta), (q, k, v, dout)
    launch(_sliding_window_bwd_dkdv_kernel, "bwd_dkdv", s, b * g, (*read, dkey, dvalue), strided)
    launch(_sliding_window_bwd_dq_kernel, "bwd_dq", t, b * h, (*read, dq), strided)
    return dq, dkey, dvalue


class _SlidingWindow(torch.autograd.Function):
    """Saves the inputs, the output and the log-sum-exp: memory linear in the length."""

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
    """Local attention by the kernels: the signature and the result of `sliding_window_attention`, with gradients.

    Float32, float16 or bfloat16, widths to 256, any strides; products accumulate in float32, and those of float32
    inputs are exact (no tf32).

    Raises:
        ValueError: as the reference, and for what no kernel here can do (float64, a wider head, CPU tensors where Triton
            compiles).
    """
    check_local(q, k, v, key_lengths)
    band = local_band(window=window, radius=radius, dilation=dilation, sinks=sinks)
    check_runs_here("sliding_window_attention_triton", q)
    widest = max(q.shape[-1], v.shape[-1])
    require(
        widest <= 256, f"sliding_window_attention_triton takes widths to 256, got {widest}: use impl='blocked' for it"
    )
    for name, x in (("q", q), ("k", k), ("v", v)):
        span = x.shape[2] * x.stride(2)
        require(span < 2**31, f"sliding_window_attention_triton addresses 2^31 elements a head, {name} spans {span}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return by_residue(
        lambda q, k, v, lengths: _SlidingWindow.apply(q, k, v, lengths, band, scale), q, k, v, key_lengths, dilation
    )
