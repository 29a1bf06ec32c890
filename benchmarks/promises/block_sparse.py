"""What block-sparse attention promises: speed and memory against a dense mask, and growth below the square."""

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from attncourse.block_sparse import BlockPattern, block_sparse_attention_blocked, local_and_random, strided
from attncourse.profile.memory import peak_memory
from attncourse.profile.timing import median_seconds

from .measured_row import Row


def measure(*, device: str, progress: Callable[[str], object] = lambda what: None) -> list[Row]:
    """Measure ours by blocks beside PyTorch with the same pattern as a boolean mask; float32, 8 heads of width 64."""
    n = 8192
    pattern = local_and_random(n, radius=1, n_random=10, seed=0).to(device)  # 13 of 128 blocks a row
    mask = pattern.dense_mask()
    what = f"length {n}, {pattern.block_density:.0%} of the blocks"
    rows = []
    for passes in ("forward", "forward + backward"):
        progress(f"{passes}, {what}")
        q, k, v = _inputs(n, device, grad=passes != "forward")
        ours = _call(passes, lambda: block_sparse_attention_blocked(q, k, v, pattern=pattern))  # noqa: B023
        theirs = _call(passes, lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask))  # noqa: B023
        seconds = median_seconds({"ours": ours, "theirs": theirs}, rounds=3, warmup=1)
        rows.append(Row(f"{passes}, {what}", seconds["ours"], seconds["theirs"], 4.0, "speedup"))
        memory = peak_memory(ours), peak_memory(theirs) + mask.numel()
        rows.append(Row(f"{passes}, {what}, with the mask", *memory, 1.0, "memory"))
    return [*rows, *_growth(device, progress)]


def _growth(device, progress) -> list[Row]:
    """Measure the strided pattern with a stride near 8 sqrt(n): twice the length is 2 ** 1.5 times the pairs."""
    short, long = 8192, 16384
    progress(f"forward, strided, length {short} and {long}")
    calls = {}
    for n in (short, long):
        pattern, qkv = _strided(n).to(device), _inputs(n, device)
        calls[n] = lambda pattern=pattern, qkv=qkv: block_sparse_attention_blocked(*qkv, pattern=pattern)
    seconds = median_seconds(calls, rounds=3, warmup=1)
    memory = {n: peak_memory(call) for n, call in calls.items()}
    what = f"forward, strided, length {long} over {short}"
    # A dense form takes 4 times as long.
    return [
        Row(what, seconds[long], seconds[short], 2**1.75, "growth"),
        Row(f"{what}, memory", memory[long], memory[short], 2.2, "growth"),
    ]


def _strided(n: int) -> BlockPattern:
    return strided(n, stride=round(8 * n**0.5 / 64) * 64, block=64)


def _inputs(n, device, *, grad=False):
    return tuple(torch.randn(1, 8, n, 64, device=device, requires_grad=grad) for _ in range(3))


def _call(passes, attend):
    return attend if passes == "forward" else lambda: attend().sum().backward()
