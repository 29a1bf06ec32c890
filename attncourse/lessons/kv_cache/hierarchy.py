"""The memory hierarchy of the machine here, measured, and a table of it beside the GPUs' printed ones."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from attncourse.profile import median_seconds
from attncourse.profile.device_facts import KIB, MIB, Level, device_facts

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


def cache_sizes(folder: Path = CACHES) -> dict[str, int]:
    """Return the bytes of this processor's data caches by level, "L1" first; assumed ones where the system says none."""
    found = {}
    for index in sorted(folder.glob("index*")):
        kind, level, size = ((index / name).read_text(encoding="utf-8").strip() for name in ("type", "level", "size"))
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
