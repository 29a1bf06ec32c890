"""Solutions of the unit `why_latent`: right ones written differently, and mistakes."""

import math
from fractions import Fraction

import torch

from tests.banks.kinds import Bank, Wrong

# why_latent.latent


def latent_formula(layers, heads, rank, nope, rope, value):
    return 2 * layers * (rank + rope), 2 * layers * heads * (nope + rope + value)


def latent_by_layers(layers, heads, rank, nope, rope, value):
    small = large = 0
    for _ in range(layers):
        small += 2 * rank + 2 * rope
        large += sum(2 * (nope + rope) + 2 * value for _ in range(heads))
    return [small, large]


def latent_numbers(layers, heads, rank, nope, rope, value):
    return layers * (rank + rope), layers * heads * (nope + rope + value)


def latent_twice(layers, heads, rank, nope, rope, value):
    return 4 * layers * (rank + rope), 2 * layers * heads * (nope + rope + value)


def latent_without_rope(layers, heads, rank, nope, rope, value):
    return 2 * layers * rank, 2 * layers * heads * (nope + rope + value)


def latent_rope_by_head(layers, heads, rank, nope, rope, value):
    return 2 * layers * (rank + heads * rope), 2 * layers * heads * (nope + rope + value)


def latent_one_layer(layers, heads, rank, nope, rope, value):
    return 2 * (rank + rope), 2 * heads * (nope + rope + value)


def latent_expanded_without_rope(layers, heads, rank, nope, rope, value):
    return 2 * layers * (rank + rope), 2 * layers * heads * (nope + value)


def latent_expanded_once(layers, heads, rank, nope, rope, value):
    return 2 * layers * (rank + rope), 2 * layers * (nope + rope + value)


def latent_expanded_like_multi_head(layers, heads, rank, nope, rope, value):
    return 2 * layers * (rank + rope), 4 * layers * heads * nope


# why_latent.mixed


def mixed_by_layers(config, context):
    each = 2 * 2 * config["num_key_value_heads"] * config["head_dim"]
    window = config["sliding_window"]
    tokens = [min(context, window) if kind == "sliding_attention" else context for kind in config["layer_types"]]
    return each * sum(tokens)


def mixed_token_by_token(config, context):
    total = 0
    for position in range(context):
        for kind in config["layer_types"]:
            if kind == "full_attention" or context - position <= config["sliding_window"]:
                total += 4 * config["num_key_value_heads"] * config["head_dim"]
    return total


def mixed_keys_alone(config, context):
    return mixed_by_layers(config, context) // 2


def mixed_query_heads(config, context):
    return mixed_by_layers(config | {"num_key_value_heads": config["num_attention_heads"]}, context)


