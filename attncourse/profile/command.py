"""`attncourse profile`: every mechanism predicted by the roofline of this device, and measured; `attncourse compare`."""

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from tabulate import tabulate
from tqdm import tqdm

from attncourse._shared.device import VARIABLE, device
from attncourse._shared.validate import require

from .cases import CASES
from .compare import compare_records
from .device_facts import DeviceFacts, device_facts, versions
from .limits import Limits, measure_limits
from .measure import SIZES, USUAL_DTYPE, measure_mechanisms
from .record import Measurement, Record, read_record, write_record
from .timing import Timing

DTYPES = ("float32", "float16", "bfloat16")


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the shell's `profile` to the commands."""
    parser = commands.add_parser(
        "profile",
        description="Measure what this device reaches (a large copy, read and matrix product), predict the time of every "
        "form of every mechanism from its bytes and FLOPs, and measure it. A form that runs out of memory or that "
        "cannot run here is named, and the others go on.",
        epilog="example: python -m attncourse profile --mechanism sliding_window linear_attention --length 8192",
    )
    add_device_option(parser)
    parser.add_argument("--mechanism", nargs="+", choices=CASES, default=list(CASES), metavar="NAME",
                        help=f"some of {', '.join(CASES)} (default: all)")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16 on a GPU and float32 on a CPU")
    parser.add_argument("--length", type=int, help="tokens (default: 4096 on a GPU and 1024 on a CPU)")
    parser.add_argument("--batch", type=int, help="sequences (default: 4 on a GPU and 1 on a CPU)")
    parser.add_argument("--out", metavar="FILE", help="write the measurements there too, as JSON")
    parser.set_defaults(run=run)
    compare = commands.add_parser(
        "compare",
        description="The ratio of each pair of times in two records that `attncourse profile --out` wrote, with the "
        "spread of both, and a verdict only where the quartiles do not overlap.",
        epilog="example: python -m attncourse compare before.json after.json",
    )
    compare.add_argument("first", metavar="A", help="a record")
    compare.add_argument("second", metavar="B", help="another")
    compare.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> int:
    """Print the comparison."""
    print(compare_records(read_record(args.first), read_record(args.second)))
    return 0


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write."""
    check_device(args.device)
    size = SIZES[args.device]
    size = replace(size, t=args.length or size.t, s=args.length or size.s, b=args.batch or size.b)
    dtype = args.dtype or USUAL_DTYPE[args.device]
    progress = tqdm(file=sys.stderr, bar_format="{desc}", disable=None)
    record = begin_record("profile", device=args.device, dtype=dtype, progress=progress.set_description_str)
    measured: list[Measurement] = []
    try:
        for one in measure_mechanisms(
            args.mechanism, size=size, device=args.device, dtype=dtype, limits=record.limits,
            progress=progress.set_description_str,
        ):  # fmt: skip
            measured.append(one)
    finally:
        # Whatever ends it, what was measured until then is shown and kept.
        progress.close()
        record = replace(record, measurements=tuple(measured))
        print(describe_limits(record.device, record.limits))
        print(describe_measurements(record.measurements))
        print(record.caption)
        if args.out:
            write_record(record, args.out)
            print(f"written to {args.out}")
    return 0


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add --device to a parser (default: the GPU where there is one)."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device(), help="%(default)s")


def check_device(name: str) -> None:
    """Check that the device is there, and that the course is not told to leave it alone."""
    why = f"{VARIABLE} says {os.environ[VARIABLE]}" if os.environ.get(VARIABLE) else "there is none"
    require(name in ("cpu", device()), f"--device cuda needs a GPU that PyTorch sees; {why}")


def begin_record(name: str, *, device: str, dtype: str, progress: Callable[[str], None]) -> Record:
    """Begin a record by the command of this name, with the device's limits measured and nothing else yet."""
    dtypes = dict.fromkeys((torch.float32, getattr(torch, dtype)))
    limits = measure_limits(device, dtypes=tuple(dtypes), progress=progress)
    command = shlex.join(["python", "-m", "attncourse", name, *sys.argv[2:]])
    return Record(device_facts(device), limits, versions(), datetime.date.today().isoformat(), command, ())


