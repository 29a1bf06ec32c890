"""Solutions of the unit `which_attention`: right ones written differently, and mistakes."""

import functools

import torch

from tests.banks.kinds import Bank, Wrong

# which_attention.step


def step_formula(layers, n_heads, n_kv_heads, head_dim, window, length):
    seen = length if window is None else min(window, length)
    return 4 * layers * n_kv_heads * head_dim * seen, 4 * layers * n_heads * head_dim * seen


def step_token_by_token(layers, n_heads, n_kv_heads, head_dim, window, length):
    size = flops = 0
    for position in range(length):
        if window is None or length - position <= window:
            size += layers * n_kv_heads * (head_dim + head_dim) * 2
            flops += layers * n_heads * (2 * head_dim + 2 * head_dim)
    return [size, flops]


def step_numbers(*sizes):
    size, flops = step_formula(*sizes)
    return size // 2, flops


def step_one_layer(layers, *sizes):
    return step_formula(1, *sizes)[0], step_formula(layers, *sizes)[1]


def step_every_head(layers, n_heads, n_kv_heads, head_dim, window, length):
    return step_formula(layers, n_heads, n_heads, head_dim, window, length)


def step_no_window(layers, n_heads, n_kv_heads, head_dim, window, length):
    return step_formula(layers, n_heads, n_kv_heads, head_dim, None, length)


def step_one_token(layers, n_heads, n_kv_heads, head_dim, window, length):
    return 4 * layers * n_kv_heads * head_dim, step_formula(layers, n_heads, n_kv_heads, head_dim, window, length)[1]


def step_scores_alone(*sizes):
    size, flops = step_formula(*sizes)
    return size, flops // 2


def step_shared_scores(layers, n_heads, n_kv_heads, head_dim, window, length):
    size, _ = step_formula(layers, n_heads, n_kv_heads, head_dim, window, length)
    return size, step_formula(layers, n_kv_heads, n_kv_heads, head_dim, window, length)[1]


def step_full_window(layers, n_heads, n_kv_heads, head_dim, window, length):
    return step_formula(layers, n_heads, n_kv_heads, head_dim, None, window or length)


def step_window_reads_alone(layers, n_heads, n_kv_heads, head_dim, window, length):
    sizes = layers, n_heads, n_kv_heads, head_dim
    return step_formula(*sizes, window, length)[0], step_formula(*sizes, None, length)[1]


# which_attention.pick


def _seconds(design, bandwidth, flops, others):
    return max(design["bytes"] / bandwidth, design["flops"] / flops) + others


def pick_first_alike(designs, memory, bandwidth, flops, others):
    fitting = [d for d in designs if d["kept"] <= memory]
    times = [_seconds(d, bandwidth, flops, others) for d in fitting]
    return next((d["name"] for d, t in zip(fitting, times, strict=True) if t <= 1.25 * min(times)), None)


def pick_from_the_back(designs, memory, bandwidth, flops, others):
    picked, fastest = None, float("inf")
    for design in designs:
        if design["kept"] <= memory:
            fastest = min(fastest, _seconds(design, bandwidth, flops, others))
    for design in reversed(designs):
        if design["kept"] <= memory and _seconds(design, bandwidth, flops, others) / fastest <= 1.25:
            picked = design["name"]
    return picked


def pick_the_first_that_fits(designs, memory, bandwidth, flops, others):
    return next((d["name"] for d in designs if d["kept"] <= memory), None)


def pick_the_fastest(designs, memory, bandwidth, flops, others):
    fitting = [d for d in designs if d["kept"] <= memory]
    return min(fitting, key=lambda d: _seconds(d, bandwidth, flops, others))["name"] if fitting else None


def pick_without_memory(designs, memory, bandwidth, flops, others):
    return pick_first_alike(designs, float("inf"), bandwidth, flops, others)


def pick_by_the_sum(designs, memory, bandwidth, flops, others):
    fitting = [d for d in designs if d["kept"] <= memory]
    times = [d["bytes"] / bandwidth + d["flops"] / flops + others for d in fitting]
    return next((d["name"] for d, t in zip(fitting, times, strict=True) if t <= 1.25 * min(times)), None)


