"""Decoding from a cache on a processor: one pass over what lies there, a group's query heads together, split over threads.

The kernel of `kernel.py` as a processor runs it: a split of a sequence's keys is an item of work instead of a program, the
queries of a group lie in a vector's lanes instead of a tile's rows, and the next vectors are asked for while these are
multiplied. Sources as there. For inference only.
"""

import numpy as np
import torch
from torch import Tensor

from attncourse._shared.cpu_kernel import (
    FAR,
    LOG2E,
    LOWEST,
    TILE,
    add_mixture,
    add_scores,
    bring,
    check_on_processor,
    compiled,
    finish_softmax,
    hide,
    inlined,
    keys_of,
    lanes_of,
    locate,
    new_tile,
    online_softmax,
    pages_of,
    run_splits,
    stream_of,
)
from attncourse._shared.lanes import LANES
from attncourse._shared.launch import choose_splits
from attncourse._shared.precision import outside_autocast

from .checks import check_cached

NAME = "grouped_query_decode_numba"


@inlined
def _bound(scores, softcap):
    """softcap * tanh(score / softcap), to base 2, of scores that were divided by softcap."""
    for i in range(len(scores)):
        scores[i] = np.float32(LOG2E) * softcap * np.tanh(scores[i])


@compiled
def grouped_query_split_kernel(
    first_item, last_item, out, lse, rows, splits, q, k, v, lengths, positions, pages, g, size, window, softcap
):
    """Items of work: each the rows (a group's query heads, t queries each) of one sequence against one split of its keys.

    Args:
        out, lse: (items, blocks, dv * LANES) and (items, blocks, LANES), an item's mixture and log-sum-exps to base 2.
        q: (b * g, blocks, dk * LANES), scaled: scores are exponents to base 2, or where they are bounded parts of softcap.
        positions: (b, t) of the queries; a row's is that of its query.
        pages: (b, n) blocks of the streams, `size` tokens each.
        window: more than any distance where there is none.
        softcap: 0 for none.
    """
    blocks = q.shape[1]
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
        begin, end = keys_of(split, splits, lengths[batch], positions[batch], window)
        acc = out[item]
        acc[:], top[:], total[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_at, k.strides, pages[batch], size, head, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            k_at[:] = next_at
            locate(v_at, v.strides, pages[batch], size, head, key, count)
            if len(k.scale) > 0:
                locate(scale_at, k.scale_strides, pages[batch], size, head, key, count)
            flat, at = bring(k_tile, own, k_at, scale_at, k, count)
            for block in range(blocks):
                scores[block] = 0.0
                add_scores(scores[block], q[group, block], flat, at, k.width, v, v_at, block == 0)
                if softcap > 0:
                    _bound(scores[block], softcap)
                hide(scores[block], key, count, block, rows, positions[batch], window)
                online_softmax(scores[block], top[block], total[block], acc[block])
            if len(v.scale) > 0:
                locate(scale_at, v.scale_strides, pages[batch], size, head, key, count)
            if left > 0:
                locate(next_at, k.strides, pages[batch], size, head, key + TILE, left)
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
    check_on_processor(NAME, q)
    capacity = check_cached(
        NAME, q, k, v, k_scale=k_scale, v_scale=v_scale, k_zero=k_zero, v_zero=v_zero, cache_seqlens=cache_seqlens,
        starts=starts, block_table=block_table, window=window, softcap=softcap, splits=splits,
    )  # fmt: skip
    (b, h, t, dk), (g, size) = q.shape, k.shape[1:3]
    keys, values = stream_of(k, k_scale, k_zero), stream_of(v, v_scale, v_zero)
    rows, dv = h // g * t, values.width
    if splits is None:
        splits = choose_splits(b * g, -(-capacity // TILE), slots=torch.get_num_threads())
    scale = dk**-0.5 if scale is None else scale
    lengths = torch.full((b,), capacity) if cache_seqlens is None else cache_seqlens.long().contiguous()
    positions = (lengths - t if starts is None else starts.long())[:, None] + torch.arange(t)
    lanes = lanes_of((q.float() * (scale * LOG2E if softcap is None else scale / softcap)).reshape(b * g, rows, dk))
    out, lse = run_splits(
        grouped_query_split_kernel, lanes, keys, values, lengths.numpy(), positions.numpy(), pages_of(block_table, b=b), g,
        max(size, 1), FAR if window is None else window, np.float32(softcap or 0.0), sequences=b * g,
        splits=splits, rows=rows, width=dv,
    )  # fmt: skip
    out, lse = out.reshape(b, h, t, dv).to(q.dtype), lse.reshape(b, h, t)
    return (out, lse) if return_lse else out
