"""Additive attention: a small network scores every pair of query and key.

Bahdanau, Cho and Bengio 2014, https://arxiv.org/abs/1409.0473, section 3.1 and appendix A.1.2. There the query is the
decoder's previous state and keys and values are the encoder's annotations; here values may differ from keys.
"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import apply_mask, blank_padding, masked_softmax, visible_keys
from attncourse._shared.precision import outside_autocast, wide

from .inputs import check_additive


def additive_attention_loop(
    q: Float[Tensor, "t dq"],
    k: Float[Tensor, "s dk"],
    v: Float[Tensor, "s dv"],
    w_q: Float[Tensor, "a dq"],
    w_k: Float[Tensor, "a dk"],
    w_score: Float[Tensor, " a"],
) -> Float[Tensor, "t dv"]:
    """Read one sequence, pair by pair: the oracle that every other form is compared with."""
    out = torch.zeros(len(q), v.shape[-1], dtype=v.dtype, device=v.device)
    q, k, v, w_q, w_k, w_score = (wide(x) for x in (q, k, v, w_q, w_k, w_score))
    for i in range(len(q)):
        scores = torch.stack([w_score @ torch.tanh(w_q @ q[i] + w_k @ k[j]) for j in range(len(k))])
        weights = torch.exp(scores - scores.max())
        weights = weights / weights.sum()
        out[i] = sum(w * value for w, value in zip(weights, v, strict=True))
    return out


@outside_autocast
def additive_scores(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    w_q: Float[Tensor, "a dq"],
    w_k: Float[Tensor, "a dk"],
    w_score: Float[Tensor, " a"],
) -> Float[Tensor, "b h t s"]:
    """Return w_score . tanh(w_q q + w_k k) for every pair in float32 or better,
    through a hidden layer (appendix A.1.2).

    Forms the (b, h, t, s, a) hidden layer: that is what the blocked form and the kernel avoid.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the rule and the values.
    """
    check_additive(q, k, w_q, w_k, w_score)
    from_q = einsum(wide(q), wide(w_q), "b h t dq, a dq -> b h t a")
    from_k = einsum(wide(k), wide(w_k), "b h s dk, a dk -> b h s a")
    hidden = torch.tanh(from_q[:, :, :, None] + from_k[:, :, None])
    return einsum(hidden, wide(w_score), "b h t s a, a -> b h t s")


def additive_weights(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    w_q: Float[Tensor, "a dq"],
    w_k: Float[Tensor, "a dk"],
    w_score: Float[Tensor, " a"],
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "b h t s"]:
    """Return the soft alignment (equation 6):
    rows of weights that sum to 1, or to 0 where no key is visible, in q's dtype.

    Args:
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
    """
    check_additive(q, k, w_q, w_k, w_score, key_lengths=key_lengths, mask=mask)
    scores = additive_scores(q, blank_padding(k, key_lengths), w_q, w_k, w_score)
    visible = visible_keys(q.shape[2], k.shape[2], key_lengths=key_lengths, device=q.device)
    return masked_softmax(apply_mask(apply_mask(scores, mask), visible)).to(q.dtype)


@outside_autocast
def additive_attention(
    q: Float[Tensor, "b h t dq"],
    k: Float[Tensor, "b h s dk"],
    v: Float[Tensor, "b h s dv"],
    w_q: Float[Tensor, "a dq"],
    w_k: Float[Tensor, "a dk"],
    w_score: Float[Tensor, " a"],
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Return the context (equation 5): every query reads the values in proportion to its alignment with their keys.

    Args:
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the rule and the values.
    """
    check_additive(q, k, w_q, w_k, w_score, v=v, key_lengths=key_lengths, mask=mask)
    weights = additive_weights(q, k, w_q, w_k, w_score, key_lengths=key_lengths, mask=mask)
    out = einsum(wide(weights), wide(blank_padding(v, key_lengths)), "b h t s, b h s dv -> b h t dv")
    return out.to(v.dtype)
