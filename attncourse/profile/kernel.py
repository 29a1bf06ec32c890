"""A kernel that does nothing but read: what the others could reach at most, where the memory is the limit."""

import torch
from torch import Tensor

from attncourse._shared.language import tl, triton
from attncourse._shared.launch import check_runs_here, in_exact_dtype
from attncourse._shared.validate import require


@triton.jit
def _read_sums_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr, TILES: tl.constexpr):
    """One program: the sum of TILES neighbouring tiles, whose loads wait for nothing."""
    program = tl.program_id(0)
    begin = program.to(tl.int64) * (BLOCK * TILES)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(TILES):
        at = begin + i * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
        total += tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out_ptr + program, tl.sum(total, 0))


def read_sums(x: Tensor, *, block: int = 1024, tiles: int = 4, warps: int = 4) -> Tensor:
    """Return the sums of block * tiles neighbouring elements of x (n,) each,
    the last of fewer, as float32 (ceil(n / both),).

    Raises:
        ValueError: x is no contiguous vector, or empty, or has a dtype that no kernel takes; a block that is no power
            of two.
    """
    require(
        x.ndim == 1 and len(x) > 0 and x.is_contiguous(),
        f"x must be a contiguous (n,) of at least one element, got {tuple(x.shape)} with strides {x.stride()}",
    )
    require(block > 0 and block & (block - 1) == 0, f"block must be a power of two, got {block}")
    require(tiles >= 1, f"tiles must be at least 1, got {tiles}")
    check_runs_here("read_sums", x)
    out = torch.empty(triton.cdiv(len(x), block * tiles), dtype=torch.float32, device=x.device)

    def launch(x: Tensor) -> tuple[Tensor]:
        # The default of FP fusion differs between versions of Triton.
        _read_sums_kernel[(len(out),)](x, out, len(x), BLOCK=block, TILES=tiles, num_warps=warps, enable_fp_fusion=True)
        return (out,)

    return in_exact_dtype(launch, x)[0]
