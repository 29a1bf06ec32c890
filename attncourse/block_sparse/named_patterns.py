"""The named patterns. Each is a `BlockPattern`; `|` and `&` make more of them."""

import torch

from attncourse._shared.validate import check_widths, require

from .pattern import BlockPattern, from_blocks, from_rule


def dilated(n: int, *, dilation: int, steps: int | None = None, causal: bool = True, block: int = 64) -> BlockPattern:
    """Return the pattern in which position i sees i - m * dilation for m = 0 ..
    steps; not causal: i + m * dilation too.

    Args:
        n: positions.
        dilation: distance from one position that is seen to the next.
        steps: how many are seen besides i, on a side (default: to the first position).
        causal: nobody sees what comes later.
        block: side of a block.
    """
    check_widths(n=n, dilation=dilation)
    require(steps is None or steps >= 0, f"steps must be at least 0, got {steps}")
    furthest = n if steps is None else steps * dilation

    def rule(i, j):
        return (i % dilation == j % dilation) & (j >= i - furthest) & (j <= i + furthest)

    return from_rule(rule, n, causal=causal, block=block)


def local(n: int, *, steps: int, causal: bool = True, block: int = 64) -> BlockPattern:
    """Return the pattern in which position i sees itself and the `steps` positions before it;
    not causal: those after it too.

    Args:
        n: positions.
        steps: neighbours on a side.
        causal: nobody sees what comes later.
        block: side of a block.
    """
    return dilated(n, dilation=1, steps=steps, causal=causal, block=block)


def strided(n: int, *, stride: int, causal: bool = True, block: int = 64) -> BlockPattern:
    """Return the pattern of the last `stride` positions, and every stride-th before them.

    Child et al. 2019, https://arxiv.org/abs/1904.10509, section 4.3: the union of A(1) = {max(0, i - l), ..., i} and
    A(2) = {j : (i - j) mod l = 0}, with l the stride. Here both in one head; there also one head or one layer each.

    Args:
        n: positions.
        stride: l.
        causal: nobody sees what comes later.
        block: side of a block.
    """
    check_widths(stride=stride)
    return local(n, steps=stride, causal=causal, block=block) | dilated(n, dilation=stride, causal=causal, block=block)


def fixed(n: int, *, stride: int, summaries: int = 1, causal: bool = True, block: int = 64) -> BlockPattern:
    """Return the pattern of one's own stretch of `stride` positions,
    and the last `summaries` positions of every stretch.

    Child et al. 2019, https://arxiv.org/abs/1904.10509, section 4.3: the union of A(1) = {j : floor(j / l) = floor(i /
    l)} and A(2) = {j : j mod l in {l - c, ..., l - 1}}, with l the stride and c the summaries.

    Args:
        n: positions.
        stride: l.
        summaries: c.
        causal: nobody sees what comes later.
        block: side of a block.
    """
    check_widths(stride=stride, summaries=summaries)
    require(summaries <= stride, f"summaries must be at most the stride, got {summaries} and {stride}")

    def rule(i, j):
        return (i // stride == j // stride) | (j % stride >= stride - summaries)

    return from_rule(rule, n, causal=causal, block=block)


def local_and_random(
    n: int, *, radius: int, n_random: int, seed: int, causal: bool = False, block: int = 64
) -> BlockPattern:
    """Return the pattern in which each block sees the blocks within `radius` of it, and `n_random` others, drawn once.

    Zaheer et al. 2020, https://arxiv.org/abs/2007.14062, section 2, without its global tokens: add them with `|`. A
    block that has fewer others (if causal, fewer earlier ones) sees all of them.

    Args:
        n: positions.
        radius: neighbouring blocks on a side.
        n_random: blocks beyond them.
        seed: of the draw.
        causal: nobody sees what comes later.
        block: side of a block.
    """
    check_widths(n=n, block=block)
    require(radius >= 0 and n_random >= 0, f"radius and n_random must be at least 0, got {radius} and {n_random}")
    at = torch.arange(-(-n // block))
    near = (at[:, None] - at).abs() <= radius
    lottery = torch.rand(near.shape, generator=torch.Generator().manual_seed(seed))
    out = near | (at > at[:, None]) if causal else near
    rank = lottery.masked_fill(out, 2.0).argsort(dim=1).argsort(dim=1)
    return from_blocks(near | ((rank < n_random) & ~out), n, causal=causal, block=block)
