"""Absorbed decoding on a processor: the latents are read where they lie, once for scores and values alike, by all heads.

The kernel of `kernel.py` as a processor runs it: a split of the cache is an item of work for a thread, and the next latents are
asked for while these are multiplied. For inference only.
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
from attncourse._shared.validate import check_tensors, require

from .checks import check_absorbed
from .reference import absorb_query, expand_output

NAME = "latent_attention_numba"


@compiled
def latent_split_kernel(
    first_item, last_item, out, lse, rows, splits, q_latent, q_rope, latent, k_rope, lengths, positions, tables, size
):
    """Items of work: each all queries of one sequence against one split of its latents.

    Args:
        out, lse: (items, rows * r) and (items, rows), mixtures of latents and log-sum-exps to base 2.
        rows: (h t), padded to whole blocks, as widths are to whole vectors.
        q_latent, q_rope: (b, rows * r) and (b, rows * p), scaled: scores are exponents to base 2.
        positions: (b, t), the last token that each query sees.
        tables: (b, n) blocks of the streams, `size` tokens each.
    """
    r, p = padded(latent.width), padded(k_rope.width)
    scores, top, sums = room(rows * TILE), room(rows), room(rows * LANES)
    tile, rope_tile = room(TILE * r), room(TILE * p)
    at, rope_at, next_at, next_rope = new_places(), new_places(), new_places(), new_places()
    each = asked_at_once(rows)
    for item in range(first_item, last_item):
        batch, split = item // splits, item % splits
        pages, seen_to = tables[batch], positions[batch]
        begin, end = keys_of(split, splits, lengths[batch], seen_to, FAR)
        first_query = seen_to.min()
        acc = out[item]
        acc[:], top[:], sums[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_at, latent.codes, latent.strides, pages, size, 0, begin, min(TILE, end - begin))
            locate(next_rope, k_rope.codes, k_rope.strides, pages, size, 0, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            move_on(at, next_at)
            move_on(rope_at, next_rope)
            if left > 0:
                locate(next_at, latent.codes, latent.strides, pages, size, 0, key + TILE, left)
                locate(next_rope, k_rope.codes, k_rope.strides, pages, size, 0, key + TILE, left)
            bring(at, tile, at, latent, count)
            bring(rope_at, rope_tile, rope_at, k_rope, count)
            for j in range(0, TILE, KEYS):
                asked = j // 2
                for row in range(0, rows, ROWS):
                    ask_ahead(
                        next_at, next_rope, asked, min(asked + each, (j + KEYS) // 2), latent.nbytes, k_rope.nbytes
                    )
                    asked += each
                    here = batch * rows + row
                    products = add_all_products(no_products(), address(q_latent) + 4 * here * r, at, j, r)
                    products = add_all_products(products, address(q_rope) + 4 * here * p, rope_at, j, p)
                    store_sums(address(scores) + 4 * (row * TILE + j), 4 * TILE, products)
            if count < TILE or key + TILE > first_query + 1:
                hide(scores, key, count, rows, seen_to, FAR)
            online_softmax(scores, top, sums, acc)
            add_mixture(acc, scores, at, count, r, next_at, next_rope, latent.nbytes, k_rope.nbytes)
        finish_softmax(acc, top, sums, lse[item])


@outside_autocast
def latent_attention_numba(
    q_nope: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    w_uk: Tensor,
    w_uv: Tensor,
    *,
    key_lengths: Tensor | None = None,
    positions: Tensor | None = None,
    block_table: Tensor | None = None,
    scale: float | None = None,
    splits: int | None = None,
) -> Tensor:
    """`latent_attention_absorbed` for decoding, over contiguous storage or pages, in PyTorch's threads: (b, h, t, dv).

    Arguments are those of `plan_latent_decode`, on a processor. All is summed in float32.

    Raises:
        ValueError: as there; entries of a vector that are no neighbours in memory.
        ImportError: numba is not installed.
    """
    inputs = dict(q_nope=q_nope, q_rope=q_rope, latent=latent, k_rope=k_rope, w_uk=w_uk, w_uv=w_uv)
    check_tensors(**inputs)
    check_on_processor(NAME, latent)
    check_absorbed(NAME, inputs, key_lengths=key_lengths, positions=positions, block_table=block_table, splits=splits)
    for x in (latent, k_rope):
        require(x.stride(-1) == 1, f"entries of a vector must be neighbours in memory, got strides {x.stride()}")
    (b, h, t, n), (size, r) = q_nope.shape, latent.shape[2:]
    capacity = size * (1 if block_table is None else block_table.shape[1])
    if splits is None:
        splits = choose_splits(b, -(-capacity // TILE), slots=torch.get_num_threads())
    scale = LOG2E * ((n + q_rope.shape[-1]) ** -0.5 if scale is None else scale)
    lengths = lengths_of(key_lengths, b=b, capacity=capacity)
    positions = np.repeat(lengths[:, None], t, axis=1) if positions is None else integers(positions)
    queries = (absorb_query(q_nope.float(), w_uk.float()), q_rope.float())
    q_latent, q_rotated = (padded_rows((x * scale).reshape(b, h * t, x.shape[-1])) for x in queries)
    mixed, _ = run_splits(
        latent_split_kernel, q_latent, q_rotated, stream_of(latent), stream_of(k_rope), lengths, positions,
        pages_of(block_table, b=b), max(size, 1), sequences=b, splits=splits,
        rows=h * t, width=r,
    )  # fmt: skip
    return expand_output(mixed.reshape(b, h, t, r), w_uv.float()).to(latent.dtype)
