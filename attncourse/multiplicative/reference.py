"""Multiplicative attention: a product scores a pair, over all keys or over a window of them.

Luong, Pham and Manning 2015, https://arxiv.org/abs/1508.04025: scores in equation 8, local attention in section 3.2.
The query is the decoder's current state h_t, keys and values are the encoder's states. No scale is applied, as there;
Vaswani et al. added it two years later. Positions count from 0 here and from 1 there.
"""

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.masks import apply_mask, blank_padding, length_mask, masked_softmax
from attncourse._shared.precision import outside_autocast, wide

from .inputs import (
    check_concat,
    check_pair,
    check_positions,
    check_predictor,
    check_radius,
    check_reading,
    check_weight,
)


def multiplicative_attention_loop(
    q: Float[Tensor, "t dq"],
    k: Float[Tensor, "s dk"],
    v: Float[Tensor, "s dv"],
    weight: Float[Tensor, "dq dk"],
) -> Float[Tensor, "t dv"]:
    """Read one sequence by the general score, pair by pair: the oracle. The dot score is the identity as weight."""
    out = torch.zeros(len(q), v.shape[-1], dtype=v.dtype, device=v.device)
    q, k, v, weight = wide(q), wide(k), wide(v), wide(weight)
    for i in range(len(q)):
        scores = torch.stack([q[i] @ (weight @ k[j]) for j in range(len(k))])
        weights = torch.exp(scores - scores.max())
        weights = weights / weights.sum()
        out[i] = sum(w * value for w, value in zip(weights, v, strict=True))
    return out


@outside_autocast
def dot_scores(q: Float[Tensor, "b h t d"], k: Float[Tensor, "b h s d"]) -> Float[Tensor, "b h t s"]:
    """Return q . k: no parameters, equal widths (equation 8, dot)."""
    check_pair(q, k)
    check_weight(q, k, None)
    return einsum(wide(q), wide(k), "b h t d, b h s d -> b h t s")


@outside_autocast
def general_scores(
    q: Float[Tensor, "b h t dq"], k: Float[Tensor, "b h s dk"], weight: Float[Tensor, "dq dk"]
) -> Float[Tensor, "b h t s"]:
    """Return q . W k: a dot product after a projection, so widths may differ (equation 8, general)."""
    check_pair(q, k)
    check_weight(q, k, weight)
    return einsum(wide(q), wide(weight), wide(k), "b h t dq, dq dk, b h s dk -> b h t s")


@outside_autocast
def concat_scores(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    weight: Float[Tensor, "a dqk"],
    w_score: Float[Tensor, " a"],
) -> Float[Tensor, "b h t s"]:
    """Return w_score . tanh(W [q; k]): Bahdanau's score with both projections in one matrix (equation 8, concat)."""
    check_pair(q, k)
    check_concat(q, k, weight, w_score)
    t, s = q.shape[2], k.shape[2]
    q, k, weight = wide(q), wide(k), wide(weight)
    pairs = torch.cat([q[:, :, :, None].expand(-1, -1, -1, s, -1), k[:, :, None].expand(-1, -1, t, -1, -1)], dim=-1)
    hidden = torch.tanh(einsum(pairs, weight, "b h t s dqk, a dqk -> b h t s a"))
    return einsum(hidden, wide(w_score), "b h t s a, a -> b h t s")


@outside_autocast
def _read(scores: Tensor, v: Tensor, key_lengths: Tensor | None, mask: Tensor | None) -> Tensor:
    """Mix the values of the visible keys by the softmax of their scores (equation 7)."""
    if key_lengths is not None:
        scores = apply_mask(scores, length_mask(key_lengths, scores.shape[-1]))
    weights = masked_softmax(apply_mask(scores, mask))
    return einsum(weights, wide(blank_padding(v, key_lengths)), "b h t s, b h s dv -> b h t dv").to(v.dtype)


