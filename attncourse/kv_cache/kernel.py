"""Tokens into a cache's slots and out of them as Triton kernels, quantised on the way in, dequantised on the way out.

Slots are numbered as in `slots.py` (vLLM's `slot_mapping`, Kwon et al. 2023, https://arxiv.org/abs/2309.06180), so that
one pair of kernels serves every layout. Codes are bit for bit those of `quantize.py`. Floats of 8 bits are made from bits
and integers, not by the hardware's conversion, which chips before sm_89 and the interpreter lack. For inference only.
"""

import torch
from torch import Tensor

from attncourse._shared.kernel import from_fp8, head_of
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import check_runs_here, interpreting
from attncourse._shared.validate import require

from .codec import Codec, Fp8, Int4, Int8, Plain, groups_of
from .slots import check_slots, check_tokens

CODECS = {Plain: 0, Int8: 1, Int4: 2, Fp8: 3}
PLAIN, INT8, INT4, FP8 = (tl.constexpr(number) for number in CODECS.values())
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
LAUNCH = {"num_warps": 4}


@triton.jit
def _round(x):
    # libdevice does not run in the interpreter. Beyond 2^23 a float32 has no fraction: the sum rounds to even.
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _to_fp8(x):
    """The bits of float8_e4m3fn nearest to x, |x| <= 448, ties to even."""
    bits = x.to(tl.int32, bitcast=True)
    sign, magnitude = (bits >> 24) & 0x80, bits & 0x7FFFFFFF
    # Of 23 bits of mantissa 3 stay, and the exponent's bias falls from 127 to 7.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    small = _round(tl.abs(x) * 512.0).to(tl.int32)  # below 2^-6 steps are of 2^-9
    return sign | tl.where(tl.abs(x) < 0.015625, small, normal)


@triton.jit
def _codes(x, scale, zero, CODEC: tl.constexpr):
    """x (GROUPS, ...) as codes in int32, by its group's scale and zero (GROUPS, 1)."""
    steps = tl.div_rn(x, tl.broadcast_to(scale, x.shape))
    if CODEC == FP8:
        return _to_fp8(steps)
    low = -128.0 if CODEC == INT8 else 0.0
    high = 127.0 if CODEC == INT8 else 15.0
    return _round(tl.minimum(tl.maximum(steps + zero, low), high)).to(tl.int32)


