"""What the launchers of kernels share: where a kernel can run, and which inputs it takes there."""

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from .device import device
from .validate import require

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def prepare_interpreter() -> None:
    """Where the course works on a CPU, let Triton interpret, if it is not imported yet.

    Triton reads the variable whenever a kernel is defined, its own library's among them. So it must be set before the
    first import of Triton, which PyTorch may do on its own: the package calls this before anything else.
    """
    if "triton" not in sys.modules and device() == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if interpreting() and triton_is_old():
        with contextlib.suppress(ImportError):  # (what imports a kernel is told; all else needs none)
            from . import kernel  # noqa: F401  (which mends it, for kernels that are not the package's, too)


def triton_is_old() -> bool:
    """Whether this Triton is older than 3.7: in its interpreter, loops take arrays of one element for integers.

    NumPy 1.25 and newer warn of that, and from 2.4 on every loop over a range raises "only 0-dimensional arrays can be
    converted to Python scalars" (https://github.com/triton-lang/triton/issues/9171).
    """
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in triton.split(".")[:2]) < (3, 7)


def interpreting() -> bool:
    """Whether kernels defined now run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_runs_here(name: str, *tensors: Tensor) -> None:
    """The kernel takes these dtypes, and these tensors are where it runs."""
    x = tensors[0]
    require(
        x.dtype in KERNEL_DTYPES,
        f"{name} takes float32, float16 or bfloat16, got {x.dtype}: use impl='reference' or 'blocked' for it",
    )
    require(
        x.is_cuda or (x.device.type == "cpu" and interpreting()),
        f"{name} runs on CUDA tensors, got {x.device}: to interpret it on a CPU, import attncourse before triton, or set "
        "TRITON_INTERPRET=1 before either",
    )


def in_exact_dtype(launch: Callable[..., tuple], *tensors: Tensor) -> tuple:
    """launch(*tensors); interpreted bfloat16 goes through float32, since the interpreter's own is silently wrong."""
    dtype = tensors[0].dtype
    if not (interpreting() and dtype == torch.bfloat16):
        return launch(*tensors)
    return launch(*(x.float() if x.dtype == dtype else x for x in tensors))


def device_capability(x: Tensor) -> int:
    """Compute capability as two digits, 90 for Hopper; 80 where the kernel is interpreted."""
    if not x.is_cuda:
        return 80
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor
