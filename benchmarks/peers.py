"""What a user of PyTorch would take instead: its fused attention by the name of a backend, and FlexAttention."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
SDPA_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Those that a device has at all.
HERE = {"cuda": ("flash", "cudnn", "efficient", "math"), "cpu": ("flash", "math")}


def sdpa_form(backend: str, **options) -> Attend:
    """Fused attention of q, k, v by one backend; it raises RuntimeError where that cannot run, and no other takes its place.

    `is_causal` among the options is aligned to the start.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            return scaled_dot_product_attention(q, k, v, **options)

    return attend


def flex_form(mask: BlockMask | None = None, *, compiled: bool, **options) -> Attend:
    """FlexAttention under a mask; compiled for the sizes of its first call alone, or the plain form, which any device has."""
    if not compiled:
        return lambda q, k, v: flex_attention(q, k, v, block_mask=mask, **options)
    torch.compiler.reset()  # or after some sizes it would not be compiled any more
    call = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: call(q, k, v, block_mask=mask, **options)


def window_mask(t: int, *, window: int, device: str) -> BlockMask:
    """The mask of a causal window over t tokens."""

    def rule(b, h, i, j):
        return (j <= i) & (j > i - window)

    return create_block_mask(rule, None, None, t, t, device=device)


def pattern_mask(pattern, *, device: str) -> BlockMask:
    """The mask of a block-sparse pattern that has whole blocks alone, as those of near and random blocks without a border."""
    n, side = pattern.n_blocks, pattern.block
    live = torch.zeros(n, n, dtype=torch.bool, device=device)
    live[pattern.rows, pattern.columns] = True

    def rule(b, h, i, j):
        return live[i // side, j // side]

    return create_block_mask(rule, None, None, pattern.n, pattern.n, device=device)
