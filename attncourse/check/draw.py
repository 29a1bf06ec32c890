"""What checks draw their inputs with."""

import torch
from torch import Tensor


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def sizes(rng: torch.Generator, count: int, least: int = 3) -> list[int]:
    """Sizes of which no two are equal, so that a swapped axis shows."""
    return (torch.randperm(8, generator=rng)[:count] + least).tolist()


def integer(rng: torch.Generator, low: int, high: int) -> int:
    """An integer from low to high - 1."""
    return int(torch.randint(low, high, (), generator=rng))
