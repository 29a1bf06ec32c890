"""Block-sparse attention: what it is, once as a loop and once as a dense mask.

Child et al. 2019, https://arxiv.org/abs/1904.10509, equations 2 to 4, with any set of positions in the place of S_i.
A query whose set is empty gives zeros; there every set has the query itself.
"""

from typing import Literal, overload

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.masks import apply_mask, blank_padding, length_mask, masked_logsumexp, masked_softmax
from attncourse._shared.precision import outside_autocast, wide

from .inputs import check_pattern
from .pattern import BlockPattern


def block_sparse_attention_loop(
    q: Float[Tensor, "t dk"], k: Float[Tensor, "s dk"], v: Float[Tensor, "s dv"], *, pattern: BlockPattern
) -> Float[Tensor, "t dv"]:
    """Read token by token, in one head and one sequence:
    each query reads the keys that the pattern gives it, and scores no other.
    """
    (t, dk), s = q.shape, len(k)
    out = torch.zeros(t, v.shape[-1], dtype=v.dtype, device=v.device)
    q, k, v = wide(q), wide(k), wide(v)
    for i, sees in enumerate(pattern.dense_mask(t, s).to(q.device)):
        keys, values = k[sees], v[sees]
        if len(keys) > 0:
            out[i] = torch.softmax(keys @ q[i] * dk**-0.5, dim=0) @ values
    return out


@overload
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    return_lse: Literal[False] = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    return_lse: Literal[True],
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


@outside_autocast
def block_sparse_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    pattern: BlockPattern,
    key_lengths: Int[Tensor, " b"] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Float[Tensor, "b h t dv"] | tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b h t"]]:
    """Return softmax(Q K^T / sqrt(dk)) V over the pairs of the pattern, by a mask on all t * s scores.

    Args:
        pattern: who sees whom; its first s positions are used. Query i of t stands at position s - t + i.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).
        return_lse: give also the log-sum-exp of each row of scores (b, h, t), in float32 or better (natural; -inf where
            no key is visible).

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the pattern has fewer than s positions.
    """
    check_pattern(pattern, q, k, v, key_lengths)
    (g, s), t = k.shape[1:3], q.shape[2]
    grouped = rearrange(wide(q), "b (g r) t dk -> b g r t dk", g=g)
    scores = einsum(grouped, wide(blank_padding(k, key_lengths)), "b g r t dk, b g s dk -> b g r t s")
    scores = rearrange(scores, "b g r t s -> b (g r) t s") * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = apply_mask(scores, pattern.dense_mask(t, s).to(q.device))
    scores = apply_mask(scores, None if key_lengths is None else length_mask(key_lengths, s))
    weights = rearrange(masked_softmax(scores), "b (g r) t s -> b g r t s", g=g)
    out = einsum(weights, wide(blank_padding(v, key_lengths)), "b g r t s, b g s dv -> b g r t dv")
    out = rearrange(out, "b g r t dv -> b (g r) t dv").to(q.dtype)
    return (out, masked_logsumexp(scores)) if return_lse else out
