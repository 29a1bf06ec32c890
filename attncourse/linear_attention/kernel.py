"""Linear attention as Triton kernels, forward and backward, in chunks, and one step of decoding.

After Yang et al. 2023, https://arxiv.org/abs/2312.06635, section 4: within a chunk the weights are formed, and what came
before it is a state that one program carries from chunk to chunk in registers. One kernel does everything. With
D the decay between two steps, it computes out_i = sum over j <= i of D_ij (x_i . y_j) w_j, or the same sum over i >= j:

    mixture  = scan(q, k, v)          normalizer = scan(q, k, 1)
    dq = scan(dout, v, k)    dk = reversed scan(v, dout, q)    dv = reversed scan(k, q, dout)

The gradient of the decay follows from dq and dk without another pass (ibid., section 4.3). Sums run in float32. Products
of 16-bit inputs are tf32, which has their precision and float32's range: a state of many thousand keys leaves float16's.
"""

import math
from functools import partial
from typing import Literal, Unpack, overload

import torch
from jaxtyping import Int
from torch import Tensor

from attncourse._shared.language import tl, triton
from attncourse._shared.launch import check_runs_here, device_capability, padded, tile_config
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import require

from .features import FeatureMap, elu_plus_one
from .inputs import CHUNK_OF_FEATURES, LinearOptions, check_chunked, prepare
from .state import Inputs, LinearState, attend_beside

NO_DECAY, OF_STEPS, OF_X, OF_W = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _tile(base, rows, n, first, width, BLOCK: tl.constexpr):
    """(rows, BLOCK) of a contiguous matrix (n, width), from column `first`; zeros outside."""
    cols = first + tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < width)
    return tl.load(base + rows[:, None] * width + cols[None, :], mask=inside, other=0.0)


@triton.jit
def _store_tile(base, x, rows, n, first, width, BLOCK: tl.constexpr):
    cols = first + tl.arange(0, BLOCK)
    inside = (rows[:, None] < n) & (cols[None, :] < width)
    tl.store(base + rows[:, None] * width + cols[None, :], x, mask=inside)


@triton.jit
def _decay_in_chunk(step_log, REVERSE: tl.constexpr):
    """Of the logarithms to base 2 of what a chunk's steps leave, (BLOCK_C, ...): their running sum, and their sum.

    Then what is left, for each step, between it and the state: of what it reads, and of what it writes.
    """
    reached, total = tl.cumsum(step_log, 0), tl.sum(step_log, 0)
    # Summed from the end: total - reached would round most where most is left.
    from_start, to_end = tl.exp2(reached), tl.exp2(tl.cumsum(step_log, 0, reverse=True) - step_log)
    read, written = (to_end, from_start) if REVERSE else (from_start, to_end)
    return reached, total, read, written


