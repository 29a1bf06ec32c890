"""Errors that name the rule and the values received, shared by every form of a mechanism."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .precision import autocast_dtype


def require(condition: bool, rule: str) -> None:
    """Raise ValueError(rule) unless the condition holds."""
    if not condition:
        raise ValueError(rule)


def check_tensors(**tensors: Tensor) -> None:
    """All are floating-point tensors of one dtype on one device."""
    if _alike(tensors.values()):
        return  # the messages below take longer to write than many a call that they are about
    for name, x in tensors.items():
        require(isinstance(x, Tensor), f"{name} must be a torch.Tensor, got {type(x).__name__}")
        require(x.is_floating_point(), f"{name} must be floating point, got {x.dtype}")
    for what in ("dtype", "device"):
        found = {name: getattr(x, what) for name, x in tensors.items()}
        require(
            len(set(found.values())) <= 1,
            f"{', '.join(tensors)} must share one {what}, got " + ", ".join(f"{n}: {f}" for n, f in found.items()),
        )


def _alike(tensors: Collection[object]) -> bool:
    kinds = all(isinstance(x, Tensor) and x.is_floating_point() for x in tensors)
    return kinds and len({x.dtype for x in tensors}) <= 1 and len({x.device for x in tensors}) <= 1


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


def is_integer(x: object) -> bool:
    """A tensor of integers; booleans are none."""
    return isinstance(x, Tensor) and x.dtype != torch.bool and not (x.is_floating_point() or x.is_complex())


_values_asked: ContextVar[bool | None] = ContextVar("values_asked", default=None)


@contextmanager
def checking_values(asked: bool | None = True) -> Iterator[None]:
    """Whether checks look at what tensors hold (lengths, indices, slots) and not at their shapes alone.

    They do on a CPU, and not on CUDA, unless told: there each look waits for the device, and no CUDA graph takes it.
    None changes nothing.
    """
    token = _values_asked.set(_values_asked.get() if asked is None else asked)
    try:
        yield
    finally:
        _values_asked.reset(token)


def has_values(x: Tensor) -> bool:
    """Whether a check may look at the numbers: there are some, and looking is cheap or asked for (`checking_values`).

    There are none on the meta device, nor while a graph is traced.
    """
    if x.numel() == 0 or x.is_meta or torch.compiler.is_compiling():
        return False
    asked = _values_asked.get()
    return not x.is_cuda if asked is None else asked


def check_mask(mask: Tensor | None, *, shape: tuple[int, int, int, int], like: Tensor) -> None:
    """mask is boolean (True = visible) or floats (added) of the inputs' dtype or of their scores', broadcastable to
    (b, h, t, s)."""
    if mask is None:
        return
    require(isinstance(mask, Tensor), f"mask must be a torch.Tensor, got {type(mask).__name__}")
    added = dict.fromkeys((like.dtype, torch.promote_types(like.dtype, torch.float32)))
    hint = " (of ones and zeros, mask.bool() makes one)" if is_integer(mask) else ""
    require(
        mask.dtype == torch.bool or mask.dtype in added,
        f"mask must be boolean (True = visible) or {' or '.join(map(str, added))} (added to the scores), "
        f"got {mask.dtype}{hint}",
    )
    require(mask.device == like.device, f"mask must be on {like.device}, got {mask.device}")
    fits = mask.ndim <= 4 and all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
    require(fits, f"mask must broadcast to (b, h, t, s) = {shape}, got {tuple(mask.shape)}")


def check_key_lengths(key_lengths: Tensor | None, *, b: int, s: int, like: Tensor) -> None:
    """key_lengths is an integer tensor (b,) on the inputs' device with 0 <= length <= s."""
    if key_lengths is None:
        return
    got = getattr(key_lengths, "dtype", type(key_lengths))
    require(is_integer(key_lengths), f"key_lengths must be an integer tensor, got {got}")
    require(key_lengths.shape == (b,), f"key_lengths must have shape ({b},), got {tuple(key_lengths.shape)}")
    require(key_lengths.device == like.device, f"key_lengths must be on {like.device}, got {key_lengths.device}")
    if has_values(key_lengths):
        low, high = int(key_lengths.min()), int(key_lengths.max())
        require(low >= 0 and high <= s, f"key_lengths must lie in 0..{s}, got {low}..{high}")


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    softcap: float | None = None,
) -> None:
    """What every form of softmax attention takes: q, k, v that fit each other, and masks that fit them."""
    check_qkv(q, k, v)
    check_window(window)
    check_softcap(softcap)
    (b, h, t, _), s = q.shape, k.shape[2]
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    check_mask(mask, shape=(b, h, t, s), like=q)


def check_parameters(like: Tensor, **inputs: Tensor) -> None:
    """A layer's inputs are on its weights' device and of their dtype; under autocast, of any that it brings there."""
    for name, x in inputs.items():
        check_tensors(**{name: x})
        if autocast_dtype(like.device) is None or torch.float64 in (x.dtype, like.dtype):
            check_tensors(**inputs)
            check_tensors(**{name: x}, weight=like)
        require(x.device == like.device, f"{name} must be on {like.device} as the layer is, got {x.device}")


def check_tokens(x: Tensor, like: Tensor, *, name: str = "x") -> None:
    """A layer reads tokens (b, t, d) with its first matrix, (out, d)."""
    check_parameters(like, **{name: x})
    require(
        x.ndim == 3 and x.shape[-1] == like.shape[-1], f"{name} must be (b, t, {like.shape[-1]}), got {tuple(x.shape)}"
    )


def check_context(x: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor) -> None:
    """A layer reads a context (b, s, dc) for tokens x (b, t, d), each as wide as the matrix that meets it."""
    check_parameters(w_q, x=x, context=context)
    d_model, d_context = w_q.shape[-1], w_k.shape[-1]
    fits = x.ndim == context.ndim == 3 and x.shape[0] == context.shape[0]
    require(
        fits and (x.shape[-1], context.shape[-1]) == (d_model, d_context),
        f"x must be (b, t, {d_model}) and context (b, s, {d_context}), got {tuple(x.shape)} and {tuple(context.shape)}",
    )


def check_states(query: Tensor, memory: Tensor, *, query_dim: int, memory_dim: int, like: Tensor) -> None:
    """query is (b, t, query_dim) and memory (b, s, memory_dim): what a layer reads with, and what it reads."""
    check_parameters(like, query=query, memory=memory)
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
