"""Multiplicative attention through the kernels of its two relatives; there is no product here that they lack.

The dot score is softmax attention with scale 1, the general score the same after projecting the query, and the concat
score is additive attention with its one matrix cut in two.
"""

import torch
from torch import Tensor

from attncourse._shared.masks import length_mask
from attncourse._shared.precision import outside_autocast, wide
from attncourse.additive.kernel import additive_attention_triton
from attncourse.softmax_attention.kernel import softmax_attention_triton

from .inputs import check_concat, check_positions, check_radius, check_reading, check_weight


@outside_autocast
def multiplicative_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor | None = None,
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`multiplicative_attention` by the softmax kernel, with gradients; errors as there and as in the reference."""
    check_reading(q, k, v, key_lengths, mask)
    check_weight(q, k, weight)
    return softmax_attention_triton(_project(q, weight), k, v, key_lengths=key_lengths, mask=mask, scale=1.0)


def concat_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    w_score: Tensor,
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`concat_attention` by the additive kernel, with gradients: W [q; k] = W_q q + W_k k."""
    check_reading(q, k, v, key_lengths, mask)
    check_concat(q, k, weight, w_score)
    w_q, w_k = weight.split([q.shape[-1], k.shape[-1]], dim=1)
    return additive_attention_triton(q, k, v, w_q, w_k, w_score, key_lengths=key_lengths, mask=mask)


@outside_autocast
def luong_local_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    weight: Tensor | None = None,
    *,
    radius: int,
    gaussian: Tensor | None = None,
    key_lengths: Tensor | None = None,
) -> Tensor:
    """`luong_local_attention` by the softmax kernel, twice for local-p; without a gradient for the positions.

    softmax(x) * G = softmax(x + log G) * exp(lse(x + log G) - lse(x)): the Gaussian joins the scores, and two
    log-sum-exps undo the normalisation that it should not take part in. The log of the Gaussian is an added mask, which
    has no gradient here, so training local-p's position needs the reference.

    Raises:
        ValueError: as the reference, and where the Gaussian asks for a gradient.
    """
    check_reading(q, k, v, key_lengths, None)
    check_weight(q, k, weight)
    check_positions(positions, gaussian, scores_shape=(*q.shape[:3], k.shape[2]))
    check_radius(radius)
    distance = (torch.arange(k.shape[2], device=q.device) - positions[..., None]).abs()
    window = distance <= radius
    if key_lengths is not None:
        window = window & length_mask(key_lengths, k.shape[2])
    reading = (_project(q, weight), k, v)
    out, lse = softmax_attention_triton(*reading, key_lengths=key_lengths, mask=window, scale=1.0, return_lse=True)
    if gaussian is None:
        return out
    added = wide(gaussian).log().masked_fill(~window, -torch.inf)
    out, lse_gaussian = softmax_attention_triton(
        *reading, key_lengths=key_lengths, mask=added, scale=1.0, return_lse=True
    )
    # Both are -inf in a row that sees nothing. Their difference is NaN, and must not reach exp, whose gradient keeps it.
    share = torch.exp((lse_gaussian - lse).masked_fill(lse == -torch.inf, -torch.inf))
    return out * share[..., None].to(out.dtype)


def _project(q: Tensor, weight: Tensor | None) -> Tensor:
    return q if weight is None else q @ weight