def describe_limits(facts: DeviceFacts, limits: Limits) -> str:
    """Return the device, and its rates as printed by the vendor and as measured."""
    units = (
        f"{facts.units} multiprocessors" if facts.kind == "cuda" else f"{facts.units} cores, {facts.threads} threads"
    )
    head = f"{facts.name}: {facts.memory / 1e9:.0f} GB, {units}"
    printed = facts.printed
    rows = [
        ["copy (read + written), GB/s", limits.copy / 1e9, printed and printed.bandwidth / 1e9],
        [f"read ({limits.read_by}), GB/s", limits.read / 1e9, printed and printed.bandwidth / 1e9],
    ]
    for dtype, rate in limits.matmul.items():
        peak = printed.matmul.get(dtype) if printed else None
        rows.append([f"matrix product in {dtype}, TFLOP/s", rate / 1e12, peak and peak / 1e12])
    table = tabulate(rows, headers=["", "measured", "printed"], floatfmt=".3g", missingval="not known")
    return f"{head}\n{table}" + (f"\nprinted: {printed.source}" if printed else "") + "\n"


def describe_measurements(measurements: tuple[Measurement, ...]) -> str:
    """Return one line per form: predicted and measured time, and the share of the limit;
    below, what did not run and why.

    Where a graph was replayed, its step stands beside the call from Python, and the share of the limit goes by it.
    """
    ran = [m for m in measurements if m.call is not None]
    clocks = ("call", "graph") if any(m.graph for m in ran) else ("call",)
    rows = [
        [
            m.mechanism, m.form_named, m.what, m.shape, m.flops / 1e9, m.bytes / 1e6, m.limit, 1e3 * m.predicted,
            *(cell for clock in clocks for cell in _cells(getattr(m, clock))), f"{m.fraction:.1%}", m.peak_bytes / 1e6,
        ]
        for m in ran
    ]  # fmt: skip
    times = ["measured ms", "quartiles"] if len(clocks) == 1 else ["call ms", "quartiles", "graph ms", "quartiles"]
    headers = ["mechanism", "form", "setting", "size", "GFLOP", "MB", "limit", "predicted ms", *times, "of limit",
               "peak MB"]  # fmt: skip
    lines = [tabulate(rows, headers=headers, floatfmt=".3g", missingval="-")]
    if len(clocks) > 1:
        lines.append("call: one call from Python, the host's work in it; graph: a step of a replayed CUDA graph, which "
                     "\"of limit\" goes by where there is one")  # fmt: skip
    lines += _grouped("did not run", measurements, why=lambda m: m.problem)
    lines += _grouped("no graph", measurements, why=lambda m: m.replay_problem)
    warm = "the inputs that took turns are less than three second-level caches"
    lines += _grouped("not cold", measurements, why=lambda m: warm if m.cold is False else None)
    return "\n".join([*lines, ""])


def _cells(timing: Timing | None) -> list:
    """Return median and quartiles in milliseconds."""
    if timing is None:
        return [None, None]
    return [1e3 * timing.median, f"{1e3 * timing.low:.3g}..{1e3 * timing.high:.3g}"]


def _grouped(head: str, measurements: Iterable[Measurement], *, why: Callable[[Measurement], str | None]) -> list[str]:
    """Return a line for each reason, with the measurements that have it."""
    found: dict[str, list[str]] = {}
    for m in measurements:
        if why(m) is not None:
            found.setdefault(why(m), []).append(f"{m.mechanism} {m.form} at {m.shape}")
    return [f"{head}, {reason}: {', '.join(which)}" for reason, which in found.items()]
