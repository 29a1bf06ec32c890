"""Multi-head attention: first as heads that know nothing of each other, then as one projection for all of them.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2. Matrices are stored as PyTorch's Linear stores them,
(out, in): head i owns rows i dk .. (i + 1) dk of w_q and w_k, rows i dv .. (i + 1) dv of w_v, and the same columns of w_o.
"""

from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.masks import Masking
from attncourse.softmax_attention import softmax_attention

from .inputs import check_projections


def multi_head_attention_loop(
    x: Float[Tensor, "b t d"],
    context: Float[Tensor, "b s dc"],
    w_q: Float[Tensor, "hdk d"],
    w_k: Float[Tensor, "hdk dc"],
    w_v: Float[Tensor, "hdv dc"],
    w_o: Float[Tensor, "d_out hdv"],
    *,
    n_heads: int,
    **masking: Unpack[Masking],
) -> Float[Tensor, "b t d_out"]:
    """Attend head after head: project with its own matrices, attend, project back; the heads' results are summed.

    Side by side and then through w_o, as the paper writes it, is the same sum: w_o meets each head with columns of its
    own.

    Args:
        n_heads: heads.
        masking: causal, key_lengths, mask, scale, as in `softmax_attention`; a mask is the same for every head.
    """
    check_projections(x, context, w_q, w_k, w_v, w_o, n_heads=n_heads)
    out = x.new_zeros(*x.shape[:2], w_o.shape[0])
    heads = (w_q.chunk(n_heads), w_k.chunk(n_heads), w_v.chunk(n_heads), w_o.chunk(n_heads, dim=1))
    for head_q, head_k, head_v, head_o in zip(*heads, strict=True):
        q, k, v = x @ head_q.T, context @ head_k.T, context @ head_v.T
        read = softmax_attention(q[:, None], k[:, None], v[:, None], **masking)[:, 0]
        out = out + read @ head_o.T
    return out


def multi_head_attention(
    x: Float[Tensor, "b t d"],
    context: Float[Tensor, "b s dc"],
    w_q: Float[Tensor, "hdk d"],
    w_k: Float[Tensor, "hdk dc"],
    w_v: Float[Tensor, "hdv dc"],
    w_o: Float[Tensor, "d_out hdv"],
    *,
    n_heads: int,
    **masking: Unpack[Masking],
) -> Float[Tensor, "b t d_out"]:
    """Attend with all heads at once: one product projects for every head, and a head is an axis.

    Args:
        n_heads: heads.
        masking: causal, key_lengths, mask, scale, as in `softmax_attention`; a mask may differ from head to head.

    Raises:
        ValueError: a matrix does not fit an input or another matrix, n_heads does not divide; a shape, dtype, device or
            range is wrong.
    """
    check_projections(x, context, w_q, w_k, w_v, w_o, n_heads=n_heads)
    q = split_heads(x @ w_q.T, n_heads)
    k = split_heads(context @ w_k.T, n_heads)
    v = split_heads(context @ w_v.T, n_heads)
    return merge_heads(softmax_attention(q, k, v, **masking)) @ w_o.T