def pick_attention_alone(designs, memory, bandwidth, flops, others):
    return pick_first_alike(designs, memory, bandwidth, flops, 0.0)


def pick_by_bytes(designs, memory, bandwidth, flops, others):
    return pick_first_alike([d | {"flops": 0.0} for d in designs], memory, bandwidth, flops, others)


def pick_against_all(designs, memory, bandwidth, flops, others):
    fastest = min(_seconds(d, bandwidth, flops, others) for d in designs)
    fitting = [d for d in designs if d["kept"] <= memory]
    alike = [d for d in fitting if _seconds(d, bandwidth, flops, others) <= 1.25 * fastest]
    return (alike or sorted(fitting, key=lambda d: _seconds(d, bandwidth, flops, others)) or [{"name": None}])[0][
        "name"
    ]


def pick_anything(designs, memory, bandwidth, flops, others):
    return pick_first_alike(designs, memory, bandwidth, flops, others) or designs[0]["name"]


def _pick(designs, memory, bandwidth, flops, others, *, factor=1.25, time=_seconds):
    fitting = [d for d in designs if d["kept"] <= memory]
    times = [time(d, bandwidth, flops, others) for d in fitting]
    return next((d["name"] for d, t in zip(fitting, times, strict=True) if t <= factor * min(times)), None)


def pick_within_a_fifth(*args, **kwargs):
    return _pick(*args, **kwargs, factor=1.2)


def pick_within_a_half(*args, **kwargs):
    return _pick(*args, **kwargs, factor=1.5)


def pick_strictly_within(*args, **kwargs):
    return _pick(*args, **kwargs, factor=1.25 - 1e-9)


def pick_with_room_to_spare(designs, memory, **kwargs):
    return pick_first_alike([d for d in designs if d["kept"] < memory], memory, **kwargs)


def pick_others_overlap(*args, **kwargs):
    return _pick(*args, **kwargs, time=lambda d, b, f, o: max(d["bytes"] / b, d["flops"] / f, o))


def pick_others_beside_computing(*args, **kwargs):
    return _pick(*args, **kwargs, time=lambda d, b, f, o: max(d["bytes"] / b, d["flops"] / f + o))


def pick_others_beside_reading(*args, **kwargs):
    return _pick(*args, **kwargs, time=lambda d, b, f, o: max(d["bytes"] / b + o, d["flops"] / f))


def pick_smallest_of_those_alike(designs, memory, bandwidth, flops, others):
    fitting = [d for d in designs if d["kept"] <= memory]
    fastest = min((_seconds(d, bandwidth, flops, others) for d in fitting), default=0.0)
    alike = [d for d in fitting if _seconds(d, bandwidth, flops, others) <= 1.25 * fastest]
    return min(alike, key=lambda d: d["kept"])["name"] if alike else None


def pick_an_index(designs, memory, bandwidth, flops, others):
    return 0


# which_attention.weights


def weights_by_null_space(weights, values):
    both = torch.cat([values, torch.ones(len(values), 1, dtype=values.dtype)], dim=1)
    direction = torch.linalg.svd(both.T, full_matrices=True).Vh[-1]
    falling = direction < 0
    return weights + (weights[falling] / -direction[falling]).min() * direction


def weights_by_projection(weights, values):
    both = torch.cat([values, torch.ones(len(values), 1, dtype=values.dtype)], dim=1)
    wish = torch.linspace(-1, 1, len(weights), dtype=weights.dtype) ** 3
    direction = wish - both @ torch.linalg.lstsq(both, wish[:, None]).solution[:, 0]
    direction, step = direction / direction.abs().max(), 1.0
    while (weights + step * direction).min() < 0:
        step *= 0.9
    return weights + step * direction


def weights_halfway(weights, values):
    return 0.5 * (weights + weights_by_null_space(weights, values))


def weights_next_to_it(weights, values):
    return weights + 1e-3 * (weights_by_null_space(weights, values) - weights)


def weights_nearly_mixed(weights, values):
    return 0.999999 * weights_by_null_space(weights, values) + 1e-6 / len(weights)


def weights_one_token_moved(weights, values):
    moved = weights.clone()
    moved[0], moved[1] = 0.5 * weights[0], weights[1] + 0.5 * weights[0]
    return moved


