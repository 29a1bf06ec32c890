"""Multiplicative attention as something to run and to measure, which `attncourse profile` does."""

from dataclasses import replace

from attncourse._shared.case import Case, Draw, kernel_form
from attncourse._shared.counts import Size

from .cost import general_count
from .reference import multiplicative_attention


def case(size: Size, draw: Draw) -> Case:
    """Return the general score q W k, every pair. One head per key: g is h."""
    size = replace(size, g=size.h)
    forms = {
        "reference": multiplicative_attention,
        "triton": kernel_form("multiplicative", "multiplicative_attention_triton"),
    }
    count = general_count(size, pairs=size.t * size.s, itemsize=draw.itemsize)
    return Case((*draw.qkv(size), draw.normal(size.dk, size.dk)), forms, count, "general score, every pair")
