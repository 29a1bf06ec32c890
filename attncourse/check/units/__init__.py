"""One module of checks a unit of exercises, in the order in which the course takes them."""

from . import why_attention, softmax_attention, additive, multiplicative, hard_attention  # isort: skip

__all__ = ["additive", "hard_attention", "multiplicative", "softmax_attention", "why_attention"]
