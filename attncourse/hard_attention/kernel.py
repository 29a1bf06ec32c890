"""Hard attention as one Triton kernel that samples a key while it walks over them, and never stores a weight.

Gumbel-max under the online softmax (Maddison et al. 2014, https://arxiv.org/abs/1411.0030; Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867): a running maximum of score plus noise and where it stood, beside the running maximum
and sum that give the log-probability. One value row is loaded a query, at the end.

The noise is a function of (seed, batch and head, query, key) and of nothing else: Philox (Salmon et al. 2011) enciphers
a counter of four 32-bit words under the seed, here (key, query, batch * h + head, 0). No two pairs have the same
counter, so no two streams overlap, whatever the lengths; and tile sizes do not change what is drawn.
"""

import torch
from torch import Tensor

from attncourse._shared.kernel import (
    LOG2E,
    head_of,
    length_of,
    load_rows,
    mask_arguments,
    masked_scores,
    store_rows,
    tanh,
    visible_keys,
)
from attncourse._shared.language import tl, triton
from attncourse._shared.launch import (
    check_launch,
    check_mask_is_constant,
    chip_of,
    in_exact_dtype,
    interpreting,
    padded,
    tile_config,
)
from attncourse._shared.masks import soft_cap
from attncourse._shared.validate import check_attention, require
from attncourse.softmax_attention.kernel import softmax_attention_triton

from .selection import HardRead, take_rows


@triton.jit
def _gumbel(seed, head, rows, cols):
    """-log(E) with E exponential, for each pair of rows and cols."""
    words = (cols[None, :].to(tl.uint32), rows[:, None].to(tl.uint32), head.to(tl.uint32), head.to(tl.uint32) * 0)
    bits, _, _, _ = tl.philox(seed, words[0], words[1], words[2], words[3])  # (BLOCK_T, BLOCK_S)
    u = tl.maximum(tl.random.uint_to_uniform_float(bits), 2.0**-32)
    # Large noise, which decides, is small E. log(1 - u) would round small u to a multiple of 2^-24: among a million
    # keys the best ones would tie.
    small = u * (1.0 + u * (0.5 + u / 3.0))
    return -tl.log(tl.where(u < 2.0**-8, small, -tl.log(1.0 - u)))


