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
    """Return attention over the union of two disjoint key sets, from the attention over each.

    Each part is an output and the log-sum-exp of its scores (natural logarithm). A part that saw no key has log-sum-exp
    -inf and weight 0. Associative and commutative, so any split of the keys gives the unsplit result. Milakov and
    Gimelshein 2018, https://arxiv.org/abs/1805.02867.
    """
    top = torch.maximum(lse_a, lse_b).detach()
    top = top.masked_fill(top == -torch.inf, 0.0)  # with no key on either side -inf - -inf would be NaN
    weight_a, weight_b = torch.exp(lse_a - top), torch.exp(lse_b - top)
    total = weight_a + weight_b
    # Divided by their own sum, not by exp(lse): next to a large lse (of a mask of -1e9, say) log(total) rounds away.
    some = total.masked_fill(total == 0, 1.0)
    out = (weight_a / some)[..., None] * out_a + (weight_b / some)[..., None] * out_b
    return out, (top + some.log()).masked_fill(total == 0, -torch.inf)
