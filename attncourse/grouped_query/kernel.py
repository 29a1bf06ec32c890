"""Decoding from a cache as two Triton kernels, split over the keys; prefill through the kernels of softmax attention.

Dao et al. 2023, Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html): one new token gives too few
programs to fill a GPU, so each sequence's keys are cut into splits, each a program, and a second kernel merges their
outputs by log-sum-exp. The query heads of a group are the rows of one tile: keys and values are read once a group
(Ainslie et al. 2023, https://arxiv.org/abs/2305.13245). Pages as in Kwon et al. 2023, https://arxiv.org/abs/2309.06180.
Caches of 8 or 4 bits are dequantised in registers. For inference only.
"""

from typing import Literal, Unpack, overload

import torch
from torch import Tensor

from attncourse._shared.kernel import (
    exponent_factor,
    finish_softmax,
    from_fp8,
    length_of,
    load_vectors,
    merge_splits,
    online_softmax,
    place_of,
    tanh,
    vectors_at,
)
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import (
    check_runs_here,
    chip_of,
    choose_splits,
    in_exact_dtype,
    padded,
    positive,
    slots_of,
    split_buffers,
    tile_config,
)
from attncourse._shared.masks import Masking
from attncourse._shared.plan import Plan, plan_of
from attncourse._shared.validate import checking_values
from attncourse.softmax_attention.kernel import softmax_attention_triton

from .inputs import Decoding, check_cached, codes_each

PLAIN, INT8, INT4, FP8 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
CODEC_OF = {torch.int8: INT8, torch.uint8: INT4, torch.float8_e4m3fn: FP8}


def grouped_query_attention_triton(q: Tensor, k: Tensor, v: Tensor, **masking: Unpack[Masking]) -> Tensor:
    """Return what `grouped_query_attention` does, by the softmax kernel, with gradients.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), float32, float16 or bfloat16, widths to 256, any strides.
        masking: causal, window, key_lengths, mask, scale, softcap, as in `softmax_attention`.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what no kernel here can do (float64, a wider head, the
            gradient of an added mask, CPU tensors where Triton compiles).
    """
    return softmax_attention_triton(q, k, v, **masking)


