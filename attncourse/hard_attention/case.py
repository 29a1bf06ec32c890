"""Hard attention as something to run and to measure, which `attncourse profile` does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attncourse._shared.case import Case, Draw, Form, kernel_form, with_options
from attncourse._shared.counts import Count, Size, attention_count, banded_pairs

from .reference import hard_attention


def case(size: Size, draw: Draw) -> Case:
    """Return the best key alone, causal: scores of every pair, one value read per query."""
    pairs = banded_pairs(size.t, size.s, after=0)
    scores = attention_count(replace(size, dv=size.dk), pairs=pairs, itemsize=draw.itemsize)
    numbers = (size.h * size.t + size.g * size.s) * (size.dk + size.dv)
    count = Count(scores.flops // 2, draw.itemsize * size.b * numbers)
    kernel = kernel_form("hard_attention", "hard_attention_triton", seed=None, causal=True)
    forms = {"reference": _read(with_options(hard_attention, causal=True)), "triton": _read(kernel)}
    return Case(draw.qkv(size), forms, count, "the best key, causal")


def _read(form: Callable[..., Any]) -> Form:
    """Return the output of a form that returns what was chosen, too."""
    return lambda *qkv: form(*qkv).out
