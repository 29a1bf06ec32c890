"""Which keys a local query sees, as numbers that every form takes: how far back, how far ahead, and the first keys."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attncourse._shared.validate import check_key_lengths, check_qkv


@dataclass(frozen=True)
class Band:
    """A band lets a query see `before` keys before its own, its own, and `after` keys after it, each `dilation` apart.

    The first `sinks` keys of the sequence stay visible to every query that does not stand before them.
    """

    before: int
    after: int
    dilation: int = 1
    sinks: int = 0

    @property
    def span(self) -> int:
        """Return the positions from a query's own back to the furthest key of its band, both counted."""
        return self.before * self.dilation + 1


def local_band(*, window: int | None = None, radius: int | None = None, dilation: int = 1, sinks: int = 0) -> Band:
    """Return the band that a causal window or a bidirectional radius asks for.

    Raises:
        ValueError: not exactly one of window and radius, one of them below 1, a dilation below 1, sinks below 0, or
            sinks beside a radius or a dilation.
    """
    if (window is None) == (radius is None):
        got = f"got window={window}, radius={radius}"
        raise ValueError(f"give a window (causal) or a radius (both ways), not both and not neither, {got}")
    for name, value in (("window", window), ("radius", radius), ("dilation", dilation)):
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not (isinstance(sinks, int) and sinks >= 0):
        raise ValueError(f"sinks must be at least 0, got {sinks}")
    if sinks > 0 and (radius is not None or dilation > 1):
        raise ValueError(f"sinks go with an undilated window, got sinks={sinks}, radius={radius}, dilation={dilation}")
    if radius is not None:
        return Band(radius, radius, dilation)
    assert window is not None  # one of the two is given
    return Band(window - 1, 0, dilation, sinks)


def check_local(q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None) -> None:
    """Check that q, k, v and key_lengths go together."""
    check_qkv(q, k, v)
    check_key_lengths(key_lengths, b=q.shape[0], s=k.shape[2], like=q)


def by_residue(
    attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, dilation: int
) -> Tensor:
    """Make a dilated band out of undilated ones:
    positions that leave the same rest by the dilation see each other alone.

    Each of these sequences is a view of every dilation-th position, and its queries are its last positions again.

    Args:
        attend: gives the output of an undilated band of (q, k, v, key_lengths).
        q, k, v: (b, h, t, dk), (b, g, s, dk), (b, g, s, dv).
        key_lengths: (b,) integers; later keys are padding.
        dilation: the step between neighbours.
    """
    if dilation == 1:
        return attend(q, k, v, key_lengths)
    t, s = q.shape[2], k.shape[2]
    out = q.new_zeros(*q.shape[:3], v.shape[-1])
    for rest in range(dilation):
        rows = slice((rest - (s - t)) % dilation, None, dilation)
        cols = slice(rest, None, dilation)
        lengths = None
        if key_lengths is not None:
            lengths = (key_lengths.long() - rest + dilation - 1).div(dilation, rounding_mode="floor").clamp_min(0)
        out[:, :, rows] = attend(q[:, :, rows], k[:, :, cols], v[:, :, cols], lengths)
    return out
