"""Linear attention chunk by chunk, in time and memory linear in the length, in plain PyTorch.

Within a chunk the weights are formed as in the definition; what came before the chunk is a state. The chunked form of
Hua et al. 2022, https://arxiv.org/abs/2202.10447, section 3.3, with the decay of Yang et al. 2023,
https://arxiv.org/abs/2312.06635, section 4, and for the delta rule Yang et al. 2024, https://arxiv.org/abs/2406.06484,
section 3.2. Every step is differentiable as it stands, so none has a backward pass of its own.
"""

import itertools
from typing import Literal, Unpack, overload

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import require

from .features import FeatureMap, elu_plus_one
from .inputs import CHUNK_OF_FEATURES, LinearOptions, check_chunked, check_delta, check_inputs, prepare
from .state import LinearState, attend_beside, read_state

# A causal piece of so many chunks hands its state to the next: what stands in between does not grow with the sequence.
CHUNKS_AT_ONCE = 32


@overload
def linear_attention_blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    chunk: int = 64,
    return_state: Literal[False] = False,
    **options: Unpack[LinearOptions],
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def linear_attention_blocked(
    q: Tensor, k: Tensor, v: Tensor, *, chunk: int = 64, return_state: Literal[True], **options: Unpack[LinearOptions]
) -> tuple[Tensor, LinearState]:
    """Return the output and the last state."""
    ...


@outside_autocast
def linear_attention_blocked(
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
    chunk: int = 64,
    return_state: bool = False,
) -> Float[Tensor, "b h t dv"] | tuple[Float[Tensor, "b h t dv"], LinearState]:
    """Return what `linear_attention` does, in chunks: the same result and gradients, time and memory linear in t + s.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
        feature_map: phi, from (..., dk) to (..., f).
        normalize: divide by the sum of the weights; without it, the output is the plain sum.
        decay: what a step leaves of the past, in (0, 1], broadcastable to (b, g, s, f). Needs causal.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        state: what was read before these keys.
        chunk: keys of a chunk.
        return_state: give also the state after the last key, with its gradient.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; a chunk below 1; a decay per feature below 1e-4.
    """
    require(chunk >= 1, f"chunk must be at least 1, got {chunk}")
    options = dict(causal=causal, feature_map=feature_map, normalize=normalize, chunk=chunk)
    if not causal:
        out, state = _piece(q, k, v, decay, key_lengths, state, **options)
        return (out, state) if return_state else out
    # A piece checks itself; what is wrong between the whole tensors it would not see.
    check_inputs(q, k, v, causal=causal, decay=decay, key_lengths=key_lengths, state=state)
    t, s = q.shape[2], k.shape[2]
    size = chunk * CHUNKS_AT_ONCE
    starts = range(0, max(s, 1), size)
    # Query i stands at s - t + i; the first piece also has those that stand before the first key.
    ends = [max(min(start + size, s) - (s - t), 0) for start in starts]
    # Split, not sliced: the gradient of a slice is as long as the whole.
    pieces = zip(
        starts,
        q.split([end - begin for begin, end in itertools.pairwise([0, *ends])], dim=2),
        k.split(size, dim=2),
        v.split(size, dim=2),
        [decay] * len(starts)  # one for every step
        if decay is None or decay.ndim < 2 or decay.shape[-2] == 1
        else decay.split(size, dim=-2),
        strict=True,
    )
    outs = []
    for start, q_piece, k_piece, v_piece, decay_piece in pieces:
        lengths = None if key_lengths is None else (key_lengths.long() - start).clamp(0, k_piece.shape[2])
        out, state = _piece(q_piece, k_piece, v_piece, decay_piece, lengths, state, **options)
        outs.append(out)
    assert state is not None  # there is a first piece, of however few keys
    out = torch.cat(outs, dim=2)
    return (out, state) if return_state else out


def _piece(q, k, v, decay, key_lengths, state, *, causal, feature_map, normalize, chunk) -> tuple[Tensor, LinearState]:
    """Return the output and the next state of one piece, all of its chunks at once."""
    inputs = prepare(q, k, v, causal=causal, feature_map=feature_map, decay=decay, key_lengths=key_lengths, state=state)
    check_chunked(inputs.decay)
    if inputs.decay is not None and inputs.decay.shape[-1] > 1:
        chunk = min(chunk, CHUNK_OF_FEATURES)
    return attend_beside(
        inputs, lambda *beside: _in_chunks(*beside, chunk=chunk), causal=causal, normalize=normalize, dtype=q.dtype
    )


