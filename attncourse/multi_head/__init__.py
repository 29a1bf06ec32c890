"""Multi-head attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2).

The launcher is imported from `attncourse.multi_head.kernel`, since it needs Triton.
"""

from attncourse._shared.heads import merge_heads, split_heads

from .convert import state_dict_from_torch, state_dict_to_torch
from .module import MultiHeadAttention
from .patterns import share_on
from .reference import multi_head_attention, multi_head_attention_loop

__all__ = [
    "MultiHeadAttention",
    "merge_heads",
    "multi_head_attention",
    "multi_head_attention_loop",
    "share_on",
    "split_heads",
    "state_dict_from_torch",
    "state_dict_to_torch",
]
