"""Linear attention: what it is, as weights, as a recurrence, and one step of that; and the delta rule.

Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236, equations 4 to 7 (weights) and 16 to 20 (recurrence), with
the decay of Sun et al. 2023, https://arxiv.org/abs/2307.08621 (retention: a number a head) or Yang et al. 2023,
https://arxiv.org/abs/2312.06635 (gated: a number a step and feature). Here a decayed sum may be normalized too, by the
sum of what is left of its weights. The authors' code adds 1e-6 to that sum; nothing does here.
"""

from typing import Literal, Unpack, overload

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.masks import causal_mask
from attncourse._shared.precision import outside_autocast

from .features import FeatureMap, elu_plus_one
from .inputs import LinearOptions, check_delta, prepare
from .state import LinearState, absorb, at_queries, normalized, read_state


@overload
def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_state: Literal[False] = False, **options: Unpack[LinearOptions]
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_state: Literal[True], **options: Unpack[LinearOptions]
) -> tuple[Tensor, LinearState]:
    """Return the output and the last state."""
    ...


@outside_autocast
def linear_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    causal: bool = False,
    feature_map: FeatureMap = elu_plus_one,
    normalize: bool = True,
    decay: Tensor | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
    state: LinearState | None = None,
    return_state: bool = False,
) -> Float[Tensor, "b h t dv"] | tuple[Float[Tensor, "b h t dv"], LinearState]:
    """Every query mixes the values it may see, with weights phi(q) . phi(k): the definition, with its (t, s) weights.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
        feature_map: phi, from (..., dk) to (..., f).
        normalize: divide by the sum of the weights; without it, the output is the plain sum.
        decay: what a step leaves of the past, in (0, 1], broadcastable to (b, g, s, f): (g, 1, 1) is a number per head,
            (b, g, s, 1) one per step, (b, g, s, f) one per step and feature. Needs causal.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        state: what was read before these keys.
        return_state: give also the state after the last key: hand it to the next call, and the two are one.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the message names the rule and the values.
    """
    dtype = q.dtype
    q, k, v, decay, state = prepare(
        q, k, v, causal=causal, feature_map=feature_map, decay=decay, key_lengths=key_lengths, state=state
    )
    weights = linear_weights(q, k, causal=causal, decay=decay)
    by_group = rearrange(weights, "b (g r) t s -> b g r t s", g=k.shape[1])
    mixed = rearrange(einsum(by_group, v, "b g r t s, b g s dv -> b g r t dv"), "b g r t dv -> b (g r) t dv")
    from_state, state_total = read_state(q, state, decay=decay)
    total = weights.sum(dim=-1) + state_total
    out = normalized(mixed + from_state, total, normalize=normalize, dtype=dtype)
    return (out, absorb(state, k, v, decay=decay)) if return_state else out


def linear_weights(
    q: Float[Tensor, "b h t f"], k: Float[Tensor, "b g s f"], *, causal: bool, decay: Float[Tensor, "b g s fd"] | None
) -> Float[Tensor, "b h t s"]:
    """Return phi(q) . phi(k) of features; with decay each feature counts as much as the steps since left of it.

    Args:
        causal: whether weights of the future are 0.
    """
    (t, f), (g, s) = q.shape[2:], k.shape[1:3]
    grouped = rearrange(q, "b (g r) t f -> b g r t f", g=g)
    visible = causal_mask(t, s, device=q.device)
    if decay is None:
        weights = einsum(grouped, k, "b g r t f, b g s f -> b g r t s")
    else:
        reached = decay.log().cumsum(dim=2)
        since = at_queries(reached, t)[:, :, :, None] - reached[:, :, None]  # (b, g, t, s, 1 or f)
        left = since.masked_fill(~visible[..., None], -torch.inf).exp().expand(-1, -1, -1, -1, f)
        weights = einsum(grouped, k, left, "b g r t f, b g s f, b g t s f -> b g r t s")
    weights = rearrange(weights, "b g r t s -> b (g r) t s")
    return weights.masked_fill(~visible, 0.0) if causal else weights


