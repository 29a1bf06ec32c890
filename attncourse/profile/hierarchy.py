"""The memory hierarchy: what each level of a chip holds, and how many bytes per second it delivers.

Of GPUs it is printed or derived from what is printed, of the processor here it is measured. Sources: NVIDIA's architecture
whitepapers of the T4 (Turing), the A100 (p. 35-43) and the H100 (p. 39-41) for sizes, the A100's L2 rate of 5120 bytes per
clock (p. 35), and multiprocessors; the CUDA programming guide for shared memory, 32 banks of 4 bytes per clock; Jia et al.
2019, https://arxiv.org/abs/1903.07486, who measured the T4's shared memory and L2.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .device_facts import PRINTED, device_facts
from .timing import median_seconds

KIB, MIB = 2**10, 2**20
OPERANDS = 12  # bytes that a multiply-add reads from registers: three numbers of four bytes
BANKS = 32 * 4  # bytes per clock that a multiprocessor reads from its shared memory
READ_IN_ALL = 64 * MIB  # what one timed call reads of a small set, again and again
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ASSUMED = {"L1": 32 * KIB, "L2": MIB, "L3": 16 * MIB}  # where the system does not say

# A row of the table, and what stands before it.
LABELS = {
    "registers": "registers",
    "L1": "shared memory, L1 cache",
    "L2": "L2 cache",
    "L3": "L3 cache",
    "memory": "device or main memory",
}


@dataclass(frozen=True)
class Level:
    """A level is one kind of memory of a chip.

    Attributes:
        name: a key of `LABELS`.
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


CHIPS = {
    "T4": _Chip(40, 64, 64 * KIB, 4 * MIB, 16e9),
    "A100-SXM4-80GB": _Chip(108, 64, 164 * KIB, 40 * MIB, 80e9),
    "H100": _Chip(132, 128, 228 * KIB, 50 * MIB, 80e9),
}
MEASURED = {("T4", "L1"): 3.662e12, ("T4", "L2"): 1.27e12}  # by Jia et al., table 3.1
L2_PER_CLOCK = {"A100-SXM4-80GB": 5120}


def chip_levels(chip: str) -> list[Level]:
    """Return the levels of a GPU, the fastest first; `chip` is a key of `CHIPS`.

    The clock is the one at which the printed float32 rate is reached.
    """
    facts, printed = CHIPS[chip], PRINTED[chip]
    multiply_adds = printed.matmul["float32"] / 2
    clock = multiply_adds / (facts.lanes * facts.units)
    shared, l2 = BANKS * facts.units * clock, L2_PER_CLOCK.get(chip, 0) * clock
    derived = {
        "L1": (shared, "32 banks of 4 bytes per clock"),
        "L2": (l2, "bytes per clock, whitepaper") if l2 else (None, "not printed"),
    }
    levels = [Level("registers", 256 * KIB * facts.units, OPERANDS * multiply_adds, "operands at the float32 rate")]
    for name, size in (("L1", facts.shared * facts.units), ("L2", facts.l2)):
        bandwidth, source = derived[name]
        if (chip, name) in MEASURED:
            bandwidth, source = MEASURED[chip, name], "measured, Jia et al. 2019"
        levels.append(Level(name, size, bandwidth, source))
    return [*levels, Level("memory", facts.memory, printed.bandwidth, printed.source)]


def cache_sizes(folder: Path = CACHES) -> dict[str, int]:
    """Return the bytes of this processor's data caches by level, "L1" first; assumed ones where the system says none."""
    found = {}
    for index in sorted(folder.glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = int(size[:-1]) * {"K": KIB, "M": MIB}[size[-1]]
    return found or ASSUMED


def read_rates(
    sizes: Iterable[int], *, rounds: int = 9, clock: Callable[[], float] = time.thread_time
) -> dict[int, float]:
    """Return the bytes per second at which this thread sums a set of so many bytes, when it is summed again and again.

    Once read, a set that fits into a cache is read from there. The sizes take turns.
    """
    calls = {}
    for size in sizes:
        x = torch.ones(size // 4)
        times = max(1, READ_IN_ALL // size)
        calls[size] = (times, partial(_sum_rows, x.expand(times, len(x))))
    seconds = median_seconds({str(size): call for size, (_, call) in calls.items()}, rounds=rounds, clock=clock)
    return {size: size * times / seconds[str(size)] for size, (times, _) in calls.items()}


def _sum_rows(x: Tensor) -> Tensor:
    return x.sum(dim=1)


def machine_levels(*, rounds: int = 9, clock: Callable[[], float] = time.thread_time) -> list[Level]:
    """Return the caches and the memory of this processor, as one thread reads them.

    What is read fills half of a cache, and of the last one, which other cores use as well, an eighth; of memory four
    times the last cache.
    """
    sizes = cache_sizes()
    last = list(sizes)[-1]
    sets = {name: size // (8 if name == last and len(sizes) > 1 else 2) for name, size in sizes.items()}
    sets["memory"] = 4 * sizes[last]
    rates = read_rates(sets.values(), rounds=rounds, clock=clock)
    sizes = sizes | {"memory": device_facts("cpu").memory}
    return [Level(name, sizes[name], rates[sets[name]], "measured, one thread") for name in sets]


def hierarchy_table(machines: Mapping[str, Iterable[Level]]) -> str:
    """Return a Markdown table: a row per level, a column per machine, in it size and bytes per second."""
    columns = {name: {level.name: level for level in levels} for name, levels in machines.items()}
    rows = [f"| level | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for name, label in LABELS.items():
        cells = [_cell(levels.get(name)) for levels in columns.values()]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(level: Level | None) -> str:
    if level is None:
        return ""
    if level.name == "memory":
        size = f"{level.size / 1e9:.0f} GB"
    else:
        size = f"{level.size / MIB:.3g} MiB" if level.size >= MIB else f"{level.size / KIB:.0f} KiB"
    if level.bandwidth is None:
        return f"{size}, rate not printed"
    gigabytes = level.bandwidth / 1e9
    return f"{size}, {gigabytes / 1e3:.3g} TB/s" if gigabytes >= 1000 else f"{size}, {gigabytes:.0f} GB/s"
