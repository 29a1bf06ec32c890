"""Checks of the unit `hard_attention`: a sample, what it costs on average, and three ways to learn from it."""

import math

import torch

from attncourse.hard_attention import Choice, chi_square_test, exact_gradient, score_function_variance

from ..core import exercise_check, exercise_unit
from ..draw import integer, normal, sizes
from ..expect import expect, expect_close, expect_no_mistake, expect_number, expect_tensor, place

exercise_unit(
    "hard_attention",
    title="Soft and hard attention",
    chapter="hard_attention",
    minutes=60,
    prerequisites=("softmax_attention",),
)


FLOAT32 = dict(rtol=1e-5, atol=1e-6)  # a result that was rounded to float32 is right


def _uniform(rng, *shape):
    return torch.rand(shape, generator=rng, dtype=torch.float64).clamp_min(1e-12)


def _choices(rng):
    """Return scores and costs of few keys and of more; the costs lie around 3 or -3, so that a baseline matters.

    Of the last two all scores lie far from 0, where a naive exponential overflows or vanishes.
    """
    for middle, around in ((3.0, 0.0), (-3.0, 0.0), (3.0, 9000.0), (3.0, -9000.0)):
        s = integer(rng, 3, 8)
        yield normal(rng, s) + around, normal(rng, s) + middle


def _as_choice(scores, costs):
    """Return a choice with costs for values: a read is what it pays."""
    return Choice(scores, costs[:, None], lambda read: read[..., 0])


def _expect_index(got, rows):
    expect(isinstance(got, torch.Tensor), f"the result is a {type(got).__name__}, expected a tensor of indices")
    expect(tuple(got.shape) == (rows,), f"the indices have shape {tuple(got.shape)}, expected one a row: ({rows},)")
    expect(not got.is_floating_point() and got.dtype != torch.bool, f"indices are integers, got {got.dtype}")
    return got


@exercise_check(
    "hard_attention.mislead",
    function="soft_alone_is_right",
    difficulty="medium",
    importance="useful",
    points=2,
    section="soft-attention-mixes-hard-attention-draws",
)
def mislead(learner, rng):
    """Build keys of which the mixture is right and every single one is wrong."""
    got = learner()
    expect(isinstance(got, tuple | list) and len(got) == 3, "return three things: scores, values, target")
    scores, values = (torch.as_tensor(x, dtype=torch.float64) for x in got[:2])
    target = expect_number(got[2], what="the target")
    fits = scores.ndim == values.ndim == 1 and scores.shape == values.shape
    expect(
        fits,
        f"scores and values have shapes {tuple(scores.shape)} and {tuple(values.shape)}, expected one number a key",
    )
    expect(bool(scores.isfinite().all() and values.isfinite().all()), "a score or a value is not finite")
    expect(len(scores) >= 2, "with one key there is nothing to mix: give two or more")
    miss = float(torch.softmax(scores, dim=0) @ values) - target
    expect(abs(miss) < 1e-3, "the mixture, weighted by softmax of the scores, is not the target")
    near = (values - target).abs() < 1 - 1e-5  # as much as float32 may lose
    expect(
        not near.any(), f"the value of key {place(near)} lies within 1 of the target: reading it alone is not so wrong"
    )


@exercise_check(
    "hard_attention.sample",
    function="sample",
    difficulty="easy",
    importance="core",
    points=3,
    section="gumbel-max-a-draw-is-a-maximum",
)
def sample(learner, rng):
    """Draw from softmax by the Gumbel-max trick, from uniform numbers that are given."""
    largest = [_chooses_largest(learner, rng, s) for s in sizes(rng, 2)]
    n, s = integer(rng, 3500, 4500), integer(rng, 4, 7)
    row, uniform = 0.3 * torch.randperm(s, generator=rng).double(), _uniform(rng, n, s)
    got = _expect_index(learner(row.expand(n, s).clone(), uniform), n)
    expect(len(got.unique()) > 1, "equal scores with other numbers beside them always choose the same key")
    _expect_no_known_mistake(got, row, uniform)
    frequent = chi_square_test(got.bincount(minlength=s), torch.softmax(row, dim=0)) > 1e-9
    expect(frequent, "keys do not come up as often as softmax of the scores says")
    expect(
        bool((got == _largest(row, uniform)).all()) and all(largest),
        "keys come up as often as they should, but not as the largest of score plus noise",
    )


def _largest(scores, uniform):
    return (scores - (-uniform.log()).log()).argmax(dim=-1)


