"""Absorbed decoding as Triton kernels: few queries over a long cache of latents, contiguous or in pages.

All heads read one stream of latents, so a tile's rows are query heads, and a tile of latents is loaded once for scores and
values alike. The cache is cut into splits, a program each, so that one sequence fills the device; a second kernel merges
the splits by their log-sum-exps (Dao et al. 2023, Flash-Decoding, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
For inference only: training and prefill take the expanded form.
"""

import torch
from torch import Tensor

from attncourse._shared.kernel import (
    LOG2E,
    finish_softmax,
    length_of,
    load_vectors,
    merge_splits,
    online_softmax,
    place_of,
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
from attncourse._shared.plan import Plan, plan_of
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import check_tensors, checking_values

from .inputs import check_absorbed


@triton.jit
def _decode_tiles(
    acc, top, total, q_latent, q_rope, c_ptr, kr_ptr, table_ptr, c_strides, kr_strides, batch, positions, first, last, end,
    size, factor, EDGE: tl.constexpr, PAGED: tl.constexpr, ALIGNED: tl.constexpr, R: tl.constexpr, P: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The online softmax over the tiles of tokens first..last; a tile of latents is both the keys and the values."""
    for start in range(first, last, BLOCK_S):
        tokens = start + tl.arange(0, BLOCK_S)
        exists = tokens < end
        block, slot, lanes = place_of(table_ptr, batch, start, end, size, PAGED, ALIGNED, BLOCK_S)
        at, rope_at = vectors_at(block, slot, lanes, 0, c_strides), vectors_at(block, slot, lanes, 0, kr_strides)
        there = exists if EDGE else None
        latent = load_vectors(c_ptr, at, c_strides[3], there, R, BLOCK_R)  # (BLOCK_S, BLOCK_R)
        k_rope = load_vectors(kr_ptr, rope_at, kr_strides[3], there, P, BLOCK_P)  # (BLOCK_S, BLOCK_P)
        scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")  # (BLOCK_Q, BLOCK_S)
        scores = tl.dot(q_rope, tl.trans(k_rope), scores, input_precision="ieee")
        if EDGE:
            visible = exists[None, :] & (tokens[None, :] <= positions[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        acc, top, total = online_softmax(acc, top, total, scores, latent, factor)
    return acc, top, total


@triton.jit
def _latent_decode_split_kernel(
    qc_ptr, qr_ptr, c_ptr, kr_ptr, part_ptr, lse_ptr, lengths_ptr, at_ptr, table_ptr,
    qc_strides, qr_strides, c_strides, kr_strides, table_strides, h, t, capacity, size, splits, scale,
    R: tl.constexpr, P: tl.constexpr, PAGED: tl.constexpr, ALIGNED: tl.constexpr, LENGTHS: tl.constexpr,
    POSITIONS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries (t tokens of one head, then of the next) against one split of one sequence's cache."""
    split = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)  # programs of one split are neighbours, and share the L2
    exists = rows < h * t
    head, token = (rows // t).to(tl.int64), (rows % t).to(tl.int64)
    length = length_of(lengths_ptr, batch, capacity, LENGTHS)
    positions = rows * 0 + length
    if POSITIONS:
        positions = tl.load(at_ptr + batch * t + token, mask=exists, other=capacity).to(tl.int32)
    q_at, r_at = head * qc_strides[1] + token * qc_strides[2], head * qr_strides[1] + token * qr_strides[2]
    q_latent = load_vectors(qc_ptr + batch * qc_strides[0], q_at, qc_strides[3], exists, R, BLOCK_R)
    q_rope = load_vectors(qr_ptr + batch * qr_strides[0], r_at, qr_strides[3], exists, P, BLOCK_P)

    tiles = tl.cdiv(tl.cdiv(length, BLOCK_S), splits)  # of each split; the last ones may have fewer, or none
    begin = split * tiles * BLOCK_S
    end = tl.maximum(tl.minimum(begin + tiles * BLOCK_S, length), begin)
    # Every query sees every token of the tiles before `edge`.
    edge = tl.minimum(end, tl.min(positions, 0) + 1)
    edge = tl.maximum(tl.maximum(edge, 0) // BLOCK_S * BLOCK_S, begin)
    acc = tl.zeros((BLOCK_Q, BLOCK_R), tl.float32)
    top = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    table_ptr += batch * table_strides[0]
    acc, top, total = _decode_tiles(
        acc, top, total, q_latent, q_rope, c_ptr, kr_ptr, table_ptr, c_strides, kr_strides, batch, positions, begin, edge, end,
        size, scale * LOG2E, False, PAGED, ALIGNED, R, P, BLOCK_S, BLOCK_R, BLOCK_P,
    )  # fmt: skip
    acc, top, total = _decode_tiles(
        acc, top, total, q_latent, q_rope, c_ptr, kr_ptr, table_ptr, c_strides, kr_strides, batch, positions, edge, end, end,
        size, scale * LOG2E, True, PAGED, ALIGNED, R, P, BLOCK_S, BLOCK_R, BLOCK_P,
    )  # fmt: skip

    out, lse = finish_softmax(acc, top, total, scale * LOG2E)
    at = (batch * (h * t) + rows) * splits + split
    tl.store(lse_ptr + at, lse, mask=exists)
    cols = tl.arange(0, BLOCK_R)[None, :]
    tl.store(part_ptr + at[:, None] * R + cols, out.to(part_ptr.dtype.element_ty), mask=exists[:, None] & (cols < R))


# (BLOCK_Q, BLOCK_S, warps, stages) by the padded width of the latents, for up to 16 queries and for more. The compile-only
# gate holds every entry to its chip's shared memory, and those of 16-bit inputs to no spilled register.
# Without tensor cores (float32 everywhere, all of sm_75) products run on FMA units, and sm_75's 64 KiB of shared memory
# hold no more than 8 queries at 512. On Hopper 64 queries are one warpgroup's product, and read each latent a quarter as often.
CONFIGS = {
    "few": {
        75: {128: (16, 16, 4, 1), 256: (16, 16, 8, 1), 512: (8, 16, 8, 1)},
        "fma": {128: (16, 16, 4, 1), 256: (16, 16, 8, 1), 512: (16, 16, 8, 1)},
        80: {128: (16, 64, 4, 2), 256: (16, 64, 4, 2), 512: (16, 32, 8, 2)},
        90: {128: (16, 64, 4, 3), 256: (16, 64, 8, 3), 512: (16, 32, 4, 3)},
    },
    "many": {
        75: {128: (16, 16, 4, 1), 256: (16, 16, 8, 1), 512: (8, 16, 8, 1)},
        "fma": {128: (16, 16, 4, 1), 256: (16, 16, 8, 1), 512: (16, 16, 8, 1)},
        80: {128: (32, 64, 4, 2), 256: (32, 32, 4, 2), 512: (32, 32, 8, 2)},
        90: {128: (64, 64, 4, 3), 256: (64, 64, 8, 2), 512: (64, 32, 8, 2)},
    },
}
FEW = 16
RESIDENT = 2  # programs that a multiprocessor holds at a time; of many queries one, and then these are two whole waves


def launch_config(*, rows: int, width: int, bits: int, capability: int, paged: bool) -> dict[str, int]:
    """Return tile sizes and warps.

    A page is looked up before it is read, and the compiler spreads the stages over both.

    Args:
        rows: queries of a sequence, h t.
        width: of the latents, padded.
        bits: of an element of the inputs.
        capability: the chip, two digits.
        paged: whether latents are looked up in a block table.
    """
    table = CONFIGS["few" if rows <= FEW else "many"]
    config = tile_config(table, width=width, bits=bits, capability=capability, blocks=("BLOCK_Q", "BLOCK_S"))
    return config | {"num_stages": 2 * config["num_stages"] - 1} if paged else config


@outside_autocast
def latent_attention_triton(
    q_nope: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    w_uk: Tensor,
    w_uv: Tensor,
    *,
    scale: float | None = None,
    splits: int | None = None,
    check_values: bool | None = None,
    **tensors: Tensor | None,
) -> Tensor:
    """Return what `latent_attention_absorbed` does for decoding, by the kernels, without gradients:
    a plan is made and run once.

    Args:
        q_nope, q_rope: (b, h, t, n) and (b, h, t, p), float32, float16 or bfloat16.
        latent, k_rope: (b, 1, s, width), or with a block_table pages (n_pages, 1, page_size, width).
        w_uk, w_uv: (h, n, r) and (h, dv, r).
        scale: factor on the scores (default: (n + p) ** -0.5).
        splits: parts into which each sequence's cache is cut (default: enough to fill the device).
        check_values: whether lengths are looked at (default: as `checking_values` says).
        tensors: key_lengths, positions, block_table, as in `plan_latent_decode`.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what the kernels cannot do: gradients, float64, wider
            latents, CPU tensors where Triton compiles.
    """
    inputs = (q_nope, q_rope, latent, k_rope, w_uk, w_uv)
    plan = plan_latent_decode(*inputs, scale=scale, splits=splits, check_values=check_values, **tensors)
    return plan.run(*inputs, **tensors)


def plan_latent_decode(
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

    Float32, float16 or bfloat16, latents of width to 512, any strides; products accumulate in float32, and those of
    float32 inputs are exact (no tf32). Growing sequences keep their plan: what grows is what `key_lengths` holds.

    Args:
        q_nope, q_rope: (b, h, t, n) and (b, h, t, p).
        w_uk, w_uv: (h, n, r) and (h, dv, r).
        latent, k_rope: (b, 1, s, width), or with a block_table pages (n_pages, 1, page_size, width).
        key_lengths: (b,) integers, `cache_seqlens`; later tokens are padding, whatever they hold. Pages need it.
        positions: (b, t) integers, where the queries stand: they see no token after it (default: all see all).
        block_table: (b, max_pages) integers; token j of sequence i stands in page block_table[i, j // page_size].
        scale: factor on the scores (default: (n + p) ** -0.5).
        splits: parts into which each sequence's cache is cut (default: enough to fill the device).
        check_values: whether lengths are looked at, which on CUDA waits for the device; None as `checking_values` says.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what the kernels cannot do: gradients, float64, wider
            latents, CPU tensors where Triton compiles.
    """
    name = "latent_attention_triton"
    inputs = dict(q_nope=q_nope, q_rope=q_rope, latent=latent, k_rope=k_rope, w_uk=w_uk, w_uv=w_uv)
    check_tensors(**inputs)
    check_runs_here(name, *inputs.values())
    with checking_values(check_values):
        check_absorbed(
            name, inputs, key_lengths=key_lengths, positions=positions, block_table=block_table, splits=splits
        )
    (b, h, t, n), (page, r) = q_nope.shape, latent.shape[2:]
    s = page if block_table is None else page * block_table.shape[1]
    config = launch_config(rows=h * t, paged=block_table is not None, **chip_of(q_nope, width=padded(r)))
    if splits is None:
        programs, tiles = b * triton.cdiv(h * t, config["BLOCK_Q"]), triton.cdiv(s, config["BLOCK_S"])
        splits = choose_splits(programs, tiles, slots=slots_of(q_nope, resident=RESIDENT))
    parts, part_lse = split_buffers(b * h * t, splits, r, device=latent.device)
    scale = (n + q_rope.shape[-1]) ** -0.5 if scale is None else scale

    def kernels(q_nope, q_rope, latent, k_rope, w_uk, w_uv, *beside):
        # In float16 and bfloat16 these two products run on tensor cores too.
        q_latent = torch.einsum("bhtn,hnr->bhtr", q_nope, w_uk)
        (q_latent, factor), (q_rope, _) = positive(q_latent, scale), positive(q_rope, scale)
        mixed = q_latent.new_empty(b, h, t, r)
        if 0 in (*mixed.shape, s):
            mixed.zero_()
        else:
            _launch(q_latent, q_rope, latent, k_rope, mixed, parts, part_lse, *beside, s=s, scale=factor, config=config)
        return (torch.einsum("bhtr,hdr->bhtd", mixed, w_uv),)

    @outside_autocast
    def launch(q_nope, q_rope, latent, k_rope, w_uk, w_uv, *, key_lengths, positions, block_table):
        inputs = (q_nope, q_rope, latent, k_rope, w_uk, w_uv)
        beside = (key_lengths, positions, block_table)
        return in_exact_dtype(lambda *inputs: kernels(*inputs, *beside), *inputs)[0].to(q_nope.dtype)

    beside = dict(key_lengths=key_lengths, positions=positions, block_table=block_table)
    return plan_of(name, launch, **inputs, **beside)


def _launch(
    q_latent, q_rope, latent, k_rope, out, parts, part_lse, key_lengths, positions, block_table, *, s, scale, config
):  # fmt: skip
    """Write the mixtures of latents into out (b, h, t, r)."""
    (b, h, t, r), p, splits = q_latent.shape, q_rope.shape[-1], parts.shape[1]
    lengths, at, table = (
        q_latent if x is None else x.contiguous() for x in (key_lengths, positions, block_table)
    )  # an absent one is never read
    lse = torch.empty(b * h * t, device=out.device, dtype=torch.float32)
    written = (out, lse) if splits == 1 else (parts, part_lse)
    strides = (x.stride() for x in (q_latent, q_rope, latent, k_rope))
    _latent_decode_split_kernel[(triton.cdiv(h * t, config["BLOCK_Q"]), splits, b)](
        q_latent, q_rope, latent, k_rope, *written, lengths, at, table, *strides,
        (0, 1) if block_table is None else table.stride(), h, t, s, latent.shape[2], splits, scale,
        R=r, P=p, PAGED=block_table is not None, ALIGNED=latent.shape[2] % config["BLOCK_S"] == 0,
        LENGTHS=key_lengths is not None, POSITIONS=positions is not None, BLOCK_R=padded(r), BLOCK_P=padded(p), **config,
    )  # fmt: skip
    if splits > 1:
        merge_splits(parts, part_lse, out, lse)
