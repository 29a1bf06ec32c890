"""Block-sparse attention (Child et al. 2019, https://arxiv.org/abs/1904.10509) over any pattern of blocks.

The kernel is imported from `attncourse.block_sparse.kernel`, since it needs Triton.
"""

from .blocked import block_sparse_attention_blocked
from .module import BlockSparseAttention, block_sparse_attention_torch
from .named_patterns import dilated, fixed, local, local_and_random, strided
from .pattern import BlockPattern, from_blocks, from_mask, from_rule
from .reference import block_sparse_attention, block_sparse_attention_loop

__all__ = [
    "BlockPattern",
    "BlockSparseAttention",
    "block_sparse_attention",
    "block_sparse_attention_blocked",
    "block_sparse_attention_loop",
    "block_sparse_attention_torch",
    "dilated",
    "fixed",
    "from_blocks",
    "from_mask",
    "from_rule",
    "local",
    "local_and_random",
    "strided",
]
