"""Decoding from a cache on a processor: one pass over what lies there, a group's query heads together, split over threads.

The kernel of `kernel.py` as a processor runs it: a split of a sequence's keys is an item of work instead of a program, blocks
of products lie in a few registers, and the next keys and values are asked for while these are multiplied. Sources as there. For
inference only.
"""

from typing import Literal, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from attncourse._shared.cpu_kernel import (
    FAR,
    ITEMS_EACH,
    LEAD,
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
    inlined,
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
from attncourse._shared.validate import checking_values

from .inputs import Decoding, check_cached, codes_each

NAME = "grouped_query_decode_numba"


@inlined
def _bound(scores, softcap):
    """Return softcap * tanh(score / softcap), to base 2, of scores that were divided by softcap."""
    for i in range(len(scores)):
        scores[i] = np.float32(LOG2E) * softcap * np.tanh(scores[i])


WORK = np.dtype(
    [
        *STEP,
        ("q", np.int64),  # (b, h, t, dk)
        ("k", STREAM),
        ("v", STREAM),
        ("g", np.int64),
        ("starts", np.int64),  # (b,) positions of first queries; 0 where the last one is at a sequence's end
        ("window", np.int64),  # more than any distance where there is none
        ("scale", np.float64),  # what makes of scores exponents to base 2, or where they are bounded parts of softcap
        ("softcap", np.float64),  # 0 for none
    ]
)


@compiled(WORK)
def grouped_query_split_kernel(address_of_work):
    """Work off items: each the rows (a group's query heads, t queries each) of one sequence against one split of its
    keys.
    """
    work = work_at(address_of_work)
    k, v, together = work.k, work.v, work.together
    rows, dk, dv = padded(work.rows, together), padded(k.width), padded(v.width)
    q, scores, top, sums = room(rows * dk), room(rows * TILE), room(rows * LANES), room(rows * LANES)
    tile, runs, nothing = room(TILE * max(dk, dv)), np.zeros(9 * TILE, np.int64), room(0)
    k_at, v_at, next_k, next_v, scale_at = new_places(), new_places(), new_places(), new_places(), new_places()
    k_in_tile, v_in_tile = places_in(tile, dk), places_in(tile, dv)
    seen_from = np.zeros(work.t, np.int64)
    # Asked for in the order in which they are read, LEAD bytes before: the rest of a tile, then the next one's first.
    lead = LEAD // k.nbytes
    k_lead, v_lead = min(lead, TILE), min(max(lead - TILE, 0), TILE)
    q[:] = 0.0
    item = next_item(work)
    while item < work.sequences * work.splits:
        group, split = item // work.splits, item % work.splits
        batch, head = group // work.g, group % work.g
        length = length_of(work, batch)
        first_query = integer(work.starts + 4 * batch) if work.starts else length - work.t
        for i in range(work.t):
            seen_from[i] = first_query + i
        begin, end = keys_of(split, work.splits, length, seen_from, work.window)
        load_rows(q, work.q + 4 * group * work.rows * k.width, work.rows, k.width, together, work.scale)
        acc, lse = part_of(work, item)
        acc[:], top[:], sums[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_k, k.codes, k.strides, work, batch, head, begin, min(TILE, end - begin))
            locate(next_v, v.codes, v.strides, work, batch, head, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            move_on(k_at, next_k)
            move_on(v_at, next_v)
            n = note_runs(runs, 0, k_at, k, work, key, min(k_lead, count), count)
            n = note_runs(runs, n, v_at, v, work, key, min(v_lead, count), count)
            if left > 0:
                locate(next_k, k.codes, k.strides, work, batch, head, key + TILE, left)
                locate(next_v, v.codes, v.strides, work, batch, head, key + TILE, left)
                n = note_runs(runs, n, next_k, k, work, key + TILE, 0, min(k_lead, left))
                n = note_runs(runs, n, next_v, v, work, key + TILE, 0, min(v_lead, left))
            turns = begin_asking(runs, n)
            k_turns = turns * k.nbytes // (k.nbytes + v.nbytes)
            if k.scale:
                locate(scale_at, k.scale, k.scale_strides, work, batch, head, key, count)
            keys = bring(k_at, tile, k_in_tile, scale_at, k, count)
            score(scores, q, keys, dk, nothing, keys, 0, together, runs, k_turns)
            if work.softcap > 0:
                _bound(scores, work.softcap)
            if count < TILE or key + TILE > first_query + 1 or key <= first_query + work.t - 1 - work.window:
                hide(scores, key, count, together, seen_from, work.window)
            weigh(scores, top, sums, acc, dv, together)
            if v.scale:
                locate(scale_at, v.scale, v.scale_strides, work, batch, head, key, count)
            values = bring(v_at, tile, v_in_tile, scale_at, v, count)
            mix(acc, scores, values, count, dv, together, runs, turns - k_turns)
        finish(acc, top, sums, lse, dv, together)
        hand_in(work, item)
        item = next_item(work)


def plan_grouped_query_decode_numba(
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
    check_values: bool | None = True,
) -> Plan:
    """Plan what is decided once for all steps whose tensors lie as these; its run gives the output and the log-sum-exp.

    The output is (b, h, t, dv) in q's dtype, the log-sum-exp float32 (b, h, t). Growing sequences keep their plan: what
    grows is what `cache_seqlens` holds.

    Args:
        q: (b, h, t, dk), float32, float16 or bfloat16, on a processor.
        k, v: contiguous caches (b, g, capacity, width), or pages (n_pages, g, page_size, width) with a block_table; of
            q's dtype, or codes int8, uint8 (two of 4 bits a byte, (..., width / 2)) or float8_e4m3fn, with scales.
            Entries of a vector are neighbours in memory.
        cache_seqlens: (b,) tokens of each sequence, those of q included, at most the capacity (default: that).
        starts: (b,) where the first query of each sequence stands (default: cache_seqlens - t).
        block_table: (b, max_pages) int32, the page of positions j page_size ...; entries beyond a sequence are not
            read.
        k_scale, v_scale, k_zero, v_zero: float32 (..., width / group) beside the codes; float8 codes have no zeros. A
            value is (code - zero) * scale.
        window: a query sees this many keys, its own included.
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.
        splits: into how many pieces a sequence's keys are cut (default: enough to keep the threads busy).
        check_values: whether lengths are looked at; None as `checking_values` says.

    Raises:
        ValueError: a shape, dtype, device, stride or range is wrong, or a gradient is asked for.
        ImportError: numba is not installed.
    """
    check_on_processor(NAME, q)
    with checking_values(check_values):
        capacity = check_cached(
            NAME, q, k, v, k_scale=k_scale, v_scale=v_scale, k_zero=k_zero, v_zero=v_zero, cache_seqlens=cache_seqlens,
            starts=starts, block_table=block_table, window=window, softcap=softcap, splits=splits,
        )  # fmt: skip
    (b, h, t, dk), (g, size), dv = q.shape, k.shape[1:3], codes_each(v.dtype) * v.shape[-1]
    if splits is None:
        splits = choose_splits(b * g, -(-capacity // TILE), slots=ITEMS_EACH * torch.get_num_threads())
    scale = dk**-0.5 if scale is None else scale
    step = Step(
        grouped_query_split_kernel, WORK, sequences=b * g, splits=splits, rows=h // g * t, width=dv, t=t, g=g,
        capacity=capacity, size=max(size, 1), pages=0 if block_table is None else block_table.shape[1],
        k=stream_of(k, k_scale), v=stream_of(v, v_scale), window=FAR if window is None else window,
        scale=scale * LOG2E if softcap is None else scale / softcap, softcap=softcap or 0.0,
    )  # fmt: skip

    def launch(q, k, v, *, cache_seqlens, starts, block_table, **scales):
        out = torch.empty(b, h, t, dv, dtype=torch.float32, device="cpu")
        lse = torch.empty(b, h, t, dtype=torch.float32, device="cpu")
        if out.numel() > 0:
            step.run(
                q=numbers(q), k=k, v=v, lengths=integers(cache_seqlens), starts=integers(starts),
                block_table=integers(block_table), out=out, lse=lse, **scales,
            )  # fmt: skip
        return out.to(q.dtype), lse

    return plan_of(
        NAME, launch, q=q, k=k, v=v, cache_seqlens=cache_seqlens, starts=starts, block_table=block_table,
        k_scale=k_scale, v_scale=v_scale, k_zero=k_zero, v_zero=v_zero,
    )  # fmt: skip


@overload
def grouped_query_decode_numba(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[False] = False, **options: Unpack[Decoding]
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def grouped_query_decode_numba(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[True], **options: Unpack[Decoding]
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


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
    """Return what `grouped_query_decode` does, over contiguous or paged storage, plain or coded, in PyTorch's threads.

    The output is (b, h, t, dv) in q's dtype; with return_lse comes the float32 log-sum-exp (b, h, t). All is summed in
    float32. Storage is read where it lies.

    Args:
        q: (b, h, t, dk), float32, float16 or bfloat16, on a processor.
        k, v: contiguous caches (b, g, capacity, width), or pages (n_pages, g, page_size, width) with a block_table; of
            q's dtype, or codes int8, uint8 (two of 4 bits a byte, (..., width / 2)) or float8_e4m3fn, with scales.
            Entries of a vector are neighbours in memory.
        cache_seqlens: (b,) tokens of each sequence, those of q included, at most the capacity (default: that).
        starts: (b,) where the first query of each sequence stands (default: cache_seqlens - t).
        block_table: (b, max_pages) int32, the page of positions j page_size ...; entries beyond a sequence are not
            read.
        k_scale, v_scale, k_zero, v_zero: float32 (..., width / group) beside the codes; float8 codes have no zeros. A
            value is (code - zero) * scale.
        window: a query sees this many keys, its own included.
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.
        splits: into how many pieces a sequence's keys are cut (default: enough to keep the threads busy).
        return_lse: give also the log-sum-exp of each row of scores.

    Raises:
        ValueError: a shape, dtype, device, stride or range is wrong, or a gradient is asked for.
        ImportError: numba is not installed.
    """
    plan = plan_grouped_query_decode_numba(
        q, k, v, cache_seqlens=cache_seqlens, starts=starts, block_table=block_table, k_scale=k_scale, v_scale=v_scale,
        k_zero=k_zero, v_zero=v_zero, window=window, scale=scale, softcap=softcap, splits=splits,
    )  # fmt: skip
    out, lse = plan.launch(
        q, k, v, cache_seqlens=cache_seqlens, starts=starts, block_table=block_table, k_scale=k_scale, v_scale=v_scale,
        k_zero=k_zero, v_zero=v_zero,
    )  # fmt: skip
    return (out, lse) if return_lse else out
