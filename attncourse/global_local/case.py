"""Global and local attention as something to run and to measure, which `attncourse profile` does."""

from dataclasses import replace

import torch

from attncourse._shared.case import Case, Draw, kernel_form, with_options
from attncourse._shared.counts import Size, attention_count

from .blocked import global_local_attention_blocked
from .reference import global_local_attention, global_local_mask


def case(size: Size, draw: Draw, *, radius: int = 128, n_global: int = 4) -> Case:
    """Return `radius` neighbours on both sides and `n_global` global tokens, with shared projections."""
    size = replace(size, t=size.s)
    radius, indices = min(radius, size.s), torch.arange(min(n_global, size.s), device=draw.device)
    forms = {
        "reference": with_options(global_local_attention, radius=radius, global_indices=indices),
        "blocked": with_options(global_local_attention_blocked, radius=radius, global_indices=indices),
        "triton": kernel_form("global_local", "global_local_attention_triton", radius=radius, global_indices=indices),
    }
    pairs = int(global_local_mask(size.s, radius=radius, global_indices=indices).sum())
    count = attention_count(size, pairs=pairs, itemsize=draw.itemsize)
    return Case(draw.qkv(size), forms, count, f"radius {radius}, {len(indices)} global tokens")