@triton.jit
def _linear_attention_scan_kernel(
    x_ptr, y_ptr, w_ptr, log_decay_ptr, state_ptr, out_ptr, last_ptr, n,
    X: tl.constexpr, W: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_W: tl.constexpr,
    DECAY: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_W columns of one head's output, chunk after chunk, with its part of the state in registers.

    What a step leaves is one number, or one for each entry of x and y, or one for each column of w and the output. Then
    the decay between two steps of a chunk is a product, of what is left from the chunk's middle and what was left to it.
    """
    first = tl.program_id(0) * BLOCK_W
    head = tl.program_id(1).to(tl.int64)
    x_base, y_base, w_base = x_ptr + head * n * X, y_ptr + head * n * X, w_ptr + head * n * W
    wide = tl.arange(0, BLOCK_X)
    state = _tile(state_ptr + head * X * W, wide, X, first, W, BLOCK_W)  # (BLOCK_X, BLOCK_W)
    within = tl.arange(0, BLOCK_C)
    seen = within[:, None] <= within[None, :] if REVERSE else within[:, None] >= within[None, :]
    chunks = tl.cdiv(n, BLOCK_C)
    for step in range(chunks):
        chunk = chunks - 1 - step if REVERSE else step
        rows = chunk * BLOCK_C + within
        x = _tile(x_base, rows, n, 0, X, BLOCK_X)  # (BLOCK_C, BLOCK_X)
        y = _tile(y_base, rows, n, 0, X, BLOCK_X)  # (BLOCK_C, BLOCK_X)
        w = _tile(w_base, rows, n, first, W, BLOCK_W)  # (BLOCK_C, BLOCK_W)
        x_within, y_within, w_within = x, y, w
        if DECAY >= OF_X:  # or OF_W
            if DECAY == OF_X:
                step_log = _tile(log_decay_ptr + head * n * X, rows, n, 0, X, BLOCK_X)
            else:
                step_log = _tile(log_decay_ptr + head * n * W, rows, n, first, W, BLOCK_W)
            reached, total, read, written = _decay_in_chunk(step_log, REVERSE)
            later = reached - total[None, :] / 2
            if REVERSE:
                later = -later
            if DECAY == OF_X:
                x_within, y_within = x * tl.exp2(later), y * tl.exp2(-later)
                x *= read
                y *= written
            else:
                w_within = w * tl.exp2(-later)
                w *= written
        weights = tl.dot(x_within, tl.trans(y_within), input_precision=PRECISION)  # (BLOCK_C, BLOCK_C)
        if DECAY == OF_STEPS:
            step_log = tl.load(log_decay_ptr + head * n + rows, mask=rows < n, other=0.0)
            reached, total, read, written = _decay_in_chunk(step_log, REVERSE)
            since = reached[None, :] - reached[:, None] if REVERSE else reached[:, None] - reached[None, :]
            weights *= tl.exp2(tl.where(seen, since, 0.0))  # elsewhere it would overflow
            x *= read[:, None]
            y *= written[:, None]
        weights = tl.where(seen, weights, 0.0)
        out = tl.dot(x, state, input_precision=PRECISION)
        if DECAY == OF_W:
            out *= read
            out += tl.dot(weights, w_within, input_precision=PRECISION) * tl.exp2(later)
        else:
            out = tl.dot(weights, w, out, input_precision=PRECISION)  # (BLOCK_C, BLOCK_W)
        _store_tile(out_ptr + head * n * W, out, rows, n, first, W, BLOCK_W)
        if DECAY == OF_STEPS:
            state *= tl.exp2(total)
        elif DECAY == OF_X:
            state *= tl.exp2(total)[:, None]
        elif DECAY == OF_W:
            state *= tl.exp2(total)[None, :]
        state = tl.dot(tl.trans(y), w, state, input_precision=PRECISION)
    _store_tile(last_ptr + head * X * W, state, wide, X, first, W, BLOCK_W)


@triton.jit
def _linear_attention_step_kernel(
    q_ptr, k_ptr, v_ptr, decay_ptr, S_ptr, z_ptr, out_ptr, new_S_ptr, new_z_ptr,
    F: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_DV: tl.constexpr,
    DECAY: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_DV columns of one key/value head's state, and what its queries read of them."""
    first = tl.program_id(0) * BLOCK_DV
    kv_head = tl.program_id(1).to(tl.int64)
    wide = tl.arange(0, BLOCK_F)
    cols = first + tl.arange(0, BLOCK_DV)
    k = tl.load(k_ptr + kv_head * F + wide, mask=wide < F, other=0.0)
    v = tl.load(v_ptr + kv_head * DV + cols, mask=cols < DV, other=0.0)
    S = _tile(S_ptr + kv_head * F * DV, wide, F, first, DV, BLOCK_DV)  # (BLOCK_F, BLOCK_DV)
    z = tl.load(z_ptr + kv_head * F + wide, mask=wide < F, other=0.0)
    if DECAY:
        decay = tl.load(decay_ptr + kv_head * F + wide, mask=wide < F, other=0.0)
        S *= decay[:, None]
        z *= decay
    S += k[:, None] * v[None, :]
    z += k
    _store_tile(new_S_ptr + kv_head * F * DV, S, wide, F, first, DV, BLOCK_DV)
    if first == 0:
        tl.store(new_z_ptr + kv_head * F + wide, z, mask=wide < F)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q = tl.load(q_ptr + head * F + wide, mask=wide < F, other=0.0)
        out = tl.sum(q[:, None] * S, 0)
        if NORMALIZE:
            total = tl.sum(q * z)
            out = tl.where(total == 0.0, 0.0, out / tl.where(total == 0.0, 1.0, total))
        tl.store(out_ptr + head * DV + cols, out, mask=cols < DV)


# (BLOCK_C, BLOCK_W at most, warps, stages) by the padded width that is summed over. The compile-only gate holds every entry
# to its chip's shared memory. Without tensor cores (float32 everywhere, all of sm_75) products run on FMA units out of
# registers: tiles must be small. Elsewhere they are tf32, of float32 states.
CONFIGS = {
    "fma": {64: (16, 32, 4, 1), 128: (16, 16, 8, 1), 256: (16, 16, 8, 1)},
    80: {64: (32, 32, 4, 1), 128: (32, 32, 8, 1), 256: (16, 16, 8, 1)},
}


def launch_config(*, width: int, out: int, bits: int, capability: int, decay: int) -> dict:
    """Return tile sizes, warps and precision of the scan.

    With a decay per feature more steps than CHUNK_OF_FEATURES would leave float32's range.

    Args:
        width, out: of features and of values, padded.
        bits: of an element of the inputs.
        capability: the chip, two digits.
        decay: its kind, as the kernel numbers them.
    """
    blocks = ("BLOCK_C", "BLOCK_W")
    config = tile_config(CONFIGS, width=width, bits=bits, capability=capability, blocks=blocks)
    precision = "tf32" if bits == 16 and capability >= 80 else "ieee"
    if decay in (OF_X.value, OF_W.value):
        config["BLOCK_C"] = CHUNK_OF_FEATURES
    return config | {"BLOCK_W": min(config["BLOCK_W"], out), "PRECISION": precision}


def step_config(out: int) -> dict:
    """Return tile and warps of the decode step for `out`, the values' padded width."""
    return {"BLOCK_DV": min(32, out), "num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


def _scan(x, y, w, log_decay, state, *, decay, reverse, bits):
    """Return out (b, h, n, W) and the last state (b, h, X, W) of the sum above; all inputs contiguous and float32."""
    (b, h, n, width), out_width = x.shape, w.shape[-1]
    out, last = x.new_empty(b, h, n, out_width), torch.empty_like(state)
    if 0 in (b, n, out_width):
        return out, state.clone()
    blocks = padded(width), padded(out_width)
    config = launch_config(width=blocks[0], out=blocks[1], bits=bits, capability=device_capability(x), decay=decay)
    _linear_attention_scan_kernel[(triton.cdiv(out_width, config["BLOCK_W"]), b * h)](
        x, y, w, x if log_decay is None else log_decay, state, out, last, n,
        X=width, W=out_width, BLOCK_X=blocks[0], DECAY=decay, REVERSE=reverse, **config,
    )  # fmt: skip
    return out, last


class _Scan(torch.autograd.Function):
    """The scan gives (mixture, last state) of q, k, v,
    the decay's logarithm to base 2 (b, h, n) or (b, h, n, f), and the first state.

    The backward pass needs these and the last state. The decay's gradient rounds in proportion to q dq and k dk, not to
    their difference.
    """

    @staticmethod
    def forward(ctx, q, k, v, log_decay, state, bits):
        q, k, v, state = (x.contiguous() for x in (q, k, v, state))
        log_decay = None if log_decay is None else log_decay.float().contiguous()
        of_k, of_v = {None: (NO_DECAY, NO_DECAY), 3: (OF_STEPS, OF_STEPS), 4: (OF_X, OF_W)}[
            None if log_decay is None else log_decay.ndim
        ]
        ctx.of_k, ctx.of_v, ctx.bits = of_k.value, of_v.value, bits
        out, last = _scan(q, k, v, log_decay, state, decay=ctx.of_k, reverse=False, bits=bits)
        ctx.save_for_backward(q, k, v, log_decay, state, last)
        return out, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlast):
        q, k, v, log_decay, state, last = ctx.saved_tensors
        dout, dlast = dout.contiguous(), dlast.contiguous()

        def turned(x):
            return x.transpose(-1, -2).contiguous()

        of_v = dict(decay=ctx.of_v, bits=ctx.bits)
        dq, _ = _scan(dout, v, k, log_decay, turned(state), reverse=False, **of_v)
        dkey, _ = _scan(v, dout, q, log_decay, turned(dlast), reverse=True, **of_v)
        dvalue, dstate = _scan(k, q, dout, log_decay, dlast, decay=ctx.of_k, reverse=True, bits=ctx.bits)
        dlog = None
        if log_decay is not None:
            # q_i carries what decayed up to i and k_j carries its inverse: the slope of the one minus that of the other.
            # Both are large where their difference is not, and so are the mixture's share and the normalizer's.
            slope, of_last = q.double() * dq - k.double() * dkey, (last.double() * dlast).sum(dim=-1)
            later = slope.flip(-2).cumsum(dim=-2).flip(-2) + of_last[..., None, :]
            later = later if log_decay.ndim == 4 else later.sum(dim=-1)
            dlog = later * math.log(2)
        return dq, dkey, dvalue, dlog, dstate, None


def _causal_products(q, k, v, decay, state, *, bits):
    """Return mixture, total weight and last state by the scan; heads of a group get copies of their keys and values."""
    r = q.shape[1] // k.shape[1]
    k, v, S, z = (x.repeat_interleave(r, dim=1) if r > 1 else x for x in (k, v, *state))
    log_decay = None if decay is None else decay.double().log2().repeat_interleave(r, dim=1)
    if decay is not None and decay.shape[-1] == 1:
        log_decay = log_decay[..., 0]
    mixed, S = _Scan.apply(q, k, v, log_decay, S, bits)
    total, z = _Scan.apply(q, k, torch.ones_like(v[..., :1]), log_decay, z[..., None], bits)
    return mixed, total[..., 0], LinearState(S[:, ::r], z[:, ::r, :, 0])


@overload
def linear_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, return_state: Literal[False] = False, **options: Unpack[LinearOptions]
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def linear_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, return_state: Literal[True], **options: Unpack[LinearOptions]
) -> tuple[Tensor, LinearState]:
    """Return the output and the last state."""
    ...


