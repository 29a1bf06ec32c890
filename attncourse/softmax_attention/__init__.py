"""Scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

from .reference import (
    attention_scores,
    attention_weights,
    mix_values,
    softmax_attention,
    softmax_attention_loop,
    softmax_attention_with_lse,
)

__all__ = [
    "attention_scores",
    "attention_weights",
    "mix_values",
    "softmax_attention",
    "softmax_attention_loop",
    "softmax_attention_with_lse",
]
