"""Additive attention as something to run and to measure, which `attncourse profile` does."""

from dataclasses import replace

from attncourse._shared.case import Case, Draw, kernel_form
from attncourse._shared.counts import Size

from .blocked import additive_attention_blocked
from .cost import additive_count
from .reference import additive_attention


def case(size: Size, draw: Draw) -> Case:
    """Return additive attention, every pair, with a hidden layer of width dk.
    One head per key: g is h.
    """
    size = replace(size, g=size.h)
    w_q, w_k, w_score = draw.normal(size.dk, size.dk), draw.normal(size.dk, size.dk), draw.normal(size.dk)
    forms = {
        "reference": additive_attention,
        "blocked": additive_attention_blocked,
        "triton": kernel_form("additive", "additive_attention_triton"),
    }
    count = additive_count(size, pairs=size.t * size.s, hidden=size.dk, itemsize=draw.itemsize)
    return Case((*draw.qkv(size), w_q, w_k, w_score), forms, count, f"every pair, hidden width {size.dk}")
