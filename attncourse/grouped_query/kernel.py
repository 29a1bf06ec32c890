"""Grouped-query attention by the kernels of softmax attention, in which query heads share keys without a copy."""

from torch import Tensor

from attncourse.softmax_attention.kernel import softmax_attention_triton


def grouped_query_attention_triton(q: Tensor, k: Tensor, v: Tensor, **masking) -> Tensor:
    """`grouped_query_attention` by the softmax kernel, with gradients; errors as there and as in the reference."""
    return softmax_attention_triton(q, k, v, **masking)
