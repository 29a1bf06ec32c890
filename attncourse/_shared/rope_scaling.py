"""Rotary frequencies for contexts longer than the training's: what `rope_scaling` of a published config asks for.

A model trained on L positions has seen plane i turn L f_i / (2 pi) times, f_i being its frequency. Planes that turn often
have shown it every angle, and tell near neighbours apart: they may stay as they are. Planes that turn less than once
would reach angles never seen; slowed down by `factor` they cover factor * L positions with the angles of training. So
each rule here says which share of each frequency is kept, the rest being divided by `factor`: none of it ("linear"), or a
share that rises with the number of turns ("llama3", "yarn").
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .validate import require


def linear_frequencies(frequencies: Float[Tensor, " pairs"], *, factor: float) -> Float[Tensor, " pairs"]:
    """All frequencies divided by factor: positions interpolated (Chen et al. 2023, https://arxiv.org/abs/2306.15595).

    Raises:
        ValueError: a factor that is not positive.
    """
    _check_factor(factor)
    return frequencies / factor


def llama3_frequencies(
    frequencies: Float[Tensor, " pairs"],
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Float[Tensor, " pairs"]:
    """The frequencies of Llama 3.1: a share is kept that rises linearly in the turns (`apply_scaling` in Meta's code).

    Planes of at least high_freq_factor turns over the original length keep theirs, those of at most low_freq_factor are
    divided by factor.

    Raises:
        ValueError: a factor or length that is not positive, or low_freq_factor not below high_freq_factor.
    """
    _check_factor(factor, original_max_position_embeddings)
    require(
        low_freq_factor < high_freq_factor,
        f"low_freq_factor must be below high_freq_factor, got {low_freq_factor} and {high_freq_factor}",
    )
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return torch.lerp(frequencies / factor, frequencies, kept)


def yarn_frequencies(
    frequencies: Float[Tensor, " pairs"],
    *,
    base: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Float[Tensor, " pairs"]:
    """The frequencies of yarn: planes of beta_fast turns keep theirs, those of beta_slow are divided by factor.

    Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3.2. Between the two the paper lets the kept share rise
    linearly in the turns. The published code, for which checkpoints are trained, lets it fall linearly in the plane's
    index instead, and with `truncate` rounds the ramp's two ends outwards to whole planes; so does this function.

    Args:
        base: that of the frequencies, base ** (-2i / dk).

    Raises:
        ValueError: a factor or length that is not positive, or beta_slow not below beta_fast.
    """
    _check_factor(factor, original_max_position_embeddings)
    require(0 < beta_slow < beta_fast, f"beta_slow must be below beta_fast, got {beta_slow} and {beta_fast}")
    pairs = len(frequencies)

    def plane_of(turns: float) -> float:
        """The index i, seldom whole, at which L base ** (-i / pairs) / (2 pi) is this number of turns."""
        return pairs * math.log(original_max_position_embeddings / (2 * math.pi * turns)) / math.log(base)

    first, last = plane_of(beta_fast), plane_of(beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    ramp = torch.arange(pairs, dtype=frequencies.dtype, device=frequencies.device) - first
    kept = 1 - (ramp / (last - first or 0.001)).clamp(0, 1)  # one plane at both ends: a step
    return torch.lerp(frequencies / factor, frequencies, kept)


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln(factor) + 1, by which yarn lengthens both queries and keys (Peng et al. 2023, section 3.4).

    Over more keys softmax spreads out; scores times the square of this sharpen it again. With partly rotary heads
    (DeepSeek-V2, https://arxiv.org/abs/2405.04434) the factor on cos and sin would miss the scores' other part, so the
    square goes into the softmax scale (`mscale_all_dim`), and cos and sin get the quotient of the two, mostly 1.
    """
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _check_factor(factor: float, original_max_position_embeddings: int = 1) -> None:
    require(factor > 0, f"the factor of a rope scaling must be positive, got {factor}")
    require(
        original_max_position_embeddings > 0,
        f"original_max_position_embeddings must be positive, got {original_max_position_embeddings}",
    )