def multiplicative_attention(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    v: Float[Tensor, "b h s dv"],
    weight: Float[Tensor, "dq dk"] | None = None,
    *,
    key_lengths: Int[Tensor, " b"] | None = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Attend globally by the dot score, or by the general score where a weight is given.

    Args:
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the rule and the values.
    """
    check_reading(q, k, v, key_lengths, mask)
    k = blank_padding(k, key_lengths)
    scores = dot_scores(q, k) if weight is None else general_scores(q, k, weight)
    return _read(scores, v, key_lengths, mask)


def concat_attention(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    v: Float[Tensor, "b h s dv"],
    weight: Float[Tensor, "a dqk"],
    w_score: Float[Tensor, " a"],
    *,
    key_lengths: Int[Tensor, " b"] | None = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Attend globally by the concat score.

    Args:
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the rule and the values.
    """
    check_reading(q, k, v, key_lengths, mask)
    return _read(concat_scores(q, blank_padding(k, key_lengths), weight, w_score), v, key_lengths, mask)


@outside_autocast
def predicted_positions(
    q: Float[Tensor, "b h t dq"],
    w_position: Float[Tensor, "a dq"],
    v_position: Float[Tensor, " a"],
    source_lengths: Int[Tensor, " b"],
) -> Float[Tensor, "b h t"]:
    """Return where each query expects its source, S sigmoid(v . tanh(W q)), a real number in [0, S - 1] (equation 9).

    The paper's S counts positions from 1 to S; here they run from 0 to S - 1, so the sigmoid spans S - 1. Positions are
    float32 at least: bfloat16 knows no odd number beyond 256.
    """
    check_predictor(q, w_position, v_position, source_lengths)
    hidden = torch.tanh(einsum(wide(q), wide(w_position), "b h t dq, a dq -> b h t a"))
    fraction = torch.sigmoid(einsum(hidden, wide(v_position), "b h t a, a -> b h t"))
    return (source_lengths.long() - 1).clamp_min(0)[:, None, None] * fraction


def local_window(positions: Float[Tensor, "b h t"], s: int, *, radius: int) -> Float[Tensor, "b h t s"]:
    """Return 1 for those of s keys within `radius` of a query's position and 0 elsewhere:
    2 radius + 1 keys for a whole position.
    """
    check_radius(radius)
    distance = torch.arange(s, device=positions.device) - positions[..., None]
    return (distance.abs() <= radius).to(positions.dtype)


def gaussian_weights(positions: Float[Tensor, "b h t"], s: int, *, radius: int) -> Float[Tensor, "b h t s"]:
    """Return exp(-(j - p)^2 / 2 sigma^2) with sigma = radius / 2 for key j of s:
    what local-p multiplies the alignment by (equation 10).
    """
    check_radius(radius)
    distance = torch.arange(s, device=positions.device) - positions[..., None]
    return torch.exp(-distance.square() / (2 * (radius / 2) ** 2))


@outside_autocast
def luong_local_attention(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    v: Float[Tensor, "b h s dv"],
    positions: Float[Tensor, "b h t"],
    weight: Float[Tensor, "dq dk"] | None = None,
    *,
    radius: int,
    gaussian: Float[Tensor, "b h t s"] | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Attend to the keys within `radius` of a position: local-m, and local-p with the Gaussian of its position.

    The softmax runs over the window alone. The Gaussian multiplies its weights and they are not normalised again, as in
    the paper, so a row of local-p sums to less than 1.

    Args:
        radius: keys on either side of a position.
        gaussian: what multiplies the weights; None for local-m.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
    """
    check_reading(q, k, v, key_lengths, None)
    k = blank_padding(k, key_lengths)
    scores = dot_scores(q, k) if weight is None else general_scores(q, k, weight)
    check_positions(positions, gaussian, scores_shape=scores.shape)
    window = local_window(positions, k.shape[2], radius=radius) > 0
    if key_lengths is not None:
        window = window & length_mask(key_lengths, k.shape[2])
    weights = masked_softmax(apply_mask(scores, window))
    if gaussian is not None:
        weights = weights * gaussian.to(weights.dtype)
    return einsum(weights, wide(blank_padding(v, key_lengths)), "b h t s, b h s dv -> b h t dv").to(v.dtype)
