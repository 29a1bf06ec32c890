"""One module of checks a unit of exercises, in the order in which the course takes them."""

from . import why_attention, softmax_attention, additive, multiplicative  # isort: skip

__all__ = ["additive", "multiplicative", "softmax_attention", "why_attention"]
