"""Softmax attention in memory linear in the length, in plain PyTorch: the online softmax, tile by tile.

Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867, for the running softmax; Dao et al. 2022,
https://arxiv.org/abs/2205.14135, for the tiles and for the backward pass that recomputes them.
"""

from typing import Literal, Unpack, overload

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import Masking, blank_padding
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import check_attention, require


@outside_autocast
def online_softmax_attention(
    q: Float[Tensor, "t dk"], k: Float[Tensor, "s dk"], v: Float[Tensor, "s dv"]
) -> Float[Tensor, "t dv"]:
    """Pass once over the keys, one key at a time: a running maximum, a running sum, a rescaled output.

    The weights never stand anywhere. Milakov and Gimelshein 2018, algorithm 3, with the values mixed on the way. All
    that runs is float32 or better: a sum in bfloat16 stops growing at 256.
    """
    (t, dk), dv, dtype = q.shape, v.shape[-1], q.dtype
    q, k, v = wide(q), wide(k), wide(v)
    top = torch.full((t,), -torch.inf, dtype=q.dtype, device=q.device)
    total = torch.zeros(t, dtype=q.dtype, device=q.device)
    out = torch.zeros(t, dv, dtype=q.dtype, device=q.device)
    for key, value in zip(k, v, strict=True):
        score = q @ key * dk**-0.5
        new_top = torch.maximum(top, score)
        rescale = torch.exp(top - new_top)  # what stands so far was relative to the old maximum
        weight = torch.exp(score - new_top)
        total = total * rescale + weight
        out = out * rescale[:, None] + weight[:, None] * value
        top = new_top
    return (out / total[:, None]).to(dtype)


def _tile_scores(q, k, row, col, rows, cols, s, t, options, key_lengths, mask):
    """Return the scores of one tile, (b, h, rows, cols), with -inf where invisible, and the slope of the softcap."""
    grouped = rearrange(q, "b (g r) t dk -> b g r t dk", g=k.shape[1])
    scores = einsum(grouped, k, "b g r t dk, b g s dk -> b g r t s") * options["scale"]
    scores, slope = rearrange(scores, "b g r t s -> b (g r) t s"), 1.0
    if options["softcap"] is not None:
        bounded = torch.tanh(scores / options["softcap"])
        scores, slope = options["softcap"] * bounded, 1 - bounded.square()
    if mask is not None:
        whole = torch.atleast_2d(mask)
        tile = whole.expand(*whole.shape[:-2], t, s)[..., row : row + len(rows), col : col + len(cols)]
        scores = scores.masked_fill(~tile, -torch.inf) if tile.dtype == torch.bool else scores + tile
    distance = (rows + s - t)[:, None] - cols
    if options["causal"] or options["window"] is not None:
        scores = scores.masked_fill(distance < 0, -torch.inf)
    if options["window"] is not None:
        scores = scores.masked_fill(distance >= options["window"], -torch.inf)
    if key_lengths is not None:
        scores = scores.masked_fill(cols >= key_lengths[:, None, None, None], -torch.inf)
    return scores, slope


def _tiles(t, s, block, options, device):
    """Yield the (query tile, key tile) starts and positions that the band of visible keys touches."""
    for row in range(0, t, block):
        rows = torch.arange(row, min(row + block, t), device=device)
        first, last = row + s - t, row + len(rows) - 1 + s - t
        for col in range(0, s, block):
            end = min(col + block, s)
            future = (options["causal"] or options["window"] is not None) and col > last
            past = options["window"] is not None and first - (end - 1) >= options["window"]
            if not (future or past):
                yield row, col, rows, torch.arange(col, end, device=device)


