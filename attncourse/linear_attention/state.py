"""The state of linear attention: all that it keeps of the past, how keys enter it, and how queries read it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor


class LinearState(NamedTuple):
    """The state is all that linear attention keeps of the past: its size does not depend on how long that was.

    Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236, equations 16 to 19. It is in float32, or float64 for
    float64 inputs: a long sum in half precision stops growing.
    """

    S: Float[Tensor, "b g f dv"]
    """Sum of phi(key) value^T, decayed."""
    z: Float[Tensor, "b g f"]
    """Sum of phi(key), decayed: the normalizer."""


class Inputs(NamedTuple):
    """The inputs are queries and keys as features, all in the precision of the sums; decay with a last axis of 1 or f."""

    q: Float[Tensor, "b h t f"]
    k: Float[Tensor, "b g s f"]
    v: Float[Tensor, "b g s dv"]
    decay: Float[Tensor, "b g s fd"] | None
    state: LinearState


def at_queries(x: Float[Tensor, "b g s fd"], t: int) -> Float[Tensor, "b g t fd"]:
    """Return x at the queries' positions s - t + i; those before the first key see nothing, whatever stands here."""
    s = x.shape[2]
    return x[:, :, torch.arange(s - t, s, device=x.device).clamp(min=0)] if s else x.new_ones(*x.shape[:2], t, 1)


def read_state(
    q: Float[Tensor, "b h t f"], state: LinearState, *, decay: Float[Tensor, "b g s fd"] | None
) -> tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b h t"]]:
    """Return what queries read of a state from before these keys: the mixture, and its total weight."""
    grouped = rearrange(q, "b (g r) t f -> b g r t f", g=state.S.shape[1])
    if decay is not None:
        grouped = grouped * at_queries(decay.cumprod(dim=2), q.shape[2])[:, :, None]
    mixed = einsum(grouped, state.S, "b g r t f, b g f dv -> b g r t dv")
    total = einsum(grouped, state.z, "b g r t f, b g f -> b g r t")
    return rearrange(mixed, "b g r t dv -> b (g r) t dv"), rearrange(total, "b g r t -> b (g r) t")


def absorb(
    state: LinearState,
    k: Float[Tensor, "b g s f"],
    v: Float[Tensor, "b g s dv"],
    *,
    decay: Float[Tensor, "b g s fd"] | None,
) -> LinearState:
    """Return the state after these keys, as one sum:
    of the past, and of each key with what the steps after it leave of it.
    """
    S, z = state
    if decay is not None and k.shape[2]:
        log = decay.log()
        left = log.flip(2).cumsum(dim=2).flip(2)  # from the end: the latest keys, which count most, are the most exact
        past = left[:, :, 0].exp()
        S, z = past[..., None] * S, past * z
        k = k * (left - log).exp()
    return LinearState(S + einsum(k, v, "b g s f, b g s dv -> b g f dv"), z + k.sum(dim=2))


def normalized(
    mixed: Float[Tensor, "b h t dv"], total: Float[Tensor, "b h t"], *, normalize: bool, dtype: torch.dtype
) -> Float[Tensor, "b h t dv"]:
    """Return the mixture divided by its weights' total where asked;
    zeros for a row of total weight 0, which sees nothing.

    Args:
        normalize: whether the total divides it.
        dtype: of the result.
    """
    if normalize:
        empty = total == 0
        mixed = (mixed / total.masked_fill(empty, 1.0)[..., None]).masked_fill(empty[..., None], 0.0)
    return mixed.to(dtype)


def attend_beside(
    inputs: Inputs, products: Callable[..., tuple], *, causal: bool, normalize: bool, dtype: torch.dtype
) -> tuple[Float[Tensor, "b h t dv"], LinearState]:
    """Return the output and the last state, of which only what no state can say is left to `products`.

    That is causal queries each beside its own key: products(q, k, v, decay, state) gives their mixture, total weight
    and last state. Keys before the first query are absorbed at once, and so are all keys where nothing is causal.

    Args:
        inputs: what `prepare` gives.
        products: gives what no state can say.
        causal: whether a query sees nothing after its position.
        normalize: whether the weights' total divides the mixture.
        dtype: of the output.
    """
    q, k, v, decay, state = inputs
    if not causal:
        state = absorb(state, k, v, decay=None)
        return normalized(*read_state(q, state, decay=None), normalize=normalize, dtype=dtype), state
    early, before = max(q.shape[2] - k.shape[2], 0), max(k.shape[2] - q.shape[2], 0)
    past, beside = (None, None) if decay is None else (decay[:, :, :before], decay[:, :, before:])
    state = absorb(state, k[:, :, :before], v[:, :, :before], decay=past)
    mixed, total, state = products(q[:, :, early:], k[:, :, before:], v[:, :, before:], beside, state)
    out = normalized(mixed, total, normalize=normalize, dtype=dtype)
    return torch.nn.functional.pad(out, (0, 0, early, 0)), state  # queries before the first key see nothing
