"""Solutions of the unit `hard_attention`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# hard_attention.mislead


def mislead_two_keys():
    return torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.0


def mislead_three_keys():
    shares, values = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.0, 10.0, 20.0])
    return shares.log(), values, float(shares @ values)


def mislead_in_float32():
    return [0.0, 0.0], torch.tensor([-0.7, 1.3]), 0.3


def mislead_a_little_less():
    return torch.zeros(2), torch.tensor([-0.98, 0.98]), 0.0


def mislead_plain_mean():
    """The values' mean is the target, and softmax's mixture is not."""
    return torch.tensor([0.4, 0.0]), torch.tensor([-1.5, 1.5]), 0.0


def mislead_unequal():
    values = [0.0, 3.0]
    return torch.tensor([2.0, 1.0]).log(), values, 1.0


def mislead_target_among_them():
    return torch.zeros(3), torch.tensor([-2.0, 0.0, 2.0]), 0.0


def mislead_mixture_misses():
    return torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]), 0.0


def mislead_one_key():
    return torch.zeros(1), torch.tensor([5.0]), 5.0


def mislead_two_things():
    return torch.zeros(2), torch.tensor([-1.0, 1.0])


def mislead_shapes():
    return torch.zeros(3), torch.tensor([-1.0, 1.0]), 0.0


def mislead_infinite():
    return torch.tensor([0.0, -torch.inf]), torch.tensor([5.0, 1.0]), 5.0


# hard_attention.sample


def sample_gumbel(scores, uniform):
    index = (scores - torch.log(-torch.log(uniform))).argmax(dim=-1)
    return index.masked_fill((scores == -torch.inf).all(dim=-1), -1)


def sample_race(scores, uniform):
    """The first of exponential waiting times, each with its weight as rate."""
    chosen = []
    for row, u in zip(scores, uniform, strict=True):
        waiting = -torch.log(u) / torch.exp(row)
        chosen.append(int(waiting.argmin()) if waiting.min() < torch.inf else -1)
    return torch.tensor(chosen)


def sample_argmax(scores, uniform):
    return scores.argmax(dim=-1).masked_fill((scores == -torch.inf).all(dim=-1), -1)


def _with(noise):
    def chosen(scores, uniform):
        return (scores + noise(uniform)).argmax(dim=-1).masked_fill((scores == -torch.inf).all(dim=-1), -1)

    return chosen


def sample_uniform_noise(scores, uniform):
    return _with(lambda u: u)(scores, uniform)


def sample_one_logarithm(scores, uniform):
    return _with(lambda u: -torch.log(u))(scores, uniform)


def sample_wrong_sign(scores, uniform):
    return _with(lambda u: torch.log(-torch.log(u)))(scores, uniform)


def sample_normal_noise(scores, uniform):
    return _with(lambda u: torch.erfinv(2 * u - 1))(scores, uniform)


def sample_on_probabilities(scores, uniform):
    weights = torch.softmax(scores, dim=-1).nan_to_num()
    index = (weights - torch.log(-torch.log(uniform))).argmax(dim=-1)
    return index.masked_fill((scores == -torch.inf).all(dim=-1), -1)


def sample_no_empty_rows(scores, uniform):
    return (scores - torch.log(-torch.log(uniform))).argmax(dim=-1)


def sample_inverse(scores, uniform):
    """A right distribution by another method: the first uniform number against the running sum."""
    weights = torch.softmax(scores, dim=-1).nan_to_num()
    index = (weights.cumsum(dim=-1) < uniform[:, :1]).sum(dim=-1).clamp_max(scores.shape[1] - 1)
    return index.masked_fill((scores == -torch.inf).all(dim=-1), -1)


def sample_small_fill(scores, uniform):
    index = (scores.clamp_min(-100.0) - torch.log(-torch.log(uniform))).argmax(dim=-1)
    return index.masked_fill((scores == -torch.inf).all(dim=-1), -1)


def sample_in_float32(scores, uniform):
    return sample_race(scores.float(), uniform.float())


def sample_single_key_is_none(scores, uniform):
    """A row that sees one key alone has nothing to choose from."""
    return sample_gumbel(scores, uniform).masked_fill((scores > -torch.inf).sum(dim=-1) == 1, -1)


def sample_floats(scores, uniform):
    return sample_gumbel(scores, uniform).double()


# hard_attention.expectation


def expectation_formula(scores, costs):
    p = torch.softmax(scores, dim=0)
    mean = p @ costs
    return mean, p * (costs - mean)


def expectation_autograd(scores, costs):
    scores = scores.clone().requires_grad_()
    total = sum(w * c for w, c in zip(torch.softmax(scores, dim=0), costs, strict=True))
    return total.detach(), torch.autograd.grad(total, scores)[0]


def _naive(scores):
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


def expectation_naive_exponential(scores, costs):
    p = _naive(scores)
    return p @ costs, p * (costs - p @ costs)


def expectation_clamped(scores, costs):
    return expectation_formula(scores.clamp(-80, 80), costs)


def expectation_no_mean(scores, costs):
    p = torch.softmax(scores, dim=0)
    return p @ costs, p * costs


def expectation_downhill(scores, costs):
    mean, gradient = expectation_formula(scores, costs)
    return mean, -gradient


def expectation_equal_weights(scores, costs):
    return costs.mean(), expectation_formula(scores, costs)[1]


def expectation_no_weights(scores, costs):
    return torch.softmax(scores, dim=0) @ costs, (costs - costs.mean())


def expectation_best_key(scores, costs):
    return costs[scores.argmax()], expectation_formula(scores, costs)[1]


def expectation_only_gradient(scores, costs):
    return expectation_formula(scores, costs)[1]


# hard_attention.score_function


def score_function_formula(scores, index, costs, baseline):
    slopes = torch.nn.functional.one_hot(index, len(scores)) - torch.softmax(scores, dim=0)
    return ((costs - baseline)[:, None] * slopes).mean(dim=0)


def score_function_autograd(scores, index, costs, baseline):
    scores = scores.clone().requires_grad_()
    chosen = torch.log_softmax(scores, dim=0)[index]
    return torch.autograd.grad(((costs - baseline) * chosen).sum() / len(index), scores)[0]


def score_function_naive_exponential(scores, index, costs, baseline):
    slopes = torch.nn.functional.one_hot(index, len(scores)) - _naive(scores)
    return ((costs - baseline)[:, None] * slopes).mean(dim=0)


def score_function_over_keys(scores, index, costs, baseline):
    """The sum over draws is divided by the number of keys."""
    return score_function_formula(scores, index, costs, baseline) * len(index) / len(scores)


def score_function_cost_of_key(scores, index, costs, baseline):
    """Each draw pays what the last draw of its key has paid."""
    by_key = torch.zeros_like(scores)
    for j, cost in zip(index.tolist(), costs, strict=True):
        by_key[j] = cost
    return score_function_formula(scores, index, by_key[index], baseline)


def score_function_only_chosen(scores, index, costs, baseline):
    return ((costs - baseline)[:, None] * torch.nn.functional.one_hot(index, len(scores))).mean(dim=0)


def score_function_downhill(scores, index, costs, baseline):
    return -score_function_formula(scores, index, costs, baseline)


def score_function_no_baseline(scores, index, costs, baseline):
    return score_function_formula(scores, index, costs, 0.0)


def score_function_added_baseline(scores, index, costs, baseline):
    return score_function_formula(scores, index, costs, -baseline)


def score_function_own_baseline(scores, index, costs, baseline):
    return score_function_formula(scores, index, costs, costs.mean())


def score_function_sum(scores, index, costs, baseline):
    return len(index) * score_function_formula(scores, index, costs, baseline)


def score_function_weighted_twice(scores, index, costs, baseline):
    p = torch.softmax(scores, dim=0)
    slopes = torch.nn.functional.one_hot(index, len(scores)) - p
    return ((costs - baseline)[:, None] * p[index][:, None] * slopes).mean(dim=0)


# hard_attention.straight_through


def straight_through_formula(scores, noise, temperature):
    soft = torch.softmax((scores + noise) / temperature, dim=-1)
    hard = torch.nn.functional.one_hot(soft.argmax(dim=-1), scores.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach()


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, soft):
        return torch.zeros_like(soft).scatter(-1, soft.argmax(dim=-1, keepdim=True), 1.0)

    @staticmethod
    def backward(ctx, slope):
        return slope


def straight_through_function(scores, noise, temperature):
    return _Through.apply(torch.softmax((scores + noise) / temperature, dim=-1))


def straight_through_naive_exponential(scores, noise, temperature):
    soft = _naive((scores + noise) / temperature)
    return torch.nn.functional.one_hot(soft.argmax(dim=-1), scores.shape[-1]) + (soft - soft.detach())


def straight_through_times_temperature(scores, noise, temperature):
    soft = torch.softmax((scores + noise) * temperature, dim=-1)
    return torch.nn.functional.one_hot(soft.argmax(dim=-1), scores.shape[-1]) + (soft - soft.detach())


def straight_through_noise_not_divided(scores, noise, temperature):
    soft = torch.softmax(scores / temperature + noise, dim=-1)
    hard = torch.nn.functional.one_hot((scores + noise).argmax(dim=-1), scores.shape[-1])
    return hard + (soft - soft.detach())


def straight_through_soft(scores, noise, temperature):
    return torch.softmax((scores + noise) / temperature, dim=-1)


def straight_through_no_detach(scores, noise, temperature):
    soft = torch.softmax((scores + noise) / temperature, dim=-1)
    return torch.nn.functional.one_hot(soft.argmax(dim=-1), scores.shape[-1]) + soft


def straight_through_blocked(scores, noise, temperature):
    soft = torch.softmax((scores + noise) / temperature, dim=-1)
    return torch.nn.functional.one_hot(soft.argmax(dim=-1), scores.shape[-1]).double()


def straight_through_zero(scores, noise, temperature):
    soft = torch.softmax((scores + noise) / temperature, dim=-1).detach()
    hard = torch.nn.functional.one_hot(soft.argmax(dim=-1), scores.shape[-1])
    return hard + soft - soft + 0 * scores


def straight_through_temperature_lost(scores, noise, temperature):
    return straight_through_formula(scores, noise, 1.0)


def straight_through_no_noise(scores, noise, temperature):
    return straight_through_formula(scores, torch.zeros_like(noise), temperature)


def straight_through_slope_without_noise(scores, noise, temperature):
    soft = torch.softmax(scores / temperature, dim=-1)
    hard = torch.nn.functional.one_hot((scores + noise).argmax(dim=-1), scores.shape[-1])
    return hard + soft - soft.detach()


def straight_through_identity(scores, noise, temperature):
    hard = torch.nn.functional.one_hot((scores + noise).argmax(dim=-1), scores.shape[-1])
    return hard + scores - scores.detach()


# hard_attention.variance


def variance_formula(scores, costs, baseline):
    p = torch.softmax(scores, dim=0)
    slopes = torch.eye(len(p), dtype=p.dtype) - p
    mean = p * (costs - p @ costs)
    return p @ ((costs - baseline)[:, None] * slopes).square().sum(dim=-1) - mean.square().sum()


def variance_counted(scores, costs, baseline):
    p = torch.softmax(scores, dim=0)
    estimates = []
    for j in range(len(p)):
        slope = -p.clone()
        slope[j] += 1
        estimates.append((costs[j] - baseline) * slope)
    mean = sum(w * e for w, e in zip(p, estimates, strict=True))
    return float(sum(w * (e - mean).square().sum() for w, e in zip(p, estimates, strict=True)))


def variance_naive_exponential(scores, costs, baseline):
    p = _naive(scores)
    estimates = (costs - baseline)[:, None] * (torch.eye(len(p), dtype=p.dtype) - p)
    return p @ (estimates - p @ estimates).square().sum(dim=-1)


def variance_equal_weights(scores, costs, baseline):
    p = torch.softmax(scores, dim=0)
    estimates = (costs - baseline)[:, None] * (torch.eye(len(p), dtype=p.dtype) - p)
    return (estimates - p @ estimates).square().sum(dim=-1).mean()


def variance_added_baseline(scores, costs, baseline):
    return variance_formula(scores, costs, -baseline)


def variance_mean_square(scores, costs, baseline):
    p = torch.softmax(scores, dim=0)
    slopes = torch.eye(len(p), dtype=p.dtype) - p
    return p @ ((costs - baseline)[:, None] * slopes).square().sum(dim=-1)


def variance_of_costs(scores, costs, baseline):
    p = torch.softmax(scores, dim=0)
    return p @ costs.square() - (p @ costs) ** 2


def variance_no_baseline(scores, costs, baseline):
    return variance_formula(scores, costs, 0.0)


def variance_mean_of_entries(scores, costs, baseline):
    return variance_formula(scores, costs, baseline) / len(scores)


def variance_only_chosen(scores, costs, baseline):
    p = torch.softmax(scores, dim=0)
    return p @ ((costs - baseline) * (1 - p)).square()


def variance_negative(scores, costs, baseline):
    return -variance_formula(scores, costs, baseline)


BANK = {
    "hard_attention.mislead": Bank(
        right=[mislead_two_keys, mislead_unequal, mislead_three_keys, mislead_in_float32],
        wrong=[
            Wrong(mislead_target_among_them, says="lies within 1 of the target"),
            Wrong(mislead_mixture_misses, says="is not the target"),
            Wrong(mislead_one_key, says="nothing to mix"),
            Wrong(mislead_two_things, says="return three things"),
            Wrong(mislead_shapes, says="expected one number a key"),
            Wrong(mislead_infinite, says="is not finite"),
            Wrong(mislead_a_little_less, says="lies within 1 of the target: reading"),
            Wrong(mislead_plain_mean, says="softmax of the scores, is not the target"),
        ],
    ),
    "hard_attention.sample": Bank(
        right=[sample_gumbel, sample_race],
        wrong=[
            Wrong(sample_argmax, says="always choose the same key"),
            Wrong(sample_uniform_noise, says="added as they are"),
            Wrong(sample_one_logarithm, says="one logarithm is missing"),
            Wrong(sample_wrong_sign, says="the noise has the wrong sign"),
            Wrong(sample_normal_noise, says="do not come up as often"),
            Wrong(sample_on_probabilities, says="whose score is -infinity"),
            Wrong(sample_no_empty_rows, says="sees no key, and its index is not -1"),
            Wrong(sample_inverse, says="not as the largest of score plus noise"),
            Wrong(sample_floats, says="indices are integers"),
            Wrong(sample_small_fill, says="chose a key whose score is -infinity"),
            Wrong(sample_in_float32, says="a row that sees a key has the index -1"),
            Wrong(sample_single_key_is_none, says=" that sees a key has the index -1"),
        ],
    ),
    "hard_attention.expectation": Bank(
        right=[expectation_formula, expectation_autograd],
        wrong=[
            Wrong(expectation_no_mean, says="do not sum to 0"),
            Wrong(expectation_downhill, says="points downhill"),
            Wrong(expectation_equal_weights, says="every key counts alike"),
            Wrong(expectation_no_weights, says="the gradient of the expected cost is wrong"),
            Wrong(expectation_best_key, says="the expected cost is wrong"),
            Wrong(expectation_only_gradient, says="return two things"),
            Wrong(expectation_naive_exponential, says="the expected cost is nan"),
            Wrong(expectation_clamped, says="every key counts alike: weigh"),
        ],
    ),
    "hard_attention.score_function": Bank(
        right=[score_function_formula, score_function_autograd],
        wrong=[
            Wrong(score_function_only_chosen, says="do not sum to 0"),
            Wrong(score_function_downhill, says="points downhill"),
            Wrong(score_function_no_baseline, says="the baseline changes nothing"),
            Wrong(score_function_added_baseline, says="added to the costs"),
            Wrong(score_function_own_baseline, says="the mean of these costs"),
            Wrong(score_function_sum, says="summed over the draws"),
            Wrong(score_function_weighted_twice, says="the estimate is wrong"),
            Wrong(score_function_naive_exponential, says="the gradient holds NaN"),
            Wrong(score_function_over_keys, says="the estimate is wrong ("),
            Wrong(score_function_cost_of_key, says="the estimate is wrong (first"),
        ],
    ),
    "hard_attention.straight_through": Bank(
        right=[straight_through_formula, straight_through_function],
        wrong=[
            Wrong(straight_through_soft, says="the weights are not one-hot"),
            Wrong(straight_through_no_detach, says="rows sum to 2"),
            Wrong(straight_through_blocked, says="no gradient flows back"),
            Wrong(straight_through_zero, says="the gradient is 0 everywhere"),
            Wrong(straight_through_temperature_lost, says="the temperature is lost"),
            Wrong(straight_through_no_noise, says="does not choose the key with the largest"),
            Wrong(straight_through_slope_without_noise, says="has lost the noise"),
            Wrong(straight_through_identity, says="the gradient is not that of softmax"),
            Wrong(straight_through_naive_exponential, says="the weights holds NaN"),
            Wrong(straight_through_times_temperature, says="the gradient is not that of softmax((scores"),
            Wrong(straight_through_noise_not_divided, says="the gradient is not that of softmax((scores + noise)"),
        ],
    ),
    "hard_attention.variance": Bank(
        right=[variance_formula, variance_counted],
        wrong=[
            Wrong(variance_mean_square, says="the mean square of the estimate"),
            Wrong(variance_of_costs, says="the variance of the cost"),
            Wrong(variance_no_baseline, says="the baseline is left out"),
            Wrong(variance_mean_of_entries, says="not the sum"),
            Wrong(variance_only_chosen, says="the variance is wrong"),
            Wrong(variance_negative, says="a variance is negative"),
            Wrong(variance_naive_exponential, says="the variance is nan"),
            Wrong(variance_equal_weights, says=": the variance is wrong"),
            Wrong(variance_added_baseline, says="baseline 2.5: the variance is wrong"),
        ],
    ),
}
