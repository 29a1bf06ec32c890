"""Feature maps: what takes the place of softmax's exponential, phi(q) . phi(k) instead of exp(q . k / sqrt(dk)).

A feature map is any function of (..., dk) to (..., f) that treats each vector by itself.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attncourse._shared.validate import check_widths

FeatureMap = Callable[[Tensor], Tensor]


def elu_plus_one(x: Float[Tensor, "*rows dk"]) -> Float[Tensor, "*rows dk"]:
    """Return elu(x) + 1, positive everywhere (Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236, equation 7)."""
    # elu(x) = exp(x) - 1 below 0: next to 1 a small exp(x) rounds away. No clamp: its slope at 0 is 0 from PyTorch 2.14 on.
    return torch.relu(x) + x.masked_fill(x > 0, 0).exp()


def identity(x: Float[Tensor, "*rows dk"]) -> Float[Tensor, "*rows dk"]:
    """Return x itself: scores of either sign, so that a sum of them is no normalizer."""
    return x


FEATURE_MAPS: dict[str, FeatureMap] = {"elu": elu_plus_one, "identity": identity}


class RandomFeatures(nn.Module):
    """The map is exp(W x - |x|^2 / 2) / sqrt(f) for x scaled by dk ** -1/4: positive, and right on average for softmax.

    Choromanski et al. 2020, https://arxiv.org/abs/2009.14794, lemma 1: over random W the mean of phi(q) . phi(k) is
    exp(q . k / sqrt(dk)). The authors' code also subtracts a maximum over all keys; here nothing does, since it would
    let the future into the past. No feature exceeds exp(|w|^2 / 2), which float32 holds to dk of about 150.

    W is a buffer: a layer saves it, loads it and moves with it.
    """

    projection: Tensor

    def __init__(self, projection: Float[Tensor, "f dk"]):
        super().__init__()
        self.register_buffer("projection", projection)

    def forward(self, x: Float[Tensor, "*rows dk"]) -> Float[Tensor, "*rows f"]:
        """Return the features of each vector."""
        n_features, dk = self.projection.shape
        x = x * dk**-0.25
        exponent = x @ self.projection.to(x).T - x.square().sum(dim=-1, keepdim=True) / 2
        return exponent.exp() * n_features**-0.5


def draw_random_features(
    dk: int, n_features: int, *, orthogonal: bool = True, rng: torch.Generator | None = None
) -> RandomFeatures:
    """Return a random map with rows W drawn normally; orthogonal in blocks of dk where nothing else is said (ibid., section 2.4).

    Orthogonal rows keep each row's distribution, so the mean stays right; errors of different rows then cancel better.

    Args:
        dk: width of the vectors.
        n_features: f, rows of W.
        orthogonal: whether rows of a block of dk are.
        rng: what draws (default: PyTorch's own generator).

    Raises:
        ValueError: a width below 1.
    """
    check_widths(dk=dk, n_features=n_features)
    rows = torch.randn(n_features, dk, generator=rng, dtype=torch.float64)
    if orthogonal:
        lengths = rows.norm(dim=-1, keepdim=True)
        rotations = _random_rotations(-(-n_features // dk), dk, rng)
        rows = rotations.flatten(0, 1)[:n_features] * lengths
    return RandomFeatures(rows)


def _random_rotations(count: int, dk: int, rng: torch.Generator | None) -> Float[Tensor, "count dk dk"]:
    """Return orthogonal matrices with no direction preferred: QR alone prefers some, by the signs that it chooses."""
    q, r = torch.linalg.qr(torch.randn(count, dk, dk, generator=rng, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
