"""Which tokens exist and which are global; the rows of the latter, taken out of a sequence and put back."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor


def existing_indices(
    global_indices: Int[Tensor, " n"] | Int[Tensor, "b n"] | None,
    key_lengths: Int[Tensor, " b"] | None,
    *,
    b: int,
    device=None,
) -> Int[Tensor, "b n"]:
    """Return the positions of global tokens on a device as (b, n), with -1 in place of those that stand in padding."""
    if global_indices is None:
        return torch.zeros(b, 0, dtype=torch.long, device=device)
    index = global_indices.long().expand(b, -1)
    return index if key_lengths is None else index.where(index < key_lengths[:, None], -1)


def tokens_that_exist(t: int, key_lengths: Int[Tensor, " b"] | None, *, b: int, device=None) -> Bool[Tensor, "b t"]:
    """Return which of the t tokens of each of b sequences are no padding, on a device."""
    place = torch.arange(t, device=device)
    return (place < key_lengths[:, None]) if key_lengths is not None else (place >= 0).expand(b, t)


def global_flags(index: Int[Tensor, "b n"], t: int) -> Bool[Tensor, "b t"]:
    """Return which of t tokens are global."""
    flags = torch.zeros(len(index), t + 1, dtype=torch.bool, device=index.device)
    return flags.scatter(1, _or_past_the_end(index, t), True)[:, :t]


def take_rows(x: Float[Tensor, "b h t d"], index: Int[Tensor, "b n"]) -> Float[Tensor, "b h n d"]:
    """Return the rows of x at the positions of each sequence; zeros where the index is -1."""
    b, h, _, d = x.shape
    at = rearrange(index.clamp_min(0), "b n -> b 1 n 1").expand(b, h, -1, d)
    return blank_missing(x.gather(2, at), index)


def put_rows(
    x: Float[Tensor, "b h t d"], rows: Float[Tensor, "b h n d"], index: Int[Tensor, "b n"]
) -> Float[Tensor, "b h t d"]:
    """Return x with its rows at these positions replaced; an index of -1 replaces none."""
    b, h, t, d = x.shape
    at = rearrange(_or_past_the_end(index, t), "b n -> b 1 n 1").expand(b, h, -1, d)
    longer = torch.cat([x, x.new_zeros(b, h, 1, d)], dim=2)
    return longer.scatter(2, at, rows)[:, :, :t]


def blank_missing(rows: Float[Tensor, "b h n d"], index: Int[Tensor, "b n"]) -> Float[Tensor, "b h n d"]:
    """Return the rows with zeros where the index is -1, whatever they hold."""
    return rows.masked_fill(rearrange(index < 0, "b n -> b 1 n 1"), 0.0)


def _or_past_the_end(index, t):
    """Return the index with t in place of -1: a place beside the sequence that is cut off again."""
    return index.where(index >= 0, t)
