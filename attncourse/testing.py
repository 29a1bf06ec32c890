"""What tests of every room use: inputs, the error budget, gradients, and the assertions of causality."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def make_qkv(
    *, b=2, h=2, g=None, t=7, s=None, dk=8, dv=None, dtype=torch.float64, device="cpu", seed=0, grad=False
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw normal q (b, h, t, dk), k (b, g, s, dk), v (b, g, s, dv) from a generator of their own."""
    rng = torch.Generator().manual_seed(seed)
    g, s, dv = g or h, t if s is None else s, dv or dk
    shapes = [(b, h, t, dk), (b, g, s, dk), (b, g, s, dv)]
    drawn = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    q, k, v = (x.to(device=device, dtype=dtype).requires_grad_(grad) for x in drawn)
    return q, k, v


def gradients(function: Callable[..., Tensor], *inputs: Tensor, seed: int = 1) -> tuple[Tensor, ...]:
    """Return d (function(*inputs) * c).sum() / d inputs for a fixed random c; the inputs are not touched."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    rng = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out)
    return torch.autograd.grad(out, leaves, cotangent)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Return ||got - wanted|| / ||wanted|| in float64; infinite where got is not finite and wanted is."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    if got.shape != wanted.shape:
        raise AssertionError(f"shape {tuple(got.shape)}, expected {tuple(wanted.shape)}")
    if not got.isfinite().all() and wanted.isfinite().all():
        return float("inf")
    return float((got - wanted).norm() / wanted.norm().clamp_min(torch.finfo(torch.float64).tiny))


def assert_within_budget(
    got: Tensor, *, plain: Tensor, exact: Tensor, what: str = "result", times: float = 2.0
) -> None:
    """Assert that got errs at most `times` as much against float64 as the plain PyTorch form in got's dtype does.

    The floor of a few units in the last place admits what differs only by the order of a sum.
    """
    eps = torch.finfo(got.dtype).eps
    budget = max(times * relative_error(plain, exact), 4 * eps)
    error = relative_error(got, exact)
    assert error <= budget, f"{what}: error {error:.2e} exceeds its budget {budget:.2e} ({got.dtype})"


def assert_gradients_within_budget(
    got: Sequence[Tensor], *, plain: Sequence[Tensor], exact: Sequence[Tensor], zero: float | None = None
) -> None:
    """Assert of each gradient that it errs at most twice as much against float64 as that of the plain PyTorch form does.

    A gradient passes the weights of its dtype twice, once in each direction, so the floor is twice an output's; the plain
    form may be exact by luck.

    Args:
        zero: how large an entry may be of a gradient that is 0 (default: 8 units in the last place of 1).
    """
    for which, (mine, theirs, truth) in enumerate(zip(got, plain, exact, strict=True)):
        floor = 8 * torch.finfo(mine.dtype).eps
        if truth.norm() < 1e-12:
            assert (mine.abs() < (floor if zero is None else zero)).all(), f"gradient {which}"
            continue
        error, budget = relative_error(mine, truth), max(2 * relative_error(theirs, truth), floor)
        assert error <= budget, f"gradient {which}: error {error:.1e} exceeds its budget {budget:.1e}"


def assert_causal(function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> None:
    """Change keys and values at one position, and assert that no row of the output that stands before it moves."""
    t, s = q.shape[2], k.shape[2]
    before = function(q, k, v)
    for position in range(s):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, position] += 1.0
        v2[:, :, position] += 1.0
        moved = (function(q, k2, v2) - before).abs().amax(dim=(0, 1, 3)) > 0
        rows = torch.arange(t) + s - t
        early = moved.cpu() & (rows < position)
        assert not early.any(), f"the query at position {int(rows[early][0])} saw position {position}"
        own = rows == position
        assert moved.cpu()[own].all(), f"the query at position {position} did not see its own key"
