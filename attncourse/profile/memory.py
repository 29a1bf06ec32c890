"""Peak memory of a call: the most bytes of tensors that it held at once, beyond what stood before."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# Kineto writes its start and stop to stderr, past any Python redirection: a notebook would show it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_memory(call: Callable[[], object], *, device: str | None = None) -> int:
    """Bytes at the peak of what `call` allocates (its result included).

    `device` is "cpu" or "cuda"; unless told, the GPU where there is one. On CUDA from the allocator's own counter; on a
    CPU from the allocator events that PyTorch's profiler records, summed in order of time. What Triton's interpreter
    allocates through NumPy is not seen.
    """
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    gc.collect()  # what is freed here was allocated before, and the profiler would complain of it on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
        del result
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def keep_freed_memory() -> None:
    """From now on this process keeps what it frees (glibc alone; elsewhere nothing changes).

    Otherwise each large tensor is fresh memory, zeroed page by page by the operating system on first touch: time that
    comes and goes with the sizes that were freed before. For measuring how a form's own time grows; two forms are
    compared as people run them, without this.
    """
    largest, mmap_threshold, trim_threshold = 2**31 - 2**12, -3, -1  # names of malloc.h, which Python has not
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, largest)
        mallopt(trim_threshold, largest)
