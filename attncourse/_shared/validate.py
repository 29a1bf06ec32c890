"""Errors that name the rule and the values received, shared by every form of a mechanism."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .precision import autocast_dtype


def require(condition: bool, rule: str) -> None:
    """Raise ValueError(rule) unless the condition holds.

    What says the rule is formatted whether it holds or not: where every call passes, `if not condition: raise` instead.
    """
    if not condition:
        raise ValueError(rule)


def shapes_of(**tensors: Tensor) -> str:
    """Return what was received, for a message: the tensors' names and shapes."""
    return "got " + ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())


def check_tensors(**tensors: Tensor) -> None:
    """Check that all tensors are floating-point, of one dtype and on one device."""
    if _alike(tensors.values()):
        return
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {x.dtype}")
    for what in ("dtype", "device"):
        found = {name: getattr(x, what) for name, x in tensors.items()}
        if len(set(found.values())) > 1:
            got = ", ".join(f"{name}: {value}" for name, value in found.items())
            raise ValueError(f"{', '.join(tensors)} must share one {what}, got {got}")


def _alike(tensors: Collection[object]) -> bool:
    first = next(iter(tensors))
    if not (isinstance(first, Tensor) and first.is_floating_point()):
        return False
    dtype, device = first.dtype, first.device
    return all(isinstance(x, Tensor) and x.dtype == dtype and x.device == device for x in tensors)


def check_axes(**tensors: Tensor) -> None:
    """Check that each of the tensors is (batch, heads, length, width)."""
    for name, x in tensors.items():
        if x.ndim != 4:
            raise ValueError(f"{name} must be (batch, heads, length, width), got shape {tuple(x.shape)}")


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check that q is (b, h, t, dk), k (b, g, s, dk), v (b, g, s, dv), and that g divides h."""
    check_tensors(q=q, k=k, v=v)
    check_axes(q=q, k=k, v=v)
    (b, h, _, dk), (b_k, g, s, width), (b_v, g_v, s_v, _) = q.shape, k.shape, v.shape
    if not b == b_k == b_v:
        raise ValueError(f"q, k and v must share the batch size, {shapes_of(q=q, k=k, v=v)}")
    if dk != width:
        raise ValueError(f"q and k must share the width dk, {shapes_of(q=q, k=k, v=v)}")
    if dk == 0:
        raise ValueError(f"the width dk must be at least 1, {shapes_of(q=q, k=k, v=v)}")
    if (g, s) != (g_v, s_v):
        raise ValueError(f"k and v must share heads and length, {shapes_of(q=q, k=k, v=v)}")
    if g == 0 or h % g != 0:
        raise ValueError(f"the {g} key/value heads must divide the {h} query heads")


def is_integer(x: object) -> bool:
    """Return whether x is a tensor of integers; booleans are none."""
    return isinstance(x, Tensor) and x.dtype != torch.bool and not (x.is_floating_point() or x.is_complex())


_values_asked: ContextVar[bool | None] = ContextVar("values_asked", default=None)


@contextmanager
def checking_values(asked: bool | None = True) -> Iterator[None]:
    """Let checks look at what tensors hold (lengths, indices, slots), or at their shapes alone.

    Args:
        asked: whether they look. None changes nothing: they do on a CPU, and not on CUDA, where each look waits for the
            device and no CUDA graph takes it.
    """
    token = _values_asked.set(_values_asked.get() if asked is None else asked)
    try:
        yield
    finally:
        _values_asked.reset(token)


def has_values(x: Tensor) -> bool:
    """Return whether a check may look at the numbers of x:
    there are some, and looking is cheap or asked for (`checking_values`).

    There are none on the meta device, nor while a graph is traced.
    """
    if x.numel() == 0 or x.is_meta or torch.compiler.is_compiling():
        return False
    asked = _values_asked.get()
    return not x.is_cuda if asked is None else asked


def check_mask(mask: Tensor | None, *, shape: tuple[int, int, int, int], like: Tensor) -> None:
    """Check that mask is boolean (True = visible) or floats (added), and fits the scores.

    Args:
        mask: None passes.
        shape: (b, h, t, s) of the scores, to which the mask must broadcast.
        like: one of the inputs: floats are of its dtype or of its scores', and on its device.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype not in (torch.bool, like.dtype, torch.promote_types(like.dtype, torch.float32)):
        added = dict.fromkeys((like.dtype, torch.promote_types(like.dtype, torch.float32)))
        hint = " (of ones and zeros, mask.bool() makes one)" if is_integer(mask) else ""
        raise ValueError(
            f"mask must be boolean (True = visible) or {' or '.join(map(str, added))} (added to the scores), "
            f"got {mask.dtype}{hint}"
        )
    if mask.device != like.device:
        raise ValueError(f"mask must be on {like.device}, got {mask.device}")
    if mask.ndim > 4 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"mask must broadcast to (b, h, t, s) = {shape}, got {tuple(mask.shape)}")