def weights_unchanged(weights, values):
    return weights


def weights_reversed(weights, values):
    return weights.flip(0)


def weights_uniform(weights, values):
    return torch.full_like(weights, 1 / len(weights))


def weights_too_far(weights, values):
    return weights + 100 * (weights_by_null_space(weights, values) - weights)


def weights_without_the_sum(weights, values):
    direction = torch.linalg.svd(values.T, full_matrices=True).Vh[-1]
    direction = direction if direction.sum().abs() > 1e-6 else torch.linalg.svd(values.T, full_matrices=True).Vh[-2]
    return weights + 0.5 * weights.min() * direction


def weights_clamped(weights, values):
    far = weights_too_far(weights, values).clamp_min(0)
    return far / far.sum()


def weights_two_dimensional(weights, values):
    return weights_by_null_space(weights, values)[None]


# which_attention.rollout


def rollout_layer_by_layer(weights):
    t = weights.shape[-1]
    shares = torch.eye(t, dtype=weights.dtype)
    for layer in weights:
        shares = (layer.mean(dim=0) @ shares + shares) / 2
    return shares


def rollout_as_product(weights):
    halves = 0.5 * (weights.mean(dim=1) + torch.eye(weights.shape[-1], dtype=weights.dtype))
    return torch.linalg.multi_dot([*halves.flip(0)])


def rollout_without_residual(weights):
    return functools.reduce(lambda shares, layer: layer @ shares, weights.mean(dim=1))


def rollout_backwards(weights):
    return rollout_layer_by_layer(weights.flip(0))


def rollout_last(weights):
    return rollout_layer_by_layer(weights[-1:])


def rollout_mean(weights):
    return 0.5 * (weights.mean(dim=(0, 1)) + torch.eye(weights.shape[-1], dtype=weights.dtype))


def rollout_first_head(weights):
    return rollout_layer_by_layer(weights[:, :1])


def rollout_three_layers(weights):
    return rollout_layer_by_layer(weights[:3])


def rollout_first(weights):
    return rollout_layer_by_layer(weights[:1])


def rollout_causal_anyway(weights):
    kept = weights.tril()
    return rollout_layer_by_layer(kept / kept.sum(dim=-1, keepdim=True))


def rollout_sum(weights):
    return rollout_layer_by_layer(weights) * 8


def rollout_strongest_head(weights):
    strongest = weights.max(dim=1, keepdim=True).values
    return rollout_layer_by_layer(strongest / strongest.sum(dim=-1, keepdim=True))


# which_attention.translate


def pair_by_cases(window, radius, causal):
    if window is not None:
        return window - 1, 0
    if radius is not None:
        return radius, radius
    return (-1, 0) if causal else (-1, -1)


def pair_by_sides(window, radius, causal):
    left = right = -1
    if radius is not None:
        left = right = radius
    if window is not None:
        left = window - 1
    return [left, 0 if causal else right]


def pair_counts_itself(window, radius, causal):
    return (window, 0) if window is not None else pair_by_cases(window, radius, causal)


def pair_window_sees_ahead(window, radius, causal):
    return (window - 1, -1) if window is not None else pair_by_cases(window, radius, causal)


def pair_causal_sees_all(window, radius, causal):
    return pair_by_cases(window, radius, False) if window is None else (window - 1, 0)


def pair_radius_as_keys(window, radius, causal):
    return (2 * radius + 1, 2 * radius + 1) if radius is not None else pair_by_cases(window, radius, causal)


def pair_one_side(window, radius, causal):
    return (radius, 0) if radius is not None else pair_by_cases(window, radius, causal)


def pair_zero_is_none(window, radius, causal):
    pair = pair_by_cases(window, radius, causal)
    return pair if window is not None or radius is not None else tuple(max(x, 0) for x in pair)


def pair_short_window(window, radius, causal):
    return (max(window - 2, 0), 0) if window is not None else pair_by_cases(window, radius, causal)


def pair_minus_two(window, radius, causal):
    return tuple(-2 if side == -1 else side for side in pair_by_cases(window, radius, causal))


