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

from attncourse._shared.kernel import tl, triton
from attncourse._shared.launch import device_capability, in_exact_dtype, interpreting
from attncourse._shared.validate import require
from attncourse.softmax_attention.kernel import (
    LOG2E,
    _arguments,
    _load_rows,
    _scores,
    _store_rows,
    check_inputs,
    softmax_attention_triton_with_lse,
)

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


# A launch compiles for properties of its integers, such as being 1; not for those of each new seed.
@triton.jit(do_not_specialize=["seed"])
def _hard_attention_fwd_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, index_ptr, log_prob_ptr, lengths_ptr, mask_ptr,
    q_b, q_h, q_t, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, out_b, out_h, out_t, out_d,
    mask_b, mask_h, mask_t, mask_s, h, t, s, window, scale, softcap, seed,
    GROUP: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_DK: tl.constexpr, BLOCK_DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    LENGTHS: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, SAMPLE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_T queries of one head against every key that they may see."""
    first_row = tl.program_id(0) * BLOCK_T
    batch = (tl.program_id(1) // h).to(tl.int64)
    head = (tl.program_id(1) % h).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_T)
    length = s
    if LENGTHS:
        length = tl.load(lengths_ptr + batch).to(tl.int32)

    q = _load_rows(q_ptr + batch * q_b + head * q_h, rows, q_t, q_d, t, DK, BLOCK_DK)  # (BLOCK_T, BLOCK_DK)
    k_base = k_ptr + batch * k_b + head // GROUP * k_g
    mask = mask_ptr + batch * mask_b + head * mask_h
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
        k = _load_rows(k_base, cols, k_s, k_d, length, DK, BLOCK_DK)  # (BLOCK_S, BLOCK_DK)
        products = tl.dot(q, tl.trans(k), input_precision="ieee")  # (BLOCK_T, BLOCK_S)
        scores, _ = _scores(
            products, rows, cols, t, s, length, window, scale, softcap, mask, mask_t, mask_s,
            True, CAUSAL, WINDOW, SOFTCAP, MASK,
        )  # fmt: skip
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
    tl.store(index_ptr + at, index.to(tl.int64), mask=rows < t)
    tl.store(log_prob_ptr + at, tl.where(seen, log_prob, 0.0), mask=rows < t)
    v_base = v_ptr + batch * v_b + head // GROUP * v_g
    read = _load_rows(v_base, tl.where(seen, index, length), v_s, v_d, length, DV, BLOCK_DV)  # (BLOCK_T, BLOCK_DV)
    _store_rows(out_ptr + batch * out_b + head * out_h, read, rows, out_t, out_d, t, DV, BLOCK_DV)


# (BLOCK_T, BLOCK_S, warps, stages) by padded width. Philox holds four words for every pair of a tile, so tiles are
# smaller than those of softmax attention. The interpreter takes as long for a large tile as for a small one.
CONFIGS = {
    "interpreter": dict.fromkeys((64, 128, 256), (256, 64, 1, 1)),
    "fma": {64: (32, 16, 4, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
    80: dict.fromkeys((64, 128, 256), (64, 32, 8, 2)),
    90: dict.fromkeys((64, 128, 256), (64, 32, 8, 2)),
}


def launch_config(*, width: int, bits: int, capability: int) -> dict[str, int]:
    """Tile sizes and warps for a padded width, a dtype and a chip."""
    chip = "fma" if bits == 32 or capability < 80 else 90 if capability >= 90 else 80
    chip = "interpreter" if interpreting() else chip
    block_t, block_s, num_warps, num_stages = CONFIGS[chip][max(width, 64)]
    # The default of FP fusion differs between versions of Triton.
    return {
        "BLOCK_T": block_t, "BLOCK_S": block_s, "num_warps": num_warps, "num_stages": num_stages,
        "enable_fp_fusion": True,
    }  # fmt: skip


def _forward(q, k, v, key_lengths, mask, seed, **options):
    (b, h, t, _), dv = q.shape, v.shape[-1]
    out = q.new_empty(b, h, t, dv)
    index = torch.empty(b, h, t, device=q.device, dtype=torch.int64)
    log_prob = torch.empty(b, h, t, device=q.device, dtype=torch.float32)
    if out.numel() == 0:
        return out, index, log_prob
    masks, numbers, constants = _arguments(q, k, v, key_lengths, mask, **options)
    width = max(constants["BLOCK_DK"], constants["BLOCK_DV"])
    config = launch_config(width=width, bits=q.element_size() * 8, capability=device_capability(q))
    grid = (triton.cdiv(t, config["BLOCK_T"]), b * h)
    strides = (*q.stride(), *k.stride(), *v.stride(), *out.stride())
    _hard_attention_fwd_kernel[grid](
        q, k, v, out, index, log_prob, *masks, *strides, *numbers, seed or 0, SAMPLE=seed is not None, **constants,
        **config,
    )  # fmt: skip
    return out, index, log_prob


def _with_gradients(read, q, k, v, key_lengths, mask, **options):
    """The same read as a function of q, k and v: rows that a gather finds, and log p = their score - log-sum-exp.

    The log-sum-exp has its gradient in the softmax kernels, which form the weights again tile by tile, so this too takes
    memory linear in the length. An added mask moves both terms by constants, which no gradient sees.
    """
    score = (q.float() * take_rows(k, read.index).float()).sum(dim=-1) * options["scale"]
    if options["softcap"] is not None:
        score = options["softcap"] * torch.tanh(score / options["softcap"])
    _, lse = softmax_attention_triton_with_lse(q, k, v[..., :1], key_lengths=key_lengths, mask=mask, **options)
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
    """`hard_attention` by the kernel, with noise made from a seed; the best key where the seed is None.

    Float32, float16 or bfloat16, widths to 256, any strides. `log_prob` is float32. The same seed gives the same choice;
    a fresh one gives fresh noise, so count it up from step to step. Gradients are those of `hard_attention`: of `out`
    for v, of `log_prob` for q and k (what `score_function_loss` needs), in memory linear in the length.

    Raises:
        ValueError: as the reference, and for what no kernel here can do (float64, a wider head, the gradient of an
            added mask, CPU tensors where Triton compiles); a seed outside 0..2^63 - 1.
    """
    check_inputs(
        "hard_attention_triton", q, k, v, window=window, key_lengths=key_lengths, mask=mask, softcap=softcap,
        instead="reference",
    )  # fmt: skip
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
