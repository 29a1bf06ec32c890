"""Global and local attention: what it is, once as a loop and once as a masked formula.

Beltagy et al. 2020, Longformer, https://arxiv.org/abs/2004.05150, section 3.1. Every token reads its neighbours and the
global tokens; a global token reads every token, through queries, keys and values projected for it alone. Here padding
neither reads nor is read: its rows give zeros. The room computes the two-sided form alone; a causal one, whose global tokens
read their own past, is a pattern of `block_sparse`.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attncourse._shared.masks import apply_mask, blank_padding, length_mask, masked_softmax
from attncourse._shared.precision import outside_autocast, wide

from .hubs import blank_missing, existing_indices, global_flags, put_rows, take_rows
from .inputs import check_global_local


def global_local_loop(
    q: Float[Tensor, "t dk"],
    k: Float[Tensor, "t dk"],
    v: Float[Tensor, "t dv"],
    *,
    radius: int,
    global_positions: list[int],
    global_qkv: tuple[Float[Tensor, "n dk"], Float[Tensor, "t dk"], Float[Tensor, "t dv"]] | None = None,
) -> Float[Tensor, "t dv"]:
    """Read token by token, in one head and one sequence: the oracle that every other form is compared with.

    A neighbour that is global is read once, not twice.

    Args:
        radius: neighbours on either side.
        global_positions: of tokens that read everything and that everything reads.
        global_qkv: what they read with (default: q, k and v, as all others).
    """
    t, dk = q.shape
    q_global, k_global, v_global = (q[global_positions], k, v) if global_qkv is None else global_qkv
    out = torch.zeros_like(v)
    q, k, v, q_global, k_global, v_global = (wide(x) for x in (q, k, v, q_global, k_global, v_global))
    for i in range(t):
        if i in global_positions:
            query, keys, values = q_global[global_positions.index(i)], k_global, v_global
            seen = list(range(t))
        else:
            query, keys, values = q[i], k, v
            seen = sorted({j for j in range(t) if abs(i - j) <= radius} | set(global_positions))
        scores = torch.stack([query @ keys[j] * dk**-0.5 for j in seen])
        weights = torch.exp(scores - scores.max())
        weights = weights / weights.sum()
        out[i] = sum(w * values[j] for w, j in zip(weights, seen, strict=True))
    return out


def global_local_mask(
    t: int,
    *,
    radius: int,
    global_indices: Int[Tensor, " n"] | Int[Tensor, "b n"] | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
    b: int = 1,
    device=None,
) -> Bool[Tensor, "b 1 t t"]:
    """Return who reads whom: [i, j] is true where |i - j| <= radius, or i is global, or j is; never in padding.

    Args:
        t: tokens of a sequence.
        radius: neighbours on either side; a row keeps 2 radius + 1 tokens, its own included.
        global_indices: positions of the global tokens, (n,) for all sequences alike or (b, n), where -1 fills rows that
            have fewer.
        key_lengths: (b,) integers; later tokens are padding, global ones too.
        b: sequences.
        device: where the mask is made.
    """
    place = torch.arange(t, device=device)
    is_global = global_flags(existing_indices(global_indices, None, b=b, device=device), t)
    reads_all, read_by_all = rearrange(is_global, "b t -> b 1 t 1"), rearrange(is_global, "b s -> b 1 1 s")
    visible = ((place[:, None] - place).abs() <= radius) | reads_all | read_by_all
    if key_lengths is None:
        return visible
    exists = length_mask(key_lengths, t)
    return visible & exists & exists.transpose(-1, -2)


@outside_autocast
def read_rows(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    visible: Bool[Tensor, "#b 1 t s"],
    *,
    scale: float,
) -> Float[Tensor, "b h t dv"]:
    """Return softmax(Q K^T scale) V over the visible pairs; zeros for a row without any."""
    grouped = rearrange(wide(q), "b (g r) t dk -> b g r t dk", g=k.shape[1])
    scores = (
        rearrange(einsum(grouped, wide(k), "b g r t dk, b g s dk -> b g r t s"), "b g r t s -> b (g r) t s") * scale
    )
    weights = rearrange(masked_softmax(apply_mask(scores, visible)), "b (g r) t s -> b g r t s", g=k.shape[1])
    out = einsum(weights, wide(v), "b g r t s, b g s dv -> b g r t dv")
    return rearrange(out, "b g r t dv -> b (g r) t dv").to(v.dtype)


def global_local_attention(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g t dk"],
    v: Float[Tensor, "b g t dv"],
    *,
    radius: int,
    global_indices: Int[Tensor, " n"] | Int[Tensor, "b n"] | None = None,
    global_qkv: tuple[Float[Tensor, "b h n dk"], Float[Tensor, "b g t dk"], Float[Tensor, "b g t dv"]] | None = None,
    key_lengths: Int[Tensor, " b"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Every token reads `radius` neighbours on either side and the global tokens; global tokens read every token.

    Args:
        radius: neighbours on either side; a row keeps 2 radius + 1 tokens, its own included.
        global_indices: positions of the global tokens, (n,) for all sequences alike or (b, n), where -1 fills rows that
            have fewer.
        global_qkv: what global tokens read with: their queries (b, h, n, dk), in the order of global_indices, and keys
            and values of every token (default: q, k and v, as all others).
        key_lengths: (b,) integers; later tokens are padding, global ones too.
        scale: factor on q . k (default: dk ** -0.5).

    Raises:
        ValueError: a radius below 1; global indices out of range or twice; a shape, dtype or device is wrong.
    """
    check_global_local(
        q, k, v, radius=radius, global_indices=global_indices, global_qkv=global_qkv, key_lengths=key_lengths
    )
    b, t, scale = q.shape[0], q.shape[2], q.shape[3] ** -0.5 if scale is None else scale
    index = existing_indices(global_indices, key_lengths, b=b, device=q.device)
    visible = global_local_mask(t, radius=radius, global_indices=index, key_lengths=key_lengths, b=b, device=q.device)
    q_global, k_global, v_global = (take_rows(q, index), k, v) if global_qkv is None else global_qkv
    q, k, v, k_global, v_global = (blank_padding(x, key_lengths) for x in (q, k, v, k_global, v_global))
    ordinary = read_rows(q, k, v, visible, scale=scale)
    all_that_exist = rearrange(index >= 0, "b n -> b 1 n 1") & visible.any(dim=-2, keepdim=True)
    rows = read_rows(blank_missing(q_global, index), k_global, v_global, all_that_exist, scale=scale)
    return put_rows(ordinary, rows, index)
