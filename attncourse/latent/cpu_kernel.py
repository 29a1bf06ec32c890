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
    Step,
    begin_asking,
    bring,
    check_on_processor,
    compiled,
    finish,
    hand_in,
    hide,
    integers,
    keys_of,
    length_of,
    load_rows,
    locate,
    mix,
    move_on,
    new_places,
    next_item,
    note_runs,
    numbers,
    padded,
    part_of,
    places_in,
    room,
    score,
    stream_of,
    weigh,
    work_at,
)
from attncourse._shared.lanes import LANES, integer
from attncourse._shared.launch import choose_splits
from attncourse._shared.plan import Plan, plan_of
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import check_tensors, checking_values, require

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
        ("scale", np.float64),  # what makes of scores exponents to base 2
    ]
)


@compiled(WORK)
def latent_split_kernel(address_of_work):
    """Work off items: each all queries (h t) of one sequence against one split of its latents."""
    work = work_at(address_of_work)
    latent, k_rope, together = work.latent, work.k_rope, work.together
    rows, r, p = padded(work.rows, together), padded(latent.width), padded(k_rope.width)
    q_latent, q_rope = room(rows * r), room(rows * p)
    scores, top, sums = room(rows * TILE), room(rows * LANES), room(rows * LANES)
    tile, rope_tile, runs = room(TILE * r), room(TILE * p), np.zeros(9 * TILE, np.int64)
    at, rope_at, next_at, next_rope = new_places(), new_places(), new_places(), new_places()
    in_tile, rope_in_tile = places_in(tile, r), places_in(rope_tile, p)
    seen_to = np.zeros(work.t, np.int64)
    q_latent[:], q_rope[:] = 0.0, 0.0
    item = next_item(work)
    while item < work.sequences * work.splits:
        batch, split = item // work.splits, item % work.splits
        length = length_of(work, batch)
        for i in range(work.t):
            seen_to[i] = integer(work.positions + 4 * (batch * work.t + i)) if work.positions else length
        begin, end = keys_of(split, work.splits, length, seen_to, FAR)
        first_query = seen_to.min()
        at_latent, at_rope = batch * work.rows * latent.width, batch * work.rows * k_rope.width
        load_rows(q_latent, work.q_latent + 4 * at_latent, work.rows, latent.width, together, work.scale)
        load_rows(q_rope, work.q_rope + 4 * at_rope, work.rows, k_rope.width, together, work.scale)
        acc, lse = part_of(work, item)
        acc[:], top[:], sums[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_at, latent.codes, latent.strides, work, batch, 0, begin, min(TILE, end - begin))
            locate(next_rope, k_rope.codes, k_rope.strides, work, batch, 0, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            move_on(at, next_at)
            move_on(rope_at, next_rope)
            n = 0
            if left > 0:
                locate(next_at, latent.codes, latent.strides, work, batch, 0, key + TILE, left)
                locate(next_rope, k_rope.codes, k_rope.strides, work, batch, 0, key + TILE, left)
                n = note_runs(runs, 0, next_at, latent, work, key + TILE, 0, left)
                n = note_runs(runs, n, next_rope, k_rope, work, key + TILE, 0, left)
            turns = begin_asking(runs, n)
            keys = bring(at, tile, in_tile, at, latent, count)
            rope = bring(rope_at, rope_tile, rope_in_tile, rope_at, k_rope, count)
            score(scores, q_latent, keys, r, q_rope, rope, p, together, runs, turns // 2)
            if count < TILE or key + TILE > first_query + 1:
                hide(scores, key, count, together, seen_to, FAR)
            weigh(scores, top, sums, acc, r, together)
            mix(acc, scores, keys, count, r, together, runs, turns - turns // 2)
        finish(acc, top, sums, lse, r, together)
        hand_in(work, item)
        item = next_item(work)


def plan_latent_decode_numba(
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
    check_values: bool | None = True,
) -> Plan:
    """Plan what is decided once for all steps whose tensors lie as these; its run gives the output (b, h, t, dv).

    All is summed in float32. Growing sequences keep their plan: what grows is what `key_lengths` holds.

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
        check_values: whether lengths are looked at; None as `checking_values` says.

    Raises:
        ValueError: a shape, dtype, device or stride does not fit, or a gradient is asked for.
        ImportError: numba is not installed.
    """
    inputs = dict(q_nope=q_nope, q_rope=q_rope, latent=latent, k_rope=k_rope, w_uk=w_uk, w_uv=w_uv)
    check_tensors(**inputs)
    check_on_processor(NAME, latent)
    with checking_values(check_values):
        check_absorbed(
            NAME, inputs, key_lengths=key_lengths, positions=positions, block_table=block_table, splits=splits
        )
    for x in (latent, k_rope):
        require(x.stride(-1) == 1, f"entries of a vector must be neighbours in memory, got strides {x.stride()}")
    (b, h, t, n), (size, r) = q_nope.shape, latent.shape[2:]
    pages = 0 if block_table is None else block_table.shape[1]
    capacity = size * (1 if block_table is None else pages)
    if splits is None:
        splits = choose_splits(b, -(-capacity // TILE), slots=ITEMS_EACH * torch.get_num_threads())
    scale = (n + q_rope.shape[-1]) ** -0.5 if scale is None else scale
    step = Step(
        latent_split_kernel, WORK, sequences=b, splits=splits, rows=h * t, width=r, t=t, capacity=capacity, pages=pages,
        size=max(size, 1), latent=stream_of(latent), k_rope=stream_of(k_rope), scale=LOG2E * scale,
    )  # fmt: skip

    @outside_autocast
    def launch(q_nope, q_rope, latent, k_rope, w_uk, w_uv, *, key_lengths, positions, block_table):
        q_latent = numbers(absorb_query(q_nope.float(), w_uk.float()))
        mixed = torch.empty(b, h, t, r, dtype=torch.float32, device="cpu")
        lse = torch.empty(b, h, t, dtype=torch.float32, device="cpu")
        if mixed.numel() > 0:
            step.run(
                q_latent=q_latent, q_rope=numbers(q_rope), latent=latent, k_rope=k_rope, lengths=integers(key_lengths),
                positions=integers(positions), block_table=integers(block_table), out=mixed, lse=lse,
            )  # fmt: skip
        return expand_output(mixed, w_uv.float()).to(latent.dtype)

    return plan_of(NAME, launch, **inputs, key_lengths=key_lengths, positions=positions, block_table=block_table)


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
    plan = plan_latent_decode_numba(
        q_nope, q_rope, latent, k_rope, w_uk, w_uv, key_lengths=key_lengths, positions=positions,
        block_table=block_table, scale=scale, splits=splits,
    )  # fmt: skip
    return plan.launch(
        q_nope,
        q_rope,
        latent,
        k_rope,
        w_uk,
        w_uv,
        key_lengths=key_lengths,
        positions=positions,
        block_table=block_table,
    )
