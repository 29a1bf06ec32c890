"""The test of an optimization: does it compute the same function of the same inputs, or another one?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attncourse._shared.validate import require

Form = Callable[..., Tensor]
DrawInputs = Callable[..., tuple[Tensor, ...]]
NEAR = 0.2  # of the largest entry; between what eight or four bits change and what a mechanism does


@dataclass(frozen=True)
class Comparison:
    """A comparison is what was found: the answer,
    and the largest difference relative to the largest entry of the wanted tensor.

    Attributes:
        output: of the results.
        gradient: of the gradients by every input, all of them together; None where they were not asked for.
        size: where the largest difference of all was met.
        tolerance: the difference from which two functions are two.
    """

    output: float
    gradient: float | None
    size: tuple[int, ...]
    tolerance: float

    @property
    def apart(self) -> float:
        """Return the largest difference, of results or of gradients."""
        return max(self.output, self.gradient or 0.0)

    @property
    def same(self) -> bool:
        """Return whether no draw told the two apart."""
        return self.apart <= self.tolerance

    @property
    def verdict(self) -> str:
        """Return the place in words: "same function", "near" below a difference of `NEAR`, or "another function"."""
        if self.same:
            return "same function"
        return "near" if self.apart < NEAR else "another function"


def same_function(
    candidate: Form,
    standard: Form,
    draw: DrawInputs,
    *,
    sizes: Iterable[tuple[int, ...]],
    draws: int = 3,
    seed: int = 0,
    tolerance: float = 1e-9,
    gradients: bool = True,
) -> Comparison:
    """Compare two functions in float64 on drawn inputs of many sizes, and their gradients by every input.

    A difference is proof; agreement holds for the sizes that were drawn: choose them longer than any window, off every
    block's edge, and with unequal numbers of queries and keys.

    Args:
        draw: from the numbers of a size and `rng=` to the inputs, float64 tensors.
        sizes: each drawn `draws` times.
        gradients: compare them too; without, nothing is differentiated, as what serves inference alone demands.

    Raises:
        ValueError: no size or draw; inputs that are not float64; results of unequal shapes.
    """
    sizes = list(sizes)
    require(len(sizes) >= 1 and draws >= 1, f"give a size and a draw, got {len(sizes)} sizes and {draws} draws")
    rng = torch.Generator().manual_seed(seed)
    output, gradient, worst, where = 0.0, 0.0 if gradients else None, -1.0, sizes[0]
    for size in sizes:
        for _ in range(draws):
            inputs = draw(*size, rng=rng)
            kinds = {x.dtype for x in inputs}
            require(kinds == {torch.float64}, f"inputs must be float64, or rounding decides, got {kinds}")
            apart, apart_gradient = _differences(candidate, standard, inputs, rng=rng, gradients=gradients)
            output = max(output, apart)
            if gradients:
                gradient = max(gradient, apart_gradient)
            if max(apart, apart_gradient) > worst:
                worst, where = max(apart, apart_gradient), size
    return Comparison(output, gradient, where, tolerance)


def _differences(candidate, standard, inputs, *, rng, gradients) -> tuple[float, float]:
    """Return the largest difference of the results, and of the gradients (0 where they are not asked for)."""
    leaves = [[x.clone().requires_grad_(gradients) for x in inputs] for _ in range(2)]
    got, wanted = candidate(*leaves[0]), standard(*leaves[1])
    require(got.shape == wanted.shape, f"two results of shapes {tuple(got.shape)} and {tuple(wanted.shape)}")
    apart = relative_difference(got.detach(), wanted.detach())
    if not gradients:
        return apart, 0.0
    cotangent = torch.randn(wanted.shape, generator=rng, dtype=torch.float64)
    got, wanted = (
        torch.autograd.grad(out, by, cotangent, allow_unused=True, materialize_grads=True)
        for out, by in zip((got, wanted), leaves, strict=True)
    )
    # Together, since one alone may be zero, as that of a softmax over a single key is, up to rounding.
    return apart, relative_difference(*(torch.cat([x.flatten() for x in grads]) for grads in (got, wanted)))


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    """Return max |got - wanted| / max |wanted|;
    infinite where one is not finite, or where only the wanted one is all zeros.
    """
    if torch.equal(got, wanted):
        return 0.0
    if not (got.isfinite().all() and wanted.isfinite().all()):
        return float("inf")
    largest = float(wanted.abs().max())
    return float((got - wanted).abs().max()) / largest if largest else float("inf")
