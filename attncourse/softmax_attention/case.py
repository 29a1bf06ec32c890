"""Softmax attention as something to run and to measure, which `attncourse profile` does."""

from attncourse._shared.case import Case, Draw, kernel_form, with_options
from attncourse._shared.counts import Size, attention_count, banded_pairs

from .blocked import softmax_attention_blocked
from .module import softmax_attention_torch
from .reference import softmax_attention


def case(size: Size, draw: Draw) -> Case:
    """Return causal softmax attention."""
    forms = {
        "reference": with_options(softmax_attention, causal=True),
        "blocked": with_options(softmax_attention_blocked, causal=True),
        "torch": with_options(softmax_attention_torch, causal=True),
        "triton": kernel_form("softmax_attention", "softmax_attention_triton", causal=True),
    }
    pairs = banded_pairs(size.t, size.s, after=0)
    return Case(draw.qkv(size), forms, attention_count(size, pairs=pairs, itemsize=draw.itemsize), "causal")
