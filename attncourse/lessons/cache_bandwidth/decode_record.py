"""Steps of decoding as a record, measured in this process, and what a figure draws of it or of one from a file."""

import datetime
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from attncourse.profile.bench import DECODE_FORMS, Grid, decode_work
from attncourse.profile.decode_cases import DECODE_CASES
from attncourse.profile.device_facts import DeviceFacts, device_facts, versions
from attncourse.profile.limits import measure_limits
from attncourse.profile.measure import USUAL_DTYPE, measure_form, measure_work
from attncourse.profile.record import Measurement, Record, read_records

DESIGNS = {
    "decode_mha": "MHA",
    "decode_gqa_2": "GQA, 2 share",
    "decode_gqa_4": "GQA, 4 share",
    "decode_mqa": "MQA",
    "decode_latent": "latent",
    "decode_window": "window",
    "decode_int8": "int8",
    "decode_fp8": "fp8",
    "decode_paged": "paged",
}


def live_record(
    grid: Grid,
    *,
    device: str,
    mechanisms: Iterable[str] = DECODE_CASES,
    form: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
    command: str = "live",
) -> Record:
    """Return the limits of "cpu" or "cuda", and the grid's steps by one form (default: `own_form`, the course's own).

    A CPU's steps run in this process, a GPU's in another, which a capture that fails cannot spoil for what follows
    here.

    Args:
        clock: what a CPU is timed by; time.thread_time on one thread beside other work.
    """
    dtype = USUAL_DTYPE[device]
    limits = measure_limits(device, dtypes=(getattr(torch, dtype),), clock=clock)
    work = decode_work(grid, device=device, mechanisms=list(mechanisms), forms=(form or own_form(device),))
    options = dict(device=device, dtype=dtype, limits=limits, seconds=grid.seconds)
    if device == "cuda":
        measured = tuple(measure_work(work, **options, progress=lambda what: None))
    else:
        measured = tuple(measure_form(name, form, size=size, **options, clock=clock) for name, form, size in work)
    return Record(device_facts(device), limits, versions(), datetime.date.today().isoformat(), command, measured)


def live_or_recorded(
    grid: Grid, *, device: str, form: str, here: bool, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> tuple[Record | None, str]:
    """Return the grid's steps by one form, measured now where it runs here, and how they came about; else the newest
    record of a folder that has this form's steps on such a device, and None where there is none.
    """
    if here:
        return live_record(grid, device=device, form=form, clock=clock), "measured now"
    found = [r for r in read_records(folder) if r.device.kind == device and _has(r, form)]
    return (found[-1], "recorded") if found else (None, "neither measured nor recorded")


def _has(record: Record, form: str) -> bool:
    return any(m.mechanism in DESIGNS and m.form == form for m in record.measurements)


def own_form(device: str) -> str:
    """Return what the course's figures show of a device:
    a CPU's blocked form, which is plain PyTorch, and a GPU's kernel.
    """
    return DECODE_FORMS[device][0]


def decode_steps(record: Record, *, batch: int, form: str | None = None) -> dict[str, dict[int, Measurement]]:
    """Return by design and context the measured step of so many sequences, by one form (default: the course's own).

    Designs that did not run lack.
    """
    form = form or own_form(record.device.kind)
    steps: dict[str, dict[int, Measurement]] = {}
    for m in record.measurements:
        if m.mechanism in DESIGNS and m.form == form and m.size["b"] == batch and m.seconds is not None:
            steps.setdefault(DESIGNS[m.mechanism], {})[m.size["s"]] = m
    return steps


def bytes_and_seconds(
    record: Record, *, form: str | None = None, clock: str = "step"
) -> dict[str, tuple[list[float], list[float]]]:
    """Return by design the bytes and the median seconds of all its steps, of all contexts and batches.

    Args:
        form: default: the course's own.
        clock: "step", what is held against a limit, "call" from Python, or "graph".
    """
    points: dict[str, tuple[list[float], list[float]]] = {}
    for batch in decode_batches(record):
        for name, steps in decode_steps(record, batch=batch, form=form).items():
            sizes, seconds = points.setdefault(name, ([], []))
            sizes += [m.bytes for m in steps.values()]
            seconds += [getattr(m, clock).median for m in steps.values()]
    return points


def rates(record: Record, *, form: str | None = None, clock: str = "step") -> dict[str, Mapping[str, dict[int, float]]]:
    """Return bytes per second of each step, as rows of `bandwidth_reached`; arguments as of `bytes_and_seconds`."""
    return {
        f"{batch} sequence{'s' * (batch > 1)}": {
            name: {n: m.bytes / getattr(m, clock).median for n, m in steps.items()}
            for name, steps in decode_steps(record, batch=batch, form=form).items()
        }
        for batch in decode_batches(record)
    }


def decode_batches(record: Record) -> list[int]:
    """Return the batches with which the record decodes, smallest first."""
    return sorted({m.size["b"] for m in record.measurements if m.mechanism in DESIGNS})


def replayed(record: Record) -> bool:
    """Return whether steps of decoding were timed as steps of a replayed CUDA graph, beside calls from Python."""
    return any(m.graph is not None for m in record.measurements if m.mechanism in DESIGNS)


def clock_in_words(record: Record) -> str:
    """Return by which clock the record's steps of decoding are held against a limit, for the title of a figure."""
    steps = [m for m in record.measurements if m.mechanism in DESIGNS and m.step is not None]
    if not replayed(record):
        return "one call from Python"
    if all(m.graph is not None for m in steps):
        return "a step of a replayed CUDA graph"
    return "a step of a replayed CUDA graph, or one call from Python where there is no graph"


def remark(facts: DeviceFacts) -> str:
    """Return what a reader has to know of a GPU before reading its figures; empty where there is nothing."""
    if facts.kind == "cuda" and facts.capability is not None and int(facts.capability.partition(".")[0]) < 8:
        return (
            f"{facts.name} has compute capability {facts.capability}, for which Triton makes no matrix instructions: the "
            "kernels multiply on the ordinary units, in float16 (there is no bfloat16), within "
            f"{facts.memory / 1e9:.0f} GB."
        )
    return ""
