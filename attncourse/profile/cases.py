"""Every mechanism as something to run, as its room has it in `case.py`, and what PyTorch has beside it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from attncourse._shared.case import Case, Draw, Form
from attncourse._shared.validate import require
from attncourse.rooms import rooms_with

from .counts import Size

# PyTorch's fused attentions by name. A processor has "flash" and "math"; a GPU those of its generation.
SDPA_BACKENDS: dict[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Planned:
    """A form in two parts: what a host decides once for inputs of these shapes, and what a device repeats.

    Attributes:
        call: both parts on some inputs, as any form is called.
        plan: inputs -> the form that runs on these and on others of the same shapes, and decides nothing: it reads nothing
            back, so that it can be captured in a CUDA graph.
    """

    call: Form
    plan: Callable[..., Form]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the form, plan and run in one."""
        return self.call(*inputs)


def sdpa_form(backend: str | None = None, **options) -> Form:
    """PyTorch's fused attention as a form of queries, keys and values: by one backend, or by the one that PyTorch takes.

    A backend that cannot run on some inputs raises RuntimeError when it is called with them, and no other takes its place.

    Args:
        backend: a name of SDPA_BACKENDS; None for PyTorch's choice.
        options: of scaled_dot_product_attention. `is_causal` is aligned to the start there.

    Raises:
        ValueError: no such backend.
    """
    require(
        backend is None or backend in SDPA_BACKENDS,
        f"backend must be one of {', '.join(SDPA_BACKENDS)}, or None, got {backend!r}",
    )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if backend is None:
            return scaled_dot_product_attention(q, k, v, **options)
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            return scaled_dot_product_attention(q, k, v, **options)

    return attend


def flex_form(mask: BlockMask | None = None, *, compiled: bool = True, **options) -> Form:
    """FlexAttention as a form of queries, keys and values, under a mask.

    Args:
        compiled: when it is first called, for those sizes alone; else the plain form, which any device has.
        options: of flex_attention, `enable_gqa` say.
    """
    call = None if compiled else flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal call
        if call is None:
            torch.compiler.reset()  # or after some sizes it would not be compiled any more
            call = torch.compile(flex_attention, dynamic=False)
        return call(q, k, v, block_mask=mask, **options)

    return attend


def compiles(call: Callable[[], object]) -> bool:
    """Return whether FlexAttention, compiled here, can run (it needs a C++ compiler); a warning says why not."""
    try:
        call()
    except Exception as error:  # whatever a compiler's toolchain lacks
        warnings.warn(f"FlexAttention does not compile here: {error}", stacklevel=2)
        return False
    return True


class _FusedCalls(TorchDispatchMode):
    """Notes which of PyTorch's fused attentions are called."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::_scaled_dot_product_").split("_")[0]
        if name in SDPA_BACKENDS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def sdpa_backend(call: Callable[[], object]) -> str:
    """Return which backend scaled_dot_product_attention takes in a call that uses it, as a name of SDPA_BACKENDS.

    "math" stands for the products and the softmax that PyTorch computes one after the other where nothing fused fits.
    """
    with _FusedCalls() as seen:
        call()
    return seen.names[0] if seen.names else "math"


# By the names of the rooms that read whole texts; those of decoding are in `decode_cases`.
CASES: dict[str, Callable[[Size, Draw], Case]] = {
    room: import_module(f"attncourse.{room}.case").case for room in rooms_with("{}/case.py")
}