@outside_autocast
def linear_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    feature_map: FeatureMap = elu_plus_one,
    normalize: bool = True,
    decay: Tensor | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
    state: LinearState | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, LinearState]:
    """Return what `linear_attention` does, by the kernels, with gradients.

    Without causal there is nothing to chunk: the state is one matrix product, and reading it another.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), float32, float16 or bfloat16; features and values to width
            256.
        causal: query i of t stands at position s - t + i and sees nothing after it.
        feature_map: phi, from (..., dk) to (..., f).
        normalize: divide by the sum of the weights; without it, the output is the plain sum.
        decay: what a step leaves of the past, in (0, 1], broadcastable to (b, g, s, f). Needs causal.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        state: what was read before these keys.
        return_state: give also the float32 state after the last key, with its gradient.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what no kernel here can do (float64, a wider head, a decay
            per feature below 1e-4, CPU tensors where Triton compiles).
    """
    inputs = prepare(q, k, v, causal=causal, feature_map=feature_map, decay=decay, key_lengths=key_lengths, state=state)
    _check(inputs, q)
    check_chunked(inputs.decay)
    products = partial(_causal_products, bits=8 * q.element_size())
    out, state = attend_beside(inputs, products, causal=causal, normalize=normalize, dtype=q.dtype)
    return (out, state) if return_state else out