def pair_from_a_table(window, radius, causal):
    return (min(window - 1, 4), 0) if window is not None else pair_by_cases(window, radius, causal)


def pair_one_number(window, radius, causal):
    return pair_by_cases(window, radius, causal)[0]


BANK = {
    "which_attention.step": Bank(
        right=[step_formula, step_token_by_token],
        wrong=[
            Wrong(step_numbers, "half the bytes"),
            Wrong(step_one_layer, "bytes of one layer"),
            Wrong(step_every_head, "read once, not once a head"),
            Wrong(step_no_window, "what the window holds"),
            Wrong(step_one_token, "a single token"),
            Wrong(step_scores_alone, "half the operations"),
            Wrong(step_shared_scores, "scores of their own"),
            Wrong(step_full_window, "no more than there is"),
            Wrong(step_window_reads_alone, "a step computes with what the window holds"),
        ],
    ),
    "which_attention.pick": Bank(
        right=[pick_first_alike, pick_from_the_back],
        wrong=[
            Wrong(pick_the_first_that_fits, "a fraction of the first one's time"),
            Wrong(pick_the_fastest, "the first gives up less"),
            Wrong(pick_without_memory, "does not fit into the memory"),
            Wrong(pick_by_the_sum, "not the sum"),
            Wrong(pick_attention_alone, "besides is part of its time"),
            Wrong(pick_by_bytes, "computing can be what takes the time"),
            Wrong(pick_against_all, "the fastest of those that fit"),
            Wrong(pick_anything, "then the answer is None"),
            Wrong(pick_within_a_fifth, "the first gives up less"),
            Wrong(pick_within_a_half, "times beyond a factor"),
            Wrong(pick_strictly_within, "is at most that"),
            Wrong(pick_with_room_to_spare, "fills the memory to the byte"),
            Wrong(pick_others_overlap, "also where it is the least part"),
            Wrong(pick_others_beside_computing, "not with reading"),
            Wrong(pick_others_beside_reading, "not with computing"),
            Wrong(pick_smallest_of_those_alike, "the first gives up less"),
            Wrong(pick_an_index, "return the name of a design"),
        ],
    ),
    "which_attention.weights": Bank(
        right=[weights_by_null_space, weights_by_projection, weights_halfway],
        wrong=[
            Wrong(weights_unchanged, "the ones that were given"),
            Wrong(weights_reversed, "the mixture of the values is another one"),
            Wrong(weights_too_far, "is negative"),
            Wrong(weights_without_the_sum, "do not sum to one"),
            Wrong(weights_two_dimensional, "shape"),
            Wrong(weights_next_to_it, "the ones that were given"),
            Wrong(weights_nearly_mixed, "the mixture of the values is another one"),
            Wrong(weights_one_token_moved, "the mixture of the values is another one"),
        ],
    ),
    "which_attention.rollout": Bank(
        right=[rollout_layer_by_layer, rollout_as_product],
        wrong=[
            Wrong(rollout_without_residual, "half its input"),
            Wrong(rollout_backwards, "wrong order"),
            Wrong(rollout_last, "last layer alone"),
            Wrong(rollout_mean, "not averaged"),
            Wrong(rollout_first_head, "not one of them alone"),
            Wrong(rollout_sum, "sum"),
            Wrong(rollout_first, "first layer alone"),
            Wrong(rollout_three_layers, "product of the layers' halves"),
            Wrong(rollout_causal_anyway, "product of the layers' halves"),
            Wrong(rollout_strongest_head, "product of the layers' halves"),
        ],
    ),
    "which_attention.translate": Bank(
        right=[pair_by_cases, pair_by_sides],
        wrong=[
            Wrong(pair_counts_itself, "its own is not counted in the pair"),
            Wrong(pair_window_sees_ahead, "causal attention is blind to that"),
            Wrong(pair_radius_as_keys, "too far"),
            Wrong(pair_one_side, "the radius holds on both sides"),
            Wrong(pair_zero_is_none, "no bound is -1"),
            Wrong(pair_short_window, "of its window"),
            Wrong(pair_minus_two, "holds a number below -1"),
            Wrong(pair_from_a_table, "of its window"),
            Wrong(pair_one_number, "return a pair of integers"),
        ],
    ),
}
