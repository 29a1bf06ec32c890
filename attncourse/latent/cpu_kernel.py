"""Absorbed decoding on a processor: the latents are read where they lie, once for scores and values alike, by all heads.

The kernel of `kernel.py` as a processor runs it: heads lie in the lanes of vectors, a split of the cache is an item of work
for a thread, and the next latents are asked for while these are multiplied. For inference only.
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
from attncourse._shared.validate import check_tensors, require

from .checks import check_absorbed
from .reference import absorb_query, expand_output

NAME = "latent_attention_numba"


@compiled
def latent_split_kernel(
    first_item, last_item, out, lse, rows, splits, q_latent, q_rope, latent, k_rope, lengths, positions, pages, size
):
    """Items of work: each all queries of one sequence against one split of its latents.

    Args:
        out, lse: (items, blocks, r * LANES) and (items, blocks, LANES), mixtures of latents and log-sum-exps to base 2.
        q_latent, q_rope: (b, blocks, r * LANES) and (b, blocks, p * LANES), of rows (h t), scaled: scores are exponents to
            base 2.
        positions: (b, t), the last token that each query sees.
        pages: (b, n) blocks of the streams, `size` tokens each.
    """
    blocks = q_latent.shape[1]
    scores = np.empty((blocks, TILE * LANES), np.float32)
    top, total = np.empty((blocks, LANES), np.float32), np.empty((blocks, LANES), np.float32)
    tile, rope_tile = new_tile(latent.width), new_tile(k_rope.width)
    at, rope_at, next_at, own, rope_own = (
        np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.int64),
        np.empty(TILE, np.int64),
    )  # fmt: skip
    for item in range(first_item, last_item):
        batch, split = item // splits, item % splits
        begin, end = keys_of(split, splits, lengths[batch], positions[batch], FAR)
        acc = out[item]
        acc[:], top[:], total[:] = 0.0, LOWEST, 0.0
        if begin < end:
            locate(next_at, latent.strides, pages[batch], size, 0, begin, min(TILE, end - begin))
        for key in range(begin, end, TILE):
            count, left = min(TILE, end - key), min(TILE, end - key - TILE)
            at[:] = next_at
            locate(rope_at, k_rope.strides, pages[batch], size, 0, key, count)
            if left > 0:
                locate(next_at, latent.strides, pages[batch], size, 0, key + TILE, left)
            latents, here = bring(tile, own, at, at, latent, count)
            ropes, rope_here = bring(rope_tile, rope_own, rope_at, rope_at, k_rope, count)
            for block in range(blocks):
                scores[block] = 0.0
                add_scores(
                    scores[block], q_latent[batch, block], latents, here, latent.width, k_rope, rope_at, block == 0
                )
                add_scores(scores[block], q_rope[batch, block], ropes, rope_here, k_rope.width, latent, next_at, False)
                hide(scores[block], key, count, block, rows, positions[batch], FAR)
                online_softmax(scores[block], top[block], total[block], acc[block])
                more = left > 0 and block == 0
                add_mixture(acc[block], scores[block], latents, here, count, latent.width, latent, next_at, more)
        for block in range(blocks):
            finish_softmax(acc[block], top[block], total[block], lse[item, block])


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
    lengths = torch.full((b,), capacity) if key_lengths is None else key_lengths.long().contiguous()
    positions = lengths[:, None].expand(b, t) if positions is None else positions.long()
    queries = (absorb_query(q_nope.float(), w_uk.float()), q_rope.float())
    q_latent, q_rotated = (lanes_of((x * scale).reshape(b, h * t, x.shape[-1])) for x in queries)
    mixed, _ = run_splits(
        latent_split_kernel, q_latent, q_rotated, stream_of(latent), stream_of(k_rope), lengths.numpy(),
        positions.contiguous().numpy(), pages_of(block_table, b=b), max(size, 1), sequences=b, splits=splits,
        rows=h * t, width=r,
    )  # fmt: skip
    return expand_output(mixed.reshape(b, h, t, r), w_uv.float()).to(latent.dtype)
