"""Small inputs for the picture that a room gives of itself in its `picture.py`."""

import torch
from torch import Tensor

TOKENS, WIDTH = 16, 8


def small_heads() -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys (1, 1, 16, 8) of length 4, the same at every call, and values that show weights.

    The values are the rows of the identity: what a query mixes of them is its row of weights.
    """
    rng = torch.Generator().manual_seed(0)
    q, k = (4 * torch.nn.functional.normalize(torch.randn(1, 1, TOKENS, WIDTH, generator=rng), dim=-1) for _ in "qk")
    return q, k, torch.eye(TOKENS).expand(1, 1, TOKENS, TOKENS)
