"""Global and local attention (Beltagy et al. 2020, Longformer, https://arxiv.org/abs/2004.05150).

The kernel is imported from `attncourse.global_local.kernel`, since it needs Triton.
"""

from .blocked import global_local_attention_blocked
from .convert import state_dict_from_longformer
from .module import GlobalLocalAttention
from .reference import global_local_attention, global_local_loop, global_local_mask

__all__ = [
    "GlobalLocalAttention",
    "global_local_attention",
    "global_local_attention_blocked",
    "global_local_loop",
    "global_local_mask",
    "state_dict_from_longformer",
]
