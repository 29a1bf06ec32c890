"""Multi-head attention through the kernel of softmax attention, in which heads are an axis already.

Projections are plain matrix products, which PyTorch's own kernels do; nothing is left to write.
"""

from torch import Tensor

from attncourse._shared.heads import merge_heads, split_heads
from attncourse.softmax_attention.kernel import softmax_attention_triton

from .inputs import check_projections


def multi_head_attention_triton(
    x: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, *, n_heads: int, **masking
) -> Tensor:
    """Return what `multi_head_attention` does, by the softmax kernel, with gradients.

    Args:
        x, context: (b, t, d) and (b, s, dc), float32, float16 or bfloat16.
        w_q, w_k, w_v: (h dk, d), (h dk, dc), (h dv, dc), heads one below the other, of width to 256.
        w_o: (d_out, h dv).
        n_heads: h.
        masking: causal, key_lengths, mask, scale, as in `softmax_attention`; a mask may differ from head to head.

    Raises:
        ValueError: a matrix does not fit an input or another matrix, n_heads does not divide; what no kernel here can
            do (float64, a wider head, the gradient of an added mask, CPU tensors where Triton compiles).
    """
    check_projections(x, context, w_q, w_k, w_v, w_o, n_heads=n_heads)
    # The kernel takes the strides that splitting leaves: no head is copied.
    q, k, v = (split_heads(y @ w.T, n_heads) for y, w in ((x, w_q), (context, w_k), (context, w_v)))
    return merge_heads(softmax_attention_triton(q, k, v, **masking)) @ w_o.T
