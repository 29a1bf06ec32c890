"""What a head looks at, as a number: the share of its weight that falls on keys of one kind."""

from jaxtyping import Bool, Float
from torch import Tensor

from attncourse._shared.validate import require


def share_on(weights: Float[Tensor, "b h t s"], marked: Bool[Tensor, "b t s"]) -> Float[Tensor, " h"]:
    """Return the mean weight of each head on the marked keys, over all queries of all sequences.

    Compare it with the share of even weights over the same visible keys, which is what a head that looks at nothing in
    particular has.

    Raises:
        ValueError: the marks do not fit the weights.
    """
    b, _, t, s = weights.shape
    require(marked.shape == (b, t, s), f"marked must be (b, t, s) = {(b, t, s)}, got {tuple(marked.shape)}")
    return (weights * marked[:, None]).sum(dim=-1).mean(dim=(0, 2))
