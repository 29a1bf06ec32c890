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


def peak_memory(call: Callable[[], object]) -> int:
    """Return the bytes at the peak of what `call` allocates (its result included), where its tensors are:
    CPU and GPU together.

    On CUDA from the allocator's own counter, on a CPU from the allocator events that PyTorch's profiler records, summed
    in order of time. What Triton's interpreter allocates through NumPy is not seen.
    """
    gc.collect()  # what is freed here was allocated before, and the profiler would complain of it on stderr
    on_gpu = torch.cuda.is_initialized()  # only then can anything lie there
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
        del result
        if on_gpu:
            torch.cuda.synchronize()
    events = recorded.profiler.kineto_results.events()
    events = [e for e in events if e.name() == "[memory]" and e.device_type() == torch._C._autograd.DeviceType.CPU]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak + (torch.cuda.max_memory_allocated() - before if on_gpu else 0)


def keep_freed_memory() -> None:
    """Keep from now on what this process frees (glibc alone; elsewhere nothing changes).

    Otherwise each large tensor is fresh memory, zeroed page by page by the operating system on first touch: time that
    comes and goes with the sizes that were freed before. For measuring how a form's own time grows; two forms are
    compared as people run them, without this.
    """
    largest, mmap_threshold, trim_threshold = 2**31 - 2**12, -3, -1  # names of malloc.h, which Python has not
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, largest)
        mallopt(trim_threshold, largest)
