"""Where a token stands, told to attention: rotary embedding of queries and keys, and learned absolute positions.

Rotary embedding: Su et al. 2021, RoFormer, https://arxiv.org/abs/2104.09864, section 3.2. A head of width dk is dk / 2
planes, and a token at position m is turned by the angle m * base ** (-2i / dk) in plane i. The score of a query at m and
a key at n then depends on m - n alone. Which two entries span plane i is a convention: i and i + dk / 2 in Llama's
checkpoints ("half-split"), 2i and 2i + 1 in the paper ("interleaved"). Weights made for one are wrong under the other.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from .precision import wide
from .validate import check_widths, is_integer, require


def rotary_angles(
    positions: Int[Tensor, "*p"], width: int, *, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*p pairs"]:
    """Return the angle in radians of each of width / 2 planes at each position (Su et al. 2021, equation 15).

    Args:
        width: of a head, even.
        base: plane i turns by base ** (-2i / width) per position.
        dtype: of the angles.

    Raises:
        ValueError: an odd width, or a base that is not positive.
    """
    check_widths(width=width)
    require(width % 2 == 0, f"rotary embedding turns pairs of entries, so the width must be even, got {width}")
    require(base > 0, f"the base of the rotary angles must be positive, got {base}")
    pair = torch.arange(0, width, 2, dtype=dtype, device=positions.device)
    return positions[..., None].to(dtype) * base ** (-pair / width)


def rotate_half_split(x: Float[Tensor, "*rows dk"], angles: Float[Tensor, "*more pairs"]) -> Float[Tensor, "*rows dk"]:
    """Return x with its planes (i, i + dk / 2) turned by the angles, which broadcast over x's leading axes."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotate_interleaved(x: Float[Tensor, "*rows dk"], angles: Float[Tensor, "*more pairs"]) -> Float[Tensor, "*rows dk"]:
    """Return x with its planes (2i, 2i + 1) turned by the angles, which broadcast over x's leading axes."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


class RotaryEmbedding(nn.Module):
    """A rotary embedding turns queries or keys (b, h, t, dk) by their positions.
    It has no parameters.

    Args:
        width: dk, even.
        base: plane i turns by base ** (-2i / width) per position, from 1 down to almost 1 / base.
        interleaved: the paper's planes (2i, 2i + 1), instead of Llama's (i, i + dk / 2).
        frequencies: makes the angles per position, (width / 2,), in place of base ** (-2i / width): a function of
            (width, base=, dtype=, device=), say `partial(linear_frequencies, factor=4.0)`; `rope_scaling` has the
            published ones.
        magnitude: a factor on what is turned, queries and keys alike (yarn's `attention_factor`).
    """

    def __init__(
        self,
        width: int,
        *,
        base: float = 10_000.0,
        interleaved: bool = False,
        frequencies: Callable[..., Float[Tensor, " pairs"]] | None = None,
        magnitude: float = 1.0,
    ):
        super().__init__()
        self.width, self.base, self.interleaved = width, base, interleaved
        self.frequencies, self.magnitude = frequencies, magnitude
        self._made: dict[tuple[torch.dtype, torch.device], Tensor] = {}  # no buffers: those would follow .to(bfloat16)
        rotary_angles(torch.arange(1), width, base=base)  # refuses what it cannot turn
        self.angles(torch.arange(1))

    def angles(self, positions: Int[Tensor, "*p"], *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*p pairs"]:
        """Return the angle in radians of each plane at each position, in this dtype."""
        if self.frequencies is None:
            return rotary_angles(positions, self.width, base=self.base, dtype=dtype)
        key = (dtype, positions.device)
        if key not in self._made:  # on the CPU, as published code does: a GPU's powers may differ in the last bit
            made = self.frequencies(self.width, base=self.base, dtype=dtype, device="cpu")
            self._made[key] = made.to(positions.device)
        return positions[..., None].to(dtype) * self._made[key]

    def forward(
        self, x: Float[Tensor, "b h t dk"], positions: Int[Tensor, " t"] | Int[Tensor, "b t"]
    ) -> Float[Tensor, "b h t dk"]:
        """Return x turned; angles are computed in float32, or in float64 for float64 inputs.

        Raises:
            ValueError: the width is not dk, or positions are neither (t,) nor (b, t) integers.
        """
        b, _, t, dk = x.shape
        if dk != self.width:
            raise ValueError(f"this rotary embedding turns width {self.width}, got {dk}")
        check_token_positions(positions, b=b, t=t)
        exact = wide(x)  # in 16 bits the angles' cosines would be rounded, and with them the norm
        angles = self.angles(positions, dtype=exact.dtype)
        if positions.ndim == 2:
            angles = rearrange(angles, "b t pairs -> b 1 t pairs")
        rotate = rotate_interleaved if self.interleaved else rotate_half_split
        turned = rotate(exact, angles)
        return (turned if self.magnitude == 1.0 else self.magnitude * turned).to(x.dtype)


class LearnedPositions(nn.Module):
    """Learned positions add to each token (b, t, d) a vector of its position (as in GPT-2 and BERT).

    Args:
        n_positions: the longest sequence; there is no vector for what stands beyond it.
        d_model: the tokens' width.
    """

    def __init__(self, n_positions: int, d_model: int):
        super().__init__()
        check_widths(n_positions=n_positions, d_model=d_model)
        self.weight = nn.Parameter(torch.randn(n_positions, d_model) * 0.02)

    def forward(
        self, x: Float[Tensor, "b t d"], positions: Int[Tensor, " t"] | Int[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return x plus the vectors of its positions (default: 0, 1, ...).

        Raises:
            ValueError: more tokens than positions; positions that are neither (t,) nor (b, t) integers.
        """
        b, t, _ = x.shape
        n = len(self.weight)
        if positions is None:
            require(t <= n, f"there are {n} learned positions, got {t} tokens")
            return x + self.weight[:t]
        check_token_positions(positions, b=b, t=t)
        return x + self.weight[positions]


def check_token_positions(positions: Tensor, *, b: int, t: int) -> None:
    """Check that positions are integers, (t,) for all sequences alike or (b, t)."""
    if not is_integer(positions):
        raise ValueError(f"positions must be an integer tensor, got {getattr(positions, 'dtype', type(positions))}")
    if positions.shape not in ((t,), (b, t)):
        raise ValueError(f"positions must have shape ({t},) or ({b}, {t}), got {tuple(positions.shape)}")
