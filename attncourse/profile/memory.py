"""Peak memory of a call: the most bytes of tensors that it held at once, beyond what stood before."""

import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# Kineto writes its start and stop to stderr, past any Python redirection: a notebook would show it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes at the peak of what `call` allocates (its result included).

    On CUDA from the allocator's own counter; on a CPU from the allocator events that PyTorch's profiler
    records, summed in order of time. What Triton's interpreter allocates through NumPy is not seen.
    """
    if torch.cuda.is_available():
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
