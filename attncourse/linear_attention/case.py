"""Linear attention as something to run and to measure, which `attncourse profile` does."""

from attncourse._shared.case import Case, Draw, kernel_form, with_options
from attncourse._shared.counts import Size

from .blocked import linear_attention_blocked
from .cost import linear_attention_count
from .reference import linear_attention


def case(size: Size, draw: Draw) -> Case:
    """Return causal linear attention with elu + 1."""
    forms = {
        "reference": with_options(linear_attention, causal=True),
        "blocked": with_options(linear_attention_blocked, causal=True),
        "triton": kernel_form("linear_attention", "linear_attention_triton", causal=True),
    }
    return Case(draw.qkv(size), forms, linear_attention_count(size, itemsize=draw.itemsize), "causal, elu + 1")
