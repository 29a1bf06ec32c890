"""What linear attention in chunks promises, against PyTorch's fused attention; and its decode step, wherever it stands."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from attncourse.linear_attention import (
    linear_attention_blocked,
    linear_attention_step,
)
from attncourse.profile.memory import keep_freed_memory, peak_memory
from attncourse.profile.timing import median_seconds

from .measured_row import Row

LENGTH, HEADS, WIDTH = 16_384, 8, 64


def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """Measure time and memory at length 16384, causal, float32, 8 heads of width 64;
    growth on doubling; a step of decoding.
    """
    inputs = {n: torch.randn(3, 1, HEADS, n, WIDTH, device=device) for n in (LENGTH, 2 * LENGTH)}
    ours = partial(linear_attention_blocked, causal=True)
    theirs = partial(scaled_dot_product_attention, is_causal=True)
    runs = {"forward": _forward, "forward and backward": _forward_backward}
    rows = []
    for what, run in runs.items():
        progress(f"{what} at length {LENGTH}")
        calls = {"ours": partial(run, ours, inputs[LENGTH]), "theirs": partial(run, theirs, inputs[LENGTH])}
        seconds = median_seconds(calls, rounds=3, warmup=1)
        rows.append(Row(f"{what}, length {LENGTH}", seconds["ours"], seconds["theirs"], 8.0, "speedup"))
    keep_freed_memory()
    for what, run in runs.items():
        progress(f"{what} at length {2 * LENGTH}")
        calls = {n: partial(run, ours, inputs[n]) for n in (LENGTH, 2 * LENGTH)}
        for unit, measured in (
            ("seconds", median_seconds(calls, rounds=9)),
            ("bytes", {n: peak_memory(call) for n, call in calls.items()}),
        ):
            what_grows = f"{what}, {unit}, length {LENGTH} doubled"
            rows.append(Row(what_grows, measured[2 * LENGTH], measured[LENGTH], 2.2, "growth"))
    progress("one step of decoding")
    steps = {n: _step_after(n, inputs[n]) for n in (LENGTH, 2 * LENGTH)}
    seconds = median_seconds(steps, rounds=101, warmup=10)
    what = f"decode step at position {LENGTH}, doubled"
    return [*rows, Row(what, seconds[2 * LENGTH], seconds[LENGTH], 1.2, "growth")]


def _forward(attend, qkv):
    with torch.no_grad():
        return attend(*qkv)


def _forward_backward(attend, qkv):
    leaves = [x.detach().requires_grad_() for x in qkv]
    return torch.autograd.grad(attend(*leaves).sum(), leaves)


def _step_after(n, qkv):
    """Return a call that decodes the token at position n, from the state of those before it."""
    with torch.no_grad():
        _, state = linear_attention_blocked(*(x[:, :, : n - 1] for x in qkv), causal=True, return_state=True)
    token = [x[:, :, n - 1] for x in qkv]
    return lambda: linear_attention_step(*token, state=state)