def _chooses_largest(learner, rng, s):
    """Return whether score plus noise is largest at the keys chosen, where scores lie far from 0 and keys are hidden.

    Broken where a key is chosen that cannot be.
    """
    t, none = integer(rng, 300, 500), integer(rng, 5, 90)
    scores, uniform = normal(rng, t, s) * 2, _uniform(rng, t, s)
    scores[1::3] += 300
    scores[2::3] -= 300
    scores[torch.rand(t, s, generator=rng) < 0.4] = -torch.inf
    scores[none] = -torch.inf
    scores[0, 0], scores[0, 1:] = -250.0, -torch.inf
    got = _expect_index(learner(scores, uniform), t)
    expect(bool(((got >= -1) & (got < s)).all()), f"an index lies outside the {s} keys")
    expect(int(got[none]) == -1, f"row {none} sees no key, and its index is not -1")
    empty = (scores == -torch.inf).all(dim=-1)
    expect(not (got[~empty] == -1).any(), "a row that sees a key has the index -1")
    hidden = (scores.gather(1, got.clamp_min(0)[:, None])[:, 0] == -torch.inf) & ~empty
    expect(not hidden.any(), f"row {place(hidden)} chose a key whose score is -infinity")
    return bool(((got == _largest(scores, uniform)) | empty).all())


def _expect_no_known_mistake(got, row, uniform):
    mistakes = {
        "the uniform numbers are added as they are": row + uniform,
        "one logarithm is missing from the noise: -log(u) is exponential": row - uniform.log(),
        "the noise has the wrong sign: it should be largest where u is near 1": row + (-uniform.log()).log(),
    }
    for message, noisy in mistakes.items():
        expect(not (got == noisy.argmax(dim=-1)).all(), message)


@exercise_check(
    "hard_attention.expectation",
    function="expected_cost",
    difficulty="medium",
    importance="useful",
    points=2,
    section="the-choice-has-no-gradient-the-expected-cost-has-one",
)
def expectation(learner, rng):
    """Compute the expected cost of one hard read and its gradient, by counting every choice."""
    for scores, costs in _choices(rng):
        s = len(scores)
        got = learner(scores, costs)
        expect(
            isinstance(got, tuple | list) and len(got) == 2, "return two things: the expected cost, then its gradient"
        )
        p = torch.softmax(scores, dim=0)
        cost = expect_number(got[0], what="the expected cost")
        expect(abs(cost - float(costs.mean())) > 1e-9, "every key counts alike: weigh costs by their probability")
        expect(math.isclose(cost, float(p @ costs), rel_tol=1e-5), "the expected cost is wrong")
        gradient = expect_tensor(got[1], (s,), what="the gradient")
        _expect_balanced(gradient)
        wanted = exact_gradient(_as_choice(scores, costs))
        expect(
            not torch.allclose(gradient, -wanted),
            "the gradient points downhill; it should point uphill, as every gradient",
        )
        expect_close(gradient, wanted, "the gradient of the expected cost is wrong", **FLOAT32)


def _expect_balanced(gradient):
    """Expect entries of a gradient that cancel: a number added to all scores changes no probability."""
    expect(
        abs(float(gradient.sum())) < 1e-5 * (1 + float(gradient.abs().sum())),
        "the entries of the gradient do not sum to 0, though adding a number to all scores changes nothing",
    )


@exercise_check(
    "hard_attention.score_function",
    function="score_function_gradient",
    difficulty="medium",
    importance="core",
    points=2,
    section="the-score-function-estimator-reinforce",
)
def score_function(learner, rng):
    """Estimate the gradient from draws and what each of them paid, with a baseline."""
    for (scores, costs), baseline in zip(_choices(rng), (2.5, -1.5, 1.25, 4.0), strict=True):
        s = len(scores)
        for n in (s + integer(rng, 1, 4), integer(rng, 2, s)):
            index = torch.randint(s, (n,), generator=rng)
            index[0] = 1 - (index[1] > 0).long()  # two draws at least differ
            # a second draw of a key need not pay what the first has paid
            _expect_estimate(learner, scores, index, costs[index] + 0.3 * normal(rng, n), baseline)
        alone = [learner(scores, torch.tensor([j]), costs[j : j + 1], baseline) for j in range(s)]
        whole = torch.softmax(scores, dim=0) @ torch.stack(alone).double()
        wanted = exact_gradient(_as_choice(scores, costs))
        expect_close(whole, wanted, "the estimates of single draws do not average to the gradient", **FLOAT32)