@triton.jit
def _load_tokens(
    side, block, slot, lanes, head, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CODEC: tl.constexpr, GROUPS: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """(tokens, BLOCK) keys or values of the cache, dequantised; zeros where there is no token, which whole tiles do not ask.

    A side is (codes, strides, scales, zeros, strides of these two).
    """
    PACK: tl.constexpr = 2 if CODEC == INT4 else 1
    at = vectors_at(block, slot, lanes, head, side[1])
    x = load_vectors(side[0], at, 1, exists if EDGE else None, WIDTH // PACK, BLOCK // PACK)
    if CODEC != PLAIN:
        cols = tl.arange(0, BLOCK)[None, :]
        scale_at, there = vectors_at(block, slot, lanes, head, side[4])[:, None], exists[:, None]
        if GROUPS > 1:
            scale_at, there = scale_at + cols // (WIDTH // GROUPS), there & (cols < WIDTH)
        scale = tl.load(side[2] + scale_at, mask=there, other=0.0)
        if CODEC == FP8:
            x = from_fp8(x) * scale
        else:
            if CODEC == INT4:  # the byte's low half comes first
                x = tl.interleave(x & 15, x >> 4)
            x = (x.to(tl.float32) - tl.load(side[3] + scale_at, mask=there, other=0.0)) * scale
    return x


@triton.jit
def _decode_tiles(
    acc, top, total, q, keys, values, table_ptr, batch, head, positions, first, last, end, size, window, scale, softcap,
    EDGE: tl.constexpr, PAGED: tl.constexpr, ALIGNED: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    CODEC: tl.constexpr, K_GROUPS: tl.constexpr, V_GROUPS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """The online softmax over the tiles of tokens first..last of a split that ends at `end`."""
    for start in range(first, last, BLOCK_S):
        tokens = start + tl.arange(0, BLOCK_S)
        exists = tokens < end
        block, slot, lanes = place_of(table_ptr, batch, start, end, size, PAGED, ALIGNED, BLOCK_S)
        k = _load_tokens(keys, block, slot, lanes, head, exists, DK, BLOCK_DK, CODEC, K_GROUPS, EDGE).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_R, BLOCK_S)
        if SOFTCAP:
            scores = softcap * tanh(scores * (scale / softcap))
        if EDGE:
            visible = exists[None, :] & (tokens[None, :] <= positions[:, None])
            if WINDOW:
                visible &= tokens[None, :] > positions[:, None] - window
            scores = tl.where(visible, scores, float("-inf"))
        v = _load_tokens(values, block, slot, lanes, head, exists, DV, BLOCK_DV, CODEC, V_GROUPS, EDGE).to(q.dtype)
        acc, top, total = online_softmax(acc, top, total, scores, v, exponent_factor(scale, SOFTCAP))
    return acc, top, total


@triton.jit
def _grouped_query_split_kernel(
    q_ptr, k_ptr, v_ptr, k_scale_ptr, k_zero_ptr, v_scale_ptr, v_zero_ptr, seqlens_ptr, starts_ptr, table_ptr,
    part_ptr, lse_ptr, k_strides, v_strides, k_scale_strides, v_scale_strides, table_strides,
    g, rows_all, t, capacity, size, window, splits, scale, softcap,
    LENGTHS: tl.constexpr, STARTS: tl.constexpr, PAGED: tl.constexpr, ALIGNED: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, CODEC: tl.constexpr, K_GROUPS: tl.constexpr, V_GROUPS: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_R rows (a group's query heads, t queries each) against one split of the sequence's keys."""
    split, of_group = tl.program_id(0), tl.program_id(1)
    batch, head = (of_group // g).to(tl.int64), (of_group % g).to(tl.int64)
    rows = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    length = length_of(seqlens_ptr, batch, capacity, LENGTHS)
    start = length - t
    if STARTS:
        start = tl.load(starts_ptr + batch).to(tl.int32)
    positions = start + rows % t

    # What any query may see, [first, length), in equal splits of whole tiles.
    first = 0
    if WINDOW:
        first = tl.maximum(start - window + 1, 0) // BLOCK_S * BLOCK_S
    tiles = tl.cdiv(tl.maximum(length - first, 0), BLOCK_S)
    each = tl.cdiv(tiles, splits) * BLOCK_S
    begin = first + split * each
    end = tl.maximum(tl.minimum(begin + each, length), begin)
    # Every row sees every key of the tiles [left, right): the first query's last key, the last query's first.
    left = begin
    if WINDOW:
        left = tl.cdiv(tl.maximum(start + t - window, 0), BLOCK_S) * BLOCK_S
        left = tl.minimum(tl.maximum(left, begin), begin + tl.cdiv(end - begin, BLOCK_S) * BLOCK_S)
    right = tl.maximum(tl.maximum(tl.minimum(end, start + 1), 0) // BLOCK_S * BLOCK_S, left)

    width = tl.arange(0, BLOCK_DK)[None, :]
    of_rows = of_group.to(tl.int64) * rows_all + rows
    q_inside = (rows[:, None] < rows_all) & (width < DK)
    q = tl.load(q_ptr + of_rows[:, None] * DK + width, mask=q_inside, other=0.0)  # (BLOCK_R, BLOCK_DK)
    table_ptr += batch * table_strides[0]
    keys = (k_ptr, k_strides, k_scale_ptr, k_zero_ptr, k_scale_strides)
    values = (v_ptr, v_strides, v_scale_ptr, v_zero_ptr, v_scale_strides)
    acc = tl.zeros((BLOCK_R, BLOCK_DV), tl.float32)
    top = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    if WINDOW:
        acc, top, total = _decode_tiles(
            acc, top, total, q, keys, values, table_ptr, batch, head, positions, begin, left, end, size, window, scale, softcap,
            True, PAGED, ALIGNED, WINDOW, SOFTCAP, CODEC, K_GROUPS, V_GROUPS, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
        )  # fmt: skip
    acc, top, total = _decode_tiles(
        acc, top, total, q, keys, values, table_ptr, batch, head, positions, left, right, end, size, window, scale, softcap,
        False, PAGED, ALIGNED, WINDOW, SOFTCAP, CODEC, K_GROUPS, V_GROUPS, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
    )  # fmt: skip
    acc, top, total = _decode_tiles(
        acc, top, total, q, keys, values, table_ptr, batch, head, positions, right, end, end, size, window, scale, softcap,
        True, PAGED, ALIGNED, WINDOW, SOFTCAP, CODEC, K_GROUPS, V_GROUPS, DK, DV, BLOCK_S, BLOCK_DK, BLOCK_DV,
    )  # fmt: skip

    out, lse = finish_softmax(acc, top, total, exponent_factor(scale, SOFTCAP))
    at = of_rows * splits + split
    tl.store(lse_ptr + at, lse, mask=rows < rows_all)
    width = tl.arange(0, BLOCK_DV)[None, :]
    inside = (rows[:, None] < rows_all) & (width < DV)
    tl.store(part_ptr + at[:, None] * DV + width, out.to(part_ptr.dtype.element_ty), mask=inside)


# (BLOCK_S, warps, stages) by padded width, for up to 16 rows and for more. The compile-only gate holds every entry to its
# chip's shared memory, and those of 16-bit queries to no spilled register.
CONFIGS = {
    "fma": {64: (16, 4, 1), 128: (16, 4, 1), 256: (16, 8, 1)},
    80: {64: (64, 4, 3), 128: (64, 4, 2), 256: (32, 8, 2)},
    90: {64: (64, 4, 3), 128: (64, 4, 3), 256: (32, 8, 3)},
}
MOST_ROWS = 64
# Programs that a multiprocessor holds at a time: the compile-only gate counts them for caches as they are and few rows.
# Where registers let only one of them in, twice as many programs are two whole waves, and nothing is lost.
RESIDENT = 2


def launch_config(*, rows: int, width: int, bits: int, capability: int, paged: bool) -> dict[str, int]:
    """Return tile sizes and warps of the first kernel.

    A page is looked up before it is read, and the compiler spreads the stages over both: as many tiles are on their way
    as without pages only with twice as many stages.

    Args:
        rows: of a group.
        width: padded.
        bits: of an element of the queries.
        capability: the chip, two digits.
        paged: whether keys are looked up in a block table.
    """
    most = 16 if bits == 32 or capability < 80 else MOST_ROWS
    config = tile_config(CONFIGS, width=width, bits=bits, capability=capability, blocks=("BLOCK_S",))
    stages = config["num_stages"]
    return config | {"BLOCK_R": min(padded(rows), most), "num_stages": 2 * stages - 1 if paged else stages}


@overload
def grouped_query_decode_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    check_values: bool | None = None,
    return_lse: Literal[False] = False,
    **options: Unpack[Decoding],
) -> Tensor:
    """Return the output alone."""
    ...


@overload
def grouped_query_decode_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    check_values: bool | None = None,
    return_lse: Literal[True],
    **options: Unpack[Decoding],
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp."""
    ...


def grouped_query_decode_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    splits: int | None = None,
    check_values: bool | None = None,
    return_lse: bool = False,
    **tensors: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what `grouped_query_decode` does, by the kernels: a plan is made and run once.

    Storage may be contiguous or paged, plain or coded, and is read where it lies. The output is (b, h, t, dv) in q's
    dtype; with return_lse comes the float32 log-sum-exp (b, h, t).

    Args:
        q: (b, h, t, dk), float32, float16 or bfloat16.
        k, v: the cache as it is stored, (b, g, capacity, width), or pages (n_pages, g, page_size, width).
        window: a query sees this many keys, its own included.
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.
        splits: into how many pieces a sequence's keys are cut (default: by the chip and the batch).
        check_values: whether lengths are looked at (default: as `checking_values` says).
        return_lse: give also the log-sum-exp of each row of scores.
        tensors: cache_seqlens, starts, block_table, k_scale, v_scale, k_zero, v_zero, as in
            `plan_grouped_query_decode`.

    Raises:
        ValueError: a shape, dtype, device, stride or range is wrong, or a gradient is asked for.
    """
    plan = plan_grouped_query_decode(
        q, k, v, window=window, scale=scale, softcap=softcap, splits=splits, check_values=check_values, **tensors
    )
    out, lse = plan.run(q, k, v, **tensors)
    return (out, lse) if return_lse else out


def plan_grouped_query_decode(
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
        q: (b, h, t, dk), float32, float16 or bfloat16.
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
        splits: into how many pieces a sequence's keys are cut (default: by the chip and the batch).
        check_values: whether lengths are looked at, which on CUDA waits for the device; None as `checking_values` says.

    Raises:
        ValueError: a shape, dtype, device, stride or range is wrong, or a gradient is asked for.
    """
    name = "grouped_query_decode_triton"
    check_runs_here(name, q)
    with checking_values(check_values):
        capacity = check_cached(
            name, q, k, v, k_scale=k_scale, v_scale=v_scale, k_zero=k_zero, v_zero=v_zero, cache_seqlens=cache_seqlens,
            starts=starts, block_table=block_table, window=window, softcap=softcap, splits=splits,
        )  # fmt: skip
    b, h, t, dk = q.shape
    g, dv = k.shape[1], v.shape[-1] * codes_each(v.dtype)
    codec = CODEC_OF.get(k.dtype, PLAIN).value
    rows = h // g * t
    config = launch_config(rows=rows, paged=block_table is not None, **chip_of(q, width=padded(max(dk, dv))))
    if splits is None:
        programs, tiles = b * g * triton.cdiv(rows, config["BLOCK_R"]), triton.cdiv(capacity, config["BLOCK_S"])
        splits = choose_splits(programs, tiles, slots=slots_of(q, resident=RESIDENT))
    parts, part_lse = split_buffers(b * h * t, splits, dv, device=q.device)
    scale = dk**-0.5 if scale is None else scale

    def launch(q, k, v, **beside):
        if 0 in (b, t, capacity):
            return q.new_zeros(b, h, t, dv), torch.full((b, h, t), -torch.inf, device=q.device)
        out, lse = in_exact_dtype(
            lambda q, k, v: _launch(
                q, k, v, parts, part_lse, **beside, codec=codec, capacity=capacity, window=window, scale=scale,
                softcap=softcap, splits=splits, config=config,
            ), q, k, v,
        )  # fmt: skip
        return out.to(q.dtype), lse

    return plan_of(
        name, launch, q=q, k=k, v=v, cache_seqlens=cache_seqlens, starts=starts, block_table=block_table,
        k_scale=k_scale, v_scale=v_scale, k_zero=k_zero, v_zero=v_zero,
    )  # fmt: skip


def _launch(
    q, k, v, parts, part_lse, *, cache_seqlens, starts, block_table, k_scale, v_scale, k_zero, v_zero, codec, capacity,
    window, scale, softcap, splits, config,
):  # fmt: skip
    (b, h, t, dk), (g, size) = q.shape, k.shape[1:3]
    rows, dv = h // g * t, v.shape[-1] * codes_each(v.dtype)
    q, scale = positive(q.contiguous(), scale)  # of one or few tokens
    out = q.new_empty(b, h, t, dv)
    lse = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    # Unused pointers and strides are there for the signature alone.
    scales = [q if x is None else x for x in (k_scale, k_zero, v_scale, v_zero)]
    scale_strides = [(0, 0, 0, 1) if x is None else x.stride() for x in (k_scale, v_scale)]
    lengths, first = (q if x is None else x.contiguous() for x in (cache_seqlens, starts))
    k, v = (x.view(torch.uint8) if codec == FP8.value else x for x in (k, v))
    table = q if block_table is None else block_table
    written = (out, lse) if splits == 1 else (parts, part_lse)
    _grouped_query_split_kernel[(splits, b * g, triton.cdiv(rows, config["BLOCK_R"]))](
        q, k, v, *scales, lengths, first, table, *written, k.stride(), v.stride(), *scale_strides,
        (0, 1) if block_table is None else table.stride(), g, rows, t, capacity, size, window or 0, splits, scale,
        softcap or 1.0, LENGTHS=cache_seqlens is not None, STARTS=starts is not None, PAGED=block_table is not None,
        ALIGNED=size % config["BLOCK_S"] == 0, WINDOW=window is not None, SOFTCAP=softcap is not None, CODEC=codec,
        K_GROUPS=1 if k_scale is None else k_scale.shape[-1], V_GROUPS=1 if v_scale is None else v_scale.shape[-1],
        DK=dk, DV=dv, BLOCK_DK=padded(dk), BLOCK_DV=padded(dv), **config,
    )  # fmt: skip
    if splits > 1:
        merge_splits(parts, part_lse, out, lse)
    return out, lse