def _in_chunks(q, k, v, decay, state, *, chunk):
    """Return mixture, total weight and last state of causal queries beside their keys, (b, h, n, f) and (b, g, n, f)."""
    n, g = k.shape[2], k.shape[1]
    if 0 in (n, q.shape[0]):
        return (*read_state(q, state, decay=None), state)
    q = rearrange(_whole_chunks(q, chunk), "b (g r) (m c) f -> b g m r c f", g=g, c=chunk)
    k, v = (rearrange(_whole_chunks(x, chunk), "b g (m c) f -> b g m c f", c=chunk) for x in (k, v))
    reached = None
    if decay is not None:
        decay = rearrange(_whole_chunks(decay, chunk, 1.0), "b g (m c) f -> b g m c f", c=chunk)
        reached = decay.log().cumsum(dim=3)  # since the chunk's beginning
    weights = _chunk_weights(q, k, reached)
    entering, state = _chunk_states(k, v, reached, state)
    if reached is not None:
        q = q * reached.exp()[:, :, :, None]
    q, weights = q.flatten(3, 4), weights.flatten(3, 4)  # heads of a group read the same keys: more rows
    mixed = torch.baddbmm((weights.flatten(0, 2) @ v.flatten(0, 2)), q.flatten(0, 2), entering.S.flatten(0, 2))
    total = weights.sum(dim=-1) + (q @ entering.z[..., None])[..., 0]
    b, r = q.shape[0], q.shape[3] // chunk
    mixed = rearrange(mixed, "(b g m) (r c) dv -> b (g r) (m c) dv", b=b, g=g, r=r)
    return mixed[:, :, :n], rearrange(total, "b g m (r c) -> b (g r) (m c)", r=r)[:, :, :n], state


def _whole_chunks(x, chunk, fill=0.0):
    """Return x with the length filled up to a multiple of the chunk: keys without features change nothing."""
    missing = -x.shape[2] % chunk
    return torch.nn.functional.pad(x, (0, 0, 0, missing), value=fill) if missing else x


def _chunk_weights(q, k, reached):
    """Return the causal weights within each chunk, (b, g, m, r, c, c)."""
    k = k[:, :, :, None]
    if reached is None:
        return (q @ k.transpose(-1, -2)).tril()
    reached = reached[:, :, :, None]
    if reached.shape[-1] == 1:
        since = (reached - reached.transpose(-1, -2)).tril()  # above the diagonal it would overflow
        return (q @ k.transpose(-1, -2) * since.exp()).tril()
    middle = reached[..., reached.shape[-2] // 2, None, :]
    return ((q * (reached - middle).exp()) @ (k * (middle - reached).exp()).transpose(-1, -2)).tril()


def _chunk_states(k, v, reached, state):
    """Return the state that enters each chunk, (b, g, m, f, dv) and (b, g, m, f), and the one after the last."""
    if reached is not None:
        k = k * (reached[:, :, :, -1:] - reached).exp()  # as much as is left at the chunk's end
    gains, sums = (k.transpose(-1, -2) @ v).unbind(dim=2), k.sum(dim=3).unbind(dim=2)
    left = None if reached is None else reached[:, :, :, -1].exp().unbind(dim=2)
    S, z = state
    entering = [], []
    for m, (gain, keys) in enumerate(zip(gains, sums, strict=True)):
        entering[0].append(S)
        entering[1].append(z)
        if left is not None:
            S, z = left[m][..., None] * S, left[m] * z
        S, z = S + gain, z + keys
    return LinearState(*(torch.stack(x, dim=2) for x in entering)), LinearState(S, z)


@outside_autocast
def delta_rule_blocked(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    beta: Float[Tensor, "b g s"],
    *,
    state: Float[Tensor, "b g dk dv"] | None = None,
    chunk: int = 64,
) -> tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b g dk dv"]]:
    """Return what `delta_rule_attention` does, in chunks: within one, what each step writes solves a triangular system.

    A step writes u_i = beta_i (v_i - S^T k_i - sum over j < i of (k_i . k_j) u_j): (I + L) U = beta (V - K S) with L =
    tril(beta K K^T, -1), which is Yang et al. 2024, equations 10 and 11.

    Args:
        beta: how much of what is missing a step writes.
        state: the memory before these keys (default: zeros).
        chunk: keys of a chunk.

    Raises:
        ValueError: more queries than keys; a shape, dtype or device is wrong; a chunk below 1.
    """
    require(chunk >= 1, f"chunk must be at least 1, got {chunk}")
    (g, s), t, dtype = k.shape[1:3], q.shape[2], q.dtype
    q, k, v, beta, S = check_delta(q, k, v, beta, state)
    q = rearrange(q, "b (g r) t dk -> b g r t dk", g=g)
    q = torch.nn.functional.pad(q, (0, 0, s - t, 0))
    outs = []
    for q_c, k_c, v_c, beta_c in zip(*(x.split(chunk, dim=-2) for x in (q, k, v, beta[..., None])), strict=True):
        lower = (beta_c * (k_c @ k_c.transpose(-1, -2))).tril(-1)
        written = torch.linalg.solve_triangular(lower, beta_c * (v_c - k_c @ S), upper=False, unitriangular=True)
        weights = (q_c @ k_c.transpose(-1, -2)[:, :, None]).tril()
        outs.append(q_c @ S[:, :, None] + weights @ written[:, :, None])
        S = S + k_c.transpose(-1, -2) @ written
    out = torch.cat(outs, dim=-2) if outs else q.new_zeros(*q.shape[:-1], v.shape[-1])
    return rearrange(out[..., s - t :, :], "b g r t dv -> b (g r) t dv").to(dtype), S
