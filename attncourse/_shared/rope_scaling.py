"""Rotary frequencies as published configs ask for them, scaled for contexts longer than the training's (`rope_scaling`).

A model trained on L positions has seen plane i turn L f_i / (2 pi) times, f_i being its frequency. Planes that turn often
have shown it every angle, and tell near neighbours apart: they may stay as they are. Planes that turn less than once
would reach angles never seen; slowed down by `factor` they cover factor * L positions with the angles of training. So
each rule here says which share of each frequency is kept, the rest being divided by `factor`: none of it ("linear"), or a
share that rises with the number of turns ("llama3", "yarn").

A frequency off by its last bit in float32 turns position 4000 by 2e-4 too far. So the operations, and their order, are
those of the published code: then a checkpoint's angles are its own to the bit, and outputs can be compared to 1e-5.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .validate import require


def published_frequencies(
    width: int, *, base: float, dtype: torch.dtype = torch.float32, device=None
) -> Float[Tensor, " pairs"]:
    """Return 1 / base ** (2i / width), the angle by which plane i of Llama's and its successors' heads turns per
    position.

    Args:
        width: of a head, even.
        base: above 0.
        dtype, device: of the result.
    """
    return 1.0 / _periods(width, base, dtype, device)


def linear_frequencies(
    width: int, *, base: float, factor: float, dtype: torch.dtype = torch.float32, device=None
) -> Float[Tensor, " pairs"]:
    """Return all frequencies divided by factor:
    positions interpolated (Chen et al. 2023, https://arxiv.org/abs/2306.15595).

    Args:
        width, base: those of `published_frequencies`, which are divided.
        factor: how many times longer the text may be.
        dtype, device: of the result.

    Raises:
        ValueError: a factor that is not positive.
    """
    _check_factor(factor)
    return published_frequencies(width, base=base, dtype=dtype, device=device) / factor


def llama3_frequencies(
    width: int,
    *,
    base: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
    dtype: torch.dtype = torch.float32,
    device=None,
) -> Float[Tensor, " pairs"]:
    """Return the frequencies of Llama 3.1:
    a share is kept that rises linearly in the turns (`apply_scaling` in Meta's code).

    Planes of at least high_freq_factor turns over the original length keep theirs, those of at most low_freq_factor are
    divided by factor.

    Args:
        width, base: those of `published_frequencies`, of which a share is kept.
        factor: how many times longer the text may be.
        low_freq_factor, high_freq_factor: turns at which nothing and everything is kept.
        original_max_position_embeddings: tokens of the length that was trained first.
        dtype, device: of the result.

    Raises:
        ValueError: a factor or length that is not positive, or low_freq_factor not below high_freq_factor.
    """
    _check_factor(factor, original_max_position_embeddings)
    require(
        low_freq_factor < high_freq_factor,
        f"low_freq_factor must be below high_freq_factor, got {low_freq_factor} and {high_freq_factor}",
    )
    plain = published_frequencies(width, base=base, dtype=dtype, device=device)
    turns = original_max_position_embeddings / (2 * math.pi / plain)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return (1 - kept) * plain / factor + kept * plain


def yarn_frequencies(
    width: int,
    *,
    base: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    dtype: torch.dtype = torch.float32,
    device=None,
) -> Float[Tensor, " pairs"]:
    """Return the frequencies of yarn: planes of beta_fast turns keep theirs, those of beta_slow are divided by factor.

    Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3.2. Between the two the paper lets the kept share rise
    linearly in the turns. The published code, for which checkpoints are trained, lets it fall linearly in the plane's
    index instead, and with `truncate` rounds the ramp's two ends outwards to whole planes; so does this function.

    Args:
        width, base: those of `published_frequencies`, of which a share is kept.
        factor: how many times longer the text may be.
        original_max_position_embeddings: tokens of the length that was trained first.
        beta_fast, beta_slow: turns over that length at which everything and nothing is kept.
        truncate: round the ramp's ends outwards to whole planes.
        dtype, device: of the result.

    Raises:
        ValueError: a factor or length that is not positive, or beta_slow above beta_fast.
    """
    _check_factor(factor, original_max_position_embeddings)
    require(0 < beta_slow <= beta_fast, f"beta_slow must not be above beta_fast, got {beta_slow} and {beta_fast}")

    def plane_of(turns: float) -> float:
        """Return the index i, seldom whole, at which L base ** (-2i / width) / (2 pi) is this number of turns."""
        return width * math.log(original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = plane_of(beta_fast), plane_of(beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    periods = _periods(width, base, dtype, device)
    ramp = torch.arange(len(periods), dtype=dtype, device=device) - first
    kept = 1 - (ramp / (last - first or 0.001)).clamp(0, 1)  # one plane at both ends: a step
    return 1.0 / (factor * periods) * (1 - kept) + 1.0 / periods * kept


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """Return 0.1 mscale ln(factor) + 1, by which yarn lengthens both queries and keys (Peng et al. 2023, section 3.4).

    Over more keys softmax spreads out; scores times the square of this sharpen it again. With partly rotary heads
    (DeepSeek-V2, https://arxiv.org/abs/2405.04434) the factor on cos and sin would miss the scores' other part, so the
    square goes into the softmax scale (`mscale_all_dim`), and cos and sin get the quotient of the two, mostly 1.
    """
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _periods(width: int, base: float, dtype: torch.dtype, device) -> Float[Tensor, " pairs"]:
    """Return how many positions each plane takes to turn by one radian: base ** (2i / width)."""
    return base ** (torch.arange(0, width, 2, dtype=dtype, device=device) / width)


def _check_factor(factor: float, original_max_position_embeddings: int = 1) -> None:
    require(factor > 0, f"the factor of a rope scaling must be positive, got {factor}")
    require(
        original_max_position_embeddings > 0,
        f"original_max_position_embeddings must be positive, got {original_max_position_embeddings}",
    )
