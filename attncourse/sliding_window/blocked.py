"""Local attention in time and memory linear in the length, in plain PyTorch: block by block of queries.

The queries of a block share nearly all of their keys. So a block is one matrix product with the slice of keys that any of
its queries may see, and a small mask that is the same for every block: (block) by (block + window) scores at a time. The
keys are read where they lie. The backward pass forms each block of weights again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import require

from .pattern import Band, by_residue, check_local, local_band

# Slices of keys begin and end at multiples of this: a matrix product with rows of 320 floats is a tenth faster than one
# with rows of 319, and the mask hides the key that is one too many.
ALIGNED = 16


@dataclass(frozen=True)
class _Block:
    """A block is queries, the slices of keys that they read (two where sinks lie apart), and what is added to scores."""

    rows: slice
    cols: list[slice]
    bias: Tensor  # (rows, all cols), 0 where visible and -inf elsewhere
    early: bool  # queries that stand before the first key may see nothing


def _blocks(t: int, s: int, band: Band, size: int, like: Tensor) -> Iterator[_Block]:
    """Yield the blocks in order; the bias of blocks away from the ends is made once."""
    known, bias = None, None
    for row in range(0, t, size):
        rows = slice(row, min(row + size, t))
        first, last = s - t + row, s - t + rows.stop - 1
        low, high = max(first - band.before, 0), min(last + band.after + 1, s)
        if high <= low:
            continue
        low, high = low - low % ALIGNED, min(high + -high % ALIGNED, s)
        apart = band.sinks > 0 and low > band.sinks
        low = low if apart or band.sinks == 0 else 0
        cols = [slice(0, band.sinks), slice(low, high)] if apart else [slice(low, high)]
        place = (last - first, first - low, high - low, apart)
        if bias is None or place != known:
            known, bias = place, _bias(torch.arange(first, last + 1), cols, band).to(like)
        yield _Block(rows, cols, bias, early=first < 0)


def _bias(positions: Tensor, cols: list[slice], band: Band) -> Tensor:
    keys = torch.cat([torch.arange(c.start, c.stop) for c in cols])
    distance = positions[:, None] - keys
    near = (distance >= -band.after) & (distance <= band.before)
    visible = near | ((keys < band.sinks) & (distance >= 0))
    return torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)


def _read(x: Tensor, cols: list[slice]) -> Tensor:
    return x[:, cols[0]] if len(cols) == 1 else torch.cat([x[:, c] for c in cols], dim=1)


def _add(x: Tensor, cols: list[slice], left: Tensor, right: Tensor, alpha: float = 1.0) -> None:
    """Add alpha left^T right to x at cols, which are left's columns."""
    start = 0
    for c in cols:
        stop = start + c.stop - c.start
        x[:, c].baddbmm_(left[..., start:stop].mT, right, alpha=alpha)
        start = stop


class _Banded(torch.autograd.Function):
    """The backward pass needs the inputs and the output, in float32 or better: memory linear in the length."""

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, band, scale, size):
        ctx.sizes = (band, scale, size)
        k, v = blank_padding(k, key_lengths), blank_padding(v, key_lengths)
        (b, h, t, dk), (g, s) = q.shape, k.shape[1:3]
        lengths = None if key_lengths is None else key_lengths.repeat_interleave(g)[:, None, None]
        # Query heads that share a key head stand below each other: one product serves them all.
        q, k, v = q.reshape(b * g, h // g, t, dk), k.reshape(b * g, s, dk), v.reshape(b * g, s, v.shape[-1])
        out = q.new_zeros(*q.shape[:3], v.shape[-1])
        for block in _blocks(t, s, band, size, q):
            weights = _weights(q[:, :, block.rows].flatten(1, 2), k, block, lengths, scale)
            mixed = weights @ _read(v, block.cols)
            out[:, :, block.rows] = mixed.view_as(out[:, :, block.rows])
        ctx.save_for_backward(q, k, v, out, lengths)
        ctx.shapes = (b, h, t, dk), (b, g, s, dk), (b, g, s, v.shape[-1])
        return out.view(b, h, t, out.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    @outside_autocast
    def backward(ctx, dout):
        q, k, v, out, lengths = ctx.saved_tensors
        band, scale, size = ctx.sizes
        dout = dout.reshape(out.shape)
        delta = (out * dout).sum(dim=-1, keepdim=True)
        dq, dkey, dvalue = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block in _blocks(q.shape[2], k.shape[1], band, size, q):
            q_block, dout_block, delta_block = (x[:, :, block.rows].flatten(1, 2) for x in (q, dout, delta))
            weights = _weights(q_block, k, block, lengths, scale)
            dscores = (dout_block @ _read(v, block.cols).mT).sub_(delta_block).mul_(weights)
            _add(dvalue, block.cols, weights, dout_block)
            _add(dkey, block.cols, dscores, q_block, scale)
            dq_block = (dscores @ _read(k, block.cols)).mul_(scale)
            dq[:, :, block.rows] = dq_block.view_as(dq[:, :, block.rows])
        return *(x.view(shape) for x, shape in zip((dq, dkey, dvalue), ctx.shapes, strict=True)), *(None,) * 4


def _weights(q, k, block, lengths, scale):
    """Return the weights of one block, (b g, r rows, cols); zeros in rows that see nothing."""
    heads = q.shape[1] // len(block.bias)
    bias = block.bias if heads == 1 else block.bias.repeat(heads, 1)
    if lengths is not None:
        keys = torch.cat([torch.arange(c.start, c.stop, device=q.device) for c in block.cols])
        bias = torch.where(keys < lengths, bias, -torch.inf)
    scores = torch.baddbmm(bias, q, _read(k, block.cols).mT, alpha=scale)
    weights = torch.softmax(scores, dim=-1, out=scores)
    if lengths is not None or block.early:
        weights = weights.masked_fill_((bias == -torch.inf).all(dim=-1, keepdim=True), 0.0)
    return weights


@outside_autocast
def sliding_window_attention_blocked(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    window: int | None = None,
    radius: int | None = None,
    dilation: int = 1,
    sinks: int = 0,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    block: int = 96,
) -> Float[Tensor, "b h t dv"]:
    """Return what `sliding_window_attention` does, by blocks of queries: the same result and gradients.

    The time is O(t (window + sinks + block)). Beside inputs and output it holds one block's scores: (b h, block, block
    + window + sinks).

    Args:
        window: keys that a query sees, its own included, each `dilation` before the next.
        radius: keys on either side, in place of a window; 2 radius + 1 with the query's own.
        dilation: the step between neighbours.
        sinks: the first keys stay visible, whatever their distance (with a window; not before their time).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).
        block: queries of a block.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; not exactly one of window and radius; a block below 1.
    """
    check_local(q, k, v, key_lengths)
    band = local_band(window=window, radius=radius, dilation=dilation, sinks=sinks)
    require(block >= 1, f"block must be at least 1, got {block}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def attend(q, k, v, lengths):
        return _Banded.apply(wide(q), wide(k), wide(v), lengths, band, scale, block).to(q.dtype)

    return by_residue(attend, q, k, v, key_lengths, dilation)
