"""How a cache stores a stream of vectors: as they are, or in 8 or 4 bits with a scale for each group of entries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.validate import require

from .quantize import (
    dequantize_fp8,
    dequantize_int4,
    dequantize_int8,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
)


class Codec(Protocol):
    """A codec is what a layout asks of a way to store vectors."""

    def fields(self, width: int, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
        """Return width and dtype of each tensor that holds vectors of this width.

        Raises:
            ValueError: a width that cannot be stored so.
        """

    def encode(self, x: Float[Tensor, "*rows width"]) -> tuple[Tensor, ...]:
        """Return the tensors that hold x."""

    @property
    def decode(self) -> Callable[..., Tensor]:
        """Return decode: decode(*fields, dtype=...) gives what these tensors hold, (*rows, width)."""


@dataclass(frozen=True)
class Plain:
    """This codec stores vectors as they are."""

    def fields(self, width, dtype):
        """Return one tensor's width and dtype, the cache's own."""
        return ((width, dtype),)

    def encode(self, x):
        """Return x itself."""
        return (x,)

    def decode(self, x, *, dtype):
        """Return x itself."""
        return x.to(dtype)


def groups_of(width: int, group: int | None) -> int:
    """Return how many groups of `group` neighbouring entries a vector has; one where group is None.

    Raises:
        ValueError: group does not divide the width.
    """
    group = width if group is None else group
    require(group >= 1 and width % group == 0, f"a group must divide the width {width}, got group={group}")
    return width // group


@dataclass(frozen=True)
class Int8:
    """This codec stores codes of 8 bits, with a scale and a zero point for each `group` neighbouring entries (default:
    all).
    """

    group: int | None = None

    def fields(self, width, dtype):
        """Return widths and dtypes: codes int8, scale and zero float32."""
        groups = groups_of(width, self.group)
        return (width, torch.int8), (groups, torch.float32), (groups, torch.float32)

    def encode(self, x):
        """Return codes, scale and zero of `quantize_int8`."""
        return quantize_int8(x, groups=groups_of(x.shape[-1], self.group))

    def decode(self, codes, scale, zero, *, dtype):
        """Return the vectors, of `dequantize_int8`, in this dtype."""
        return dequantize_int8(codes, scale, zero).to(dtype)


@dataclass(frozen=True)
class Int4:
    """This codec stores codes of 4 bits, two per byte,
    with a scale and a zero point for each `group` neighbouring entries.
    """

    group: int | None = None

    def fields(self, width, dtype):
        """Return widths and dtypes: codes uint8 of half the width, scale and zero float32."""
        group = width if self.group is None else self.group
        require(group % 2 == 0, f"two codes of 4 bits share a byte, so a group must be even, got {group} of {width}")
        groups = groups_of(width, self.group)
        return (width // 2, torch.uint8), (groups, torch.float32), (groups, torch.float32)

    def encode(self, x):
        """Return codes, scale and zero of `quantize_int4`."""
        return quantize_int4(x, groups=groups_of(x.shape[-1], self.group))

    def decode(self, codes, scale, zero, *, dtype):
        """Return the vectors, of `dequantize_int4`, in this dtype."""
        return dequantize_int4(codes, scale, zero).to(dtype)


@dataclass(frozen=True)
class Fp8:
    """This codec stores floats of 8 bits (4 of exponent, 3 of mantissa),
    with a scale for each `group` neighbouring entries.
    """

    group: int | None = None

    def fields(self, width, dtype):
        """Return widths and dtypes: codes float8_e4m3fn, scale float32."""
        return (width, torch.float8_e4m3fn), (groups_of(width, self.group), torch.float32)

    def encode(self, x):
        """Return codes and scale of `quantize_fp8`."""
        return quantize_fp8(x, groups=groups_of(x.shape[-1], self.group))

    def decode(self, codes, scale, *, dtype):
        """Return the vectors, of `dequantize_fp8`, in this dtype."""
        return dequantize_fp8(codes, scale).to(dtype)
