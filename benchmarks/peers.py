"""What a user of PyTorch would take instead: which of its fused attentions a device has, and masks for FlexAttention."""

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

# Of attncourse.profile.cases.SDPA_BACKENDS those that a device has at all.
HERE = {"cuda": ("flash", "cudnn", "efficient", "math"), "cpu": ("flash", "math")}


def window_mask(t: int, *, window: int, device: str) -> BlockMask:
    """Return the mask of a causal window over t tokens."""

    def rule(b, h, i, j):
        return (j <= i) & (j > i - window)

    return create_block_mask(rule, None, None, t, t, device=device)


def pattern_mask(pattern, *, device: str) -> BlockMask:
    """Return the mask of a block-sparse pattern that has whole blocks alone,
    as those of near and random blocks without a border.
    """
    n, side = pattern.n_blocks, pattern.block
    live = torch.zeros(n, n, dtype=torch.bool, device=device)
    live[pattern.rows, pattern.columns] = True

    def rule(b, h, i, j):
        return live[i // side, j // side]

    return create_block_mask(rule, None, None, pattern.n, pattern.n, device=device)
