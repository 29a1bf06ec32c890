"""Block-sparse attention that computes the live blocks and no others, in plain PyTorch.

Blocks of queries with equally many live blocks go together: their keys are gathered side by side, and what is left is a
batch of small dense attentions. The backward pass gathers again (Dao et al. 2022, https://arxiv.org/abs/2205.14135, keeps
the log-sum-exp in place of the weights in the same way), so no more than one such batch of scores is ever held.
"""

from collections.abc import Iterator
from typing import Literal, overload

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import outside_autocast, wide

from .inputs import check_pattern
from .pattern import WHOLE, BlockPattern

SCORES_AT_ONCE = 2**20  # of all heads together; past the caches, more at once is slower


class _Tiling:
    """A tiling says how the queries and keys of one call lie in the pattern's blocks."""

    def __init__(self, q, k, pattern, key_lengths):
        (self.b, h, self.t, _), (self.g, self.s) = q.shape, k.shape[1:3]
        self.r, self.block = h // self.g, pattern.block
        self.pattern, self.key_lengths = pattern.first(self.s), key_lengths
        # The first query may stand inside a block: rows of zeros fill the block up before it.
        self.first_row, self.lead = divmod(self.s - self.t, self.block)
        self.tail = -self.s % self.block

    def cut_queries(self, x: Tensor) -> Tensor:
        """Return (b, h, t, d) as (b g, blocks, r block, d): the heads that share keys stand one below the other."""
        padded = pad(x, (0, 0, self.lead, self.tail))
        return rearrange(padded, "b (g r) (m i) d -> (b g) m (r i) d", g=self.g, i=self.block)

    def join_queries(self, x: Tensor) -> Tensor:
        """Return the inverse of `cut_queries`."""
        joined = rearrange(x, "(b g) m (r i) d -> b (g r) (m i) d", g=self.g, i=self.block)
        return joined[:, :, self.lead : self.lead + self.t]

    def cut_keys(self, x: Tensor) -> Tensor:
        """Return (b, g, s, d) as (b g, blocks, block d), one row of memory per block."""
        padded = pad(blank_padding(x, self.key_lengths), (0, 0, 0, self.tail))
        return rearrange(padded, "b g (n j) d -> (b g) n (j d)", j=self.block)

    def join_keys(self, x: Tensor) -> Tensor:
        """Return the inverse of `cut_keys`."""
        return rearrange(x, "(b g) n (j d) -> b g (n j) d", g=self.g, j=self.block)[:, :, : self.s]

    def chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield rows of equally many live blocks, a bounded number at a time.

        These are the indices of the blocks of queries (m,), those of their blocks of keys (m, c), and what is hidden,
        True = invisible, broadcastable to (b, g, m, r, block, c block); None where nothing is.
        """
        starts = self.pattern.by_query.starts
        counts = (starts[1:] - starts[:-1])[self.first_row :]
        for count in counts.unique().tolist():
            if count == 0:
                continue
            rows = (counts == count).nonzero()[:, 0]
            scores_a_row = self.b * self.g * self.r * self.block * self.block * count
            for some in rows.split(max(SCORES_AT_ONCE // scores_a_row, 1)):
                live = starts[self.first_row + some, None] + torch.arange(count, device=some.device)
                columns = self.pattern.columns[live]
                yield some, columns, self._hidden(columns, self.pattern.mask_of[live])

    def _hidden(self, columns, mask_of):
        hidden = None
        if (mask_of != WHOLE).any():
            partial = mask_of != WHOLE
            blocks = torch.zeros(*columns.shape, self.block, self.block, dtype=torch.bool, device=columns.device)
            blocks[partial] = ~self.pattern.masks[mask_of[partial]]
            hidden = rearrange(blocks, "m c i j -> 1 1 m 1 i (c j)")
        positions = columns[..., None] * self.block + torch.arange(self.block, device=columns.device)
        if self.key_lengths is None and self.tail == 0:
            return hidden
        length = torch.full((1,), self.s, device=columns.device) if self.key_lengths is None else self.key_lengths
        absent = rearrange(positions, "m c j -> m (c j)") >= length[:, None, None]
        absent = rearrange(absent, "b m j -> b 1 m 1 1 j")
        return absent if hidden is None else hidden | absent


def _gather(cut: Tensor, columns: Tensor, block: int) -> Tensor:
    """Return the keys of (m, c) blocks side by side, (b g, m, c block, d)."""
    picked = cut.index_select(1, columns.flatten())
    return rearrange(picked, "z (m c) (j d) -> z m (c j) d", m=len(columns), j=block)


def _scores(q, keys, hidden, tiling, scale):
    """Return the scores (b g, m, r block, c block), with -inf where invisible."""
    scores = (q * scale) @ keys.transpose(-1, -2)
    if hidden is not None:
        apart = scores.view(tiling.b, tiling.g, scores.shape[1], tiling.r, tiling.block, -1)
        apart.masked_fill_(hidden, -torch.inf)
    return scores


class _Blocked(torch.autograd.Function):
    """The backward pass forms each chunk of weights again, from the saved inputs, output and log-sum-exp, in float32 or
    better. Saves the inputs, the output and the log-sum-exp; the backward pass forms each chunk of weights again.
    """

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, pattern, scale):
        tiling = _Tiling(q, k, pattern, key_lengths)
        queries, keys, values = tiling.cut_queries(q), tiling.cut_keys(k), tiling.cut_keys(v)
        out = queries.new_zeros(*queries.shape[:-1], v.shape[-1])
        lse = queries.new_full((*queries.shape[:-1], 1), -torch.inf)
        for rows, columns, hidden in tiling.chunks():
            here = _gather(keys, columns, tiling.block)
            weights = _scores(queries[:, rows], here, hidden, tiling, scale)
            top = weights.amax(dim=-1, keepdim=True)
            top.masked_fill_(top == -torch.inf, 0.0)
            weights.sub_(top).exp_()
            total = weights.sum(dim=-1, keepdim=True)
            lse[:, rows] = top + total.log()
            mixed = weights @ _gather(values, columns, tiling.block)
            out[:, rows] = mixed / total.masked_fill_(total == 0, 1.0)
        out, lse = tiling.join_queries(out), tiling.join_queries(lse)[..., 0]
        ctx.save_for_backward(q, k, v, out, lse, key_lengths)
        ctx.pattern, ctx.scale = pattern, scale
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    @outside_autocast
    def backward(ctx, dout, dlse):
        q, k, v, out, lse, key_lengths = ctx.saved_tensors
        tiling, block = _Tiling(q, k, ctx.pattern, key_lengths), ctx.pattern.block
        # A row that saw nothing has log-sum-exp -inf; with +inf in its place its weights come out as 0.
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)[..., None]
        delta = (out * dout).sum(dim=-1, keepdim=True) - dlse[..., None]
        queries, douts, lse, delta = (tiling.cut_queries(x) for x in (q, dout, lse, delta))
        keys, values = tiling.cut_keys(k), tiling.cut_keys(v)
        dq, dk, dv = torch.zeros_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        for rows, columns, hidden in tiling.chunks():
            here, query, grad = _gather(keys, columns, block), queries[:, rows], douts[:, rows]
            weights = _scores(query, here, hidden, tiling, ctx.scale).sub_(lse[:, rows]).exp_()
            dscores = grad @ _gather(values, columns, block).transpose(-1, -2)
            dscores.sub_(delta[:, rows]).mul_(weights).mul_(ctx.scale)
            dq[:, rows] = dscores @ here
            into = columns.flatten()
            side_by_side = "z m (c j) d -> z (m c) (j d)"
            dv.index_add_(1, into, rearrange(weights.transpose(-1, -2) @ grad, side_by_side, j=block))
            dk.index_add_(1, into, rearrange(dscores.transpose(-1, -2) @ query, side_by_side, j=block))
        return tiling.join_queries(dq), tiling.join_keys(dk), tiling.join_keys(dv), None, None, None


@overload
def block_sparse_attention_blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    return_lse: Literal[False] = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def block_sparse_attention_blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: BlockPattern,
    return_lse: Literal[True],
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


@outside_autocast
def block_sparse_attention_blocked(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    pattern: BlockPattern,
    key_lengths: Int[Tensor, " b"] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Float[Tensor, "b h t dv"] | tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b h t"]]:
    """Return what `block_sparse_attention` does, by gathering live blocks:
    the same result and gradients, time in proportion to them.

    Memory is linear in t + s.

    Args:
        pattern: who sees whom; its first s positions are used. Query i of t stands at position s - t + i.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).
        return_lse: give also the log-sum-exp of each row of scores (b, h, t), in float32 or better, with its gradient.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the pattern has fewer than s positions.
    """
    check_pattern(pattern, q, k, v, key_lengths)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    before = max(q.shape[2] - k.shape[2], 0)  # queries that stand before position 0 see nothing
    rows = q[:, :, before:]
    if q.is_meta:  # no numbers to gather, and a pattern that says which
        out, lse = q.new_empty(*q.shape[:3], v.shape[-1]), wide(q).new_empty(q.shape[:3])
    elif rows.numel() == 0:
        nothing = q.sum() * 0 + k.sum() * 0 + v.sum() * 0
        out, lse = nothing.expand(*q.shape[:3], v.shape[-1]), (wide(nothing) - torch.inf).expand(q.shape[:3])
    else:
        out, lse = _Blocked.apply(wide(rows), wide(k), wide(v), key_lengths, pattern, scale)
        out, lse = pad(out.to(q.dtype), (0, 0, before, 0)), pad(lse, (before, 0), value=-torch.inf)
    return (out, lse) if return_lse else out
