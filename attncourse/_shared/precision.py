"""Sums in float32 or better whatever the inputs are: what every form does with 16 bits, and under autocast."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return x in the precision of sums: float32 for 16 bits, and as it is for float32 and float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return to what autocast brings products on this device;
    None where it is off, or where there is none (as on meta).
    """
    kind = device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # torch.compile of 2.11 cannot ask is_autocast_available
        return None
    return torch.get_autocast_dtype(kind)


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return what autocast makes of a product's operands `tensors`;
    as they are where it is off, and those of float64 always.
    """
    dtype = autocast_dtype(tensors[0].device)
    return tensors if dtype is None else tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


P = ParamSpec("P")
R = TypeVar("R")


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with autocast off, which would round the products of `wide` tensors to 16 bits again."""

    @functools.wraps(function)
    def exact(*args: P.args, **options: P.kwargs) -> R:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **options)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **options)

    return exact
