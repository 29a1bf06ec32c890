"""`attncourse bench`: a whole set of measurements, every mechanism and the grid of decoding, as one record in a folder."""

import argparse
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from .cases import CASES
from .command import add_device_option, begin_record, check_device, describe_limits, describe_measurements
from .counts import Size
from .decode_cases import DECODE_CASES, FLEX_CASES
from .device_facts import DeviceFacts
from .measure import SIZES, USUAL_DTYPE, measure_work, smallest_case
from .record import Measurement, write_record

FOLDER = Path("book/measurements")
# What a device decodes with here: the kernels on both, on a CPU plain PyTorch before them, and what PyTorch has ready-made.
DECODE_FORMS = {"cpu": ("blocked", "torch", "numba"), "cuda": ("triton", "torch")}
FLEX = "flex"  # if asked for: it is compiled for each size, which takes longer than all else


@dataclass(frozen=True)
class Grid:
    """A grid is the steps of decoding that are measured: each length of context with each number of sequences.

    Attributes:
        contexts, batches: tokens a sequence, and sequences.
        heads, width: query heads, and entries of a key and of a value.
        most_bytes: a step whose keys and values, one stored head a query head, would take more is left out.
        seconds: for each form.
    """

    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    heads: int
    width: int
    most_bytes: int
    seconds: float

    def sizes(self, *, itemsize: int) -> Iterator[Size]:
        """Yield the sizes, smaller ones first; there is one stored head per query head."""
        for b in self.batches:
            for s in self.contexts:
                if 2 * b * self.heads * s * self.width * itemsize <= self.most_bytes:
                    yield Size(b=b, h=self.heads, g=self.heads, t=1, s=s, dk=self.width, dv=self.width)


GRIDS = {
    "cpu": Grid((256, 1024, 4096, 16_384), (1, 4), heads=16, width=64, most_bytes=2**28, seconds=0.2),
    "cuda": Grid((1024, 4096, 16_384, 65_536), (1, 8, 64), heads=32, width=128, most_bytes=2**32, seconds=0.2),
}
# Of the mechanisms outside decoding: on a CPU shorter than `attncourse profile` takes them, so that all ends in minutes.
PREFILL = {"cpu": replace(SIZES["cpu"], t=512, s=512), "cuda": SIZES["cuda"]}


def quick(grid: Grid) -> Grid:
    """Return the grid's smallest steps, for a look at whether all runs."""
    return replace(grid, contexts=grid.contexts[:2], batches=grid.batches[:1], seconds=0.02)


def decode_work(
    grid: Grid, *, device: str, mechanisms: Iterable[str] = DECODE_CASES, forms: tuple[str, ...] | None = None
) -> Iterator[tuple[str, str, Size]]:
    """Yield the grid's decoding by each mechanism and form, sizes in the outer loop;
    "flex" by the mechanisms that have it.
    """
    itemsize = getattr(torch, USUAL_DTYPE[device]).itemsize
    for size in grid.sizes(itemsize=itemsize):
        for mechanism in mechanisms:
            for form in DECODE_FORMS[device] if forms is None else forms:
                if form != FLEX or mechanism in FLEX_CASES:
                    yield mechanism, form, size


def prefill_work(size: Size, *, device: str) -> Iterator[tuple[str, str, Size]]:
    """Yield every mechanism's every form at one size;
    on a CPU without the kernels, which nothing but the interpreter runs.
    """
    for mechanism in CASES:
        for form in smallest_case(mechanism).forms:
            if device == "cuda" or form != "triton":
                yield mechanism, form, size


def record_name(facts: DeviceFacts, date: str) -> str:
    """Return the file of a record: the device's name in small letters and hyphens, and the date."""
    slug = re.sub(r"[^a-z0-9]+", "-", facts.name.lower()).strip("-")
    return f"{slug or facts.kind}-{date}.json"


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the shell's `bench` to the commands."""
    parser = commands.add_parser(
        "bench",
        description="Measure this device's limits, every mechanism, and steps of decoding over context and batch for every "
        "design of the cache, and write them as one record. It is written anew after each measurement, so whatever ends "
        "the command leaves what was measured until then.",
        epilog="example: python -m attncourse bench --quick --out /tmp",
    )
    add_device_option(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, default=FOLDER, help="%(default)s")
    what = "decode with FlexAttention, too, compiled for each size of the grid"
    parser.add_argument("--flex", action="store_true", help=what)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes alone, to see whether all runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write, and print."""
    device = args.device
    check_device(device)
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    grid, size = GRIDS[device], PREFILL[device]
    if args.quick:
        grid, size = quick(grid), replace(size, t=128, s=128)
    forms = DECODE_FORMS[device] + (FLEX,) * args.flex
    work = [*prefill_work(size, device=device)], [*decode_work(grid, device=device, forms=forms)]
    dtype = USUAL_DTYPE[device]
    with tqdm(total=sum(map(len, work)), file=sys.stderr, disable=None) as bar:
        record = begin_record("bench", device=device, dtype=dtype, progress=bar.set_description_str)
        path = args.out / record_name(record.device, record.date)
        measured: list[Measurement] = []
        for part, seconds in zip(work, (grid.seconds if args.quick else 0.5, grid.seconds), strict=True):
            for one in measure_work(
                part,
                device=device,
                dtype=dtype,
                limits=record.limits,
                progress=bar.set_description_str,
                seconds=seconds,
            ):
                measured.append(one)
                record = replace(record, measurements=tuple(measured))
                write_record(record, path)
                bar.update()
    print(describe_limits(record.device, record.limits))
    print(describe_measurements(record.measurements))
    print(f"{record.caption}\nwritten to {path} after {time.perf_counter() - begin:.0f} s")
    return 0
