"""Sliding-window attention as something to run and to measure, which `attncourse profile` does."""

from attncourse._shared.case import Case, Draw, kernel_form, with_options
from attncourse._shared.counts import Size, attention_count, banded_pairs

from .blocked import sliding_window_attention_blocked
from .reference import sliding_window_attention


def case(size: Size, draw: Draw, *, window: int = 256) -> Case:
    """Return a causal window."""
    forms = {
        "reference": with_options(sliding_window_attention, window=window),
        "blocked": with_options(sliding_window_attention_blocked, window=window),
        "triton": kernel_form("sliding_window", "sliding_window_attention_triton", window=window),
    }
    pairs = banded_pairs(size.t, size.s, before=window - 1, after=0)
    count = attention_count(size, pairs=pairs, itemsize=draw.itemsize)
    return Case(draw.qkv(size), forms, count, f"window {window}")
