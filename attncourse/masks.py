"""Who may see whom: the masks that every room applies, and the softmax under them."""

from ._shared.masks import (
    Masking,
    apply_mask,
    causal_mask,
    length_mask,
    masked_softmax,
    query_positions,
    soft_cap,
    window_mask,
)

__all__ = [
    "Masking",
    "apply_mask",
    "causal_mask",
    "length_mask",
    "masked_softmax",
    "query_positions",
    "soft_cap",
    "window_mask",
]
