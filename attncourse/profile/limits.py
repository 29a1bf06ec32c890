"""What a device reaches here: a large copy, the fastest of a few plain reads, and a large matrix product in each dtype.

Vendors print peaks that no program sees. What a kernel is held to is what a plain large call reaches on the same device. On
a GPU copies and reads are timed as steps of a replayed graph, as are the kernels that are held to them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .timing import graph_seconds, time_calls

DTYPES = {"cuda": (torch.float32, torch.float16, torch.bfloat16), "cpu": (torch.float32, torch.bfloat16)}
# Far past every cache of a device, and little of its memory.
READ_BYTES = {"cuda": 2**31, "cpu": 2**28}
MATRIX = {"cuda": 8192, "cpu": 1024}
ROW = 4096  # entries of a row of the matrix that is read by a product with a vector
# Of the kernel that reads: elements of a tile, tiles of a program, warps.
READ_SHAPES = ((1024, 4, 4), (2048, 8, 4), (4096, 4, 8), (4096, 16, 8))


@dataclass(frozen=True)
class Limits:
    """These are rates that were measured.

    Attributes:
        copy: bytes a second of a copy, those read and those written.
        read: bytes a second of a plain read of a large tensor, the fastest of `plain_reads`.
        matmul: FLOPs a second of a square matrix product, by dtype ("float16").
        read_by: which read that was; before there were several, it was always the sum.
    """

    copy: float
    read: float
    matmul: dict[str, float]
    read_by: str = "sum"


def plain_reads(x: Tensor) -> dict[str, Callable[[], object]]:
    """Return calls that read x (n,) once and write next to nothing:
    sum, largest element, products, and on CUDA a kernel's sums.

    n is a multiple of 4096, or below that the product with a vector is of one row.
    """
    row = math.gcd(len(x), ROW)
    matrix, ones, halves = x.view(-1, row), torch.ones(row, dtype=x.dtype, device=x.device), x.chunk(2)
    reads = {"sum": x.sum, "largest element": x.amax, "matrix times vector": lambda: matrix @ ones}
    if len(x) % 2 == 0:
        reads["inner product"] = lambda: torch.dot(*halves)
    if x.is_cuda:
        from .kernel import read_sums  # Triton is there on Linux alone

        for block, tiles, warps in READ_SHAPES:
            what = f"kernel, {tiles} tiles of {block}, {warps} warps"
            reads[what] = partial(read_sums, x, block=block, tiles=tiles, warps=warps)
    return reads


def fastest_read(
    x: Tensor, *, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter
) -> tuple[str, Callable[[], object], float]:
    """Return the fastest of the plain reads of x (n,): its name, the call, and the bytes per second that it reached.

    Each is timed for about so many seconds. A read that cannot run here is passed over; the sum can.
    """
    reads, times = plain_reads(x), {}
    for name, read in reads.items():
        try:
            times[name] = _large_seconds(read, device=x.device.type, seconds=seconds, clock=clock)
        except Exception:
            if name == "sum":
                raise
    name = min(times, key=times.get)
    return name, reads[name], x.nbytes / times[name]


def measure_limits(
    device: str,
    *,
    dtypes: tuple[torch.dtype, ...] | None = None,
    read_bytes: int | None = None,
    matrix: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda what: None,
) -> Limits:
    """Copy, read and multiply on "cpu" or "cuda", and return the medians of several runs by this clock (of a CPU)."""
    dtypes = DTYPES[device] if dtypes is None else dtypes
    read_bytes = READ_BYTES[device] if read_bytes is None else read_bytes
    matrix = MATRIX[device] if matrix is None else matrix
    progress("a large copy and a few large reads")
    x = torch.ones(read_bytes // 4, device=device)
    y = torch.empty_like(x)
    copy = 2 * x.nbytes / _large_seconds(lambda: y.copy_(x), device=device, seconds=0.5, clock=clock)
    del y
    read_by, call, read = fastest_read(x, seconds=0.25, clock=clock)
    del x, call
    rates = {}
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        progress(f"a large matrix product in {name}")
        a = torch.randn(matrix, matrix, device=device).to(dtype)
        rates[name] = 2 * matrix**3 / time_calls([lambda a=a: a @ a], device=device, clock=clock).median
    if device == "cuda":
        torch.cuda.empty_cache()  # gigabytes, which other processes measure with
    return Limits(copy, read, rates, read_by)


def _large_seconds(call: Callable[[], object], *, device: str, seconds: float, clock: Callable[[], float]) -> float:
    """Return seconds of one call whose inputs no cache holds: by replaying a graph of it on a GPU, else by the clock."""
    if device == "cuda":
        return graph_seconds([call], seconds=seconds).median
    return time_calls([call], device=device, seconds=seconds, clock=clock).median
