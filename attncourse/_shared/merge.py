"""The merge of two partial attentions by their log-sum-exp: the primitive under tiles, split-KV and rings."""

import torch
from jaxtyping import Float
from torch import Tensor


def merge_partial(
    out_a: Float[Tensor, "*rows dv"],
    lse_a: Float[Tensor, "*rows"],
    out_b: Float[Tensor, "*rows dv"],
    lse_b: Float[Tensor, "*rows"],
) -> tuple[Float[Tensor, "*rows dv"], Float[Tensor, "*rows"]]:
    """Attention over the union of two disjoint key sets, from the attention over each.

    Each part is an output and the log-sum-exp of its scores (natural logarithm). A part that saw no key
    has log-sum-exp -inf and weight 0. Associative and commutative, so any split of the keys gives the
    unsplit result. Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867.
    """
    lse = torch.logaddexp(lse_a, lse_b)
    # With no key on either side the weights would be exp(-inf - -inf) = NaN; they are 0.
    finite = lse.masked_fill(lse == -torch.inf, 0.0)
    weight_a, weight_b = torch.exp(lse_a - finite), torch.exp(lse_b - finite)
    return weight_a[..., None] * out_a + weight_b[..., None] * out_b, lse
