"""Input errors of global and local attention, shared by every form of it."""

import torch
from torch import Tensor

from attncourse._shared.validate import check_key_lengths, check_qkv, check_widths, has_values, is_integer


def check_global_indices(global_indices: Tensor | None, *, b: int, t: int, like: Tensor) -> None:
    """Check that global_indices is an integer tensor (n,) or (b, n),
    each row distinct positions 0..t - 1, or -1 for none.

    Args:
        b, t: sequences and tokens.
        like: a tensor on the device where the indices should be.
    """
    if global_indices is None:
        return
    if not is_integer(global_indices):
        got = getattr(global_indices, "dtype", type(global_indices))
        raise ValueError(f"global_indices must be an integer tensor, got {got}")
    if global_indices.ndim != 1 and (global_indices.ndim != 2 or len(global_indices) != b):
        raise ValueError(f"global_indices must have shape (n,) or ({b}, n), got {tuple(global_indices.shape)}")
    if global_indices.device != like.device:
        raise ValueError(f"global_indices must be on {like.device}, got {global_indices.device}")
    if not has_values(global_indices):
        return
    low, high = int(global_indices.min()), int(global_indices.max())
    if low < -1 or high >= t:
        raise ValueError(f"global_indices must lie in 0..{t - 1} (or be -1 for none), got {low}..{high}")
    ordered = torch.atleast_2d(global_indices).sort(dim=-1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        raise ValueError(f"global_indices must be distinct, got {ordered[:, 1:][twice].tolist()[:4]} more than once")


def check_global_local(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    radius: int,
    global_indices: Tensor | None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None,
    key_lengths: Tensor | None,
) -> None:
    """Check inputs of one sequence that reads itself, and projections of its global tokens that fit them.

    Args:
        q, k, v: (b, h, t, dk), (b, g, t, dk), (b, g, t, dv).
        radius: at least 1.
        global_indices: (n,) or (b, n); None for no global tokens.
        global_qkv: (b, h, n, dk), (b, g, t, dk), (b, g, t, dv); None passes.
        key_lengths: (b,) integers; None passes.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    check_qkv(q, k, v)
    (b, _, t, _), s = q.shape, k.shape[2]
    if t != s:
        raise ValueError(f"a sequence reads itself, so q and k must share the length, got {t} and {s}")
    check_widths(radius=radius)
    check_global_indices(global_indices, b=b, t=t, like=q)
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    if global_qkv is None:
        return
    if global_indices is None:
        raise ValueError("global_qkv projects global tokens: it needs global_indices")
    check_qkv(*global_qkv)
    n = global_indices.shape[-1]
    wanted = ((*q.shape[:2], n, q.shape[3]), tuple(k.shape), tuple(v.shape))
    got = tuple(tuple(x.shape) for x in global_qkv)
    if got != wanted:
        raise ValueError(f"global_qkv must have the shapes {wanted} (queries of global tokens alone), got {got}")
    dtype, device = global_qkv[0].dtype, global_qkv[0].device
    if (dtype, device) != (q.dtype, q.device):
        raise ValueError(f"global_qkv must be {q.dtype} on {q.device} as q is, got {dtype} on {device}")
