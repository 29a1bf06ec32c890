"""How good is a gradient estimator? Its bias and variance against the exact gradient, on a choice small enough to count.

One query has scores for s keys, reads one value and pays for it. The expected cost is a sum over s choices, so its
gradient with respect to the scores is known exactly, and every estimator can be held against it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.validate import require

from .reference import gumbel_softmax, log_probability, score_function_loss, select, straight_through


@dataclass(frozen=True)
class Choice:
    """A choice has scores (s,), values (s, dv), and what a read costs: a function from (..., dv) to (...)."""

    scores: Float[Tensor, " s"]
    values: Float[Tensor, "s dv"]
    cost: Callable[[Tensor], Tensor]

    @property
    def probabilities(self) -> Float[Tensor, " s"]:
        """Return how likely each choice is."""
        return torch.softmax(self.scores, dim=-1)

    @property
    def costs(self) -> Float[Tensor, " s"]:
        """Return what each choice would pay."""
        return self.cost(self.values)


@dataclass(frozen=True)
class Quality:
    """The quality of an estimator: the length of its mean error, the standard error of that,
    and its variance, summed over scores.
    """

    bias: float
    standard_error: float
    variance: float


def exact_gradient(choice: Choice) -> Float[Tensor, " s"]:
    """Return d E[cost] / d scores: p_j (cost_j - E[cost]),
    since d p_i / d score_j = p_i (1[i = j] - p_j) for the choice's p.
    """
    p, costs = choice.probabilities, choice.costs
    return p * (costs - p @ costs)


def soft_gradient(choice: Choice) -> Float[Tensor, " s"]:
    """Return the gradient of soft attention's cost for a choice, that of the mixture:
    another function, unless the cost is linear.
    """
    scores = choice.scores.detach().clone().requires_grad_()
    return torch.autograd.grad(choice.cost(scores.softmax(dim=-1) @ choice.values), scores)[0]


def score_function_gradients(
    choice: Choice, noise: Float[Tensor, "n s"], *, baseline: float = 0.0
) -> Float[Tensor, "n s"]:
    """Return one REINFORCE estimate per draw of a choice: (cost - baseline) d log p(chosen)."""
    scores = choice.scores.detach().expand(len(noise), 1, 1, -1).clone().requires_grad_()
    index = select(scores, noise[:, None, None])
    cost, log_prob = choice.cost(choice.values[index[:, 0, 0]]), log_probability(scores, index)[:, 0, 0]
    loss = score_function_loss(cost, log_prob, baseline=baseline)
    return torch.autograd.grad(loss * len(noise), scores)[0][:, 0, 0]


def relaxed_gradients(choice: Choice, noise: Float[Tensor, "n s"], *, temperature: float) -> Float[Tensor, "n s"]:
    """Return one Gumbel-softmax estimate per draw of a choice:
    the gradient of the cost of a mixture at this temperature.
    """
    return _gradient_a_draw(choice, noise, lambda scores, g: gumbel_softmax(scores, g, temperature=temperature))


def straight_through_gradients(
    choice: Choice, noise: Float[Tensor, "n s"], *, temperature: float
) -> Float[Tensor, "n s"]:
    """Return one straight-through estimate per draw:
    the cost's slope at the value read, the soft sample's slope behind it.

    Args:
        choice: what is chosen from.
        temperature: of the soft sample.
    """

    def weights(scores, g):
        return straight_through(gumbel_softmax(scores, g, temperature=temperature), select(scores, g))

    return _gradient_a_draw(choice, noise, weights)


def _gradient_a_draw(choice, noise, weights_of):
    """Return d cost(weights @ values) / d scores for each row of noise."""
    scores = choice.scores.detach().expand(len(noise), 1, 1, -1).clone().requires_grad_()
    read = weights_of(scores, noise[:, None, None]) @ choice.values
    return torch.autograd.grad(choice.cost(read).sum(), scores)[0][:, 0, 0]


def score_function_variance(choice: Choice, *, baseline: float = 0.0) -> Float[Tensor, " s"]:
    """Return the variance of one REINFORCE estimate of a choice, by enumeration:
    E[(cost - baseline)^2 (1[j] - p)^2] - gradient^2.
    """
    p, advantage = choice.probabilities, choice.costs - baseline
    slopes = torch.eye(len(p), dtype=p.dtype) - p  # row j: d log p_j / d scores
    return p @ (advantage[:, None] * slopes).square() - exact_gradient(choice).square()


def best_baseline(choice: Choice) -> float:
    """Return the constant with the least summed variance for a choice:
    the mean cost, each weighted by p_j ||d log p_j||^2.
    """
    p = choice.probabilities
    weight = p * (torch.eye(len(p), dtype=p.dtype) - p).square().sum(dim=-1)
    return float(weight @ choice.costs / weight.sum())


def quality(gradients: Float[Tensor, "n s"], exact: Float[Tensor, " s"]) -> Quality:
    """Return bias and variance of an estimator from n estimates; a bias of a few standard errors is none."""
    require(len(gradients) >= 2, f"a variance needs at least two estimates, got {len(gradients)}")
    variance = float(gradients.var(dim=0).sum())
    bias = float((gradients.mean(dim=0) - exact).norm())
    return Quality(bias=bias, standard_error=(variance / len(gradients)) ** 0.5, variance=variance)
