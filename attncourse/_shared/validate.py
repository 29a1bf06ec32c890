"""Errors that name the rule and the values received, shared by every form of a mechanism."""

import torch
from torch import Tensor


def require(condition: bool, rule: str) -> None:
    """Raise ValueError(rule) unless the condition holds."""
    if not condition:
        raise ValueError(rule)


def check_tensors(**tensors: Tensor) -> None:
    """All are floating-point tensors of one dtype on one device."""
    for name, x in tensors.items():
        require(isinstance(x, Tensor), f"{name} must be a torch.Tensor, got {type(x).__name__}")
        require(x.is_floating_point(), f"{name} must be floating point, got {x.dtype}")
    for what in ("dtype", "device"):
        found = {name: getattr(x, what) for name, x in tensors.items()}
        require(
            len(set(found.values())) <= 1,
            f"{', '.join(tensors)} must share one {what}, got " + ", ".join(f"{n}: {f}" for n, f in found.items()),
        )


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q is (b, h, t, dk), k (b, g, s, dk), v (b, g, s, dv), and g divides h."""
    check_tensors(q=q, k=k, v=v)
    for name, x in (("q", q), ("k", k), ("v", v)):
        require(x.ndim == 4, f"{name} must be (batch, heads, length, width), got shape {tuple(x.shape)}")
    shapes = f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    require(q.shape[0] == k.shape[0] == v.shape[0], f"q, k and v must share the batch size, {shapes}")
    require(q.shape[-1] == k.shape[-1], f"q and k must share the width dk, {shapes}")
    require(q.shape[-1] > 0, f"the width dk must be at least 1, {shapes}")
    require(k.shape[1:3] == v.shape[1:3], f"k and v must share heads and length, {shapes}")
    h, g = q.shape[1], k.shape[1]
    require(g > 0 and h % g == 0, f"the {g} key/value heads must divide the {h} query heads")


def check_mask(mask: Tensor | None, *, shape: tuple[int, int, int, int], like: Tensor) -> None:
    """mask is boolean (True = visible) or of the inputs' dtype (added), broadcastable to (b, h, t, s)."""
    if mask is None:
        return
    require(isinstance(mask, Tensor), f"mask must be a torch.Tensor, got {type(mask).__name__}")
    require(
        mask.dtype in (torch.bool, like.dtype),
        f"mask must be boolean (True = visible) or {like.dtype} (added to the scores), got {mask.dtype}",
    )
    require(mask.device == like.device, f"mask must be on {like.device}, got {mask.device}")
    fits = mask.ndim <= 4 and all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
    require(fits, f"mask must broadcast to (b, h, t, s) = {shape}, got {tuple(mask.shape)}")


def check_key_lengths(key_lengths: Tensor | None, *, b: int, s: int, like: Tensor) -> None:
    """key_lengths is an integer tensor (b,) on the inputs' device with 0 <= length <= s."""
    if key_lengths is None:
        return
    integer = (
        isinstance(key_lengths, Tensor) and not key_lengths.is_floating_point() and key_lengths.dtype != torch.bool
    )
    require(integer, f"key_lengths must be an integer tensor, got {getattr(key_lengths, 'dtype', type(key_lengths))}")
    require(key_lengths.shape == (b,), f"key_lengths must have shape ({b},), got {tuple(key_lengths.shape)}")
    require(key_lengths.device == like.device, f"key_lengths must be on {like.device}, got {key_lengths.device}")
    if b > 0 and not torch.compiler.is_compiling():  # while a graph is traced there are no values to look at
        low, high = int(key_lengths.min()), int(key_lengths.max())
        require(low >= 0 and high <= s, f"key_lengths must lie in 0..{s}, got {low}..{high}")


def check_states(query: Tensor, memory: Tensor, *, query_dim: int, memory_dim: int) -> None:
    """query is (b, t, query_dim) and memory (b, s, memory_dim): what a layer reads with, and what it reads."""
    check_tensors(query=query, memory=memory)
    fits = query.ndim == memory.ndim == 3 and query.shape[0] == memory.shape[0]
    require(
        fits and (query.shape[-1], memory.shape[-1]) == (query_dim, memory_dim),
        f"query must be (b, t, {query_dim}) and memory (b, s, {memory_dim}), "
        f"got {tuple(query.shape)} and {tuple(memory.shape)}",
    )


def check_widths(**widths: int) -> None:
    """Each is an integer of at least 1."""
    for name, width in widths.items():
        require(isinstance(width, int) and width >= 1, f"{name} must be an integer of at least 1, got {width!r}")


def check_window(window: int | None) -> None:
    """A window keeps at least the query's own key."""
    require(window is None or window >= 1, f"window must be at least 1 (it counts the query's own key), got {window}")


def check_softcap(softcap: float | None) -> None:
    """A softcap bounds |score|, so it is positive."""
    require(softcap is None or softcap > 0, f"softcap must be positive, got {softcap}")
