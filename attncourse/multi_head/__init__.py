"""Multi-head attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2).

The launcher is imported from `attncourse.multi_head.kernel`, since it needs Triton.
"""

from .module import MultiHeadAttention
from .reference import merge_heads, multi_head_attention, multi_head_attention_loop, split_heads

__all__ = ["MultiHeadAttention", "merge_heads", "multi_head_attention", "multi_head_attention_loop", "split_heads"]
