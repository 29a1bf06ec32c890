"""What `sliding_window` promises: faster than dense attention under the same mask, in less memory, linear in the length."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attncourse.profile.cases import compiles
from attncourse.profile.memory import peak_memory
from attncourse.profile.timing import median_seconds
from attncourse.sliding_window import local_mask, sliding_window_attention_blocked

from .measured_row import Row

WINDOW, LENGTH, HEADS, WIDTH = 256, 8192, 8, 64


def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """Measure forward, and forward with backward, float32: against SDPA, FlexAttention, and itself at twice the length."""
    rows = []
    sizes = f"window {WINDOW}, length {LENGTH}"
    inputs = {n: _draw(n, device) for n in (LENGTH, 2 * LENGTH)}
    mask = local_mask(LENGTH, LENGTH, window=WINDOW, device=device)

    def local(q, k, v):
        return sliding_window_attention_blocked(q, k, v, window=WINDOW)

    def dense(q, k, v):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)

    for kind, call in (("forward", _forward), ("forward + backward", _forward_backward)):
        runs = {
            "ours": lambda call=call: call(local, inputs[LENGTH]),
            "dense": lambda call=call: call(dense, inputs[LENGTH]),
            "twice": lambda call=call: call(local, inputs[2 * LENGTH]),
        }
        progress(f"{kind} against SDPA with the dense mask")
        seconds = median_seconds({name: runs[name] for name in ("ours", "dense")}, rounds=3, warmup=1)
        rows.append(Row(f"{kind}, SDPA dense mask, {sizes}", seconds["ours"], seconds["dense"], 3.0, "speedup"))
        progress(f"{kind} at twice the length")
        seconds = median_seconds({name: runs[name] for name in ("ours", "twice")}, rounds=15)
        rows.append(Row(f"{kind}, twice the length, {sizes}", seconds["twice"], seconds["ours"], 2.2, "growth"))
        # The output, and three gradients, are there in any form: what counts is what a form holds beside them.
        results = inputs[LENGTH][0].nbytes * (1 if call is _forward else 4)
        ours, theirs = (peak_memory(runs[name]) - results for name in ("ours", "dense"))
        rows.append(Row(f"{kind}, memory beside results, SDPA dense mask, {sizes}", ours, theirs, 10.0, "memory"))

    progress("FlexAttention: compiling")
    flex = _compiled_flex(inputs[LENGTH], device)
    seconds = {"ours": math.nan, "flex": math.nan}
    if flex is not None:
        progress("forward against FlexAttention compiled with the same block mask")
        pair = {"ours": lambda: _forward(local, inputs[LENGTH]), "flex": lambda: _forward(flex, inputs[LENGTH])}
        seconds = median_seconds(pair, rounds=15)
    rows.append(Row(f"forward, FlexAttention compiled, {sizes}", seconds["ours"], seconds["flex"], 1.0, "speedup"))
    return rows


def _draw(n: int, device: str) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(1, HEADS, n, WIDTH, generator=rng).to(device).requires_grad_() for _ in range(3)]


def _forward(attend, inputs):
    # FlexAttention refuses inputs that ask for a gradient on a CPU, even where none is recorded.
    with torch.no_grad():
        return attend(*(x.detach() for x in inputs))


def _forward_backward(attend, inputs):
    return torch.autograd.grad(attend(*inputs).sum(), inputs)


def _compiled_flex(inputs: list[Tensor], device: str) -> Callable | None:
    """Return FlexAttention under the same mask, compiled;
    None where this machine cannot compile it (it needs a C++ compiler).
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(b, h, i, j):
        return (i >= j) & (i - j < WINDOW)

    block_mask = create_block_mask(near, None, None, LENGTH, LENGTH, device=device)
    compiled = torch.compile(flex_attention)

    def attend(q, k, v):
        return compiled(q, k, v, block_mask=block_mask)

    if not compiles(lambda: _forward(attend, inputs)):
        return None
    out = _forward(attend, inputs)
    torch.testing.assert_close(out, _forward(lambda *x: sliding_window_attention_blocked(*x, window=WINDOW), inputs))
    return attend
