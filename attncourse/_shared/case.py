"""A mechanism as something to run and to measure: inputs of one size, the forms that compute it, and their count."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .counts import Count, Size

Form = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One mechanism at one size.

    Attributes:
        inputs: the tensors of one call.
        forms: what computes it from these, by name: "reference", "blocked", "torch", "triton", ...
        count: what any form has to move and to compute at the least.
        what: the setting in words.
    """

    inputs: tuple[Tensor, ...]
    forms: Mapping[str, Form]
    count: Count
    what: str


@dataclass(frozen=True)
class Draw:
    """A draw says where and in what precision inputs are made; the same seed makes the same ones."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    seed: int = 0
    rng: torch.Generator = field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "rng", torch.Generator(self.device).manual_seed(self.seed))

    @property
    def itemsize(self) -> int:
        """Return the bytes of one number."""
        return self.dtype.itemsize

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers of this shape."""
        return torch.randn(*shape, generator=self.rng, device=self.device).to(self.dtype)

    def qkv(self, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of this size."""
        queries, keys = (size.b, size.h, size.t), (size.b, size.g, size.s)
        return self.normal(*queries, size.dk), self.normal(*keys, size.dk), self.normal(*keys, size.dv)


def with_options(function: Callable[..., Any], **options: Any) -> Form:
    """Return a function as a form that is called with these options."""
    return lambda *inputs: function(*inputs, **options)


def kernel_form(room: str, name: str, *, module: str = "kernel", **options: Any) -> Form:
    """Return the launcher of a room as a form, imported when it is called: Triton is there on Linux alone, numba an extra.

    Args:
        room: the room's folder.
        name: of the launcher.
        module: the room's file that holds it.
        options: passed on to it.
    """

    def launch(*inputs: Tensor) -> Any:
        return getattr(import_module(f"attncourse.{room}.{module}"), name)(*inputs, **options)

    return launch
