"""Decoding from a cache on a processor: one pass over what lies there, a group's query heads together, split over threads.

The kernel of `kernel.py` as a processor runs it: a split of a sequence's keys is an item of work instead of a program, blocks
of products lie in a few registers, and the next keys and values are asked for while these are multiplied. Sources as there. For
inference only.
"""

import numpy as np
import torch
from torch import Tensor

from attncourse._shared.cpu_kernel import (
    FAR,
    LOG2E,
    LOWEST,
    TILE,
    add_all_products,
    add_mixture,
    ask_ahead,
    asked_at_once,
    bring,
    check_on_processor,
    compiled,
    finish_softmax,
    hide,
    inlined,
    integers,
    keys_of,
    lengths_of,
    locate,
    move_on,
    new_places,
    online_softmax,
    padded,
    padded_rows,
    pages_of,
    room,
    run_splits,
    stream_of,
)
from attncourse._shared.lanes import KEYS, LANES, ROWS, address, no_products, store_sums
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
    first_item, last_item, out, lse, rows, splits, q, k, v, lengths, positions, tables, g, size, window, softcap
):
    """Items of work: each the rows (a group's query heads, t queries each) of one sequence against one split of its keys.

    Args:
        out, lse: (items, rows * dv) and (items, rows), an item's mixture and log-sum-exps to base 2.
        rows: padded to whole blocks, as widths are to whole vectors.
        q: (b * g, rows * dk), scaled: scores are exponents to base 2, or where they are bounded parts of softcap.
        positions: (b, t) of the queries; a row's is that of its query.
        tables: (b, n) blocks of the streams, `size` tokens each.
        window: more than any distance where there is none.
        softcap: 0 for none.
    """
    dk, dv = padded(k.width), padded(v.width)
    scores, top, sums = room(rows * TILE), room(rows), room(rows * LANES)
    k_tile, v_tile = room(TILE * dk), room(TILE * dv)
    k_at, v_at, next_k, next_v, scale_at = new_places(), new_places(), new_places(), new_places(), new_places()
    each = asked_at_once(rows)
    for item in range(first_item, last_item):
        group, split = item // splits, item % splits
        batch, head = group // g, group % g
        pages, seen_from = tables[batch], positions[batch]
        begin, end = keys_of(split, splits, lengths[batch], seen_from, window)
        first_query, last_query = seen_from.min(), seen_from.max()
        acc = out[item]
        acc[:], top[:], sums[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_k, k.codes, k.strides, pages, size, head, begin, min(TILE, end - begin))
            locate(next_v, v.codes, v.strides, pages, size, head, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            move_on(k_at, next_k)
            move_on(v_at, next_v)
            if left > 0:
                locate(next_k, k.codes, k.strides, pages, size, head, key + TILE, left)
                locate(next_v, v.codes, v.strides, pages, size, head, key + TILE, left)
            if k.scale:
                locate(scale_at, k.scale, k.scale_strides, pages, size, head, key, count)
            bring(k_at, k_tile, scale_at, k, count)
            for j in range(0, TILE, KEYS):
                asked = j // 2
                for row in range(0, rows, ROWS):
                    ask_ahead(next_k, next_v, asked, min(asked + each, (j + KEYS) // 2), k.nbytes, v.nbytes)
                    asked += each
                    products = add_all_products(no_products(), address(q) + 4 * (group * rows + row) * dk, k_at, j, dk)
                    store_sums(address(scores) + 4 * (row * TILE + j), 4 * TILE, products)
            if softcap > 0:
                _bound(scores, softcap)
            if count < TILE or key + TILE > first_query + 1 or key <= last_query - window:
                hide(scores, key, count, rows, seen_from, window)
            online_softmax(scores, top, sums, acc)
            if v.scale:
                locate(scale_at, v.scale, v.scale_strides, pages, size, head, key, count)
            bring(v_at, v_tile, scale_at, v, count)
            add_mixture(acc, scores, v_at, count, dv, next_k, next_v, k.nbytes, v.nbytes)
        finish_softmax(acc, top, sums, lse[item])


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
    lengths = lengths_of(cache_seqlens, b=b, capacity=capacity)
    positions = (lengths - t if starts is None else integers(starts))[:, None] + np.arange(t)
    queries = padded_rows(
        (q.float() * (scale * LOG2E if softcap is None else scale / softcap)).reshape(b * g, rows, dk)
    )
    out, lse = run_splits(
        grouped_query_split_kernel, queries, keys, values, lengths, positions, pages_of(block_table, b=b), g,
        max(size, 1), FAR if window is None else window, np.float32(softcap or 0.0), sequences=b * g,
        splits=splits, rows=rows, width=dv,
    )  # fmt: skip
    out, lse = out.reshape(b, h, t, dv).to(q.dtype), lse.reshape(b, h, t)
    return (out, lse) if return_lse else out
