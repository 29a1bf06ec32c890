"""What the launchers of kernels share: where a kernel can run, and which inputs it takes there."""

import functools
import importlib.metadata
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def triton_is_old() -> bool:
    """Return whether this Triton is older than 3.7: in its interpreter, loops take arrays of one element for integers.

    NumPy 1.25 and newer warn of that, and from 2.4 on every loop over a range raises "only 0-dimensional arrays can be
    converted to Python scalars" (https://github.com/triton-lang/triton/issues/9171).
    """
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in triton.split(".")[:2]) < (3, 7)


def interpreting() -> bool:
    """Return whether kernels defined now run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_dtype(name: str, x: Tensor) -> None:
    """Check that kernels take this dtype.

    Args:
        name: of the launcher, for the message.
        x: a tensor that it was given.

    Raises:
        ValueError: another dtype.
    """
    if x.dtype not in KERNEL_DTYPES:
        raise ValueError(
            f"{name} takes float32, float16 or bfloat16, got {x.dtype}: use impl='reference' or 'blocked' for it"
        )


def check_runs_here(name: str, *tensors: Tensor) -> None:
    """Check that the kernel takes these dtypes, and that these tensors are where it runs.

    Args:
        name: of the launcher, for the message.
        tensors: all that it was given.

    Raises:
        ValueError: a dtype that kernels do not take; on a CPU where kernels are compiled, or on a GPU where they are
            interpreted.
    """
    x = tensors[0]
    check_dtype(name, x)
    if not (x.is_cuda or (x.device.type == "cpu" and interpreting())):
        raise ValueError(
            f"{name} runs on CUDA tensors, got {x.device}: to interpret it on a CPU, import what you need of "
            "attncourse before triton, or set TRITON_INTERPRET=1 before either"
        )


def in_exact_dtype(launch: Callable[..., tuple], *tensors: Tensor) -> tuple:
    """Return launch(*tensors); interpreted bfloat16 goes through float32,
    since the interpreter's own is silently wrong.
    """
    dtype = tensors[0].dtype
    if not (interpreting() and dtype == torch.bfloat16):
        return launch(*tensors)
    return launch(*(x.float() if x.dtype == dtype else x for x in tensors))


def device_capability(x: Tensor) -> int:
    """Return the compute capability of the chip of x as two digits, 90 for Hopper; 80 where the kernel is interpreted."""
    if not x.is_cuda:
        return 80
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def padded(width: int) -> int:
    """Return the tile's width: a power of two, and at least the 16 that a tensor core multiplies at once."""
    return max(16, 1 << (width - 1).bit_length())


def chip_in(table: Mapping, *, bits: int, capability: int) -> int | str:
    """Return which chip's row of a table {chip: ...} serves this one:
    of the newest that is not newer (80 for sm_86 too).

    Products of float32, and all of chips before sm_80, run on FMA units out of registers, for which the row is "fma",
    or 75 for the older chips alone.

    Args:
        bits: of an element of the inputs.
        capability: the chip, two digits.
    """
    if capability < 80:
        return 75 if 75 in table else "fma"
    return "fma" if bits == 32 else max(n for n in table if n != "fma" and n <= capability)


def tile_config(
    table: Mapping, *, width: int, bits: int, capability: int, blocks: tuple[str, ...] = ("BLOCK_T", "BLOCK_S")
) -> dict[str, int]:
    """Return a row of a room's table {chip: {padded width: (*blocks, warps, stages)}}, named as a launch takes it.

    Args:
        width: padded.
        bits: of an element of the inputs.
        capability: the chip, two digits.
        blocks: names of the tile's sides in the row.
    """
    chip = chip_in(table, bits=bits, capability=capability)
    row = min(n for n in table[chip] if n >= width)
    *sizes, num_warps, num_stages = table[chip][row]
    # The default of FP fusion differs between versions of Triton.
    return dict(zip(blocks, sizes, strict=True)) | {
        "num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True,
    }  # fmt: skip


