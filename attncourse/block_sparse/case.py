"""Block-sparse attention as something to run and to measure, which `attncourse profile` does."""

from dataclasses import replace

from attncourse._shared.case import Case, Draw, kernel_form, with_options
from attncourse._shared.counts import Size, attention_count

from .blocked import block_sparse_attention_blocked
from .named_patterns import local_and_random
from .reference import block_sparse_attention


def case(size: Size, draw: Draw, *, radius: int = 1, n_random: int = 2) -> Case:
    """Return neighbouring blocks of 64, up to `radius` away, and `n_random` others, not causal; counted are the pairs that the pattern wants."""
    pattern = local_and_random(size.s, radius=radius, n_random=n_random, seed=0).to(draw.device)
    forms = {
        "reference": with_options(block_sparse_attention, pattern=pattern),
        "blocked": with_options(block_sparse_attention_blocked, pattern=pattern),
        "triton": kernel_form("block_sparse", "block_sparse_attention_triton", pattern=pattern),
    }
    count = attention_count(replace(size, t=size.s), pairs=pattern.count(), itemsize=draw.itemsize)
    what = f"{2 * radius + 1} near and {n_random} random blocks a row, {pattern.density:.0%} of the pairs"
    return Case(draw.qkv(replace(size, t=size.s)), forms, count, what)
