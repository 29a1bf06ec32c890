"""Run the cases: each form by itself in a process that may die, so that nothing measured before it is lost."""

import math
import multiprocessing
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace

import torch
from torch import Tensor

from attncourse._shared.validate import require

from .cases import CASES, Case, Draw, Form, Planned, sdpa_backend
from .counts import Size
from .decode_cases import DECODE_CASES
from .limits import Limits
from .memory import peak_memory
from .record import Measurement
from .roofline import Roofline
from .timing import graph_seconds, time_calls

# At the sizes of a chapter of a book, on two cores; and at those of a model in training, on a GPU.
SIZES = {
    "cpu": Size(b=1, h=8, g=8, t=1024, s=1024, dk=64, dv=64),
    "cuda": Size(b=4, h=16, g=16, t=4096, s=4096, dk=64, dv=64),
}
USUAL_DTYPE = {"cpu": "float32", "cuda": "float16"}  # of what is measured: every GPU multiplies float16
# Inputs that take turns hold together at least this much, and on a GPU this many times its second-level cache, unless so
# many copies would be needed that there are fewer: a measurement on a GPU says whether it was cold.
ROTATED_BYTES = 2**28
ROTATED_CACHES = 3
MOST_COPIES = 512
# Of a replayed graph. A replay of this many seconds has enough of them, however few: then a step is far longer than a launch.
STEPS = 20
REPLAY_SECONDS = 0.1
ALL_CASES = ChainMap(CASES, DECODE_CASES)


def measure_form(
    mechanism: str,
    form: str,
    *,
    size: Size,
    device: str,
    dtype: str,
    limits: Limits,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Measure one form in this process for about so many seconds per clock, as in `time_calls` and `graph_seconds`.

    What has a plan is planned for the inputs once: on a processor its runs are timed, as a loop over tokens and layers
    runs it. On a GPU both clocks: a call from Python, plan and run, and a step of a replayed graph. A form that runs out of memory, or that cannot run here, gives a measurement that says so; one
    that cannot be captured keeps its first time. After a capture that failed, this process is in doubt: see
    `measure_work`.

    Raises:
        ValueError: no such mechanism, form or dtype.
    """
    require(mechanism in ALL_CASES, f"mechanism must be one of {', '.join(ALL_CASES)}, got {mechanism!r}")
    require(dtype in limits.matmul, f"dtype must be one of {', '.join(limits.matmul)}, got {dtype!r}")
    case = ALL_CASES[mechanism](size, Draw(device, getattr(torch, dtype)))
    require(form in case.forms, f"{mechanism} has the forms {', '.join(case.forms)}, got {form!r}")
    roofline = Roofline(limits.read, limits.matmul[dtype])
    empty = Measurement(
        mechanism, form, case.what, asdict(size), dtype, case.count.flops, case.count.bytes,
        roofline.seconds(case.count), roofline.limit(case.count),
    )  # fmt: skip
    if form == "triton" and device == "cpu":
        return replace(empty, problem="Triton's interpreter shows what a kernel computes, not how fast")
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else None
    copies, cold = rotation(sum(x.nbytes for x in case.inputs), cache=cache)
    try:
        inputs = [case.inputs, *(tuple(x.clone() for x in case.inputs) for _ in range(1, copies))]
        with torch.no_grad():
            run = case.forms[form]
            if device == "cpu" and isinstance(run, Planned):
                run = run.plan(*case.inputs)
            calls = [lambda x=x: run(*x) for x in inputs]
            timing = time_calls(calls, device=device, seconds=seconds, clock=clock)
            peak = peak_memory(calls[0])
            backend = sdpa_backend(calls[0]) if form == "torch" else None
    except Exception as error:  # whatever a form cannot do on this device: named, and the others go on
        return replace(empty, problem=describe_problem(error))
    done = replace(
        empty, seconds=timing.median, low=timing.low, high=timing.high, peak_bytes=peak, cold=cold, backend=backend
    )
    return done if device == "cpu" else replay_too(done, case.forms[form], inputs, seconds=seconds)


def rotation(bytes_of_one: int, *, cache: int | None) -> tuple[int, bool | None]:
    """Return how many inputs of so many bytes take turns,
    and whether together they are ROTATED_CACHES caches of this size.

    None for the latter where the cache's size is not known.
    """
    wanted = max(ROTATED_BYTES, ROTATED_CACHES * (cache or 0))
    copies = min(-(-wanted // bytes_of_one), MOST_COPIES)
    return copies, None if cache is None else copies * bytes_of_one >= ROTATED_CACHES * cache


def replay_too(
    done: Measurement, form: Form, inputs: Sequence[tuple[Tensor, ...]], *, seconds: float = 0.5
) -> Measurement:
    """Return the measurement of a call, and beside it that of a step of a replayed graph, or why there is none."""
    try:
        with torch.no_grad():
            run = form.plan(*inputs[0]) if isinstance(form, Planned) else form
            steps = min(STEPS, math.ceil(REPLAY_SECONDS / done.seconds))
            timing = graph_seconds([lambda x=x: run(*x) for x in inputs], steps=steps, seconds=seconds)
    except Exception as error:
        return replace(done, replay_problem=describe_problem(error))
    return replace(done, replay=timing.median, replay_low=timing.low, replay_high=timing.high)


def describe_problem(error: Exception) -> str:
    """Return one line on what went wrong."""
    # On a CPU PyTorch has no exception of its own for memory.
    short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)
    return "out of memory" if short else f"{type(error).__name__}: {error}".splitlines()[0][:200]


def measure_mechanisms(
    mechanisms: Iterable[str], *, size: Size, device: str, dtype: str, limits: Limits, progress: Callable[[str], None]
) -> Iterator[Measurement]:
    """Measure every form of these mechanisms, as `measure_work` does."""
    work = ((mechanism, form, size) for mechanism in mechanisms for form in smallest_case(mechanism).forms)
    return measure_work(work, device=device, dtype=dtype, limits=limits, progress=progress)


def smallest_case(mechanism: str) -> Case:
    """Return the case at one token: forms, and the setting in words, do not depend on the length."""
    return ALL_CASES[mechanism](replace(SIZES["cpu"], t=1, s=1), Draw())


def measure_work(
    work: Iterable[tuple[str, str, Size]],
    *,
    device: str,
    dtype: str,
    limits: Limits,
    progress: Callable[[str], None],
    seconds: float = 0.5,
) -> Iterator[Measurement]:
    """Measure mechanisms, forms and sizes, one after another; a process that is killed costs its own line alone.

    On a GPU a process in which something failed ends: after an error of CUDA, or a capture that broke off, what else it
    would measure means nothing.
    """
    pool = _pool()
    try:
        for mechanism, form, size in work:
            progress(f"{mechanism}, {form}, {size.b} x {size.s} tokens")
            options = dict(size=size, device=device, dtype=dtype, limits=limits, seconds=seconds)
            try:
                one = pool.submit(measure_form, mechanism, form, **options).result()
                if device == "cuda" and (one.problem or one.replay_problem):
                    pool.shutdown()
                    pool = _pool()
                yield one
            except BrokenProcessPool:
                pool = _pool()
                what = smallest_case(mechanism).what
                dead = Measurement(mechanism, form, what, asdict(size), dtype, 0, 0, 0.0, "memory")
                yield replace(dead, problem="its process was killed, most likely for its memory")
    finally:
        pool.shutdown(cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
