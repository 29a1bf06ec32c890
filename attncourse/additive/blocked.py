"""Additive attention without the (t, s, a) hidden layer in memory, in plain PyTorch."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attncourse._shared.masks import apply_mask, blank_padding, masked_softmax, visible_keys
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import require

from .inputs import check_additive


@outside_autocast
def additive_attention_blocked(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    v: Float[Tensor, "b h s dv"],
    w_q: Float[Tensor, "a dq"],
    w_k: Float[Tensor, "a dk"],
    w_score: Float[Tensor, " a"],
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    block: int = 16,
) -> Float[Tensor, "b h t dv"]:
    """Return what `additive_attention` does, `block` queries at a time: the hidden layer held is (b, h, block, s, a).

    The backward pass computes each block again instead of keeping it (Chen et al. 2016,
    https://arxiv.org/abs/1604.06174), so memory grows with t + s and not with t s a.

    Args:
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        block: queries whose hidden layer is held at a time.

    Raises:
        ValueError: a shape, dtype or device does not fit; a block below 1.
    """
    check_additive(q, k, w_q, w_k, w_score, v=v, key_lengths=key_lengths, mask=mask)
    require(block >= 1, f"block must be at least 1, got {block}")
    t, s = q.shape[2], k.shape[2]
    dtype, k, v = v.dtype, blank_padding(k, key_lengths), blank_padding(v, key_lengths)
    q, k, v, w_q, w_k, w_score = (wide(x) for x in (q, k, v, w_q, w_k, w_score))
    from_q = einsum(q, w_q, "b h t dq, a dq -> b h t a")
    from_k = einsum(k, w_k, "b h s dk, a dk -> b h s a")
    visible = visible_keys(t, s, key_lengths=key_lengths, device=q.device)
    if mask is not None:
        mask = torch.atleast_2d(mask)
        mask = mask.expand(*mask.shape[:-2], t, s)

    def block_of_queries(from_q, from_k, v, w_score, mask):
        hidden = torch.tanh(from_q[:, :, :, None] + from_k[:, :, None])
        scores = einsum(hidden, w_score, "b h t s a, a -> b h t s")
        weights = masked_softmax(apply_mask(apply_mask(scores, mask), visible))
        return einsum(weights, v, "b h t s, b h s dv -> b h t dv")

    blocks = []
    for start in range(0, max(t, 1), block):  # no query still makes a block, which keeps the gradients' graph
        rows = slice(start, start + block)
        block_mask = None if mask is None else mask[..., rows, :]
        blocks.append(
            checkpoint(block_of_queries, from_q[:, :, rows], from_k, v, w_score, block_mask, use_reentrant=False)
        )
    return torch.cat(blocks, dim=2).to(dtype)