def check_key_lengths(key_lengths: Tensor | None, *, b: int, s: int, like: Tensor) -> None:
    """Check that key_lengths is an integer tensor (b,) on the device of `like` with 0 <= length <= s."""
    if key_lengths is None:
        return
    if not is_integer(key_lengths):
        got = getattr(key_lengths, "dtype", type(key_lengths))
        raise ValueError(f"key_lengths must be an integer tensor, got {got}")
    if key_lengths.shape != (b,):
        raise ValueError(f"key_lengths must have shape ({b},), got {tuple(key_lengths.shape)}")
    if key_lengths.device != like.device:
        raise ValueError(f"key_lengths must be on {like.device}, got {key_lengths.device}")
    if has_values(key_lengths):
        low, high = (int(x) for x in key_lengths.aminmax())
        if low < 0 or high > s:
            raise ValueError(f"key_lengths must lie in 0..{s}, got {low}..{high}")


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
    """Check what every form of softmax attention takes.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv).
        window: at least 1; None passes.
        key_lengths: (b,) integers from 0 to s; None passes.
        mask: boolean or floats, broadcastable to (b, h, t, s); None passes.
        softcap: above 0; None passes.

    Raises:
        ValueError: the message names the rule and what was received.
    """
    check_qkv(q, k, v)
    check_window(window)
    check_softcap(softcap)
    (b, h, t, _), s = q.shape, k.shape[2]
    check_key_lengths(key_lengths, b=b, s=s, like=q)
    check_mask(mask, shape=(b, h, t, s), like=q)


def check_parameters(like: Tensor, **inputs: Tensor) -> None:
    """Check that a layer's inputs are on its weights' device and of their dtype;
    under autocast, of any that it brings there.

    Args:
        like: one of the weights.
        inputs: tensors by the names that a message calls them.
    """
    if _alike([like, *inputs.values()]):
        return
    for name, x in inputs.items():
        check_tensors(**{name: x})
        if autocast_dtype(like.device) is None or torch.float64 in (x.dtype, like.dtype):
            check_tensors(**inputs)
            check_tensors(**{name: x}, weight=like)
        if x.device != like.device:
            raise ValueError(f"{name} must be on {like.device} as the layer is, got {x.device}")


def check_tokens(x: Tensor, like: Tensor, *, name: str = "x") -> None:
    """Check that a layer reads x as tokens (b, t, d) with its first matrix `like`, (out, d);
    a message calls x by `name`.
    """
    check_parameters(like, **{name: x})
    if x.ndim != 3 or x.shape[-1] != like.shape[-1]:
        raise ValueError(f"{name} must be (b, t, {like.shape[-1]}), got {tuple(x.shape)}")


def check_context(x: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor) -> None:
    """Check that a layer can read a context (b, s, dc) for tokens x (b, t, d).

    Args:
        w_q, w_k: the matrices (out, d) and (out, dc) that meet them.
    """
    check_parameters(w_q, x=x, context=context)
    check_sequences(x, context, d_model=w_q.shape[-1], d_context=w_k.shape[-1])


def check_sequences(x: Tensor, context: Tensor, *, d_model: int, d_context: int) -> None:
    """Check that x is (b, t, d_model) and context, which is read, (b, s, d_context)."""
    if not _two_sequences(x, context, d_model, d_context):
        raise ValueError(
            f"x must be (b, t, {d_model}) and context (b, s, {d_context}), "
            f"got {tuple(x.shape)} and {tuple(context.shape)}"
        )


def check_states(query: Tensor, memory: Tensor, *, query_dim: int, memory_dim: int, like: Tensor) -> None:
    """Check that query is (b, t, query_dim), what a layer reads with, and memory (b, s, memory_dim), what it reads.

    Args:
        like: one of the layer's weights, for dtype and device.
    """
    check_parameters(like, query=query, memory=memory)
    if not _two_sequences(query, memory, query_dim, memory_dim):
        raise ValueError(
            f"query must be (b, t, {query_dim}) and memory (b, s, {memory_dim}), "
            f"got {tuple(query.shape)} and {tuple(memory.shape)}"
        )


def _two_sequences(x: Tensor, y: Tensor, x_width: int, y_width: int) -> bool:
    """Return whether both are (b, length, width) of one batch and these widths."""
    fits = x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0]
    return fits and x.shape[-1] == x_width and y.shape[-1] == y_width


def check_widths(**widths: int) -> None:
    """Check that each of the widths is an integer of at least 1."""
    for name, width in widths.items():
        if not (isinstance(width, int) and width >= 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {width!r}")


def check_window(window: int | None) -> None:
    """Check that a window keeps at least the query's own key."""
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1 (it counts the query's own key), got {window}")


def check_softcap(softcap: float | None) -> None:
    """Check that a softcap, which bounds |score|, is positive."""
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be positive, got {softcap}")
