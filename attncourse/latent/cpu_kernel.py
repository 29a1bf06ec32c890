"""Absorbed decoding on a processor: the latents are read where they lie, once for scores and values alike, by all heads.

The kernel of `kernel.py` as a processor runs it: a split of the cache is an item of work for a thread, and the next latents are
asked for while these are multiplied. For inference only.
"""

import numpy as np
import torch
from torch import Tensor

from attncourse._shared.cpu_kernel import (
    FAR,
    ITEMS_EACH,
    LOG2E,
    LOWEST,
    STEP,
    STREAM,
    TILE,
    add_all_products,
    add_mixture,
    address_of,
    ask_ahead,
    asked_at_once,
    bring,
    check_on_processor,
    compiled,
    finish_softmax,
    hand_in,
    hide,
    integers,
    keys_of,
    length_of,
    load_rows,
    locate,
    move_on,
    new_places,
    next_item,
    numbers,
    online_softmax,
    padded,
    part_of,
    room,
    run_step,
    stream_of,
    work_at,
)
from attncourse._shared.lanes import KEYS, LANES, ROWS, address, integer, no_products, store_sums
from attncourse._shared.launch import choose_splits
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import check_tensors, require

from .inputs import check_absorbed
from .reference import absorb_query, expand_output

NAME = "latent_attention_numba"


WORK = np.dtype(
    [
        *STEP,
        ("q_latent", np.int64),  # (b, h, t, r)
        ("q_rope", np.int64),  # (b, h, t, p)
        ("latent", STREAM),
        ("k_rope", STREAM),
        ("positions", np.int64),  # (b, t), the last token that each query sees; 0 where it sees all
        ("scale", np.float32),  # what makes of scores exponents to base 2
    ]
)


@compiled(WORK)
def latent_split_kernel(address_of_work):
    """Work off items: each all queries (h t) of one sequence against one split of its latents."""
    work = work_at(address_of_work)
    latent, k_rope, rows = work.latent, work.k_rope, padded(work.rows, ROWS)
    r, p = padded(latent.width), padded(k_rope.width)
    q_latent, q_rope = room(rows * r), room(rows * p)
    scores, top, sums = room(rows * TILE), room(rows), room(rows * LANES)
    tile, rope_tile = room(TILE * r), room(TILE * p)
    at, rope_at, next_at, next_rope = new_places(), new_places(), new_places(), new_places()
    seen_to = np.zeros(work.t, np.int64)
    each = asked_at_once(rows)
    q_latent[:], q_rope[:] = 0.0, 0.0
    item = next_item(work)
    while item < work.sequences * work.splits:
        batch, split = item // work.splits, item % work.splits
        length = length_of(work, batch)
        for i in range(work.t):
            seen_to[i] = integer(work.positions + 8 * (batch * work.t + i)) if work.positions else length
        begin, end = keys_of(split, work.splits, length, seen_to, FAR)
        first_query = seen_to.min()
        load_rows(q_latent, work.q_latent + 4 * batch * work.rows * latent.width, work.rows, latent.width, work.scale)
        load_rows(q_rope, work.q_rope + 4 * batch * work.rows * k_rope.width, work.rows, k_rope.width, work.scale)
        acc, lse = part_of(work, item)
        acc[:], top[:], sums[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_at, latent.codes, latent.strides, work, batch, 0, begin, min(TILE, end - begin))
            locate(next_rope, k_rope.codes, k_rope.strides, work, batch, 0, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            move_on(at, next_at)
            move_on(rope_at, next_rope)
            if left > 0:
                locate(next_at, latent.codes, latent.strides, work, batch, 0, key + TILE, left)
                locate(next_rope, k_rope.codes, k_rope.strides, work, batch, 0, key + TILE, left)
            bring(at, tile, at, latent, count)
            bring(rope_at, rope_tile, rope_at, k_rope, count)
            for j in range(0, TILE, KEYS):
                asked = j // 2
                for row in range(0, rows, ROWS):
                    ask_ahead(
                        next_at, next_rope, asked, min(asked + each, (j + KEYS) // 2), latent.nbytes, k_rope.nbytes
                    )
                    asked += each
                    products = add_all_products(no_products(), address(q_latent) + 4 * row * r, at, j, r)
                    products = add_all_products(products, address(q_rope) + 4 * row * p, rope_at, j, p)
                    store_sums(address(scores) + 4 * (row * TILE + j), 4 * TILE, products)
            if count < TILE or key + TILE > first_query + 1:
                hide(scores, key, count, rows, seen_to, FAR)
            online_softmax(scores, top, sums, acc)
            add_mixture(acc, scores, at, count, r, next_at, next_rope, latent.nbytes, k_rope.nbytes)
        finish_softmax(acc, top, sums, lse)
        hand_in(work, item)
        item = next_item(work)


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
    """Return what `latent_attention_absorbed` does for decoding,
    over contiguous storage or pages, in PyTorch's threads.

    The output is (b, h, t, dv). All is summed in float32.

    Args:
        q_nope, q_rope: (b, h, t, n) and (b, h, t, p), float32, float16 or bfloat16, on a processor.
        latent, k_rope: (b, 1, s, width), or with a block_table pages (n_pages, 1, page_size, width). Entries of a
            vector are neighbours in memory.
        w_uk, w_uv: (h, n, r) and (h, dv, r).
        key_lengths: (b,) integers; later tokens are padding, whatever they hold. Pages need it.
        positions: (b, t) integers, where the queries stand: they see no token after it (default: all see all).
        block_table: (b, max_pages) integers; token j of sequence i stands in page block_table[i, j // page_size].
        scale: factor on the scores (default: (n + p) ** -0.5).
        splits: parts into which each sequence's cache is cut (default: enough to keep the threads busy).

    Raises:
        ValueError: a shape, dtype, device or stride does not fit, or a gradient is asked for.
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
        splits = choose_splits(b, -(-capacity // TILE), slots=ITEMS_EACH * torch.get_num_threads())
    scale = LOG2E * ((n + q_rope.shape[-1]) ** -0.5 if scale is None else scale)
    q_latent, q_rotated = numbers(absorb_query(q_nope.float(), w_uk.float())), numbers(q_rope)
    positions = integers(positions)
    inputs = (
        q_latent.data_ptr(), q_rotated.data_ptr(), stream_of(latent), stream_of(k_rope), address_of(positions), scale,
    )  # fmt: skip
    mixed, _ = run_step(
        latent_split_kernel, WORK, inputs, sequences=b, splits=splits, rows=h * t, width=r, t=t, lengths=key_lengths,
        capacity=capacity, block_table=block_table, size=size,
    )  # fmt: skip
    return expand_output(mixed.view(b, h, t, r), w_uv.float()).to(latent.dtype)
