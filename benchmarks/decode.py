"""The grid of decoding as a record of the format of book/measurements, and a few of its steps beside named peers.

The record is made by the package's own `attncourse bench`: its grid, its clocks, its file.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attncourse.grouped_query import grouped_query_decode
from attncourse.profile.bench import DECODE_FORMS, GRIDS, Grid, decode_work, prefill_work, quick, record_name
from attncourse.profile.cases import Draw, flex_form, sdpa_form
from attncourse.profile.clock import Clock, tried
from attncourse.profile.command import begin_record, describe_limits, describe_measurements
from attncourse.profile.counts import Size
from attncourse.profile.decode_cases import DECODE_CASES, SHARED, grouped_case
from attncourse.profile.measure import SIZES, USUAL_DTYPE, measure_work, rotation
from attncourse.profile.record import Measurement, write_record
from attncourse.testing import relative_error

from .peers import HERE
from .report import Report, Told, told

# Of the steps beside named peers: tokens and sequences.
STEPS = {"cuda": ((1024, 1), (16_384, 1), (65_536, 1), (4096, 8), (4096, 64)), "cpu": ((64, 1), (100, 2))}
HEADS, WIDTH = {"cuda": 32, "cpu": 4}, {"cuda": 128, "cpu": 16}
# What is left for the peers, as a share of the part's time.
FOR_PEERS = 0.3


def grid_of(device: str) -> Grid:
    """Return the grid of the bench, with less time a form, or on a CPU its two smallest steps."""
    return replace(GRIDS["cuda"], seconds=0.05) if device == "cuda" else quick(GRIDS["cpu"])


def record_steps(report: Report, told: Told) -> None:
    """Record decoding first, and the other mechanisms until the time is over;
    all is written anew after each measurement.
    """
    device, dtype, grid = told.device, USUAL_DTYPE[told.device], grid_of(told.device)
    end = time.monotonic() + (1 - FOR_PEERS) * told.left
    size = SIZES["cuda"] if device == "cuda" else replace(SIZES["cpu"], t=128, s=128)
    work = [*decode_work(grid, device=device), *prefill_work(size, device=device)]
    record = begin_record("bench", device=device, dtype=dtype, progress=print)
    record = replace(record, command="bash gpu.sh (its part decode, by `attncourse bench`)")
    path, measured = told.folder / record_name(record.device, record.date), []
    write_record(record, path)
    for one in measure_work(
        work, device=device, dtype=dtype, limits=record.limits, progress=print, seconds=grid.seconds
    ):
        measured.append(one)
        record = replace(record, measurements=tuple(measured))
        write_record(record, path)
        report.words = f"{len(measured)} of {len(work)} measurements in {path.name}"
        report.save()
        if time.monotonic() > end:
            break
    if len(measured) < len(work):
        report.not_run.append(
            f"the record: no time was left for {len(work) - len(measured)} of {len(work)} measurements"
        )
    report.failures += defects(measured, device=device)
    said = f"{describe_limits(record.device, record.limits)}\n{describe_measurements(record.measurements)}"
    (told.folder / "record.txt").write_text(f"{said}\n{record.caption}\n", encoding="utf-8")


def defects(measured: list[Measurement], *, device: str) -> list[str]:
    """Return what is wrong with a record of decoding:
    steps of the course's own form that did not run, or no step at all.
    """
    own = [m for m in measured if m.mechanism in DECODE_CASES and m.form == DECODE_FORMS[device][0]]
    broken = [m for m in own if m.problem not in (None, "out of memory")]
    found = [f"{m.mechanism} by {m.form} at {m.shape}: {m.problem}" for m in broken]
    return found if own else ["no step of decoding was measured"]


def peers(told: Told) -> Iterator[dict]:
    """Yield a step of decoding by the kernel, by each of PyTorch's backends and by FlexAttention, with both clocks."""
    device, clock = told.device, Clock(told.device, milliseconds=40)
    dtype = getattr(torch, USUAL_DTYPE[device])
    # FlexAttention last: it is compiled for each size.
    for compiled in (False, True):
        for s, b in STEPS[device]:
            size = Size(b, HEADS[device], HEADS[device], 1, s, WIDTH[device], WIDTH[device])
            case = grouped_case(size, Draw(device, dtype), shared=SHARED)
            q, k, v = case.inputs
            exact = grouped_query_decode(q.double(), k.double(), v.double())
            if compiled:
                forms = {"flex": flex_form(compiled=device == "cuda", enable_gqa=True)}
            else:
                forms = {"kernel": case.forms["triton"].plan(q, k, v)}
                forms |= {f"sdpa, {name}": sdpa_form(name, enable_gqa=True) for name in HERE[device]}
            for name, form in forms.items():
                row = {"form": name, "sequences": b, "tokens": s, "call us": None, "replayed us": None, "GB/s": None}
                late = {"error": None, "problem": "no time was left"}
                yield row | (time_step(form, q, k, v, exact=exact, clock=clock) if told.left > 0 else late)


def copies(q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Tensor, ...]]:
    """Return inputs that take turns in a replay, together larger than a second-level cache; one of them on a CPU."""
    wanted = 1
    if k.is_cuda:
        wanted, _ = rotation(k.nbytes + v.nbytes, cache=torch.cuda.get_device_properties(k.device).L2_cache_size)
    return [(q, k, v), *(tuple(x.clone() for x in (q, k, v)) for _ in range(1, wanted))]


@torch.no_grad()
def time_step(form, q: Tensor, k: Tensor, v: Tensor, *, exact: Tensor, clock: Clock) -> dict:
    """Return both clocks of one form, its error against float64, or the problem."""
    error, problem = tried(lambda: relative_error(form(q, k, v), exact))
    if problem:
        return {"error": None, "problem": problem}
    call, problem = tried(lambda: clock.seconds(lambda: form(q, k, v)))
    turns = [lambda x=x: form(*x) for x in copies(q, k, v)]
    replayed, no_graph = tried(lambda: clock.replayed(*turns))
    rate = None if replayed is None else (k.nbytes + v.nbytes) / replayed / 1e9
    return {
        "call us": call and 1e6 * call, "replayed us": replayed and 1e6 * replayed, "GB/s": rate, "error": error,
        "problem": problem or no_graph,
    }  # fmt: skip


def main() -> int:
    """Write the record, and the table of peers."""
    given = told(__doc__)
    report, rows = given.report, []
    report.save()
    record_steps(report, given)
    for row in peers(given):
        rows.append(row)
        report.table("decoding beside named peers, grouped by 4", rows)
        if row["form"] == "kernel" and not (row["error"] is not None and row["error"] < 1e-2):
            report.failures.append(
                f"the kernel at {row['sequences']} x {row['tokens']} tokens: {row['problem'] or row['error']}"
            )
    if given.device == "cpu":
        report.not_run.append("the kernels' times, replays of a CUDA graph, cuDNN's and the efficient backend, FlexAttention "
                              "compiled: not run, needs a GPU")  # fmt: skip
    return report.finish(report.words)


if __name__ == "__main__":
    sys.exit(main())
