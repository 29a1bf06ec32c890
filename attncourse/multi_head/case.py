"""Multi-head attention as something to run and to measure, which `attncourse profile` does."""

from dataclasses import replace

import torch

from attncourse._shared.case import Case, Draw
from attncourse._shared.counts import Count, Size, attention_count

from .module import MultiHeadAttention


def case(size: Size, draw: Draw) -> Case:
    """Return a whole layer, every pair: projections of a model width h dk, attention, and the projection back."""
    width = size.h * size.dk
    size = replace(size, g=size.h, t=size.s, dv=size.dk)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.seed)
        layer = MultiHeadAttention(width, size.h, bias=True).to(draw.device, draw.dtype)

    def run(impl):
        def call(x, *parameters):
            layer.impl = impl
            return layer(x)

        return call

    rows = size.b * size.s
    attend = attention_count(size, pairs=size.s**2, itemsize=draw.itemsize)
    matrices = Count(8 * rows * width**2, draw.itemsize * (2 * rows * width + 4 * (width + 1) * width))
    # What stands between the projections and attention can stay on the chip, so that its bytes are not counted.
    count = Count(attend.flops + matrices.flops, matrices.bytes)
    forms = {impl: run(impl) for impl in ("reference", "blocked", "torch", "triton")}
    parameters = tuple(p.detach() for p in layer.parameters())
    return Case(
        (draw.normal(size.b, size.s, width), *parameters), forms, count, f"a layer of width {width}, every pair"
    )