def mixed_derived_width(config, context):
    return mixed_by_layers(config | {"head_dim": config["hidden_size"] // config["num_attention_heads"]}, context)


def mixed_no_window(config, context):
    return mixed_by_layers(config | {"sliding_window": context}, context)


def mixed_all_windows(config, context):
    return mixed_by_layers(config | {"layer_types": ["sliding_attention"] * config["num_hidden_layers"]}, context)


def mixed_swapped(config, context):
    other = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}
    return mixed_by_layers(config | {"layer_types": [other[kind] for kind in config["layer_types"]]}, context)


def mixed_always_full(config, context):
    each = 4 * config["num_key_value_heads"] * config["head_dim"]
    sliding = config["layer_types"].count("sliding_attention")
    full = config["num_hidden_layers"] - sliding
    return each * (sliding * config["sliding_window"] + full * context)


def mixed_window_without_newest(config, context):
    return mixed_by_layers(config | {"sliding_window": config["sliding_window"] - 1}, context)


def mixed_first_layer_speaks(config, context):
    return mixed_by_layers(config | {"layer_types": config["layer_types"][:1] * config["num_hidden_layers"]}, context)


# why_latent.shard


def shard_by_division(n_heads, n_kv_heads, devices):
    group, share = n_heads // n_kv_heads, n_heads // devices
    return [sorted({head // group for head in range(d * share, (d + 1) * share)}) for d in range(devices)]


def shard_by_cases(n_heads, n_kv_heads, devices):
    if devices <= n_kv_heads:
        each = n_kv_heads // devices
        return [list(range(d * each, (d + 1) * each)) for d in range(devices)]
    return [[d * n_kv_heads // devices] for d in range(devices)]


def shard_in_any_order(n_heads, n_kv_heads, devices):
    stored = [[] for _ in range(devices)]
    for head in reversed(range(n_heads)):
        here, kept = stored[head * devices // n_heads], head * n_kv_heads // n_heads
        if kept not in here:
            here.append(kept)
    return tuple(stored)


def shard_as_tensors(n_heads, n_kv_heads, devices):
    heads = torch.arange(n_kv_heads).repeat_interleave(n_heads // n_kv_heads)
    return [list(share.unique()) for share in heads.view(devices, -1)]


def shard_by_table(n_heads, n_kv_heads, devices):
    known = {
        (8, 4): [[0, 1], [2, 3], [4, 5], [6, 7]],
        (4, 8): [[0], [0], [1], [1], [2], [2], [3], [3]],
        (1, 4): [[0]] * 4,
        (6, 3): [[0, 1], [2, 3], [4, 5]],
    }
    return known.get((n_kv_heads, devices), [[0] for _ in range(devices)])


def shard_one_each(n_heads, n_kv_heads, devices):
    return [[d * n_kv_heads // devices] for d in range(devices)]


def shard_replicas_apart(n_heads, n_kv_heads, devices):
    return (
        shard_by_cases(n_heads, n_kv_heads, devices)
        if devices <= n_kv_heads
        else [[d % n_kv_heads] for d in range(devices)]
    )


def shard_below_one(n_heads, n_kv_heads, devices):
    each = n_kv_heads // devices
    return [list(range(d * each, (d + 1) * each)) for d in range(devices)]


def shard_everything(n_heads, n_kv_heads, devices):
    return [list(range(n_kv_heads)) for _ in range(devices)]


def shard_round_robin(n_heads, n_kv_heads, devices):
    each = max(1, n_kv_heads // devices)
    return [[(d + i * devices) % n_kv_heads for i in range(each)] for d in range(devices)]


def shard_repeated(n_heads, n_kv_heads, devices):
    group, share = n_heads // n_kv_heads, n_heads // devices
    return [[head // group for head in range(d * share, (d + 1) * share)] for d in range(devices)]


def shard_query_heads(n_heads, n_kv_heads, devices):
    share = n_heads // devices
    return [list(range(d * share, (d + 1) * share)) for d in range(devices)]


def shard_counts(n_heads, n_kv_heads, devices):
    return max(1, n_kv_heads // devices)


def shard_only_the_owners(n_heads, n_kv_heads, devices):
    return shard_by_cases(n_heads, n_kv_heads, devices)[: min(devices, n_kv_heads)]


# why_latent.server


def server_by_heads(config, context, devices, memory, weights):
    if "kv_lora_rank" in config:
        numbers = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        numbers = 2 * config["head_dim"] * max(1, config["num_key_value_heads"] // devices)
    each = 2 * config["num_hidden_layers"] * numbers * context
    return max(0, (memory - weights // devices) // each)


def server_one_after_another(config, context, devices, memory, weights):
    heads = config.get("num_key_value_heads", 1)
    width = config["kv_lora_rank"] + config["qk_rope_head_dim"] if "kv_lora_rank" in config else 2 * config["head_dim"]
    stored_here = -(-heads // devices)
    left, count = memory - weights / devices, -1
    while left >= 0:
        left -= config["num_hidden_layers"] * stored_here * width * 2 * context
        count += 1
    return max(count, 0)


def _server(config, context, devices, memory, weights, *, stored=None, weights_here=None, whole=math.floor):
    latent = "kv_lora_rank" in config
    heads = 1 if latent else config["num_key_value_heads"]
    width = config["kv_lora_rank"] + config["qk_rope_head_dim"] if latent else 2 * config["head_dim"]
    here = max(1, heads // devices) if stored is None else stored(heads, devices)
    left = memory - (weights // devices if weights_here is None else weights_here(weights, devices))
    return max(0, whole(Fraction(left) / (2 * config["num_hidden_layers"] * here * width * context)))


def server_no_weights(*args):
    return _server(*args, weights_here=lambda weights, devices: 0)


def server_all_weights(*args):
    return _server(*args, weights_here=lambda weights, devices: weights)


def server_shares_the_latent(config, *args):
    share = (lambda heads, devices: Fraction(heads, devices)) if "kv_lora_rank" in config else None
    return _server(config, *args, stored=share)


def server_half_a_head(config, *args):
    share = None if "kv_lora_rank" in config else lambda heads, devices: Fraction(heads, devices)
    return _server(config, *args, stored=share)


def server_all_heads(*args):
    return _server(*args, stored=lambda heads, devices: heads)


def server_rounds_up(*args):
    return _server(*args, whole=math.ceil)


def server_parts(*args):
    return _server(*args, whole=float)


def server_negative(config, context, devices, memory, weights):
    found = server_by_heads(config, context, devices, memory, weights)
    return found or (memory - weights // devices) // 1000


def server_whole_model_must_fit(config, context, devices, memory, weights):
    return server_by_heads(config, context, devices, memory, weights) if memory >= weights else 0


def server_four_devices(config, context, devices, memory, weights):
    stored = (lambda heads, devices: max(1, heads // 4)) if "kv_lora_rank" not in config else None
    return _server(config, context, devices, memory, weights, stored=stored)


def server_byte_to_spare(config, context, devices, memory, weights):
    return server_by_heads(config, context, devices, memory - 1, weights)


def server_at_least_one(config, context, devices, memory, weights):
    fits = memory >= weights / devices
    return max(int(fits), server_by_heads(config, context, devices, memory, weights))


def server_float32(config, context, devices, memory, weights):
    return server_by_heads(config, 2 * context, devices, memory, weights)


# why_latent.turning_batch


def turning_by_formula(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    gained = (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return math.ceil(weights / bandwidth / gained) if gained > 0 else None


def turning_by_search(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    work, bytes_each = 2 * parameters + cache_flops, cache_bytes

    def turned(batch):
        return batch * work * bandwidth >= (weights + batch * bytes_each) * flops

    high = 1
    while not turned(high):
        high *= 2
        if high > 10**9:
            return None
    return next(batch for batch in range(high // 2, high + 1) if turned(batch))


def turning_one_operation(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    gained = (parameters + cache_flops) / flops - cache_bytes / bandwidth
    return math.ceil(weights / bandwidth / gained) if gained > 0 else None


def turning_no_cache_read(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    return turning_by_formula(weights, parameters, 0, cache_flops, bandwidth, flops)


def turning_no_cache_flops(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    return turning_by_formula(weights, parameters, cache_bytes, 0, bandwidth, flops)


def turning_weights_alone(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    return turning_by_formula(weights, parameters, 0, 0, bandwidth, flops)


def turning_rounded_down(*args):
    found = turning_by_formula(*args)
    return found and found - 1


def turning_one_later(*args):
    found = turning_by_formula(*args)
    return found and found + 1


def turning_not_rounded(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    gained = (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return weights / bandwidth / gained if gained > 0 else None


def turning_always(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    gained = (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return math.ceil(weights / bandwidth / gained)


def turning_never(*args):
    return None


def turning_parameters_from_bytes(weights, parameters, *rest):
    return turning_by_formula(weights, weights / 2, *rest)


def turning_longer_not_as_long(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    gained = (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return math.floor(weights / bandwidth / gained) + 1 if gained > 0 else None


def turning_divides_by_nothing(weights, parameters, cache_bytes, cache_flops, bandwidth, flops):
    gained = (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return math.ceil(weights / bandwidth / gained) if gained >= 0 else None


BANK = {
    "why_latent.latent": Bank(
        right=[latent_formula, latent_by_layers],
        wrong=[
            Wrong(latent_numbers, says="each is stored in two bytes"),
            Wrong(latent_twice, says="which is stored once"),
            Wrong(latent_without_rope, says="cannot come out of the latent"),
            Wrong(latent_rope_by_head, says="one rotated key serves all heads"),
            Wrong(latent_one_layer, says="that is one layer's"),
            Wrong(latent_expanded_without_rope, says="has a part that is rotated"),
            Wrong(latent_expanded_once, says="every head has its own key and value"),
            Wrong(latent_expanded_like_multi_head, says="the bytes of keys and values are wrong"),
        ],
    ),
    "why_latent.mixed": Bank(
        right=[mixed_by_layers, mixed_token_by_token],
        wrong=[
            Wrong(mixed_keys_alone, says="that is half"),
            Wrong(mixed_query_heads, says="for every query head"),
            Wrong(mixed_derived_width, says="head_dim is given"),
            Wrong(mixed_no_window, says="no more than their window"),
            Wrong(mixed_all_windows, says="only the layers named sliding_attention"),
            Wrong(mixed_swapped, says="taken for each other"),
            Wrong(mixed_always_full, says="not full yet"),
            Wrong(mixed_window_without_newest, says="the bytes are wrong"),
            Wrong(mixed_first_layer_speaks, says="only the layers named sliding_attention"),
        ],
    ),
    "why_latent.shard": Bank(
        right=[shard_by_division, shard_by_cases, shard_in_any_order, shard_as_tensors],
        wrong=[
            Wrong(shard_by_table, says="lacks a head"),
            Wrong(shard_one_each, says="lacks a head"),
            Wrong(shard_replicas_apart, says="lacks a head"),
            Wrong(shard_below_one, says="stores nothing"),
            Wrong(shard_everything, says="that none of its query heads reads"),
            Wrong(shard_round_robin, says="lacks a head"),
            Wrong(shard_repeated, says="more than once"),
            Wrong(shard_query_heads, says="that there is not"),
            Wrong(shard_counts, says="return a list with a list"),
            Wrong(shard_only_the_owners, says="expected one for each device"),
        ],
    ),
    "why_latent.server": Bank(
        right=[server_by_heads, server_one_after_another],
        wrong=[
            Wrong(server_no_weights, says="the weights need room"),
            Wrong(server_all_weights, says="none holds them all"),
            Wrong(server_shares_the_latent, says="a latent has no heads to share out"),
            Wrong(server_half_a_head, says="half a head is none"),
            Wrong(server_all_heads, says="that its query heads read, not all"),
            Wrong(server_rounds_up, says="does not fit whole"),
            Wrong(server_parts, says="there are no parts of one"),
            Wrong(server_negative, says="room for half of the weights"),
            Wrong(server_float32, says="the number of sequences is wrong"),
            Wrong(server_whole_model_must_fit, says="none holds them all"),
            Wrong(server_four_devices, says="the number of sequences is wrong"),
            Wrong(server_byte_to_spare, says="the number of sequences is wrong"),
            Wrong(server_at_least_one, says="a byte too little for a single sequence"),
        ],
    ),
    "why_latent.turning_batch": Bank(
        right=[turning_by_formula, turning_by_search],
        wrong=[
            Wrong(turning_one_operation, says="a multiplication and an addition"),
            Wrong(turning_no_cache_read, says="a cache of its own that is read"),
            Wrong(turning_no_cache_flops, says="scores and mixtures are products"),
            Wrong(turning_weights_alone, says="you count the weights alone"),
            Wrong(turning_rounded_down, says="reading still takes longer"),
            Wrong(turning_one_later, says="a smaller batch than yours"),
            Wrong(turning_not_rounded, says="there are no parts of one"),
            Wrong(turning_always, says="no batch turns"),
            Wrong(turning_never, says="a batch that turns exists"),
            Wrong(turning_parameters_from_bytes, says="told apart"),
            Wrong(turning_longer_not_as_long, says="a smaller batch than yours"),
            Wrong(turning_divides_by_nothing, says="division by zero"),
        ],
    ),
}