def _check(inputs: Inputs, q: Tensor) -> None:
    check_runs_here("linear_attention_triton", q)
    widest = max(inputs.q.shape[-1], inputs.v.shape[-1])
    require(widest <= 256, f"linear_attention_triton takes widths to 256, got {widest}: use impl='blocked' for it")


@outside_autocast
def linear_attention_step_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    state: LinearState | None = None,
    feature_map: FeatureMap = elu_plus_one,
    normalize: bool = True,
    decay: Tensor | None = None,
) -> tuple[Tensor, LinearState]:
    """Return what `linear_attention_step` does, as one kernel, with a decay of any kind.

    Args:
        q, k, v: (b, h, dk), (b, g, dk), (b, g, dv), float32, float16 or bfloat16.
        state: what was read before this token (default: nothing).
        feature_map: phi, from (..., dk) to (..., f).
        normalize: divide by the sum of the weights.
        decay: what this step leaves of the past, broadcastable to (b, g, f).

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what no kernel here can do (float64, a wider head, CPU
            tensors where Triton compiles); gradients are asked for, which decoding has no use for.
    """
    inputs = prepare(
        q[:, :, None], k[:, :, None], v[:, :, None], causal=True, feature_map=feature_map,
        decay=decay if decay is None or decay.ndim == 0 else decay[..., None, :], key_lengths=None, state=state,
    )  # fmt: skip
    _check(inputs, q)
    asked = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs[:3], *inputs.state))
    require(not asked, "linear_attention_step_triton is for decoding and has no gradient: use torch.no_grad()")
    queries, keys, values, (S, z) = *(x[:, :, 0].contiguous() for x in inputs[:3]), inputs.state
    (b, h, f), (g, dv) = queries.shape, values.shape[1:]
    left = None if inputs.decay is None else inputs.decay[:, :, 0].expand(b, g, f).contiguous()
    out, S, z = queries.new_empty(b, h, dv), S.contiguous(), z.contiguous()
    new = LinearState(torch.empty_like(S), torch.empty_like(z))
    config = step_config(padded(dv))
    if out.numel():
        _linear_attention_step_kernel[(triton.cdiv(dv, config["BLOCK_DV"]), b * g)](
            queries, keys, values, queries if left is None else left, S, z, out, *new,
            F=f, DV=dv, GROUP=h // g, BLOCK_F=padded(f), DECAY=left is not None, NORMALIZE=normalize, **config,
        )  # fmt: skip
    return out.to(q.dtype), new
