"""Decoding from a cache on a processor: one pass over what lies there, a group's query heads together, split over threads.

The kernel of `kernel.py` as a processor runs it: a split of a sequence's keys is an item of work instead of a program, the
queries of a group lie in a vector's lanes instead of a tile's rows, and the next vectors are asked for while these are
multiplied. Sources as there. For inference only.
"""

import numpy as np
import torch
from torch import Tensor

from attncourse._shared.cpu_kernel import (
    LN2,
    LOG2E,
    LOWEST,
    TILE,
    add_mixture,
    add_scores,
    bring,
    compiled,
    finish_softmax,
    in_threads,
    inlined,
    lanes_of,
    locate,
    merge_split_axis,
    new_tile,
    online_softmax,
    rows_of,
    stream_of,
)
from attncourse._shared.lanes import LANES
from attncourse._shared.launch import choose_splits
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import require

from .checks import check_cached

NAME = "grouped_query_decode_numba"


@inlined
def _hide(scores, first_key, count, block, t, start, rows, window):
    """-inf where the tile ends, and where a query of this block of lanes stands before a key, or too far behind it."""
    for j in range(TILE):
        for lane in range(LANES):
            row = block * LANES + lane
            behind = start + row % t - (first_key + j)
            if j >= count or row >= rows or behind < 0 or behind >= window:
                scores[j * LANES + lane] = -np.inf


@inlined
def _bound(scores, softcap):
    """softcap * tanh(score / softcap), to base 2, of scores that were divided by softcap."""
    for i in range(len(scores)):
        scores[i] = np.float32(LOG2E) * softcap * np.tanh(scores[i])


@compiled
def grouped_query_split_kernel(
    first_item, last_item, out, lse, q, k, v, lengths, starts, pages, g, size, t, rows, splits, window, softcap
):
    """Items of work: each the rows (a group's query heads, t queries each) of one sequence against one split of its keys.

    Args:
        out, lse: (items, blocks, dv * LANES) and (items, blocks, LANES), an item's mixture and log-sum-exps to base 2.
        q: (b * g, blocks, dk * LANES), scaled: scores are exponents to base 2, or where they are bounded parts of softcap.
        pages: (b, n) blocks of the streams, `size` tokens each.
        window: more than any distance where there is none.
        softcap: 0 for none.
    """
    blocks, edge = q.shape[1], np.int64(TILE)
    scores = np.empty((blocks, TILE * LANES), np.float32)
    top, total = np.empty((blocks, LANES), np.float32), np.empty((blocks, LANES), np.float32)
    k_tile, v_tile = new_tile(k.width), new_tile(v.width)
    k_at, v_at, next_at, own, scale_at = (
        np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.int64),
        np.zeros(TILE, np.int64),
    )  # fmt: skip
    for item in range(first_item, last_item):
        group, split = item // splits, item % splits
        batch, head = group // g, group % g
        start = starts[batch]
        # What any query may see, in equal splits of whole tiles.
        end = min(lengths[batch], start + t)
        begin = max(start - window + 1, 0)
        each = -(-max(end - begin, 0) // (splits * edge)) * edge
        begin = min(begin + split * each, end)
        end = min(begin + each, end)
        acc = out[item]
        acc[:], top[:], total[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_at, k.strides, pages[batch], size, head, begin, min(edge, end - begin))
        for key in range(begin, end, edge):
            count, left = min(edge, end - key), min(edge, end - key - edge)
            k_at[:] = next_at
            locate(v_at, v.strides, pages[batch], size, head, key, count)
            if len(k.scale) > 0:
                locate(scale_at, k.scale_strides, pages[batch], size, head, key, count)
            flat, at = bring(k_tile, own, k_at, scale_at, k, count)
            whole = count == edge and key + edge - 1 <= start and key > start + t - 1 - window
            for block in range(blocks):
                scores[block] = 0.0
                add_scores(scores[block], q[group, block], flat, at, k.width, v, v_at, block == 0)
                if softcap > 0:
                    _bound(scores[block], softcap)
                if not whole:
                    _hide(scores[block], key, count, block, t, start, rows, window)
                online_softmax(scores[block], top[block], total[block], acc[block])
            if len(v.scale) > 0:
                locate(scale_at, v.scale_strides, pages[batch], size, head, key, count)
            if left > 0:
                locate(next_at, k.strides, pages[batch], size, head, key + edge, left)
            flat, at = bring(v_tile, own, v_at, scale_at, v, count)
            for block in range(blocks):
                add_mixture(acc[block], scores[block], flat, at, count, v.width, k, next_at, left > 0 and block == 0)
        for block in range(blocks):
            finish_softmax(acc[block], top[block], total[block], lse[item, block])


@outside_autocast
def grouped_query_decode_numba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cache_seqlens: Tensor | None = None,
    starts: Tensor | None = None,
    block_table: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    k_zero: Tensor | None = None,
    v_zero: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    splits: int | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`grouped_query_decode` over contiguous or paged storage, plain or coded, read where it lies, in PyTorch's threads.

    The output (b, h, t, dv) in q's dtype; with return_lse also the float32 log-sum-exp (b, h, t). All is summed in float32.

    Args:
        splits: into how many pieces a sequence's keys are cut; enough to keep the threads busy unless told.
        others: as of `plan_grouped_query_decode`, on a processor.

    Raises:
        ValueError: as there.
        ImportError: numba is not installed.
    """
    require(q.device.type == "cpu", f"{NAME} runs on processors, got {q.device}: use impl='triton' there")
    beside = dict(k_scale=k_scale, v_scale=v_scale, k_zero=k_zero, v_zero=v_zero)
    capacity = check_cached(
        NAME, q, k, v, **beside, cache_seqlens=cache_seqlens, starts=starts, block_table=block_table, window=window,
        softcap=softcap, splits=splits,
    )  # fmt: skip
    (b, h, t, dk), (g, size) = q.shape, k.shape[1:3]
    keys, values = stream_of(k, k_scale, k_zero), stream_of(v, v_scale, v_zero)
    rows, dv = h // g * t, values.width
    if splits is None:
        splits = choose_splits(b * g, -(-capacity // TILE), slots=torch.get_num_threads())
    scale = dk**-0.5 if scale is None else scale
    lengths = torch.full((b,), capacity) if cache_seqlens is None else cache_seqlens.long().contiguous()
    starts = lengths - t if starts is None else starts.long().contiguous()
    pages = torch.arange(b, dtype=torch.int32)[:, None] if block_table is None else block_table
    lanes = lanes_of((q.float() * (scale * LOG2E if softcap is None else scale / softcap)).reshape(b * g, rows, dk))
    out = np.empty((b * g * splits, lanes.shape[1], dv * LANES), np.float32)
    lse = np.empty((b * g * splits, lanes.shape[1], LANES), np.float32)
    in_threads(
        grouped_query_split_kernel, len(out), out, lse, lanes, keys, values, lengths.numpy(), starts.numpy(),
        pages.contiguous().numpy(), g, max(size, 1), t, rows, splits, 2**62 if window is None else window,
        np.float32(softcap or 0.0),
    )  # fmt: skip
    parts = rows_of(out, rows=rows).unflatten(0, (b, g, splits))
    part_lse = LN2 * rows_of(lse, rows=rows).unflatten(0, (b, g, splits))[..., 0]
    merged, merged_lse = merge_split_axis(parts, part_lse, dim=2)
    merged, merged_lse = merged.reshape(b, h, t, dv).to(q.dtype), merged_lse.reshape(b, h, t)
    return (merged, merged_lse) if return_lse else merged
