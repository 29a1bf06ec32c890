"""Do these draws come from that distribution? Pearson's test, in PyTorch alone."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.validate import require


def chi_square_test(counts: Int[Tensor, " s"], probabilities: Float[Tensor, " s"], *, least: float = 5.0) -> float:
    """Return the probability that honest draws differ from their distribution at least as much as these counts do.

    Pearson's sum of (count - expected)^2 / expected over m cells follows a chi-square distribution with m - 1 degrees
    of freedom, once every cell expects about five draws; rarer outcomes share one cell. Such a sum of m - 1 squared
    normals is twice a gamma variable of shape (m - 1) / 2, so the tail beyond x is the regularised upper incomplete
    gamma function Q((m - 1) / 2, x / 2), which PyTorch has as `torch.special.gammaincc`.

    An outcome of probability 0 that was drawn settles it: the result is 0.

    Args:
        least: expected draws below which an outcome shares a cell with others.

    Raises:
        ValueError: shapes differ, or fewer than two cells expect enough draws.
    """
    require(
        counts.ndim == 1 and counts.shape == probabilities.shape,
        f"counts and probabilities must be vectors of one length, got {tuple(counts.shape)}, {tuple(probabilities.shape)}",
    )
    if bool((counts[probabilities == 0] > 0).any()):
        return 0.0
    counts, expected = counts.double(), probabilities.double() * counts.sum()
    rare = expected < least
    cells = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    enough = expected >= least
    # A shared cell that still expects too few draws joins the smallest of the others.
    if not enough[-1] and enough[:-1].any():
        smallest = int(expected[:-1].argmin())
        cells[smallest] += cells[-1]
        expected[smallest] += expected[-1]
    cells, expected = cells[enough], expected[enough]
    require(len(cells) >= 2, f"{int(counts.sum())} draws are too few: fewer than two cells expect {least:g} of them")
    statistic = ((cells - expected).square() / expected).sum()
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic.cpu() / 2))