@triton.jit
def _kv_cache_append_kernel(
    x_ptr, codes_ptr, scale_ptr, zero_ptr, slots_ptr,
    x_strides, codes_strides, scale_strides, c, size,
    CODEC: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
):  # fmt: skip
    """One program: one token of one head into its slot. Of int4 a program holds even and odd entries apart."""
    token, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    number = tl.load(slots_ptr + token)
    if number < 0:
        return
    n, s = number // size, number % size  # int64, as all that follows from them
    row, column = (token // c).to(tl.int64), (token % c).to(tl.int64)
    x_ptr = head_of(x_ptr, x_strides, row, head) + column * x_strides[2]
    codes_ptr = head_of(codes_ptr, codes_strides, n, head) + s * codes_strides[2]
    PACK: tl.constexpr = 2 if CODEC == INT4 else 1
    groups, entries = tl.arange(0, BLOCK_GROUPS)[:, None], tl.arange(0, BLOCK_GROUP)[None, :]
    inside = (groups < GROUPS) & (entries < GROUP // PACK)
    at = groups * GROUP + entries * PACK
    x = tl.load(x_ptr + at * x_strides[3], mask=inside, other=0.0)  # (BLOCK_GROUPS, BLOCK_GROUP)
    if CODEC == PLAIN:
        tl.store(codes_ptr + at, x, mask=inside)
        return
    x = x.to(tl.float32)
    odd = x
    if CODEC == INT4:
        odd = tl.load(x_ptr + (at + 1) * x_strides[3], mask=inside, other=0.0).to(tl.float32)
    # Maxima here pass over a NaN, and a NaN that went in must not come out as a number.
    broken = tl.max(((x != x) | (odd != odd)).to(tl.int32), 1)[:, None] > 0
    if CODEC == FP8:
        top = tl.max(tl.abs(x), 1)[:, None]
        step = tl.div_rn(top, tl.full(top.shape, 448.0, tl.float32))
        scale = tl.where(top == 0.0, 1.0, tl.maximum(step, TINY))
        zero = scale
    else:
        LEVELS: tl.constexpr = 15.0 if CODEC == INT4 else 255.0
        LOWEST: tl.constexpr = 0.0 if CODEC == INT4 else -128.0
        low = tl.min(tl.where(inside, tl.minimum(x, odd), float("inf")), 1)[:, None]
        high = tl.max(tl.where(inside, tl.maximum(x, odd), float("-inf")), 1)[:, None]
        low, high = tl.where(groups < GROUPS, low, 0.0), tl.where(groups < GROUPS, high, 0.0)
        levels = tl.full(low.shape, LEVELS, tl.float32)
        step = tl.maximum(tl.div_rn(high, levels) - tl.div_rn(low, levels), TINY)
        scale = tl.where(high == low, tl.where(low == 0.0, 1.0, tl.abs(low)), step)
        zero = LOWEST - tl.div_rn(low, scale)
    scale = tl.where(broken, float("nan"), scale)
    of_group = n * scale_strides[0] + head * scale_strides[1] + s * scale_strides[2] + groups
    tl.store(scale_ptr + of_group, scale, mask=groups < GROUPS)
    code = _codes(x, scale, zero, CODEC)
    if CODEC == INT4:
        code = code | (_codes(odd, scale, zero, CODEC) << 4)
    if CODEC != FP8:
        tl.store(zero_ptr + of_group, zero, mask=groups < GROUPS)
    tl.store(codes_ptr + groups * (GROUP // PACK) + entries, (code & 0xFF).to(tl.uint8), mask=inside)


@triton.jit
def _kv_cache_gather_kernel(
    codes_ptr, scale_ptr, zero_ptr, slots_ptr, out_ptr,
    codes_strides, scale_strides, out_strides, length, size,
    CODEC: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_S tokens of one head out of their slots; zeros where there is no slot."""
    row, head = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    tokens, columns = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)[:, None], tl.arange(0, BLOCK_WIDTH)[None, :]
    inside = (tokens < length) & (columns < WIDTH)
    number = tl.load(slots_ptr + row * length + tokens, mask=tokens < length, other=-1)  # (BLOCK_S, 1)
    there = inside & (number >= 0)
    n, s = number // size, number % size
    codes_ptr = head_of(codes_ptr, codes_strides, n, head) + s * codes_strides[2]
    if CODEC == PLAIN:
        x = tl.load(codes_ptr + columns, mask=there, other=0.0)  # (BLOCK_S, BLOCK_WIDTH)
    else:
        of_group = n * scale_strides[0] + head * scale_strides[1] + s * scale_strides[2] + columns // GROUP
        scale = tl.load(scale_ptr + of_group, mask=there, other=0.0)
        if CODEC == INT4:
            code = (tl.load(codes_ptr + columns // 2, mask=there, other=0).to(tl.int32) >> (columns % 2 * 4)) & 15
        else:
            code = tl.load(codes_ptr + columns, mask=there, other=0).to(tl.int32)
        if CODEC == FP8:
            x = from_fp8(code) * scale
        else:
            zero = tl.load(zero_ptr + of_group, mask=there, other=0.0)
            if CODEC == INT8:
                code = (code ^ 128) - 128  # the byte's sign
            x = (code.to(tl.float32) - zero) * scale
    out_ptr = head_of(out_ptr, out_strides, row, head)
    tl.store(out_ptr + tokens.to(tl.int64) * out_strides[2] + columns, x.to(out_ptr.dtype.element_ty), mask=inside)


def gather_block(width: int) -> int:
    """Return how many tokens of this width a program's tile has, so that it holds about 2048 entries:
    more would spill registers.
    """
    return max(1, min(32, 2048 // triton.next_power_of_2(width)))


def _fields(name: str, store: tuple[Tensor, ...], codec: Codec) -> tuple[int, Tensor, Tensor, Tensor]:
    """Return the codec's number, and codes as bytes, scale and zero; what a codec has not, stands in by what it has."""
    require(type(codec) in CODECS, f"{name} knows the codecs {', '.join(c.__name__ for c in CODECS)}, got {codec}")
    require(all(x.stride(-1) == 1 for x in store), f"{name} takes storage whose last axis is contiguous")
    codes = store[0] if isinstance(codec, Plain) else store[0].view(torch.uint8)
    scale = store[1] if len(store) > 1 else codes
    zero = store[2] if len(store) > 2 else scale
    require(zero.stride() == scale.stride(), f"{name} takes scale and zero of equal strides")
    return CODECS[type(codec)], codes, scale, zero


def kv_cache_append_triton(store: tuple[Tensor, ...], x: Tensor, slots: Tensor, *, codec: Codec) -> None:
    """Write what `kv_cache_append` does, by a kernel: the same bits, for float32, float16 and bfloat16.

    Args:
        store: the codec's tensors, (n, g, size, ...).
        x: tokens (b, g, c, width).
        slots: (b, c) integers, -1 for nowhere.
        codec: how a vector is stored.

    Raises:
        ValueError: a slot beyond the storage, or tokens that are not of its kind; a gradient is asked for; what no
            kernel here can do (float64, CPU tensors where Triton compiles, a codec of another kind).
    """
    name = "kv_cache_append_triton"
    check_runs_here(name, x)
    require(
        not (torch.is_grad_enabled() and x.requires_grad), f"{name} gives no gradients: call it under torch.no_grad()"
    )
    check_tokens(store, x, slots, codec=codec)
    number, codes, scale, zero = _fields(name, store, codec)
    b, g, c, width = x.shape
    groups = 1 if isinstance(codec, Plain) else groups_of(width, codec.group)
    group = width // groups
    pack = 2 if isinstance(codec, Int4) else 1
    if b * c == 0:
        return
    _kv_cache_append_kernel[(b * c, g)](
        x, codes, scale, zero, slots.to(torch.int64).contiguous(), x.stride(), codes.stride(), scale.stride(), c,
        codes.shape[2], CODEC=number, GROUPS=groups, GROUP=group, BLOCK_GROUPS=triton.next_power_of_2(groups),
        BLOCK_GROUP=triton.next_power_of_2(group // pack), **LAUNCH,
    )  # fmt: skip


def kv_cache_gather_triton(store: tuple[Tensor, ...], slots: Tensor, *, codec: Codec, dtype: torch.dtype) -> Tensor:
    """Return what `kv_cache_gather` does, by a kernel: (b, g, s, width) of float32, float16 or bfloat16.

    Args:
        store: the codec's tensors, (n, g, size, ...).
        slots: (b, s) integers, -1 for zeros.
        codec: how a vector is stored.
        dtype: of the result.

    Raises:
        ValueError: a slot beyond the storage; what no kernel here can do (CPU tensors where Triton compiles, a codec of
            another kind).
    """
    name = "kv_cache_gather_triton"
    number, codes, scale, zero = _fields(name, store, codec)
    (b, s), g = slots.shape, codes.shape[1]
    width = codes.shape[3] * (2 if isinstance(codec, Int4) else 1)
    # Where bfloat16 is interpreted, rounding to it is silently wrong.
    exact = torch.float32 if interpreting() and dtype == torch.bfloat16 else dtype
    out = torch.empty(b, g, s, width, dtype=exact, device=codes.device)
    check_runs_here(name, out)
    check_slots(store, slots)
    if out.numel() == 0:
        return out.to(dtype)
    block = gather_block(width)
    _kv_cache_gather_kernel[(triton.cdiv(s, block), b, g)](
        codes, scale, zero, slots.to(torch.int64).contiguous(), out, codes.stride(), scale.stride(), out.stride(), s,
        codes.shape[2], CODEC=number, WIDTH=width, GROUP=width // scale.shape[3],
        BLOCK_S=block, BLOCK_WIDTH=triton.next_power_of_2(width), **LAUNCH,
    )  # fmt: skip
    return out.to(dtype)
