"""What a device is: its name and size, the peak rates that its vendor prints, and the levels of its memory."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from .device import cpu_name


@dataclass(frozen=True)
class Printed:
    """This is what a vendor prints of a device: bytes per second of its memory, FLOPs per second without sparsity."""

    bandwidth: float
    matmul: dict[str, float]
    source: str


_HALF = ("float16", "bfloat16")


def _printed(gigabytes: float, half: float, single: float, source: str, halves: tuple[str, ...] = _HALF) -> Printed:
    """Return rates from GB/s and TFLOP/s."""
    return Printed(1e9 * gigabytes, {"float32": 1e12 * single, **dict.fromkeys(halves, 1e12 * half)}, source)


# By chip and form. float32 without TF32, which nothing here uses.
PRINTED = {
    "H200": _printed(4800, 989.4, 66.9, "NVIDIA H200 datasheet (SXM)"),
    "H100 PCIe": _printed(2000, 756, 51, "NVIDIA H100 datasheet (PCIe)"),
    "H100": _printed(3350, 989.4, 66.9, "NVIDIA H100 datasheet (SXM)"),
    "A100-SXM4-80GB": _printed(2039, 312, 19.5, "NVIDIA A100 datasheet (80 GB SXM)"),
    "A100 80GB PCIe": _printed(1935, 312, 19.5, "NVIDIA A100 datasheet (80 GB PCIe)"),
    "A100": _printed(1555, 312, 19.5, "NVIDIA A100 datasheet (40 GB)"),
    "L4": _printed(300, 121, 30.3, "NVIDIA L4 datasheet"),
    "V100": _printed(900, 125, 15.7, "NVIDIA V100 datasheet (SXM2)", ("float16",)),
    "T4": _printed(320, 65, 8.1, "NVIDIA T4 datasheet", ("float16",)),
}


# The names that drivers give, whole: "L40S" is no L4, "GH200 480GB" no H200, and a part of a chip (MIG) has a part of its rates.
DRIVER_NAMES = {
    "H200": "H200",
    "H100 PCIe": "H100 PCIe",
    "H100 80GB HBM3": "H100",
    "A100-SXM4-80GB": "A100-SXM4-80GB",
    "A100 80GB PCIe": "A100 80GB PCIe",
    "A100-SXM4-40GB": "A100",
    "A100-PCIE-40GB": "A100",
    "L4": "L4",
    "V100-SXM2-16GB": "V100",
    "V100-SXM2-32GB": "V100",
    "T4": "T4",
}


def printed_rates(name: str) -> Printed | None:
    """Return what the vendor prints of the GPU that PyTorch gives this name,
    with or without "NVIDIA" or "Tesla" before it.

    None where the name is not in the table, whatever it has in common with one that is.
    """
    chip = name.removeprefix("NVIDIA ").removeprefix("Tesla ")
    return PRINTED[DRIVER_NAMES[chip]] if chip in DRIVER_NAMES else None


KIB, MIB = 2**10, 2**20
OPERANDS = 12  # bytes that a multiply-add reads from registers: three numbers of four bytes
BANKS = 32 * 4  # bytes per clock that a multiprocessor reads from its shared memory (CUDA programming guide: 32 banks)


@dataclass(frozen=True)
class Level:
    """A level is one kind of memory of a chip.

    Attributes:
        name: "registers", "L1" (a GPU's shared memory), "L2", "L3" or "memory".
        size: bytes, of all multiprocessors together; of a processor what one core uses.
        bandwidth: bytes per second, by all multiprocessors together; of a processor by one thread. None where the
            vendor prints none.
        source: where the bandwidth comes from.
    """

    name: str
    size: float
    bandwidth: float | None
    source: str


@dataclass(frozen=True)
class _Chip:
    units: int  # multiprocessors
    lanes: int  # float32 multiply-adds of one per clock
    shared: int  # bytes of shared memory of one, at most
    l2: int
    memory: float


# NVIDIA's whitepapers of the Turing architecture, of the A100 (p. 35-43) and of the H100 (p. 39-41).
CHIPS = {
    "T4": _Chip(40, 64, 64 * KIB, 4 * MIB, 16e9),
    "A100-SXM4-80GB": _Chip(108, 64, 164 * KIB, 40 * MIB, 80e9),
    "H100": _Chip(132, 128, 228 * KIB, 50 * MIB, 80e9),
}
L2_PER_CLOCK = {"A100-SXM4-80GB": 5120}  # bytes: the A100's whitepaper, p. 35; the others' is not printed
# Jia et al. 2019, https://arxiv.org/abs/1903.07486.
MICROBENCHMARKS = {("T4", "L1"): 3.662e12, ("T4", "L2"): 1.27e12}


def chip_levels(chip: str) -> list[Level]:
    """Return the memory hierarchy of a GPU, the fastest level first; `chip` is a key of `CHIPS`.

    The clock is the one at which the printed float32 rate is reached.
    """
    facts, printed = CHIPS[chip], PRINTED[chip]
    multiply_adds = printed.matmul["float32"] / 2
    clock = multiply_adds / (facts.lanes * facts.units)
    derived = {
        "L1": (BANKS * facts.units * clock, "32 banks of 4 bytes per clock"),
        "L2": (L2_PER_CLOCK[chip] * clock, "bytes per clock, whitepaper")
        if chip in L2_PER_CLOCK
        else (None, "not printed"),
    }
    levels = [Level("registers", 256 * KIB * facts.units, OPERANDS * multiply_adds, "operands at the float32 rate")]
    for name, size in (("L1", facts.shared * facts.units), ("L2", facts.l2)):
        bandwidth, source = derived[name]
        if (chip, name) in MICROBENCHMARKS:
            bandwidth, source = MICROBENCHMARKS[chip, name], "measured, Jia et al. 2019"
        levels.append(Level(name, size, bandwidth, source))
    return [*levels, Level("memory", facts.memory, printed.bandwidth, printed.source)]


@dataclass(frozen=True)
class DeviceFacts:
    """These are facts of a device that are known without measuring.

    Attributes:
        name: as the driver or the operating system says.
        kind: "cpu" or "cuda".
        memory: bytes.
        units: multiprocessors, or cores that this process may use.
        threads: of PyTorch, on a CPU; None on a GPU.
        capability: compute capability, "9.0"; None on a CPU.
        driver: version of the GPU's driver; None on a CPU, or where it cannot be asked.
        printed: the vendor's peaks; None for a device that is not in the table.
    """

    name: str
    kind: str
    memory: int
    units: int
    threads: int | None
    capability: str | None
    driver: str | None
    printed: Printed | None


def device_facts(device: str) -> DeviceFacts:
    """Return the facts of "cpu" or "cuda"."""
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        capability = f"{gpu.major}.{gpu.minor}"
        units = gpu.multi_processor_count
        return DeviceFacts(
            gpu.name, "cuda", gpu.total_memory, units, None, capability, _driver(), printed_rates(gpu.name)
        )
    return DeviceFacts(cpu_name(), "cpu", _ram(), _cores(), torch.get_num_threads(), None, None, None)


def versions() -> dict[str, str]:
    """Return versions of what decides about speed: Python, PyTorch, CUDA, and what compiles kernels, where it is there."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for compiler in ("triton", "numba"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[compiler] = importlib.metadata.version(compiler)
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _driver() -> str | None:
    if Path("/proc/driver/nvidia/version").exists():
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            return subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
        except (OSError, subprocess.SubprocessError, IndexError):
            return None
    return None
