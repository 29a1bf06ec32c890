"""Additive attention (Bahdanau, Cho and Bengio 2014, https://arxiv.org/abs/1409.0473).

The kernel is imported from `attncourse.additive.kernel`, since it needs Triton.
"""

from .blocked import additive_attention_blocked
from .cost import peak_bytes
from .module import AdditiveAttention
from .reference import additive_attention, additive_attention_loop, additive_scores, additive_weights

__all__ = [
    "AdditiveAttention",
    "additive_attention",
    "additive_attention_blocked",
    "additive_attention_loop",
    "additive_scores",
    "additive_weights",
    "peak_bytes",
]