def check_launch(name: str, q: Tensor, k: Tensor, v: Tensor, *, instead: str, widest: int = 256) -> None:
    """Check what a kernel of heads asks for beyond what its definition does.

    Args:
        name: of the launcher, for the message.
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), checked as the definition's.
        instead: the impl that takes wider heads, for the message.
        widest: the greatest width of a head.

    Raises:
        ValueError: a dtype or device of other inputs than kernels take, a wider head, or more numbers than 32 bits
            count.
    """
    check_runs_here(name, q)
    width = max(q.shape[-1], v.shape[-1])
    if width > widest:
        raise ValueError(f"{name} takes widths to {widest}, got {width}: use impl='{instead}' for it")
    for which, x in (("q", q), ("k", k), ("v", v)):
        if x.shape[2] * x.stride(2) >= 2**31:
            raise ValueError(f"{name} addresses 2^31 elements a head, {which} spans {x.shape[2] * x.stride(2)}")


def check_mask_is_constant(name: str, mask: Tensor | None) -> None:
    """Check that a mask asks for no gradient: kernels add it to scores, and form no gradient for it.

    Args:
        name: of the launcher, for the message.
        mask: what it was given.

    Raises:
        ValueError: the mask requires a gradient.
    """
    if mask is not None and mask.requires_grad:
        raise ValueError(f"{name} gives no gradient to an added mask: detach it, or use impl='reference'")


def check_backward_fits(width: int, *, bits: int, capability: int) -> None:
    """Check that a backward pass fits: float32 tiles beyond a padded width of 128 ask for more than the 64 KiB of
    sm_75.

    Args:
        width: padded.
        bits: of an element of the inputs.
        capability: the chip, two digits.

    Raises:
        ValueError: they do not fit.
    """
    if capability < 80 and bits == 32 and width > 128:
        raise ValueError(
            "the backward pass of float32 heads wider than 128 does not fit this chip's shared memory: use float16"
        )


def output_gradient(out: Tensor, dout: Tensor | None) -> Tensor:
    """Return the gradient `dout` of an output that the log-sum-exp stands beside; zeros like `out` where it is None.

    A Function of both calls `ctx.set_materialize_grads(False)`, so that autograd makes no zeros for the one without a
    gradient: None says it, and kernels leave it out. Only the output's are needed.
    """
    return torch.zeros_like(out) if dout is None else dout


def chip_of(q: Tensor, *, width: int) -> dict[str, int]:
    """Return what picks a row of a table for q: the padded width, the bits of an element, the chip."""
    return {"width": width, "bits": 8 * q.element_size(), "capability": device_capability(q)}


def positive(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Return q and a scale above 0 that give the same scores:
    kernels compare scores before they multiply, so the sign goes to q.
    """
    if scale == 0:
        return q * 0, 1.0
    return (-q, -scale) if scale < 0 else (q, scale)


@functools.cache
def choose_splits(programs: int, tiles: int, *, slots: int, least: int = 4) -> int:
    """Return into how many splits each sequence's tiles of keys are cut, when as many programs run as there are.

    A wave is as many programs as the chip holds at a time, and the last one may be nearly empty. So the busy share of
    the slots is counted, in whole tiles and whole waves, and the fewest splits are taken that reach 95 % of the best:
    what more splits gain, their merge costs. (FlashAttention's `num_splits_heuristic` is the model, and takes 85 %.)

    Args:
        programs: of one split: sequences times key/value heads times blocks of rows.
        tiles: of the longest sequence.
        slots: multiprocessors times the programs that one of them holds at a time.
        least: tiles below which a split costs more to merge than it gains.
    """
    programs, tiles = max(programs, 1), max(tiles, 1)
    most = max(1, min(tiles // least, slots))
    busy = {n: programs * tiles / (slots * -(-programs * n // slots) * -(-tiles // n)) for n in range(1, most + 1)}
    enough = 0.95 * max(busy.values())
    return next(n for n, share in busy.items() if share >= enough)


def slots_of(x: Tensor, *, resident: int) -> int:
    """Return how many programs the chip of x holds at a time, `resident` on each multiprocessor;
    where kernels are interpreted, one.
    """
    return resident * torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def split_buffers(rows: int, splits: int, width: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return float32 parts (rows, splits, width) and their log-sum-exps (rows, splits) on a device,
    which splits leave to be merged.

    One split is the whole: it writes the result itself, and its part has no width.
    """
    parts = torch.empty(rows, splits, width if splits > 1 else 0, device=device, dtype=torch.float32)
    return parts, torch.empty(rows, splits, device=device, dtype=torch.float32)
