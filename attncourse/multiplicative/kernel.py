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
    """Return what `multiplicative_attention` does, by the softmax kernel, with gradients.

    Args:
        q, k, v: (b, h, t, dq), (b, h, s, dk), (b, h, s, dv), float32, float16 or bfloat16, widths to 256.
        weight: (dq, dk) of the general score; None for the dot score.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).

    Raises:
        ValueError: a shape, dtype or device does not fit; what no kernel here can do (float64, a wider head, the
            gradient of an added mask, CPU tensors where Triton compiles).
    """
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
    """Return what `concat_attention` does, by the additive kernel, with gradients: W [q; k] = W_q q + W_k k.

    Args:
        q, k, v: (b, h, t, dq), (b, h, s, dk), (b, h, s, dv), float32, float16 or bfloat16, values of width to 256.
        weight: (a, dq + dk).
        w_score: (a,).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).

    Raises:
        ValueError: a shape, dtype or device does not fit; what no kernel here can do (float64, wider values, the
            gradient of an added mask, CPU tensors where Triton compiles).
    """
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
    """Return what `luong_local_attention` does, by the softmax kernel, twice for local-p;
    the positions get no gradient.

    softmax(x) * G = softmax(x + log G) * exp(lse(x + log G) - lse(x)): the Gaussian joins the scores, and two
    log-sum-exps undo the normalisation that it should not take part in. The log of the Gaussian is an added mask, which
    has no gradient here, so training local-p's position needs the reference.

    Args:
        q, k, v: (b, h, t, dq), (b, h, s, dk), (b, h, s, dv), float32, float16 or bfloat16, widths to 256.
        positions: (b, h, t), the middle of each window.
        weight: (dq, dk) of the general score; None for the dot score.
        radius: keys on either side of a position.
        gaussian: (b, h, t, s), what multiplies the weights; None for local-m.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.

    Raises:
        ValueError: a shape, dtype or device does not fit; the Gaussian asks for a gradient; what no kernel here can do
            (float64, a wider head, CPU tensors where Triton compiles).
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
