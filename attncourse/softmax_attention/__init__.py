"""Scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

The kernel is imported from `attncourse.softmax_attention.kernel`, since it needs Triton.
"""

from attncourse._shared.merge import merge_partial

from .blocked import online_softmax_attention, softmax_attention_blocked
from .module import SoftmaxAttention, softmax_attention_torch
from .reference import (
    attention_scores,
    attention_weights,
    mix_values,
    softmax_attention,
    softmax_attention_loop,
)

__all__ = [
    "SoftmaxAttention",
    "attention_scores",
    "attention_weights",
    "merge_partial",
    "mix_values",
    "online_softmax_attention",
    "softmax_attention",
    "softmax_attention_blocked",
    "softmax_attention_loop",
    "softmax_attention_torch",
]
