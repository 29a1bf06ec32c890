"""One module of checks a unit of exercises, in the order in which the course takes them."""

from . import why_attention, softmax_attention, additive, multiplicative, self_cross_causal, multi_head, global_local  # isort: skip

__all__ = [
    "additive",
    "global_local",
    "multi_head",
    "multiplicative",
    "self_cross_causal",
    "softmax_attention",
    "why_attention",
]