def _expect_estimate(learner, scores, index, paid, baseline):
    s, n = len(scores), len(index)
    got = expect_tensor(learner(scores, index, paid, baseline), (s,), what="the gradient")
    _expect_balanced(got)
    slopes = torch.eye(s, dtype=torch.float64)[index] - torch.softmax(scores, dim=0)

    def mean(advantage):
        return (advantage[:, None] * slopes).mean(dim=0)

    wanted = mean(paid - baseline)
    expect(not torch.allclose(got, -wanted), "the gradient points downhill; it should point uphill, as every gradient")
    expect(not torch.allclose(got, mean(paid)), "the baseline changes nothing")
    expect(not torch.allclose(got, mean(paid + baseline)), "the baseline is added to the costs, not subtracted")
    expect(
        not torch.allclose(got, mean(paid - paid.mean())), "the baseline is the mean of these costs, not the one given"
    )
    expect(not torch.allclose(got, n * wanted), "the estimates are summed over the draws, not averaged")
    expect_close(got, wanted, "the estimate is wrong", **FLOAT32)


@exercise_check(
    "hard_attention.straight_through",
    function="straight_through",
    difficulty="medium",
    importance="useful",
    points=2,
    section="gumbel-softmax-and-the-straight-through-estimator",
)
def straight_through(learner, rng):
    """Give one-hot weights forward, and the Gumbel-softmax's gradient backward."""
    for temperature, around in ((0.7, 0.0), (2.5, 0.0), (0.1, 0.0), (1.5, 9000.0), (0.5, -9000.0)):
        (s,), t = sizes(rng, 1), integer(rng, 14, 20)
        scores, noise = normal(rng, t, s) + around, -(-_uniform(rng, t, s).log()).log()
        _expect_straight_through(learner, scores, noise, temperature * (1 + 0.1 * integer(rng, 0, 3)), rng)


def _expect_straight_through(learner, scores, noise, temperature, rng):
    t, s = scores.shape
    got = expect_tensor(learner(scores, noise, temperature), (t, s), what="the weights")
    hard = torch.nn.functional.one_hot((scores + noise).argmax(dim=-1), s).double()
    sums = got.sum(dim=-1)
    expect(
        not torch.allclose(sums, 2 * torch.ones_like(sums)), "rows sum to 2: the soft half still stands in the value"
    )
    one_hot = torch.isclose(got, got.round(), atol=1e-6).all() and torch.allclose(sums, torch.ones_like(sums))
    expect(bool(one_hot), "the weights are not one-hot: each row has one 1 and zeros")
    wrong = (got.round() != hard).any(dim=-1)
    expect(not wrong.any(), f"row {place(wrong)} does not choose the key with the largest score plus noise")
    cotangent = normal(rng, t, s)
    (slope,) = learner.grad(scores, noise, temperature, wrt=(0,), cotangent=cotangent)

    def soft_slope(divisor, shift):
        leaf = scores.clone().requires_grad_()
        return torch.autograd.grad(torch.softmax((leaf + shift) / divisor, dim=-1), leaf, cotangent)[0]

    expect(
        not torch.allclose(slope, soft_slope(1.0, noise)),
        "the gradient is that of temperature 1: the temperature is lost",
    )
    expect(not torch.allclose(slope, soft_slope(temperature, 0.0)), "the gradient's softmax has lost the noise")
    expect(not slope.eq(0).all(), "the gradient is 0 everywhere: nothing soft stands behind the one-hot weights")
    expect_close(
        slope,
        soft_slope(temperature, noise),
        "the gradient is not that of softmax((scores + noise) / temperature)",
        rtol=1e-4,
        atol=1e-4,
    )


@exercise_check(
    "hard_attention.variance",
    function="estimator_variance",
    difficulty="hard",
    importance="extra",
    points=3,
    section="a-baseline-lowers-the-variance",
)
def variance(learner, rng):
    """Predict the variance of the score-function estimate of one draw, from scores, costs and baseline."""
    for (scores, costs), baseline in zip(_choices(rng), (0.0, 2.5, -1.5, 1.25), strict=True):
        s, choice = len(scores), _as_choice(scores, costs)
        got = expect_number(learner(scores, costs, baseline), what="the variance")
        expect(got >= 0, "a variance is negative")
        p = choice.probabilities
        wanted = float(score_function_variance(choice, baseline=baseline).sum())
        mistakes = {
            "that is the mean square of the estimate; the square of its mean is still in it": wanted
            + float(exact_gradient(choice).square().sum()),
            "that is the variance of the cost, not of the gradient's estimate": float(
                p @ costs.square() - (p @ costs) ** 2
            ),
            f"that is the mean over the {s} entries of the estimate, not the sum": wanted / s,
            "the baseline is left out": float(score_function_variance(choice).sum()),
        }
        expect_no_mistake(got, wanted, mistakes)
        expect(math.isclose(got, wanted, rel_tol=1e-5), f"with {s} keys and baseline {baseline}: the variance is wrong")
