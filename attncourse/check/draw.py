"""What checks draw their inputs with."""

import torch
from torch import Tensor


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal numbers in float64 of a shape, drawn by rng."""
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def sizes(rng: torch.Generator, count: int, least: int = 3) -> list[int]:
    """Return `count` sizes, drawn by rng, of which no two are equal and none is below `least`,
    so that a swapped axis shows.
    """
    return (torch.randperm(8, generator=rng)[:count] + least).tolist()


def integer(rng: torch.Generator, low: int, high: int) -> int:
    """Return an integer from low to high - 1, drawn by rng."""
    return int(torch.randint(low, high, (), generator=rng))


SHIFTS = (800.0, -800.0, -2e9)  # beyond what exp of a float64 can hold, below what it can, and below a mask's -1e9


def shift_scores(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return q and k, one feature wider, whose scores q .
    k / sqrt(width) hold rows[i] * columns[j] more for query i, key j.
    """
    more = (rows * (q.shape[-1] + 1) ** 0.5).to(q)
    return torch.cat([q, more[:, None]], dim=-1), torch.cat([k, columns.to(k)[:, None]], dim=-1)


def unlike_sizes(rng: torch.Generator, count: int, *, low: int = 3, high: int = 15) -> list[int]:
    """Return `count` sizes from low to high - 1, drawn by rng, that no formula confuses:
    none is a square, or the double of another.
    """
    while True:
        drawn = (torch.randperm(high - low, generator=rng)[:count] + low).tolist()
        if not any(n**0.5 % 1 == 0 or 2 * n in drawn for n in drawn):
            return drawn


def draw_lengths(rng: torch.Generator, b: int, s: int, *, among: tuple[int, ...]) -> Tensor:
    """Return lengths of b rows padded to s, drawn by rng, in any order: those of `among`, and others from 2 to s - 1."""
    lengths = torch.cat([torch.tensor(among), torch.randint(2, s, (b - len(among),), generator=rng)])
    return lengths[torch.randperm(b, generator=rng)]


def hard_scores(rng: torch.Generator, t: int, s: int, dk: int) -> list[tuple[str, Tensor, Tensor]]:
    """Return (case, q, k) whose scores q . k / sqrt(dk) try a softmax, in float64:
    to be compared with the exact result.

    First each row's scores lie around one of +-800, +-1e5 and -4e9, with gaps of order 1: a naive exponential overflows
    or vanishes, a clamp flattens them, and a finite fill of hidden scores stands above them. Then keys stand 1000 above
    others, one of them above all: where that one is hidden, weights masked after the softmax have vanished. Rounding of
    the largest leaves a relative 1e-5 of the weights: compare with rtol=1e-4.

    Args:
        rng: what draws.
        t, s, dk: queries, keys and their width.
    """
    (q, far), (k, high) = (normal(rng, 2, n, dk) for n in (t, s))
    around = torch.tensor([-4e9, -1e5, 1e5, -800.0, 800.0], dtype=torch.float64).repeat(-(-t // 5))[:t]
    q[:, 0], k[:, 0] = around[torch.randperm(t, generator=rng)] * dk**0.5, 1.0
    far[:, 0], high[:, 0] = 1000 * dk**0.5, torch.randint(0, 2, (s,), generator=rng).double()
    high[integer(rng, 0, s), 0] = 2.0
    return [("with scores far from 0", q, k), ("with keys that stand far above others", far, high)]


def primes(rng: torch.Generator, count: int, *, most: int = 19) -> list[int]:
    """Return `count` sizes, drawn by rng, that cannot be confused:
    no two are equal, and none is a square, a multiple or a sum of two.

    Args:
        most: none is larger.
    """
    odd = torch.tensor([n for n in (3, 5, 7, 11, 13, 17, 19) if n <= most])
    return odd[torch.randperm(len(odd), generator=rng)[:count]].tolist()


def cycled(count: int, *values: float) -> Tensor:
    """Return `count` numbers in float64, the values again and again."""
    return torch.tensor(values, dtype=torch.float64).repeat(count)[:count]


def lifted(q: Tensor, k: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries q (..., t, dk) and keys k whose scores, divided by sqrt(dk),
    are those of all entries but the first, plus `levels`.

    A level of 900 overflows without the maximum subtracted and one of -900 leaves nothing but zeros, while the
    differences between a query's scores stay of order 1. `levels` goes by query, (t,) or what broadcasts to (..., t).
    """
    q, k = q.clone(), k.clone()
    q[..., 0], k[..., 0] = levels, q.shape[-1] ** 0.5
    return q, k
