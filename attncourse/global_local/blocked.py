"""Global and local attention in memory linear in the length, in plain PyTorch: block by block, hubs beside each block.

A block of queries reads one slice of keys, as far as its neighbours reach, and the keys of the global tokens beside it.
Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, appendix A, cut queries and keys alike into chunks that overlap by half.
"""

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import outside_autocast, wide
from attncourse._shared.validate import require

from .hubs import blank_missing, existing_indices, global_flags, put_rows, take_rows, tokens_that_exist
from .inputs import check_global_local

# Queries that are read together. Fewer form fewer scores in vain, and have their keys copied more often.
BLOCK = 128


def _pieces(x, size, reach, beside=None):
    """Return x (b, h, t, d) as (b m) h pieces of `size` rows,
    each between `reach` rows of what stands before and after it.

    Zeros stand outside of x. `size` is at least `reach`, so the pieces on either side hold all of them. Rows `beside`,
    of each sequence, come before those of each of its pieces.
    """
    longer = nn.functional.pad(x, (0, 0, size, size + -x.shape[2] % size))
    cut = rearrange(longer, "b h (m c) d -> b m h c d", c=size)
    parts = [cut[:, :-2, :, size - reach :], cut[:, 1:-1], cut[:, 2:, :, :reach]]
    if beside is not None:
        parts.insert(0, repeat(beside, "b h n d -> b m h n d", m=parts[0].shape[1]))
    return rearrange(torch.cat(parts, dim=-2), "b m h c d -> (b m) h c d")


@outside_autocast
def read_neighbours(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g t dk"],
    v: Float[Tensor, "b g t dv"],
    *,
    radius: int,
    index: Int[Tensor, "b n"],
    exists: Bool[Tensor, "b t"],
    scale: float,
    block: int = BLOCK,
) -> Float[Tensor, "b h t dv"]:
    """Let every token read its neighbours and the global tokens; what is computed for padding means nothing.

    Args:
        radius: neighbours on either side.
        index: places of the global tokens, -1 for none.
        exists: False in padding.
        scale: factor on q . k.
        block: queries of a piece.
    """
    t = q.shape[2]
    if t == 0:
        return q.new_zeros(*q.shape[:3], v.shape[-1])
    radius = min(radius, t)
    size = max(block, radius)
    neighbour = exists & ~global_flags(index, t)  # a global token is read once, among the global ones
    distance = torch.arange(size, device=q.device)[:, None] + radius - torch.arange(size + 2 * radius, device=q.device)
    may_read = _pieces(rearrange(neighbour, "b t -> b 1 t 1"), size, radius)
    visible = (distance.abs() <= radius) & rearrange(may_read, "m 1 s 1 -> m 1 1 s")
    visible |= distance == 0  # so that no row is empty; those that would be are padding
    blocks = -(-t // size)
    hubs = repeat(index >= 0, "b n -> (b m) 1 c n", m=blocks, c=size)
    visible = torch.cat([hubs, visible], dim=-1)
    keys, values = (_pieces(x, size, radius, beside=take_rows(x, index)) for x in (k, v))
    out = scaled_dot_product_attention(
        _pieces(q, size, 0), keys, values, scale=scale, enable_gqa=k.shape[1] != q.shape[1],
        attn_mask=torch.zeros_like(visible, dtype=q.dtype).masked_fill_(~visible, -torch.inf),
    )  # fmt: skip
    return rearrange(out, "(b m) h c d -> b h (m c) d", m=blocks)[:, :, :t]


def _never_empty(exists):
    """Return what global tokens may read, (b, 1, 1, t); among nothing but padding the first token stands in, blank."""
    return rearrange(exists | (torch.arange(exists.shape[1], device=exists.device) == 0), "b t -> b 1 1 t")


@outside_autocast
def read_everything(
    q: Float[Tensor, "b h n dk"],
    k: Float[Tensor, "b g t dk"],
    v: Float[Tensor, "b g t dv"],
    *,
    exists: Bool[Tensor, "b t"],
    scale: float,
) -> Float[Tensor, "b h n dv"]:
    """Return what global tokens read: every token that exists, under scores q . k times scale. Memory grows with n + t,
    since the fused kernel goes by tiles.
    """
    visible = _never_empty(exists)
    added = torch.zeros_like(visible, dtype=q.dtype).masked_fill_(~visible, -torch.inf)
    return scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale, enable_gqa=k.shape[1] != q.shape[1])


