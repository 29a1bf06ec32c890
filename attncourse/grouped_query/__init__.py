"""Grouped-query attention (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) and multi-query attention, its end.

The kernels are imported from `attncourse.grouped_query.kernel`, since they need Triton.
"""

from .blocked import grouped_query_decode
from .convert import group_heads, grouped_from_multi_head
from .module import GroupedQueryAttention
from .reference import grouped_query_attention, grouped_query_attention_loop

__all__ = [
    "GroupedQueryAttention",
    "group_heads",
    "grouped_from_multi_head",
    "grouped_query_attention",
    "grouped_query_attention_loop",
    "grouped_query_decode",
]