@outside_autocast
def linear_attention_recurrent(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    feature_map: FeatureMap = elu_plus_one,
    normalize: bool = True,
    decay: Tensor | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
    state: LinearState | None = None,
) -> tuple[Float[Tensor, "b h t dv"], LinearState]:
    """Attend key by key, causally, and return also the state after the last: the oracle of every other form.

    Equations 18 to 20: S and z each keep what the decay leaves, and gain one key. Nothing else is remembered.

    Args:
        feature_map: phi, from (..., dk) to (..., f).
        normalize: divide by the sum of the weights; without it, the output is the plain sum.
        decay: what a step leaves of the past, in (0, 1], broadcastable to (b, g, s, f).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        state: what was read before these keys.
    """
    t, s, dtype = q.shape[2], k.shape[2], q.dtype
    q, k, v, decay, (S, z) = prepare(
        q, k, v, causal=True, feature_map=feature_map, decay=decay, key_lengths=key_lengths, state=state
    )
    rows = [q.new_zeros(*q.shape[:2], v.shape[-1]).to(dtype)] * max(t - s, 0)  # queries before the first key
    for j in range(s):
        if decay is not None:
            S, z = decay[:, :, j, :, None] * S, decay[:, :, j] * z
        S = S + einsum(k[:, :, j], v[:, :, j], "b g f, b g dv -> b g f dv")
        z = z + k[:, :, j]
        if j >= s - t:
            mixed, total = read_state(q[:, :, t - s + j, None], LinearState(S, z), decay=None)
            rows.append(normalized(mixed, total, normalize=normalize, dtype=dtype)[:, :, 0])
    out = torch.stack(rows, dim=2) if rows else q.new_zeros(*q.shape[:3], v.shape[-1]).to(dtype)
    return out, LinearState(S, z)


def linear_attention_step(
    q: Float[Tensor, "b h dk"],
    k: Float[Tensor, "b g dk"],
    v: Float[Tensor, "b g dv"],
    *,
    state: LinearState | None = None,
    feature_map: FeatureMap = elu_plus_one,
    normalize: bool = True,
    decay: Tensor | None = None,
) -> tuple[Float[Tensor, "b h dv"], LinearState]:
    """Take one step of decoding: read one token, give one output, in time that does not depend on the position.

    Args:
        state: what was read before this token (default: nothing).
        feature_map: phi, from (..., dk) to (..., f).
        normalize: divide by the sum of the weights; without it, the output is the plain sum.
        decay: what this step leaves of the past, in (0, 1], broadcastable to (b, g, f).
    """
    decay = decay if decay is None or decay.ndim == 0 else decay[..., None, :]
    out, state = linear_attention_recurrent(
        q[:, :, None], k[:, :, None], v[:, :, None], feature_map=feature_map, normalize=normalize, decay=decay,
        state=state,
    )  # fmt: skip
    return out[:, :, 0], state


def retention_decay(n_heads: int, *, dtype: torch.dtype = torch.float32, device=None) -> Float[Tensor, "h 1 1"]:
    """Return 1 - 2 ** (-5 - i) for head i:
    half of the past is left after 22 steps in the first, twice as many in the next.

    Sun et al. 2023, equation 8.

    Args:
        n_heads: heads.
        dtype, device: of the result.
    """
    return 1 - 2.0 ** (-5 - torch.arange(n_heads, dtype=dtype, device=device))[:, None, None]


@outside_autocast
def delta_rule_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    beta: Float[Tensor, "b g s"],
    *,
    state: Float[Tensor, "b g dk dv"] | None = None,
) -> tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b g dk dv"]]:
    """Attend causally with a memory that is corrected, key by key, and return also the memory after the last.

    Before it writes, a step reads what the memory already answers to its key, and writes only what is missing: S + beta
    k (v - S^T k)^T. Schlag et al. 2021, https://arxiv.org/abs/2102.11174, equation 22. For keys of length 1, beta = 1
    replaces what stood under the key, and beta = 0 leaves it. Query i of t stands at position s - t + i.

    Args:
        beta: how much of what is missing a step writes.
        state: the memory before these keys (default: zeros).

    Raises:
        ValueError: more queries than keys; a shape, dtype or device is wrong.
    """
    (g, s), t, dtype = k.shape[1:3], q.shape[2], q.dtype
    q, k, v, beta, S = check_delta(q, k, v, beta, state)
    rows = []
    for j in range(s):
        known = einsum(S, k[:, :, j], "b g dk dv, b g dk -> b g dv")
        missing = beta[:, :, j, None] * (v[:, :, j] - known)
        S = S + einsum(k[:, :, j], missing, "b g dk, b g dv -> b g dk dv")
        if j >= s - t:
            query = rearrange(q[:, :, t - s + j], "b (g r) dk -> b g r dk", g=g)
            rows.append(einsum(S, query, "b g dk dv, b g r dk -> b g r dv").flatten(1, 2))
    out = torch.stack(rows, dim=2) if rows else q.new_zeros(*q.shape[:3], v.shape[-1])
    return out.to(dtype), S
