"""Decoding in the latent space at the speed of memory: the absorbed form, split by split, in plain PyTorch.

A query of one token meets every latent of the cache, so reading the latents is most of the work. Here they are read from
where they lie, once from memory and once more from the processor's cache: a group of splits is scored, weighted and
mixed before the next is touched, and the splits of a group are the batch of one product, so that each thread has splits
of its own. In the end the splits are merged by their sums of exponentials.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import apply_mask
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import require

from .inputs import check_latent, check_masking
from .reference import absorb_query, expand_output


@outside_autocast
def latent_attention_blocked(
    q_nope: Float[Tensor, "b h t n"],
    q_rope: Float[Tensor, "b h t p"],
    latent: Float[Tensor, "b 1 s r"],
    k_rope: Float[Tensor, "b 1 s p"],
    w_uk: Float[Tensor, "h n r"],
    w_uv: Float[Tensor, "h dv r"],
    *,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    split: int = 512,
    splits: int = 8,
) -> Float[Tensor, "b h t dv"]:
    """Return what `latent_attention_absorbed` does for few queries over a long cache.

    Nothing as long as the cache is formed but a mask.

    Args:
        key_lengths: (b,) integers; of each sequence only so many tokens are read at all.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on the scores (default: (n + p) ** -0.5).
        split: tokens of a split.
        splits: how many splits are in flight; a group should fit the processor's cache.

    Raises:
        ValueError: a shape, dtype or device does not fit; a split or splits below 1.
    """
    check_latent(q_nope, q_rope, latent, k_rope, w_uk, w_uv)
    (b, h, t, n), s, p = q_nope.shape, latent.shape[2], q_rope.shape[-1]
    mask = check_masking(q_nope, latent, key_lengths=key_lengths, mask=mask)["mask"]
    require(split >= 1 and splits >= 1, f"split and splits must be at least 1, got {split}, {splits}")
    scale = (n + p) ** -0.5 if scale is None else scale
    # (row, r, queries): each split is a product of latents, as they lie, with all queries at once
    q_latent = rearrange(absorb_query(wide(q_nope), wide(w_uk)) * scale, "b h t r -> b r (h t)")
    q_rope = rearrange(wide(q_rope) * scale, "b h t p -> b p (h t)")
    lengths = [s] * b if key_lengths is None or key_lengths.is_meta else key_lengths.tolist()
    mixed = q_latent.new_zeros(b, h * t, latent.shape[-1])
    for row, length in enumerate(lengths):
        seen = None if mask is None else rearrange(mask.expand(b, h, t, s)[row], "h t s -> s (h t)")
        parts = []
        for first, count, width in _groups(length, split, splits):
            here = slice(first, first + count * width)
            keys, turned = (wide(x[here]).unflatten(0, (count, width)) for x in (latent[row, 0], k_rope[row, 0]))
            seen_here = None if seen is None else seen[here].unflatten(0, (count, width))
            parts.append(attend_splits(q_latent[row], q_rope[row], keys, turned, seen_here))
        if parts:
            mixed[row] = _merge_splits(*map(torch.cat, zip(*parts, strict=True)))
    return expand_output(rearrange(mixed, "b (h t) r -> b h t r", h=h), wide(w_uv)).to(q_nope.dtype)


def _groups(length: int, split: int, splits: int) -> list[tuple[int, int, int]]:
    """Return (first token, splits, tokens per split) that cover a length:
    whole groups, a smaller one, a ragged last split.
    """
    groups, first = [], 0
    while first < length:
        count = min(splits, (length - first) // split)
        groups.append((first, count, split) if count else (first, 1, length - first))
        first += groups[-1][1] * groups[-1][2]
    return groups


def attend_splits(
    q_latent: Float[Tensor, "r q"],
    q_rope: Float[Tensor, "p q"],
    latent: Float[Tensor, "splits c r"],
    k_rope: Float[Tensor, "splits c p"],
    mask: Tensor | None,
) -> tuple[Float[Tensor, "splits q r"], Float[Tensor, "splits q"], Float[Tensor, "splits q"]]:
    """Return of each split by itself the sum of its latents weighted by exp(score - top),
    the sum of the weights, and top.

    All are in float32 or better.

    Args:
        mask: (splits, c, q), boolean or added; None for none.
    """
    count = len(latent)
    scores = torch.bmm(k_rope, q_rope.expand(count, -1, -1))
    scores = torch.baddbmm(scores, latent, q_latent.expand(count, -1, -1))
    scores = apply_mask(scores, mask)
    top = scores.amax(dim=1, keepdim=True)
    shift = top if mask is None else top.masked_fill(top == -torch.inf, 0.0)  # where nothing is visible, weights of 0
    weights = torch.exp(scores - shift)
    mixed = torch.bmm(weights.transpose(1, 2), latent)
    return mixed, weights.sum(dim=1), top[:, 0]


def _merge_splits(
    mixed: Float[Tensor, "splits q r"], total: Float[Tensor, "splits q"], top: Float[Tensor, "splits q"]
) -> Float[Tensor, "q r"]:
    """Return all splits, brought from their own tops to the common one; zeros for a query that no split shows anything."""
    highest = top.amax(dim=0)
    rescale = torch.exp(top - highest.masked_fill(highest == -torch.inf, 0.0))
    total = (total * rescale).sum(dim=0)
    return einsum(mixed, rescale, "splits q r, splits q -> q r") / total.clamp_min(1e-30)[:, None]