def global_local_attention_blocked(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g t dk"],
    v: Float[Tensor, "b g t dv"],
    *,
    radius: int,
    global_indices: Int[Tensor, " n"] | Int[Tensor, "b n"] | None = None,
    global_qkv: tuple[Float[Tensor, "b h n dk"], Float[Tensor, "b g t dk"], Float[Tensor, "b g t dv"]] | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
    scale: float | None = None,
    block: int = BLOCK,
) -> Float[Tensor, "b h t dv"]:
    """Return what `global_local_attention` does, by blocks of queries:
    the same result and gradients, memory linear in t.

    Args:
        radius: neighbours on either side; a row keeps 2 radius + 1 tokens, its own included.
        global_indices: positions of the global tokens, (n,) for all sequences alike or (b, n), where -1 fills rows that
            have fewer.
        global_qkv: what global tokens read with (default: q, k and v, as all others).
        key_lengths: (b,) integers; later tokens are padding, global ones too.
        scale: factor on q . k (default: dk ** -0.5).
        block: queries of a piece.

    Raises:
        ValueError: a radius or a block below 1; global indices out of range or twice; a shape, dtype or device is
            wrong.
    """
    check_global_local(
        q, k, v, radius=radius, global_indices=global_indices, global_qkv=global_qkv, key_lengths=key_lengths
    )
    require(block >= 1, f"block must be at least 1, got {block}")
    (b, _, t, dk), device = q.shape, q.device
    scale = dk**-0.5 if scale is None else scale
    index = existing_indices(global_indices, key_lengths, b=b, device=device)
    exists = tokens_that_exist(t, key_lengths, b=b, device=device)
    q_global, k_global, v_global = (take_rows(q, index), k, v) if global_qkv is None else global_qkv
    q, k, v, k_global, v_global = (blank_padding(x, key_lengths) for x in (q, k, v, k_global, v_global))
    out = read_neighbours(q, k, v, radius=radius, index=index, exists=exists, scale=scale, block=block)
    rows = read_everything(blank_missing(q_global, index), k_global, v_global, exists=exists, scale=scale)
    return blank_padding(put_rows(out, rows, index), key_lengths)


@outside_autocast
def read_through_projections(
    x: Float[Tensor, "b t d"],
    q_global: Float[Tensor, "b h n dk"],
    w_k: Float[Tensor, "hk d"],
    w_v: Float[Tensor, "hv d"],
    v_bias: Float[Tensor, " hv"],
    *,
    exists: Bool[Tensor, "b t"],
    scale: float,
) -> Float[Tensor, "b h n dv"]:
    """Return what global tokens read, without their keys and values:
    (q W_k) x instead of q (W_k x), and W_v (sum of x).

    A bias of the keys adds one number to a whole row of scores, which softmax does not see; a bias of the values comes
    out as it is, since weights sum to 1. Cheaper than t projections while there are fewer than dk global tokens.

    Args:
        exists: False in padding.
        scale: factor on q . k.
    """
    h, dtype = q_global.shape[1], q_global.dtype
    x, q_global, w_k, w_v, v_bias = (wide(each) for each in (x, q_global, w_k, w_v, v_bias))
    by_head = rearrange(w_k, "(h dk) d -> h dk d", h=h)
    scores = einsum(einsum(q_global * scale, by_head, "b h n dk, h dk d -> b h n d"), x, "b h n d, b t d -> b h n t")
    weights = scores.masked_fill(~_never_empty(exists), -torch.inf).softmax(dim=-1)
    mixed = einsum(weights, x, "b h n t, b t d -> b h n d")
    values = einsum(mixed, rearrange(w_v, "(h dv) d -> h dv d", h=h), "b h n d, h dv d -> b h n dv")
    return (values + rearrange(v_bias, "(h dv) -> h 1 dv", h=h)).to(dtype)
