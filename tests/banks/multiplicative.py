"""Solutions of the unit `multiplicative`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# multiplicative.general


def general_product(q, k, weight):
    return q @ weight @ k.T


def general_einsum(q, k, weight):
    return torch.einsum("ti,ij,sj->ts", q, weight, k)


def general_transposed(q, k, weight):
    return (q @ weight @ k.T).T


def general_scaled(q, k, weight):
    return q @ weight @ k.T / k.shape[-1] ** 0.5


def general_softmax(q, k, weight):
    return torch.softmax(q @ weight @ k.T, dim=-1)


def general_tanh(q, k, weight):
    return torch.tanh(q @ weight @ k.T)


def general_frozen(q, k, weight):
    return q @ weight.detach() @ k.T + 0 * weight.sum()


def general_query_detached(q, k, weight):
    return q.detach() @ weight @ k.T


def general_key_detached(q, k, weight):
    return q @ (weight @ k.detach().T)


def general_squeezed(q, k, weight):
    return (q @ weight @ k.T).squeeze()


def general_absolute(q, k, weight):
    return q @ weight.abs() @ k.T


# multiplicative.split


def split_slices(weight, dq):
    return weight[:, :dq], weight[:, dq:]


def split_torch(weight, dq):
    return tuple(weight.split([dq, weight.shape[1] - dq], dim=1))


def split_swapped(weight, dq):
    return weight[:, dq:], weight[:, :dq]


def split_rows(weight, dq):
    return weight[:dq], weight[dq:]


def split_from_the_end(weight, dq):
    return weight[:, -dq:], weight[:, :-dq]


def split_halves_of_key(weight, dq):
    return weight[:, :dq], weight[:, dq:].flip(1)


def split_one(weight, dq):
    return weight


def split_shared(weight, dq):
    return weight[:, :dq], -weight[:, dq:]


def split_halves(weight, dq):
    return tuple(weight.chunk(2, dim=1))


def split_short(weight, dq):
    return weight[:, :dq], weight[:, dq + 1 :]


# multiplicative.local


def local_masked(scores, positions, radius):
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    weights = torch.softmax(scores.masked_fill(distance.abs() > radius, -torch.inf), dim=-1)
    return weights * torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))


def local_loop(scores, positions, radius):
    out = torch.zeros_like(scores)
    for i, centre in enumerate(positions.tolist()):
        window = [j for j in range(scores.shape[1]) if abs(j - centre) <= radius]
        weights = torch.softmax(scores[i, window], dim=-1)
        for w, j in zip(weights, window, strict=True):
            out[i, j] = w * torch.exp(torch.tensor(-2.0 * (j - centre) ** 2 / radius**2, dtype=scores.dtype))
    return out


def _local(scores, positions, radius, *, reach=0.0, sigma=0.5, window_first=True, gaussian=True, again=False):
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    outside = distance.abs() > radius + reach
    weights = torch.softmax(scores.masked_fill(outside, -torch.inf) if window_first else scores, dim=-1)
    weights = weights.masked_fill(outside, 0.0)
    if gaussian:
        weights = weights * torch.exp(-(distance**2) / (2 * (radius * sigma) ** 2))
    return weights / weights.sum(dim=-1, keepdim=True) if again else weights


def local_no_window(scores, positions, radius):
    return _local(scores, positions, radius, reach=100)


def local_no_gaussian(scores, positions, radius):
    return _local(scores, positions, radius, gaussian=False)


def local_normalised_again(scores, positions, radius):
    return _local(scores, positions, radius, again=True)


def local_softmax_over_all(scores, positions, radius):
    return _local(scores, positions, radius, window_first=False)


def local_wide_bell(scores, positions, radius):
    return _local(scores, positions, radius, sigma=1.0)


def local_half_window(scores, positions, radius):
    return _local(scores, positions, radius, reach=-1.5)


def local_normalised_bell(scores, positions, radius):
    return _local(scores, positions, radius) / (2 * torch.pi * (radius / 2) ** 2) ** 0.5


def local_by_hand(scores, positions, radius):
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    inside = (distance >= -radius) & (distance <= radius)
    grown = torch.exp(scores - scores.where(inside, -torch.inf).amax(dim=-1, keepdim=True)).where(inside, 0.0)
    return grown / grown.sum(dim=-1, keepdim=True) * torch.exp(-2.0 * (distance / radius).square())


def local_fixed_bell(scores, positions, radius):
    return _local(scores, positions, radius, sigma=1.5 / radius)


def local_variance_bell(scores, positions, radius):
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    truncated = _local(scores, positions, radius, gaussian=False)
    return truncated * torch.exp(-(distance**2) / (2 * 0.75 * radius))


def local_whole_radius(scores, positions, radius):
    """The standard deviation as a whole number."""
    return _local(scores, positions, radius, sigma=max(radius // 2, 1) / radius)


def local_rounded_bell(scores, positions, radius):
    distance = torch.arange(scores.shape[-1]) - positions.round()[:, None]
    return _local(scores, positions, radius, gaussian=False) * torch.exp(-2 * (distance / radius) ** 2)


def local_normalised_window(scores, positions, radius):
    """The softmax runs over all keys, and the window is normalised afterwards."""
    outside = (torch.arange(scores.shape[-1]) - positions[:, None]).abs() > radius
    weights = torch.softmax(scores, dim=-1).masked_fill(outside, 0.0)
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    return weights / weights.sum(dim=-1, keepdim=True) * torch.exp(-2 * (distance / radius) ** 2)


def local_naive(scores, positions, radius):
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    grown = torch.exp(scores).masked_fill(distance.abs() > radius, 0.0)
    return grown / grown.sum(dim=-1, keepdim=True) * torch.exp(-2 * (distance / radius) ** 2)


def local_small_fill(scores, positions, radius):
    distance = torch.arange(scores.shape[-1]) - positions[:, None]
    outside = distance.abs() > radius
    weights = torch.softmax(scores.masked_fill(outside, -1e9), dim=-1).masked_fill(outside, 0.0)
    return weights * torch.exp(-2 * (distance / radius) ** 2)


# multiplicative.break_dot


def break_by_shift(n):
    q = torch.eye(n) * 10
    return q, torch.roll(torch.eye(n), 1, dims=0), torch.roll(torch.eye(n), 1, dims=0)


def break_by_sign(n):
    return 10 * torch.eye(n), -torch.eye(n), -torch.eye(n)


def break_by_whole_numbers(n):
    return 10 * torch.eye(n).long(), -torch.eye(n).long(), -torch.eye(n).long()


def break_identity(n):
    return 10 * torch.eye(n), torch.eye(n), torch.eye(n)


def break_weak(n):
    return torch.eye(n), -torch.eye(n), -0.1 * torch.eye(n)


def break_zero(n):
    return torch.zeros(n, n), torch.eye(n), torch.eye(n)


def break_shift_twice(n):
    return 10 * torch.eye(n), torch.roll(torch.eye(n), 1, dims=0), torch.roll(torch.eye(n), 1, dims=1)


def break_two(n):
    return torch.eye(n), -torch.eye(n)


def break_huge(n):
    return 1e6 * torch.eye(n), -torch.eye(n), -torch.eye(n)


def break_wrong_shape(n):
    return torch.eye(n + 1), -torch.eye(n + 1), -torch.eye(n + 1)


def break_uniform(n):
    q = torch.eye(n) * 10
    return q, -0.01 * torch.eye(n), -100 * torch.eye(n)


BANK = {
    "multiplicative.general": Bank(
        right=[general_product, general_einsum],
        wrong=[
            Wrong(general_transposed, says="the matrix of scores has shape"),
            Wrong(general_scaled, says="is not scaled"),
            Wrong(general_softmax, says="that is a softmax"),
            Wrong(general_tanh, says="three times the query"),
            Wrong(general_frozen, says="the gradient with respect to W"),
            Wrong(general_query_detached, says="the gradient with respect to q"),
            Wrong(general_key_detached, says="the gradient with respect to k"),
            Wrong(general_squeezed, says="the result has shape"),
            Wrong(general_absolute, says="scores differ from q . W k"),
        ],
    ),
    "multiplicative.split": Bank(
        right=[split_slices, split_torch],
        wrong=[
            Wrong(split_swapped, says="W_q has shape"),
            Wrong(split_halves, says=": W_q has shape"),
            Wrong(split_one, says="return two matrices"),
            Wrong(split_shared, says="columns that meet the key"),
            Wrong(split_short, says="W_k has shape"),
            Wrong(split_from_the_end, says="columns that meet the query"),
        ],
    ),
    "multiplicative.local": Bank(
        right=[local_masked, local_loop, local_by_hand],
        wrong=[
            Wrong(local_no_window, says="more than 3 away"),
            Wrong(local_no_gaussian, says="the Gaussian is missing"),
            Wrong(local_normalised_again, says="does not normalise again"),
            Wrong(local_softmax_over_all, says="the softmax runs over all keys"),
            Wrong(local_wide_bell, says="standard deviation is 3.00"),
            Wrong(local_fixed_bell, says="standard deviation is 1.50 for a radius of 2"),
            Wrong(local_variance_bell, says="for a radius of 2"),
            Wrong(local_whole_radius, says="standard deviation is 1.00 for a radius of 3"),
            Wrong(local_rounded_bell, says="not the window's softmax times the Gaussian"),
            Wrong(local_normalised_window, says="scores outside the window thousands above all others"),
            Wrong(local_naive, says="scores of about 800"),
            Wrong(local_small_fill, says="scores of about -2,000,000,000"),
            Wrong(local_half_window, says="does not read key"),
            Wrong(local_normalised_bell, says="at the predicted position itself"),
        ],
    ),
    "multiplicative.break_dot": Bank(
        right=[break_by_shift, break_by_sign, break_by_whole_numbers],
        wrong=[
            Wrong(break_identity, says="finds its own key all the same"),
            Wrong(break_weak, says="more than 0.9 is asked"),
            Wrong(break_shift_twice, says="not its own"),
            Wrong(break_two, says="return three tensors"),
            Wrong(break_huge, says="keep entries within 100"),
            Wrong(break_wrong_shape, says="q has shape"),
            Wrong(break_uniform, says="less than 0.1 is asked"),
        ],
    ),
}
