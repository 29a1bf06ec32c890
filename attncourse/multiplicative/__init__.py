"""Multiplicative attention (Luong, Pham and Manning 2015, https://arxiv.org/abs/1508.04025).

The kernels are imported from `attncourse.multiplicative.kernel`, since they need Triton.
"""

from .module import MultiplicativeAttention
from .reference import (
    concat_attention,
    concat_scores,
    dot_scores,
    gaussian_weights,
    general_scores,
    local_window,
    luong_local_attention,
    multiplicative_attention,
    multiplicative_attention_loop,
    predicted_positions,
)

__all__ = [
    "MultiplicativeAttention",
    "concat_attention",
    "concat_scores",
    "dot_scores",
    "gaussian_weights",
    "general_scores",
    "local_window",
    "luong_local_attention",
    "multiplicative_attention",
    "multiplicative_attention_loop",
    "predicted_positions",
]
