"""Local attention: a token sees its neighbours alone (Beltagy et al. 2020, https://arxiv.org/abs/2004.05150).

The kernel is imported from `attncourse.sliding_window.kernel`, since it needs Triton.
"""

from .blocked import sliding_window_attention_blocked
from .module import SlidingWindowAttention, sliding_window_attention_torch
from .pattern import Band, local_band
from .reference import local_mask, sliding_window_attention, sliding_window_attention_loop

__all__ = [
    "Band",
    "SlidingWindowAttention",
    "local_band",
    "local_mask",
    "sliding_window_attention",
    "sliding_window_attention_blocked",
    "sliding_window_attention_loop",
    "sliding_window_attention_torch",
]
