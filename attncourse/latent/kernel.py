"""Absorbed decoding as Triton kernels: few queries over a long cache of latents, contiguous or in pages.

All heads read one stream of latents, so a tile's rows are query heads, and a tile of latents is loaded once for scores and
values alike. The cache is cut into splits, a program each, so that one sequence fills the device; a second kernel merges
the splits by their log-sum-exps (Dao et al. 2023, Flash-Decoding, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
For inference only: training and prefill take the expanded form. Inside kernels logarithms are to base 2.
"""

import math

import torch
from torch import Tensor

from attncourse._shared.kernel import tl, triton
from attncourse._shared.launch import check_runs_here, device_capability, in_exact_dtype
from attncourse._shared.plan import Plan, plan_of
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import check_key_lengths, check_tensors, checking_values, require

from .checks import check_latent, check_table

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def _load_tile(base, offsets, inside, stride_width, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, BLOCK) at these offsets; zeros for rows that are not there and columns beyond the width."""
    cols = tl.arange(0, BLOCK)
    mask = inside[:, None] & (cols[None, :] < WIDTH)
    return tl.load(base + offsets[:, None] + cols[None, :] * stride_width, mask=mask, other=0.0)


@triton.jit
def _latent_decode_split_kernel(
    qc_ptr, qr_ptr, c_ptr, kr_ptr, out32_ptr, lse_ptr, lengths_ptr, at_ptr, table_ptr,
    qc_b, qc_h, qc_t, qc_d, qr_b, qr_h, qr_t, qr_d, c_b, c_s, c_d, kr_b, kr_s, kr_d, table_b, table_d,
    h, t, s, splits, scale,
    R: tl.constexpr, P: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr, LENGTHS: tl.constexpr,
    POSITIONS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries (heads of one token, then of the next) against one split of one sequence's cache."""
    split = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    exists = rows < h * t
    token, head = (rows // h).to(tl.int64), (rows % h).to(tl.int64)
    length = s
    if LENGTHS:  # nobody may have looked at them
        length = tl.minimum(tl.load(lengths_ptr + batch).to(tl.int32), s)
    last = tl.zeros((BLOCK_Q,), tl.int32) + length
    if POSITIONS:
        last = tl.load(at_ptr + batch * t + token, mask=exists, other=0).to(tl.int32)

    q_latent = _load_tile(qc_ptr + batch * qc_b, head * qc_h + token * qc_t, exists, qc_d, R, BLOCK_R)  # (BLOCK_Q, R)
    q_rope = _load_tile(qr_ptr + batch * qr_b, head * qr_h + token * qr_t, exists, qr_d, P, BLOCK_P)  # (BLOCK_Q, P)

    tiles = tl.cdiv(tl.cdiv(length, BLOCK_S), splits)  # of each split; the last ones may have fewer, or none
    begin = split * tiles * BLOCK_S
    end = tl.minimum(begin + tiles * BLOCK_S, length)
    acc = tl.zeros((BLOCK_Q, BLOCK_R), tl.float32)
    top = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    for start in range(begin, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        inside = cols < length
        # Pages, and rows of a long cache, may lie more than 2^31 elements apart.
        block, slot = batch, cols.to(tl.int64)
        if PAGED:
            block = tl.load(table_ptr + batch * table_b + cols // PAGE * table_d, mask=inside, other=0).to(tl.int64)
            slot = slot % PAGE
        latent = _load_tile(c_ptr, block * c_b + slot * c_s, inside, c_d, R, BLOCK_R)  # (BLOCK_S, R)
        k_rope = _load_tile(kr_ptr, block * kr_b + slot * kr_s, inside, kr_d, P, BLOCK_P)  # (BLOCK_S, P)
        scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")  # (BLOCK_Q, BLOCK_S)
        scores = tl.dot(q_rope, tl.trans(k_rope), scores, input_precision="ieee")
        visible = inside[None, :] & (cols[None, :] <= last[:, None])
        scores = tl.where(visible, scores * (scale * LOG2E), float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        rescale = tl.exp2(top - shift)
        weights = tl.exp2(scores - shift[:, None])
        total = total * rescale + tl.sum(weights, 1)
        acc = tl.dot(weights.to(latent.dtype), latent, acc * rescale[:, None], input_precision="ieee")
        top = new_top

    seen = total > 0
    lse = tl.where(seen, top + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
    row = (batch * splits + split) * (h * t) + rows
    tl.store(lse_ptr + row, lse, mask=exists)
    width = tl.arange(0, BLOCK_R)
    out = acc / tl.where(seen, total, 1.0)[:, None]
    tl.store(out32_ptr + row[:, None] * R + width[None, :], out, mask=exists[:, None] & (width[None, :] < R))


@triton.jit
def _latent_decode_merge_kernel(
    out32_ptr, lse_ptr, out_ptr, h, t, splits, R: tl.constexpr, BLOCK_R: tl.constexpr
):  # fmt: skip
    """One program: one query's splits into one mixture of latents."""
    batch, row = tl.program_id(1).to(tl.int64), tl.program_id(0)
    width = tl.arange(0, BLOCK_R)
    acc = tl.zeros((BLOCK_R,), tl.float32)
    top, total = float("-inf"), 0.0
    for split in range(splits):
        at = (batch * splits + split) * (h * t) + row
        lse = tl.load(lse_ptr + at)
        new_top = tl.maximum(top, lse)
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        rescale, weight = tl.exp2(top - shift), tl.exp2(lse - shift)
        part = tl.load(out32_ptr + at * R + width, mask=width < R, other=0.0)
        acc = acc * rescale + weight * part
        total = total * rescale + weight
        top = new_top
    out = acc / tl.where(total > 0, total, 1.0)
    token, head = row // h, row % h
    to = ((batch * h + head) * t + token) * R + width
    tl.store(out_ptr + to, out.to(out_ptr.dtype.element_ty), mask=width < R)


def padded(width: int) -> int:
    """The tile's width: a power of two, and at least the 16 that a tensor core multiplies at once."""
    return max(16, triton.next_power_of_2(width))


# (BLOCK_Q, BLOCK_S, warps, stages) by the padded width of the latents. The compile-only gate holds every entry to its
# chip's shared memory, and those of 16-bit inputs to no spilled register.
# Without tensor cores (float32 everywhere, all of sm_75) products run on FMA units, and sm_75's 64 KiB of shared memory
# hold no more than 8 queries at 512.
CONFIGS = {
    75: {128: (16, 16, 4, 1), 256: (16, 16, 8, 1), 512: (8, 16, 8, 1)},
    "fma": {128: (16, 16, 4, 1), 256: (16, 16, 8, 1), 512: (16, 16, 8, 1)},
    80: {128: (16, 64, 4, 2), 256: (16, 64, 4, 2), 512: (16, 32, 4, 2)},
    90: {128: (16, 64, 4, 3), 256: (16, 64, 4, 3), 512: (16, 64, 8, 2)},
}
WIDEST = 512


def launch_config(*, width: int, bits: int, capability: int) -> dict[str, int]:
    """Tile sizes and warps for the latents' padded width, a dtype and a chip."""
    chip = 75 if capability < 80 else "fma" if bits == 32 else 90 if capability >= 90 else 80
    block_q, block_s, num_warps, num_stages = CONFIGS[chip][max(width, 128)]
    # The default of FP fusion differs between versions of Triton.
    return {
        "BLOCK_Q": block_q, "BLOCK_S": block_s, "num_warps": num_warps, "num_stages": num_stages,
        "enable_fp_fusion": True,
    }  # fmt: skip


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
    """`latent_attention_absorbed` by the kernels, for decoding: the output (b, h, t, dv), without gradients.

    A plan and its run: arguments and errors are those of `plan_latent_decode`; but on CUDA no values are checked, unless
    told.
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
    """What is decided once for all steps whose tensors lie as these; its run gives the output (b, h, t, dv).

    Float32, float16 or bfloat16, latents of width to 512, any strides; products accumulate in float32, and those of
    float32 inputs are exact (no tf32). Growing sequences keep their plan: what grows is what `key_lengths` holds.

    Args:
        latent, k_rope: (b, 1, s, width), or with a block_table pages (n_pages, 1, page_size, width).
        key_lengths: (b,) integers, `cache_seqlens`; later tokens are padding, whatever they hold. Pages need it.
        positions: (b, t) integers, where the queries stand: they see no token after it. All see all, unless told.
        block_table: (b, max_pages) integers; token j of sequence i stands in page block_table[i, j // page_size].
        scale: factor on the scores, (n + p) ** -0.5 unless told.
        splits: parts into which each sequence's cache is cut; enough to fill the device, unless told.
        check_values: whether lengths are looked at, which on CUDA waits for the device; None as `checking_values` says.

    Raises:
        ValueError: as the reference, and for what the kernels cannot do: gradients, float64, wider latents, CPU tensors
            where Triton compiles.
    """
    inputs = dict(q_nope=q_nope, q_rope=q_rope, latent=latent, k_rope=k_rope, w_uk=w_uk, w_uv=w_uv)
    with checking_values(check_values):
        _check(inputs, key_lengths, positions, block_table, splits)
    (b, h, t, n), (page, r) = q_nope.shape, latent.shape[2:]
    s = page if block_table is None else page * block_table.shape[1]
    config = launch_config(width=padded(r), bits=8 * q_nope.element_size(), capability=device_capability(q_nope))
    blocks, tiles = triton.cdiv(h * t, config["BLOCK_Q"]), triton.cdiv(s, config["BLOCK_S"])
    if splits is None:
        splits = _enough_splits(q_nope, programs=max(b * blocks, 1), tiles=tiles)
    parts = torch.empty(b, splits, h * t, r, device=latent.device, dtype=torch.float32)
    part_lse = torch.empty(b, splits, h * t, device=latent.device, dtype=torch.float32)
    scale = (n + q_rope.shape[-1]) ** -0.5 if scale is None else scale

    def kernels(q_nope, q_rope, latent, k_rope, w_uk, w_uv, *beside):
        # In float16 and bfloat16 these two products run on tensor cores too.
        q_latent = torch.einsum("bhtn,hnr->bhtr", q_nope, w_uk)
        mixed = q_latent.new_empty(b, h, t, r)
        if 0 in (*mixed.shape, s):
            mixed.zero_()
        else:
            _launch(q_latent, q_rope, latent, k_rope, mixed, parts, part_lse, *beside, s=s, scale=scale, config=config)
        return (torch.einsum("bhtr,hdr->bhtd", mixed, w_uv),)

    @outside_autocast
    def launch(q_nope, q_rope, latent, k_rope, w_uk, w_uv, *, key_lengths, positions, block_table):
        inputs = (q_nope, q_rope, latent, k_rope, w_uk, w_uv)
        beside = (key_lengths, positions, block_table)
        return in_exact_dtype(lambda *inputs: kernels(*inputs, *beside), *inputs)[0].to(q_nope.dtype)

    beside = dict(key_lengths=key_lengths, positions=positions, block_table=block_table)
    return plan_of("latent_attention_triton", launch, **inputs, **beside)


def _launch(
    q_latent, q_rope, latent, k_rope, out, parts, part_lse, key_lengths, positions, block_table, *, s, scale, config
):  # fmt: skip
    """The mixtures of latents, into out (b, h, t, r)."""
    (b, h, t, r), p, paged, splits = q_latent.shape, q_rope.shape[-1], block_table is not None, parts.shape[1]
    blocks = triton.cdiv(h * t, config["BLOCK_Q"])
    lengths, at, table = (
        q_latent if x is None else x.contiguous() for x in (key_lengths, positions, block_table)
    )  # an absent one is never read
    _latent_decode_split_kernel[(blocks, splits, b)](
        q_latent, q_rope, latent, k_rope, parts, part_lse, lengths, at, table,
        *q_latent.stride(), *q_rope.stride(), *latent.stride()[::2], latent.stride(3), *k_rope.stride()[::2],
        k_rope.stride(3), *(table.stride() if paged else (0, 0)), h, t, s, splits, scale,
        R=r, P=p, PAGE=latent.shape[2], PAGED=paged, LENGTHS=key_lengths is not None, POSITIONS=positions is not None,
        BLOCK_R=padded(r), BLOCK_P=padded(p), **config,
    )  # fmt: skip
    _latent_decode_merge_kernel[(h * t, b)](
        parts, part_lse, out, h, t, splits, R=r, BLOCK_R=padded(r), num_warps=4, enable_fp_fusion=True
    )


def _enough_splits(x: Tensor, *, programs: int, tiles: int) -> int:
    """Splits that give each multiprocessor about two programs, of four tiles at least."""
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2
    return max(1, min(triton.cdiv(2 * processors, programs), tiles // 4))


def _check(inputs, key_lengths, positions, block_table, splits):
    name = "latent_attention_triton"
    check_tensors(**inputs)
    check_runs_here(name, *inputs.values())
    require(
        not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs.values())),
        f"{name} is for inference and gives no gradients: call it under torch.no_grad(), or use impl='torch'",
    )
    (b, _, t, _), latent, k_rope = inputs["q_nope"].shape, inputs["latent"], inputs["k_rope"]
    if block_table is None:
        check_latent(**inputs)
    else:
        check_table(block_table, b=b, like=latent)
        require(key_lengths is not None, "pages need key_lengths: how many tokens of each sequence they hold")
        check_latent(
            **inputs | {"latent": latent[:1].expand(b, -1, -1, -1), "k_rope": k_rope[:1].expand(b, -1, -1, -1)}
        )
        require(
            latent.shape[:3] == k_rope.shape[:3], f"both streams need the same pages, got {len(latent)}, {len(k_rope)}"
        )
    s = latent.shape[2] * (1 if block_table is None else block_table.shape[1])
    check_key_lengths(key_lengths, b=b, s=s, like=latent)
    require(
        positions is None or positions.shape == (b, t),
        f"positions must be ({b}, {t}), got {getattr(positions, 'shape', 0)}",
    )
    require(latent.shape[-1] <= WIDEST, f"{name} takes latents of width to {WIDEST}, got {latent.shape[-1]}")
    require(splits is None or splits >= 1, f"splits must be at least 1, got {splits}")
