"""What a device reaches here: a large copy, a large read, and a large matrix product in each dtype.

Vendors print peaks that no program sees. What a kernel is held to is what a plain large call reaches on the same device.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .timing import time_calls

DTYPES = {"cuda": (torch.float32, torch.float16, torch.bfloat16), "cpu": (torch.float32, torch.bfloat16)}
# Far past every cache of a device, and little of its memory.
READ_BYTES = {"cuda": 2**31, "cpu": 2**28}
MATRIX = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class Limits:
    """Rates that were measured.

    Attributes:
        copy: bytes a second of a copy, those read and those written.
        read: bytes a second of a sum over a large tensor.
        matmul: FLOPs a second of a square matrix product, by dtype ("float16").
    """

    copy: float
    read: float
    matmul: dict[str, float]


def measure_limits(
    device: str,
    *,
    dtypes: tuple[torch.dtype, ...] | None = None,
    read_bytes: int | None = None,
    matrix: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda what: None,
) -> Limits:
    """Copy, read and multiply on "cpu" or "cuda"; the medians of several runs by this clock (of a CPU)."""
    dtypes = DTYPES[device] if dtypes is None else dtypes
    read_bytes = READ_BYTES[device] if read_bytes is None else read_bytes
    matrix = MATRIX[device] if matrix is None else matrix
    progress("a large copy and a large read")
    x = torch.ones(read_bytes // 4, device=device)
    y = torch.empty_like(x)
    copy = 2 * x.nbytes / time_calls([lambda: y.copy_(x)], device=device, clock=clock).median
    read = x.nbytes / time_calls([lambda: x.sum()], device=device, clock=clock).median
    del x, y
    rates = {}
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        progress(f"a large matrix product in {name}")
        a = torch.randn(matrix, matrix, device=device).to(dtype)
        rates[name] = 2 * matrix**3 / time_calls([lambda a=a: a @ a], device=device, clock=clock).median
    return Limits(copy, read, rates)
