"""Multi-head latent attention: what it is, once as a loop, once expanded into heads, once absorbed into the latent space.

DeepSeek-AI 2024, DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1 and appendix C. A token leaves two things
behind: a latent of width kv_lora_rank, from which every head's key and value follow by that head's own matrices, and
one rotated key of width qk_rope_head_dim that all heads share.

Axes: n is qk_nope_head_dim, p is qk_rope_head_dim, r is kv_lora_rank, dv is v_head_dim.
"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.masks import Masking
from attncourse._shared.precision import outside_autocast, wide
from attncourse.softmax_attention import softmax_attention

from .inputs import check_latent, check_masking


def latent_attention_loop(
    q_nope: Float[Tensor, "h t n"],
    q_rope: Float[Tensor, "h t p"],
    latent: Float[Tensor, "s r"],
    k_rope: Float[Tensor, "s p"],
    w_uk: Float[Tensor, "h n r"],
    w_uv: Float[Tensor, "h dv r"],
    *,
    causal: bool = False,
) -> Float[Tensor, "h t dv"]:
    """Read token by token, in one sequence and head by head: the oracle.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
    """
    (h, t, n), s, p = q_nope.shape, len(latent), q_rope.shape[-1]
    out = q_nope.new_zeros(h, t, w_uv.shape[1])
    q_nope, q_rope, latent, k_rope, w_uk, w_uv = (wide(x) for x in (q_nope, q_rope, latent, k_rope, w_uk, w_uv))
    for head in range(h):
        for i in range(t):
            scores, values = [], []
            for j in range(s - t + i + 1 if causal else s):
                key = torch.cat([w_uk[head] @ latent[j], k_rope[j]])  # equations 10 and 17
                query = torch.cat([q_nope[head, i], q_rope[head, i]])  # equation 16
                scores.append(query @ key * (n + p) ** -0.5)
                values.append(w_uv[head] @ latent[j])  # equation 11
            if scores:
                weights = torch.softmax(torch.stack(scores), dim=0)
                out[head, i] = sum(w * value for w, value in zip(weights, values, strict=True))  # equation 18
    return out


def expand_latent(
    latent: Float[Tensor, "b 1 s r"],
    k_rope: Float[Tensor, "b 1 s p"],
    w_uk: Float[Tensor, "h n r"],
    w_uv: Float[Tensor, "h dv r"],
) -> tuple[Float[Tensor, "b h s np"], Float[Tensor, "b h s dv"]]:
    """Return the keys, [W_UK c ; shared rotated key], and the values, W_UV c, of every head."""
    k_nope = einsum(latent[:, 0], w_uk, "b s r, h n r -> b h s n")  # equation 10
    v = einsum(latent[:, 0], w_uv, "b s r, h dv r -> b h s dv")  # equation 11
    return torch.cat([k_nope, k_rope.expand(-1, len(w_uk), -1, -1)], dim=-1), v  # equation 17


@outside_autocast
def latent_attention(
    q_nope: Float[Tensor, "b h t n"],
    q_rope: Float[Tensor, "b h t p"],
    latent: Float[Tensor, "b 1 s r"],
    k_rope: Float[Tensor, "b 1 s p"],
    w_uk: Float[Tensor, "h n r"],
    w_uv: Float[Tensor, "h dv r"],
    *,
    causal: bool = False,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Expand the latents into each head's keys and values, then attend: the definition.

    Args:
        q_rope, k_rope: already rotated by their positions; of width 0 where positions are said otherwise.
        causal: query i of t stands at position s - t + i and sees nothing after it.
        key_lengths: (b,) integers; later tokens are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on the scores (default: (n + p) ** -0.5).

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the rule and the values.
    """
    check_latent(q_nope, q_rope, latent, k_rope, w_uk, w_uv)
    fitting = check_masking(q_nope, latent, key_lengths=key_lengths, mask=mask)
    masking: Masking = {"causal": causal, "scale": scale, **fitting}
    k, v = expand_latent(wide(latent), wide(k_rope), wide(w_uk), wide(w_uv))
    q = wide(torch.cat([q_nope, q_rope], dim=-1))  # equation 16
    return softmax_attention(q, k, v, **masking).to(q_nope.dtype)  # equation 18


def absorb_query(q_nope: Float[Tensor, "b h t n"], w_uk: Float[Tensor, "h n r"]) -> Float[Tensor, "b h t r"]:
    """Return W_UK^T q: the query that meets a latent as q itself meets the key W_UK c, since q .
    (W_UK c) = (W_UK^T q) . c. (W_UK c) = (W_UK^T q) . c.
    """
    return einsum(q_nope, w_uk, "b h t n, h n r -> b h t r")


def expand_output(mixed: Float[Tensor, "b h t r"], w_uv: Float[Tensor, "h dv r"]) -> Float[Tensor, "b h t dv"]:
    """Return W_UV of a mixture of latents, which is the same mixture of the values W_UV c."""
    return einsum(mixed, w_uv, "b h t r, h dv r -> b h t dv")


@outside_autocast
def latent_attention_absorbed(
    q_nope: Float[Tensor, "b h t n"],
    q_rope: Float[Tensor, "b h t p"],
    latent: Float[Tensor, "b 1 s r"],
    k_rope: Float[Tensor, "b 1 s p"],
    w_uk: Float[Tensor, "h n r"],
    w_uv: Float[Tensor, "h dv r"],
    *,
    causal: bool = False,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Return what `latent_attention` does, without any head's keys or values:
    all heads read the latents, as in multi-query attention.

    The result is the same (section 2.1.2 and appendix C: W_UK goes into the query, W_UV into the output). The scale
    stays that of the heads, whatever the latents' width.

    Args:
        q_rope, k_rope: already rotated by their positions; of width 0 where positions are said otherwise.
        causal: query i of t stands at position s - t + i and sees nothing after it.
        key_lengths: (b,) integers; later tokens are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on the scores (default: (n + p) ** -0.5).

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the rule and the values.
    """
    check_latent(q_nope, q_rope, latent, k_rope, w_uk, w_uv)
    fitting = check_masking(q_nope, latent, key_lengths=key_lengths, mask=mask)
    scale = (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5 if scale is None else scale
    masking: Masking = {"causal": causal, "scale": scale, **fitting}
    q = torch.cat([absorb_query(wide(q_nope), wide(w_uk)), wide(q_rope)], dim=-1)
    k = wide(torch.cat([latent, k_rope], dim=-1))
    mixed = softmax_attention(q, k, wide(latent), **masking)
    return expand_output(mixed, wide(w_uv)).to(q_nope.dtype)
