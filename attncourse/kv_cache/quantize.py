"""Fewer bits: vectors as codes of 8 or 4 bits, with a float32 scale (and zero point) for each group of entries.

The last axis is cut into groups of neighbours. Integers are asymmetric, x ~ (code - zero) * scale: the least entry of a
group is the lowest code, the largest the highest, so no entry is off by more than half a step, scale / 2. (Dettmers et al.
2022, LLM.int8(), https://arxiv.org/abs/2208.07339, equation 2, zero-point quantisation; theirs rounds the zero point.)
Floats of 8 bits are symmetric, x ~ code * scale, with the largest magnitude at 448, the largest number of e4m3
(Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433, table 1): an entry is off by at most a sixteenth of itself,
or, next to zero, by scale / 1024.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

FP8_LARGEST = 448.0


def _scale_and_zero(x: Float[Tensor, "*rows n m"], *, lowest: int, levels: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point that put the least of m entries at code `lowest`, the largest at lowest + levels."""
    low, high = x.amin(dim=-1), x.amax(dim=-1)
    # Each is divided by itself, since high - low may overflow; and no step is so small that 1 / scale does.
    scale = (high / levels - low / levels).clamp_min(torch.finfo(torch.float32).tiny)
    # Where all entries are equal there is no step to choose: their own size makes them exact.
    alone = torch.where(low == 0, 1.0, low.abs())
    scale = torch.where(high == low, alone, scale)
    return scale, lowest - low / scale


def _to_codes(x: Float[Tensor, "*rows width"], groups: int, lowest: int, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes as floats (..., width), and scale and zero (..., groups)."""
    x = rearrange(x.to(torch.float32), "... (n m) -> ... n m", n=groups)
    scale, zero = _scale_and_zero(x, lowest=lowest, levels=levels)
    codes = torch.round(x / scale[..., None] + zero[..., None]).clamp(lowest, lowest + levels)
    return rearrange(codes, "... n m -> ... (n m)"), scale, zero


def _from_codes(codes: Float[Tensor, "*rows width"], scale: Tensor, zero: Tensor) -> Float[Tensor, "*rows width"]:
    """Return (code - zero) * scale."""
    codes = rearrange(codes, "... (n m) -> ... n m", n=scale.shape[-1])
    return rearrange((codes - zero[..., None]) * scale[..., None], "... n m -> ... (n m)")


def quantize_int8(
    x: Float[Tensor, "*rows width"], *, groups: int = 1
) -> tuple[Int8[Tensor, "*rows width"], Float[Tensor, "*rows n"], Float[Tensor, "*rows n"]]:
    """Return codes -128..127, scale and zero of each group:
    |x - (code - zero) * scale| <= scale / 2, up to float32's rounding.

    Args:
        groups: into how many a vector is cut; they divide its width.
    """
    codes, scale, zero = _to_codes(x, groups, -128, 255)
    return codes.to(torch.int8), scale, zero


def dequantize_int8(
    codes: Int8[Tensor, "*rows width"], scale: Float[Tensor, "*rows n"], zero: Float[Tensor, "*rows n"]
) -> Float[Tensor, "*rows width"]:
    """Return (code - zero) * scale of the codes, in float32."""
    return _from_codes(codes.to(torch.float32), scale, zero)


def quantize_int4(
    x: Float[Tensor, "*rows width"], *, groups: int = 1
) -> tuple[UInt8[Tensor, "*rows half"], Float[Tensor, "*rows n"], Float[Tensor, "*rows n"]]:
    """Return codes 0..15, two per byte, scale and zero of each group; the bound is `quantize_int8`'s.

    Args:
        groups: into how many a vector is cut; they divide its width. Of two neighbouring codes the first has the low
            bits.
    """
    codes, scale, zero = _to_codes(x, groups, 0, 15)
    low, high = rearrange(codes.to(torch.uint8), "... (half two) -> two ... half", two=2)
    return low | (high << 4), scale, zero


def dequantize_int4(
    codes: UInt8[Tensor, "*rows half"], scale: Float[Tensor, "*rows n"], zero: Float[Tensor, "*rows n"]
) -> Float[Tensor, "*rows width"]:
    """Return (code - zero) * scale of the codes, in float32."""
    both = rearrange([codes & 15, codes >> 4], "two ... half -> ... (half two)")
    return _from_codes(both.to(torch.float32), scale, zero)


def quantize_fp8(
    x: Float[Tensor, "*rows width"], *, groups: int = 1
) -> tuple[Float[Tensor, "*rows width"], Float[Tensor, "*rows n"]]:
    """Return codes float8_e4m3fn and the scale of each group: |x - code * scale| <= max(|x| / 16, scale / 1024).

    Args:
        groups: into how many a vector is cut; they divide its width.
    """
    x = rearrange(x.to(torch.float32), "... (n m) -> ... n m", n=groups)
    top = x.abs().amax(dim=-1)
    scale = torch.where(top == 0, 1.0, (top / FP8_LARGEST).clamp_min(torch.finfo(torch.float32).tiny))
    codes = (x / scale[..., None]).to(torch.float8_e4m3fn)
    return rearrange(codes, "... n m -> ... (n m)"), scale


def dequantize_fp8(
    codes: Float[Tensor, "*rows width"], scale: Float[Tensor, "*rows n"]
) -> Float[Tensor, "*rows width"]:
    """Return code * scale in float32."""
    codes = rearrange(codes.to(torch.float32), "... (n m) -> ... n m", n=scale.shape[-1])
    return rearrange(codes * scale[..., None], "... n m -> ... (n m)")