class _Blocked(torch.autograd.Function):
    """The backward pass forms each tile of weights again, from the saved inputs, output and each row's maximum and sum.

    The log-sum-exp, maximum + log(sum) in one number, would not do: next to the maximum of a row whose every key
    carries a mask of -1e9, log(sum) rounds away.
    """

    @staticmethod
    def forward(ctx, q, k, v, key_lengths, mask, options):
        (b, h, t, _), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
        k, v = blank_padding(k, key_lengths), blank_padding(v, key_lengths)
        out, total, top = q.new_zeros(b, h, t, dv), q.new_zeros(b, h, t), q.new_full((b, h, t), -torch.inf)
        for row, col, rows, cols in _tiles(t, s, options["block"], options, q.device):
            here, tile = slice(row, row + len(rows)), slice(col, col + len(cols))
            scores, _ = _tile_scores(
                q[:, :, here], k[:, :, tile], row, col, rows, cols, s, t, options, key_lengths, mask
            )
            new_top = torch.maximum(top[:, :, here], scores.amax(dim=-1))
            shift = new_top.masked_fill(new_top == -torch.inf, 0.0)
            rescale, weights = torch.exp(top[:, :, here] - shift), torch.exp(scores - shift[..., None])
            mixed = einsum(
                rearrange(weights, "b (g r) t s -> b g r t s", g=g), v[:, :, tile], "b g r t s, b g s dv -> b g r t dv"
            )
            mixed = rearrange(mixed, "b g r t dv -> b (g r) t dv")
            out[:, :, here] = out[:, :, here] * rescale[..., None] + mixed
            total[:, :, here] = total[:, :, here] * rescale + weights.sum(dim=-1)
            top[:, :, here] = new_top
        empty = total == 0
        total, top = total.masked_fill(empty, 1.0), top.masked_fill(empty, torch.inf)  # so that every weight is 0
        out = out / total[..., None]
        ctx.save_for_backward(q, k, v, out, top, total, key_lengths, mask)
        ctx.options = options
        return out, (top + total.log()).masked_fill(empty, -torch.inf)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @outside_autocast
    def backward(ctx, dout, dlse):
        q, k, v, out, top, total, key_lengths, mask = ctx.saved_tensors
        options, (g, s), t = ctx.options, k.shape[1:3], q.shape[2]
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        delta = (out * dout).sum(dim=-1) - dlse
        for row, col, rows, cols in _tiles(t, s, options["block"], options, q.device):
            here, tile = slice(row, row + len(rows)), slice(col, col + len(cols))
            scores, slope = _tile_scores(
                q[:, :, here], k[:, :, tile], row, col, rows, cols, s, t, options, key_lengths, mask
            )
            weights = torch.exp(scores - top[:, :, here, None]) / total[:, :, here, None]
            by_group = "b (g r) t d -> b g r t d"
            dout_tile = rearrange(dout[:, :, here], by_group, g=g)
            dweights = einsum(dout_tile, v[:, :, tile], "b g r t dv, b g s dv -> b g r t s")
            dweights = rearrange(dweights, "b g r t s -> b (g r) t s")
            dscores = weights * (dweights - delta[:, :, here, None]) * slope * options["scale"]
            weights, dscores = (rearrange(x, "b (g r) t s -> b g r t s", g=g) for x in (weights, dscores))
            q_tile = rearrange(q[:, :, here], by_group, g=g)
            dv[:, :, tile] += einsum(weights, dout_tile, "b g r t s, b g r t dv -> b g s dv")
            dk[:, :, tile] += einsum(dscores, q_tile, "b g r t s, b g r t dk -> b g s dk")
            dq_tile = einsum(dscores, k[:, :, tile], "b g r t s, b g s dk -> b g r t dk")
            dq[:, :, here] += rearrange(dq_tile, "b g r t dk -> b (g r) t dk")
        return dq, dk, dv, None, None, None


@overload
def softmax_attention_blocked(
    q: Tensor, k: Tensor, v: Tensor, *, block: int = 256, return_lse: Literal[False] = False, **masking: Unpack[Masking]
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def softmax_attention_blocked(
    q: Tensor, k: Tensor, v: Tensor, *, block: int = 256, return_lse: Literal[True], **masking: Unpack[Masking]
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


@outside_autocast
def softmax_attention_blocked(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    causal: bool = False,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    block: int = 256,
    return_lse: bool = False,
) -> Float[Tensor, "b h t dv"] | tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b h t"]]:
    """Return what `softmax_attention` does, by tiles: the same result and gradients, memory linear in t + s.

    Tiles that no query may see are skipped. An added mask gets no gradient here.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.
        block: queries and keys of a tile.
        return_lse: give also the log-sum-exp of each row of scores (b, h, t) in float32 or better, with its gradient.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; a mask that asks for a gradient; a block below 1.
    """
    check_attention(q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap)
    require(block >= 1, f"block must be at least 1, got {block}")
    require(
        mask is None or not mask.requires_grad,
        "softmax_attention_blocked gives no gradient to an added mask: detach it, or use impl='reference'",
    )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    options = dict(causal=causal, window=window, scale=scale, softcap=softcap, block=block)
    out, lse = _Blocked.apply(wide(q), wide(k), wide(v), key_lengths, mask, options)
    return (out.to(q.dtype), lse) if return_lse else out.to(q.dtype)
