"""Heads as an axis: how one projection's width is cut into heads, and put together again."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from .validate import check_widths


def split_heads(x: Float[Tensor, "b t hd"], n_heads: int) -> Float[Tensor, "b h t dh"]:
    """Cut the width into heads, and move the heads before the length.

    Raises:
        ValueError: n_heads does not divide the width.
    """
    check_widths(n_heads=n_heads)
    if x.shape[-1] % n_heads != 0:
        raise ValueError(f"the {n_heads} heads must divide the width {x.shape[-1]}")
    return rearrange(x, "b t (h dh) -> b h t dh", h=n_heads)


def merge_heads(x: Float[Tensor, "b h t dh"]) -> Float[Tensor, "b t hd"]:
    """Return the inverse of `split_heads`: the heads' outputs side by side."""
    return rearrange(x, "b h t dh -> b t (h dh)")
