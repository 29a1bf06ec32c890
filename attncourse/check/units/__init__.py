"""One module of checks a unit of exercises, in the order in which the course takes them."""

from . import why_attention, softmax_attention, additive, multiplicative, self_cross_causal, multi_head, sliding_window  # isort: skip

__all__ = [
    "additive",
    "multi_head",
    "multiplicative",
    "self_cross_causal",
    "sliding_window",
    "softmax_attention",
    "why_attention",
]