@triton.jit
def _scores(
    products, rows, cols, mask, mask_strides, t, s, length, window, scale, softcap,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Scores from q . k in their true size, which noise is added to, with -inf where a row may not look."""
    scores = products * scale
    if SOFTCAP:
        scores = softcap * tanh(scores / softcap)
    scores = masked_scores(scores, mask, mask_strides, rows, cols, t, s, MASK)
    return tl.where(visible_keys(rows, cols, t, s, length, window, CAUSAL, WINDOW), scores, float("-inf"))


# A launch compiles for properties of its integers, such as being 1; not for those of each new seed.
@triton.jit(do_not_specialize=["seed"])
def _hard_attention_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, index_ptr, log_prob_ptr, lengths_ptr, mask_ptr,
    q_strides, k_strides, v_strides, out_strides, mask_strides, h, t, s, window, scale, softcap, seed,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, SAMPLE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    exists = rows < t
    length = length_of(lengths_ptr, batch, s, LENGTHS)
    q = load_rows(head_of(q_ptr, q_strides, batch, head), q_strides, rows, exists, DK, BLOCK_DK)
    k_base = head_of(k_ptr, k_strides, batch, head // GROUP)
    v_base = head_of(v_ptr, v_strides, batch, head // GROUP)
    mask = head_of(mask_ptr, mask_strides, batch, head)
    begin, end = 0, length
    if CAUSAL:
        end = tl.maximum(tl.minimum(end, first_row + BLOCK_T + s - t), 0)
    if WINDOW:
        begin = tl.maximum(first_row + s - t - window + 1, 0) // BLOCK_S * BLOCK_S

    best = tl.full((BLOCK_T,), float("-inf"), tl.float32)  # by how much the largest score plus noise exceeds `top`,
    index = tl.full((BLOCK_T,), -1, tl.int32)  # where it stood,
    chosen = tl.zeros((BLOCK_T,), tl.float32)  # and its score
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(begin, end, BLOCK_S):
        cols = start + tl.arange(0, BLOCK_S)
        k = load_rows(k_base, k_strides, cols, cols < length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_T, BLOCK_S)
        scores = _scores(
            products,
            rows,
            cols,
            mask,
            mask_strides,
            t,
            s,
            length,
            window,
            scale,
            softcap,
            CAUSAL,
            WINDOW,
            SOFTCAP,
            MASK,
        )
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet keeps top = -inf, and -inf - -inf is NaN: shift by 0 instead.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        lower = scores - shift[:, None]
        total = total * tl.exp2((top - shift) * LOG2E) + tl.sum(tl.exp2(lower * LOG2E), 1)
        # Noise is added to what is left of a score: next to a mask of -1e9 it would round away, and all keys would tie.
        best += top - shift
        top = new_top
        noisy = lower
        if SAMPLE:
            noisy += _gumbel(seed, tl.program_id(1), rows, cols)
        tile_best, at = tl.max(noisy, 1, return_indices=True)
        tile_chosen = tl.sum(tl.where(tl.arange(0, BLOCK_S)[None, :] == at[:, None], scores, 0.0), 1)
        better = tile_best > best
        best = tl.where(better, tile_best, best)
        index = tl.where(better, start + at, index)
        chosen = tl.where(better, tile_chosen, chosen)

    seen = index >= 0
    log_prob = chosen - top - tl.log2(tl.where(seen, total, 1.0)) / LOG2E
    at = (batch * h + head) * t + rows
    tl.store(index_ptr + at, index.to(tl.int64), mask=exists)
    tl.store(log_prob_ptr + at, tl.where(seen, log_prob, 0.0), mask=exists)
    read = load_rows(v_base, v_strides, index, seen, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
    store_rows(head_of(out_ptr, out_strides, batch, head), out_strides, read, rows, exists, DV, BLOCK_DV)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width. Philox holds four words for every pair of a tile, so tiles are
# smaller than those of softmax attention.
CONFIGS = {
    "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
    80: {256: (64, 32, 8, 2)},
}
# The interpreter takes as long for a large tile as for a small one.
INTERPRETED = {"BLOCK_T": 256, "BLOCK_S": 64, "num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}


def launch_config(*, width: int, bits: int, capability: int) -> dict[str, int]:
    """Return tile sizes and warps for a padded width, the bits of an element and the chip's compute capability."""
    if interpreting():
        return INTERPRETED
    return tile_config(CONFIGS, width=width, bits=bits, capability=capability)


def _forward(q, k, v, key_lengths, mask, seed, *, causal, window, scale, softcap):
    (b, h, t, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    out = q.new_empty(b, h, t, dv)
    index = torch.empty(b, h, t, device=q.device, dtype=torch.int64)
    log_prob = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    if out.numel() == 0:
        return out, index, log_prob
    config = launch_config(**chip_of(q, width=padded(max(dk, dv))))
    mask, mask_strides, kind = mask_arguments(mask, (b, h, t, s), like=q)
    lengths, strides = q if key_lengths is None else key_lengths.contiguous(), (x.stride() for x in (q, k, v, out))
    _hard_attention_fwd_kernel[(triton.cdiv(t, config["BLOCK_T"]), b * h)](
        q, k, v, out, index, log_prob, lengths, mask, *strides, mask_strides, h, t, s, window or 0, scale, softcap or 1.0,
        seed or 0, GROUP=h // g, DK=dk, DV=dv, BLOCK_DK=padded(dk), BLOCK_DV=padded(dv),
        CAUSAL=causal or window is not None, WINDOW=window is not None, LENGTHS=key_lengths is not None,
        SOFTCAP=softcap is not None, MASK=kind, SAMPLE=seed is not None, **config,
    )  # fmt: skip
    return out, index, log_prob


def _with_gradients(read, q, k, v, key_lengths, mask, **options):
    """Return the same read as a function of q, k and v:
    rows that a gather finds, and log p = their score - log-sum-exp.

    The log-sum-exp has its gradient in the softmax kernels, which form the weights again tile by tile, so this too
    takes memory linear in the length. An added mask moves both terms by constants, which no gradient sees.
    """
    score = (q.float() * take_rows(k, read.index).float()).sum(dim=-1) * options["scale"]
    score = soft_cap(score, options["softcap"])
    _, lse = softmax_attention_triton(q, k, v[..., :1], key_lengths=key_lengths, mask=mask, **options, return_lse=True)
    slope = (score - lse).masked_fill(read.index < 0, 0.0)
    return HardRead(take_rows(v, read.index), read.index, read.log_prob + (slope - slope.detach()))


def hard_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    seed: int | None,
    causal: bool = False,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> HardRead:
    """Return what `hard_attention` does, by the kernel, with noise made from a seed.

    `log_prob` is float32. The same seed gives the same choice; a fresh one gives fresh noise, so count it up from step
    to step. Gradients are those of `hard_attention`: of `out` for v, of `log_prob` for q and k (what
    `score_function_loss` needs), in memory linear in the length.

    Args:
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv), float32, float16 or bfloat16, widths to 256, any strides.
        seed: of the noise, 0 to 2^63 - 1; None for the best key.
        causal: query i of t stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on q . k (default: dk ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap), before masking.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; what no kernel here can do (float64, a wider head, the
            gradient of an added mask, CPU tensors where Triton compiles); a seed out of range.
    """
    check_attention(q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap)
    check_launch("hard_attention_triton", q, k, v, instead="reference")
    check_mask_is_constant("hard_attention_triton", mask)
    require(seed is None or 0 <= seed < 2**63, f"seed must lie in 0..2^63 - 1, got {seed}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    options = dict(causal=causal, window=window, scale=scale, softcap=softcap)
    with torch.no_grad():
        out, index, log_prob = in_exact_dtype(
            lambda *qkv: _forward(*qkv, key_lengths, mask, seed, **options), q.detach(), k.detach(), v.detach()
        )
    read = HardRead(out.to(q.dtype), index, log_prob)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return _with_gradients(read, q, k, v, key_lengths, mask, **options)
    return read
