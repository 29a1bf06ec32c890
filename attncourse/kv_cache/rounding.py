"""What any number of bits does to keys and values: they come back as codes of so many bits would give them.

Nothing is packed here: it is for asking how many bits and which groups, before a codec is written for them.
"""

from jaxtyping import Float
from torch import Tensor

from attncourse._shared.validate import require

from .codec import groups_of
from .quantize import _from_codes, _to_codes


def round_to_bits(
    x: Float[Tensor, "*b s width"], *, bits: int, by: str, group: int | None = None
) -> Float[Tensor, "*b s width"]:
    """Return x from codes of `bits` bits, x ~ (code - zero) * scale,
    with a scale and a zero point in float32 for each group.

    No entry is off by more than half a step, (largest - least) / (2^bits - 1) / 2 of its group.

    Args:
        bits: 1 to 8.
        by: "token" cuts each token's vector into groups of `group` neighbouring channels; "channel" cuts each channel
            into groups of `group` successive tokens (Liu et al. 2024, KIVI, https://arxiv.org/abs/2402.02750, section
            3, for keys).
        group: entries of a group (default: all).

    Raises:
        ValueError: bits outside 1..8, another `by`, or a group that does not divide the axis.
    """
    require(isinstance(bits, int) and 1 <= bits <= 8, f"bits must be an integer in 1..8, got {bits!r}")
    require(by in ("token", "channel"), f"by must be 'token' or 'channel', got {by!r}")
    rows = x if by == "token" else x.transpose(-1, -2)
    codes = _to_codes(rows, groups_of(rows.shape[-1], group), 0, 2**bits - 1)
    rounded = _from_codes(*codes).to(x.dtype)
    return rounded if by == "token" else rounded.transpose(-1, -2)
