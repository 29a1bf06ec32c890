"""What every form of linear attention does first: check, map to features, blank the padding, start the state."""

from typing import TypedDict

import torch
from jaxtyping import Int
from torch import Tensor

from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import wide
from attncourse._shared.validate import check_key_lengths, check_qkv, check_tensors, has_values

from .features import FeatureMap
from .state import Inputs, LinearState

# With a decay a feature, a chunk is factored around its middle: 8 steps of 1e-4 are the most that float32 holds.
CHUNK_OF_FEATURES, LEAST_DECAY = 16, 1e-4


class LinearOptions(TypedDict, total=False):
    """The options are what forms of linear attention take beside q, k and v; `linear_attention` says what each means."""

    causal: bool
    feature_map: FeatureMap
    normalize: bool
    decay: Tensor | None
    key_lengths: Int[Tensor, " b"] | None
    state: LinearState | None


def prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    feature_map: FeatureMap,
    decay: Tensor | None,
    key_lengths: Int[Tensor, " b"] | None,
    state: LinearState | None,
) -> Inputs:
    """Return the checked inputs; a padded key has no features, no value and no decay, whatever stands there.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv).
        causal: whether a query sees nothing after its position.
        feature_map: phi, from (..., dk) to (..., f).
        decay: what a step leaves of the past, in (0, 1], broadcastable to (b, g, s, f); None for all.
        key_lengths: (b,) integers; later keys are padding.
        state: what was read before these keys; None for nothing.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    check_inputs(q, k, v, causal=causal, decay=decay, key_lengths=key_lengths, state=state)
    (b, g, s), dv = k.shape[:3], v.shape[-1]
    features, queries = feature_map(wide(blank_padding(k, key_lengths))), feature_map(wide(q))
    f = features.shape[-1]
    if queries.shape != (*q.shape[:3], f) or features.shape != (b, g, s, f):
        raise ValueError(
            "a feature map changes the last axis alone, and alike for q and k: "
            f"from {tuple(q.shape)} and {tuple(k.shape)} it made {tuple(queries.shape)} and {tuple(features.shape)}"
        )
    if decay is not None:
        decay = _full_decay(decay, (b, g, s, f)).to(queries.dtype)
        if key_lengths is not None:
            exists = torch.arange(s, device=q.device)[:, None] < key_lengths[:, None, None, None]
            decay = torch.where(exists, decay, 1.0)
        check_decay(decay)
    if state is None:
        state = LinearState(queries.new_zeros(b, g, f, dv), queries.new_zeros(b, g, f))
    check_state(state, (b, g, f, dv), like=queries)
    return Inputs(queries, blank_padding(features, key_lengths), wide(blank_padding(v, key_lengths)), decay, state)


def check_chunked(decay: Tensor | None) -> None:
    """Check a decay per feature: it is factored around the middle of a chunk,
    where no factor may leave float32's range.
    """
    if decay is None or decay.shape[-1] == 1 or not has_values(decay):
        return
    low = decay.min().item()
    if low < LEAST_DECAY:
        raise ValueError(f"in chunks a decay a feature must be at least {LEAST_DECAY:g}, got {low:g}")


def check_inputs(q, k, v, *, causal, decay, key_lengths, state) -> None:
    """Check what can be checked before keys are features.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv).
        causal: whether a query sees nothing after its position.
        decay: needs causal; None passes.
        key_lengths: (b,) integers; None passes.
        state: of the right kind; None passes.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    check_qkv(q, k, v)
    (b, g, s), t = k.shape[:3], q.shape[2]
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    if decay is not None and not causal:
        raise ValueError("decay counts the steps since a key, so it needs causal=True")
    if state is not None and causal and t > s:
        raise ValueError(f"with a state, causal queries are the last t of the s keys' positions, got t={t}, s={s}")
    if decay is None:
        return
    if not (isinstance(decay, Tensor) and decay.is_floating_point() and decay.device == q.device):
        got = getattr(decay, "dtype", type(decay))
        raise ValueError(f"decay must be a floating-point tensor on {q.device}, got {got}")
    if decay.ndim > 4 or any(m not in (1, n) for m, n in zip(decay.shape[-2::-1], (s, g, b), strict=False)):
        raise ValueError(f"decay must broadcast to (b, g, s, f) = ({b}, {g}, {s}, features), got {tuple(decay.shape)}")


def _full_decay(decay: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Return the decay expanded to (b, g, s, 1) or (b, g, s, f): one factor per step, or one per feature and step."""
    last = decay.shape[-1] if decay.ndim else 1
    if last not in (1, shape[-1]):
        raise ValueError(f"decay must broadcast to (b, g, s, f) = {shape}, got {tuple(decay.shape)}")
    return decay.expand(*shape[:3], last)


def check_decay(decay: Tensor) -> None:
    """Check that every factor of the decay lies in (0, 1]."""
    if has_values(decay):
        low, high = decay.min().item(), decay.max().item()
        if not (low > 0 and high <= 1):  # nor is NaN
            raise ValueError(f"decay must lie in (0, 1], got {low:g}..{high:g}")


def check_state(state: LinearState, shape: tuple[int, int, int, int], *, like: Tensor) -> None:
    """Check that in state S is (b, g, f, dv) and z (b, g, f), in the precision of the sums.

    Args:
        shape: (b, g, f, dv).
        like: a tensor of the sums' dtype and device.
    """
    check_memory("state's S", state.S, shape, like=like)
    check_memory("state's z", state.z, shape[:3], like=like)


def check_memory(name: str, x: Tensor, shape: tuple[int, ...], *, like: Tensor) -> None:
    """Check that x has this shape, and is where and as precise as the sums are.

    Args:
        name: of x, for the message.
        like: a tensor of the sums' dtype and device.
    """
    if x.shape != shape:
        raise ValueError(f"the {name} must have shape {shape}, got {tuple(x.shape)}")
    if (x.dtype, x.device) != (like.dtype, like.device):
        raise ValueError(f"the {name} must be {like.dtype} on {like.device}, got {x.dtype} on {x.device}")


def check_delta(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the delta rule's inputs and its memory, checked, in the precision of the sums.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv).
        beta: (b, g, s).
        state: (b, g, dk, dv); None for zeros.
    """
    check_qkv(q, k, v)
    check_tensors(q=q, beta=beta)
    (t, dk), (b, g, s, dv) = q.shape[2:], v.shape
    if t > s:
        raise ValueError(f"the t queries are the last of the s keys' positions, got t={t}, s={s}")
    if beta.shape != (b, g, s):
        raise ValueError(f"beta must have shape (b, g, s) = {(b, g, s)}, got {tuple(beta.shape)}")
    q, k, v, beta = (wide(x) for x in (q, k, v, beta))
    state = k.new_zeros(b, g, dk, dv) if state is None else state
    check_memory("memory", state, (b, g, dk, dv), like=q)
    return q, k, v, beta, state
