"""What every layer says alike: how wide its heads are, which impl it has, and PyTorch's attention under a mask."""

import pkgutil
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .masks import blank_padding, length_mask
from .precision import outside_autocast
from .rope import RotaryEmbedding
from .validate import check_widths, require

Form = Callable | str
"""What attends: a function, or the name of one, "attncourse.room.kernel:function", which is imported when it is called:
Triton is there on Linux alone."""


class LayerOfHeads(Protocol):
    """A layer of heads is multi-head or grouped-query attention, as a conversion reads it."""

    w_q: nn.Linear
    w_k: nn.Linear
    w_v: nn.Linear
    w_o: nn.Linear
    n_heads: int
    head_dim: int
    causal: bool
    rope: RotaryEmbedding | None
    scale: float | None
    impl: str
    training: bool

    def state_dict(self) -> dict[str, Tensor]:
        """Return its parameters by their names."""


class Heads(NamedTuple):
    """Heads say how many heads of keys and values a layer has, and how wide a head's keys and values are."""

    n_kv_heads: int
    head_dim: int
    v_head_dim: int


def head_widths(
    d_model: int,
    n_heads: int,
    *,
    n_kv_heads: int | None = None,
    head_dim: int | None = None,
    v_head_dim: int | None = None,
    rope: RotaryEmbedding | None = None,
) -> Heads:
    """Return the heads of a layer.

    Args:
        d_model: the layer's width.
        n_heads: query heads.
        n_kv_heads: heads of keys and values (default: n_heads).
        head_dim: width of a head's queries and keys (default: d_model / n_heads).
        v_head_dim: width of a head's values (default: head_dim).
        rope: turns queries and keys, and so has their width.

    Raises:
        ValueError: a number below 1; n_kv_heads does not divide n_heads, or n_heads d_model where no head_dim is given;
            a rope of another width than the heads'.
    """
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    check_widths(d_model=d_model, n_heads=n_heads, n_kv_heads=n_kv_heads)
    require(n_heads % n_kv_heads == 0, f"the {n_kv_heads} key/value heads must divide the {n_heads} query heads")
    require(
        head_dim is not None or d_model % n_heads == 0,
        f"n_heads must divide d_model unless head_dim is given, got d_model={d_model}, n_heads={n_heads}",
    )
    head_dim = d_model // n_heads if head_dim is None else head_dim
    v_head_dim = head_dim if v_head_dim is None else v_head_dim
    check_widths(head_dim=head_dim, v_head_dim=v_head_dim)
    require(
        rope is None or rope.width == head_dim,
        f"rope must turn the heads' width, got head_dim={head_dim} and a rope of width {getattr(rope, 'width', 0)}",
    )
    return Heads(n_kv_heads, head_dim, v_head_dim)


def check_impl(impl: str, forms: Mapping[str, Form]) -> None:
    """Check that impl names one of the forms.

    Raises:
        ValueError: it does not; the message names all that do.
    """
    if impl not in forms:
        raise ValueError(f"impl must be one of {', '.join(forms)}, got {impl!r}")


def form_of(impl: str, forms: Mapping[str, Form]) -> Callable:
    """Return the function that impl stands for among the forms.

    Raises:
        ValueError: no form of this name.
        ImportError: a kernel, where Triton is missing.
    """
    check_impl(impl, forms)
    form = forms[impl]
    return pkgutil.resolve_name(form) if isinstance(form, str) else form


def check_dropout(dropout: float, impl: str) -> None:
    """Check that dropout is a probability, and that impl can drop weights: fused forms but PyTorch's never hold them.

    Raises:
        ValueError: it is none, or impl cannot.
    """
    require(0.0 <= dropout < 1.0, f"dropout must lie in [0, 1), got {dropout}")
    require(
        dropout == 0.0 or impl in ("reference", "torch"),
        f"impl={impl!r} has no dropout on weights: use impl='reference' or 'torch', got dropout={dropout}",
    )


@outside_autocast
def sdpa_under(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."],
    *,
    key_lengths: Int[Tensor, " b"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b h t dv"]:
    """Return what `scaled_dot_product_attention` gives under a mask of two axes or more;
    a row that sees nothing gives zeros.

    PyTorch leaves open what such a row gives, forward and backward. So here it sees everything, and what it gives is
    replaced: no gradient flows back through it.

    Args:
        scale: factor on q . k (default: dk ** -0.5).
        mask: boolean (True = visible) or added to the scores, broadcastable to (b, h, t, s).
        key_lengths: later keys are padding, whatever they hold.
        dropout: probability with which a weight is dropped.
    """
    boolean = mask.dtype == torch.bool
    if key_lengths is not None:
        exists = length_mask(key_lengths, k.shape[2])
        mask = mask & exists if boolean else torch.where(exists, mask, -torch.inf)
        k, v = blank_padding(k, key_lengths), blank_padding(v, key_lengths)
    empty = ~mask.any(dim=-1, keepdim=True) if boolean else (mask == -torch.inf).all(dim=-1, keepdim=True)
    opened = mask | empty if boolean else mask.masked_fill(empty, 0.0)
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=opened, dropout_p=dropout, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
    )
    return out.masked_fill(empty, 0.0)
