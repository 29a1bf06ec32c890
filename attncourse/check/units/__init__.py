"""One module of checks a unit of exercises, in the order in which the course takes them."""

from . import why_attention, softmax_attention, additive, multiplicative, multi_head, real_systems  # isort: skip

__all__ = ["additive", "multi_head", "multiplicative", "real_systems", "softmax_attention", "why_attention"]
