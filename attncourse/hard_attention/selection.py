"""What every form of hard attention shares: the read, the rows that an index names, the input errors."""

from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.validate import require


class HardRead(NamedTuple):
    """A hard read is what a query reads when it reads one place.

    `out` is (b, h, t, dv), the value rows themselves. `index` is (b, h, t), -1 where no key is visible. `log_prob` is
    (b, h, t), the logarithm of softmax's weight for that key, in float32 or better; 0 where there was nothing to
    choose.
    """

    out: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple's method of this name gives way, as namedtuples allow
    log_prob: Tensor


def take_rows(x: Float[Tensor, "b g s d"], index: Int[Tensor, "b h t"]) -> Float[Tensor, "b h t d"]:
    """Return row index[b, h, t] of the key/value head that serves head h; zeros for -1.
    Nothing is copied but these rows.
    """
    g, s, d = x.shape[1:]
    if s == 0:
        return x.new_zeros(*index.shape, d)
    at = rearrange(index.clamp_min(0), "b (g r) t -> b g (r t)", g=g)[..., None]
    rows = rearrange(x.gather(2, at.expand(-1, -1, -1, d)), "b g (r t) d -> b (g r) t d", r=index.shape[1] // g)
    return rows.masked_fill((index < 0)[..., None], 0.0)


def check_temperature(temperature: float) -> None:
    """Check that a temperature is positive, since it divides scores."""
    require(temperature > 0, f"temperature must be positive, got {temperature}")


def check_noise(noise: Tensor | None, scores: Tensor) -> None:
    """Check that noise, where there is any, has a number for each of the scores."""
    got = None if noise is None else tuple(noise.shape)
    require(
        noise is None or got == tuple(scores.shape), f"noise must be (b, h, t, s) = {tuple(scores.shape)}, got {got}"
    )
