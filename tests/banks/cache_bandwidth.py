"""Solutions of the unit `cache_bandwidth`: right ones written differently, and mistakes."""

import json
import math

from tests.banks.kinds import Bank, Wrong

# cache_bandwidth.step_seconds


def step_by_roofline(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    tokens = context if window is None else min(context, window)
    reading = batch * tokens * 2 * n_kv_heads * head_dim * itemsize / bandwidth
    computing = batch * tokens * 4 * n_heads * head_dim / flops
    return max(reading, computing)


def step_by_intensity(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    seen = min(context, window or context)
    stored = sum(2 * n_kv_heads * head_dim * itemsize * seen for _ in range(batch))
    operations_a_byte = 2 * (n_heads / n_kv_heads) / itemsize
    return stored / min(bandwidth, flops / operations_a_byte)


def step_sum(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    tokens = context if window is None else min(context, window)
    return batch * tokens * head_dim * (2 * n_kv_heads * itemsize / bandwidth + 4 * n_heads / flops)


def step_faster(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    tokens = context if window is None else min(context, window)
    return batch * tokens * head_dim * min(2 * n_kv_heads * itemsize / bandwidth, 4 * n_heads / flops)


def step_no_window(batch, n_heads, n_kv_heads, head_dim, context, window, *rest):
    return step_by_roofline(batch, n_heads, n_kv_heads, head_dim, context, None, *rest)


def step_one_sequence(batch, *rest):
    return step_by_roofline(1, *rest)


def step_keys_alone(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    return step_by_roofline(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize / 2, bandwidth, flops)


def step_numbers(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    return step_by_roofline(batch, n_heads, n_kv_heads, head_dim, context, window, 1, bandwidth, flops)


def step_query_heads_stored(batch, n_heads, n_kv_heads, *rest):
    return step_by_roofline(batch, n_heads, n_heads, *rest)


def step_scores_alone(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    return step_by_roofline(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, 2 * flops)


def step_stored_heads_compute(batch, n_heads, n_kv_heads, *rest):
    return step_by_roofline(batch, n_kv_heads, n_kv_heads, *rest)


def step_always_float32(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    return step_by_roofline(batch, n_heads, n_kv_heads, head_dim, context, window, 4, bandwidth, flops)


def step_full_window(batch, n_heads, n_kv_heads, head_dim, context, window, *rest):
    return step_by_roofline(batch, n_heads, n_kv_heads, head_dim, window or context, None, *rest)


def step_window_reads_alone(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    sizes = batch, n_heads, n_kv_heads, head_dim, context
    reading = step_by_roofline(*sizes, window, itemsize, bandwidth, math.inf)
    return max(reading, step_by_roofline(*sizes, None, itemsize, math.inf, flops))


def step_milliseconds(*args):
    return 1e3 * step_by_roofline(*args)


# cache_bandwidth.splits


def splits_by_formula(batch, n_kv_heads, context, multiprocessors, resident, least):
    wanted = math.ceil(multiprocessors * resident / (batch * n_kv_heads))
    return max(1, min(wanted, context // least))


def splits_by_search(batch, n_kv_heads, context, multiprocessors, resident, least):
    splits = 1
    while batch * n_kv_heads * splits < multiprocessors * resident and (splits + 1) * least <= context:
        splits += 1
    return splits


def splits_rounded_down(batch, n_kv_heads, context, multiprocessors, resident, least):
    return max(1, min(multiprocessors * resident // (batch * n_kv_heads), context // least))


def splits_rounded(batch, n_kv_heads, context, multiprocessors, resident, least):
    return max(1, min(round(multiprocessors * resident / (batch * n_kv_heads)), context // least))


def splits_one_more(batch, n_kv_heads, context, multiprocessors, resident, least):
    return max(1, min(multiprocessors * resident // (batch * n_kv_heads) + 1, context // least))


def splits_keys_rounded_up(batch, n_kv_heads, context, multiprocessors, resident, least):
    wanted = math.ceil(multiprocessors * resident / (batch * n_kv_heads))
    return max(1, min(wanted, math.ceil(context / least)))


def splits_longer_than_least(batch, n_kv_heads, context, *rest):
    return splits_by_formula(batch, n_kv_heads, context - 1, *rest)


def splits_of_whole_processors(batch, n_kv_heads, context, multiprocessors, resident, least):
    wanted = resident * math.ceil(multiprocessors / (batch * n_kv_heads))
    return max(1, min(wanted, context // least))


def splits_none(batch, n_kv_heads, context, multiprocessors, resident, least):
    return min(math.ceil(multiprocessors * resident / (batch * n_kv_heads)), context // least)


def splits_too_short(batch, n_kv_heads, context, multiprocessors, resident, least):
    return math.ceil(multiprocessors * resident / (batch * n_kv_heads))


def splits_one_resident(batch, n_kv_heads, context, multiprocessors, resident, least):
    return splits_by_formula(batch, n_kv_heads, context, multiprocessors, 1, least)


def splits_without_heads(batch, n_kv_heads, *rest):
    return splits_by_formula(batch, 1, *rest)


def splits_without_batch(batch, n_kv_heads, *rest):
    return splits_by_formula(1, n_kv_heads, *rest)


def splits_as_many_as_go(batch, n_kv_heads, context, multiprocessors, resident, least):
    return max(1, context // least)


def splits_not_rounded(batch, n_kv_heads, context, multiprocessors, resident, least):
    return max(1, min(multiprocessors * resident / (batch * n_kv_heads), context // least))


# cache_bandwidth.turning


def turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    gained = drafted * (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    if gained <= 0:
        return None
    batch = math.ceil(weights / bandwidth / gained)
    return batch if weights + batch * cache_bytes <= memory else None


def turning_by_search(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    most = (memory - weights) // cache_bytes
    for batch in range(1, most + 1):
        if batch * drafted * (2 * parameters + cache_flops) * bandwidth >= (weights + batch * cache_bytes) * flops:
            return batch
    return None


def turning_ignores_memory(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    return turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, 10**30, bandwidth, flops)


def turning_always(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    gained = drafted * (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return max(1, math.ceil(weights / bandwidth / gained))


def turning_never(*args):
    return None


def turning_reads_for_each(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    gained = drafted * ((2 * parameters + cache_flops) / flops - cache_bytes / bandwidth)
    if gained <= 0:
        return None
    batch = math.ceil(weights / bandwidth / gained)
    return batch if weights + batch * cache_bytes <= memory else None


def turning_one_token(weights, parameters, cache_bytes, cache_flops, drafted, *rest):
    found = turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, *rest)
    return found and _unlimited(weights, parameters, cache_bytes, cache_flops, 1, *rest)


def _unlimited(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    return turning_ignores_memory(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops)


def turning_one_operation(weights, parameters, cache_bytes, cache_flops, drafted, *rest):
    found = turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, *rest)
    return found and _unlimited(weights, parameters / 2, cache_bytes, cache_flops, drafted, *rest)


def turning_without_scores(weights, parameters, cache_bytes, cache_flops, drafted, *rest):
    found = turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, *rest)
    return found and _unlimited(weights, parameters, cache_bytes, 0, drafted, *rest)


def turning_without_cache(weights, parameters, cache_bytes, cache_flops, drafted, *rest):
    found = turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, *rest)
    return found and _unlimited(weights, parameters, 0, cache_flops, drafted, *rest)


def turning_rounded_down(*args):
    found = turning_by_formula(*args)
    return found and found - 1


def turning_one_later(*args):
    found = turning_by_formula(*args)
    return found and found + 1


def turning_not_rounded(*args):
    found = turning_by_formula(*args)
    return found and found - 0.5


def turning_parameters_from_bytes(weights, parameters, *rest):
    return turning_by_formula(weights, weights / 2, *rest)


def turning_caches_alone_fit(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    return turning_by_formula(
        weights, parameters, cache_bytes, cache_flops, drafted, weights + memory, bandwidth, flops
    )


def turning_room_to_spare(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    return turning_by_formula(weights, parameters, cache_bytes, cache_flops, drafted, memory - 1, bandwidth, flops)


def turning_longer_not_as_long(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    gained = drafted * (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    if gained <= 0:
        return None
    batch = math.floor(weights / bandwidth / gained) + 1
    return batch if weights + batch * cache_bytes <= memory else None


def turning_drafts_skip_the_cache(weights, parameters, cache_bytes, cache_flops, drafted, *rest):
    return turning_by_formula(weights, parameters, cache_bytes, cache_flops / drafted, drafted, *rest)


def turning_divides_by_nothing(weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops):
    gained = drafted * (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    if gained < 0:
        return None
    batch = math.ceil(weights / bandwidth / gained)
    return batch if weights + batch * cache_bytes <= memory else None


# cache_bandwidth.verdicts


def _rows(text):
    return {
        f"{row['mechanism']} {row['form']} b={row['size']['b']} s={row['size']['s']}": row
        for row in json.loads(text)["measurements"]
    }


def verdicts_by_rows(first, second):
    found, there = {}, _rows(second)
    for key, a in _rows(first).items():
        b = there.get(key)
        if b is None or a["seconds"] is None or b["seconds"] is None:
            continue
        if b["high"] < a["low"]:
            found[key] = "faster"
        elif b["low"] > a["high"]:
            found[key] = "slower"
    return found


def verdicts_by_sets(first, second):
    a, b = ({key: row for key, row in _rows(text).items() if row["problem"] is None} for text in (first, second))
    both = a.keys() & b.keys()
    apart = {key: (b[key]["low"] - a[key]["high"], a[key]["low"] - b[key]["high"]) for key in both}
    return {key: "slower" if gaps[0] > 0 else "faster" for key, gaps in apart.items() if max(gaps) > 0}


def _verdicts(first, second, *, judge):
    a, b = _rows(first), _rows(second)
    both = [key for key in a if key in b and None not in (a[key]["seconds"], b[key]["seconds"])]
    found = {key: judge(a[key], b[key]) for key in both}
    return {key: verdict for key, verdict in found.items() if verdict}


def verdicts_by_medians(first, second):
    return _verdicts(first, second, judge=lambda a, b: "faster" if b["seconds"] < a["seconds"] else "slower")


def verdicts_beyond_a_tenth(first, second):
    def judge(a, b):
        ratio = b["seconds"] / a["seconds"]
        return "faster" if ratio < 0.9 else "slower" if ratio > 1.1 else None

    return _verdicts(first, second, judge=judge)


def verdicts_backwards(first, second):
    return verdicts_by_rows(second, first)


def verdicts_crash_is_slow(first, second):
    a, b = _rows(first), _rows(second)
    failed = {key: "slower" for key in a if key in b and b[key]["seconds"] is None}
    return verdicts_by_rows(first, second) | failed


def verdicts_gone_is_slow(first, second):
    return verdicts_by_rows(first, second) | {key: "slower" for key in _rows(first) if key not in _rows(second)}


def verdicts_of_faster(first, second):
    return {key: verdict for key, verdict in verdicts_by_rows(first, second).items() if verdict == "faster"}


def verdicts_as_ratios(first, second):
    a, b = _rows(first), _rows(second)
    return {key: b[key]["seconds"] / a[key]["seconds"] for key in verdicts_by_rows(first, second)}


def verdicts_as_list(first, second):
    return list(verdicts_by_rows(first, second))


def verdicts_key_of_first(first, second):
    a, b = _rows(first), _rows(second)
    ran = {key: row for key, row in b.items() if row["seconds"] is not None}
    pairs = {key: (a[key], row) for key, row in ran.items()}
    return {
        key: "faster" if y["high"] < x["low"] else "slower"
        for key, (x, y) in pairs.items()
        if y["high"] < x["low"] or y["low"] > x["high"]
    }


def verdicts_by_mean_spread(first, second):
    def judge(a, b):
        gap, noise = b["seconds"] - a["seconds"], (a["high"] - a["low"] + b["high"] - b["low"]) / 2
        return None if abs(gap) <= noise else "slower" if gap > 0 else "faster"

    return _verdicts(first, second, judge=judge)


def verdicts_median_outside(first, second):
    def judge(a, b):
        return "faster" if b["seconds"] < a["low"] else "slower" if b["seconds"] > a["high"] else None

    return _verdicts(first, second, judge=judge)


def verdicts_beyond_a_twentieth_too(first, second):
    a, b = _rows(first), _rows(second)
    apart = verdicts_by_rows(first, second)
    return {key: apart[key] for key in apart if abs(b[key]["seconds"] / a[key]["seconds"] - 1) > 0.05}


def verdicts_other_keys(first, second):
    return verdicts_by_rows(first, second) | {"total": "faster"}


BANK = {
    "cache_bandwidth.step_seconds": Bank(
        right=[step_by_roofline, step_by_intensity],
        wrong=[
            Wrong(step_sum, says="they do not take turns"),
            Wrong(step_faster, says="when the slower of the two is"),
            Wrong(step_no_window, says="older tokens are not read"),
            Wrong(step_one_sequence, says="a cache of its own"),
            Wrong(step_keys_alone, says="a key and a value"),
            Wrong(step_numbers, says="the bandwidth is in bytes"),
            Wrong(step_query_heads_stored, says="read it once"),
            Wrong(step_scores_alone, says="again in the mixture"),
            Wrong(step_stored_heads_compute, says="every query head computes"),
            Wrong(step_always_float32, says="not every number takes four bytes"),
            Wrong(step_full_window, says="not full yet"),
            Wrong(step_window_reads_alone, says="older tokens are not read"),
            Wrong(step_milliseconds, says="the time is wrong"),
        ],
    ),
    "cache_bandwidth.splits": Bank(
        right=[splits_by_formula, splits_by_search],
        wrong=[
            Wrong(splits_rounded_down, says="some slots have no program"),
            Wrong(splits_rounded, says="some slots have no program"),
            Wrong(splits_one_more, says="have less to merge"),
            Wrong(splits_keys_rounded_up, says="shorter than they may be"),
            Wrong(splits_longer_than_least, says="some slots have no program"),
            Wrong(splits_of_whole_processors, says="have less to merge"),
            Wrong(splits_none, says="not none"),
            Wrong(splits_too_short, says="shorter than they may be"),
            Wrong(splits_one_resident, says="more than one program at a time"),
            Wrong(splits_without_heads, says="each stored head is a program"),
            Wrong(splits_without_batch, says="each sequence is a program"),
            Wrong(splits_as_many_as_go, says="have less to merge"),
            Wrong(splits_not_rounded, says="no parts of a split"),
        ],
    ),
    "cache_bandwidth.turning": Bank(
        right=[turning_by_formula, turning_by_search],
        wrong=[
            Wrong(turning_ignores_memory, says="do not fit beside the weights"),
            Wrong(turning_always, says="no batch is large enough"),
            Wrong(turning_never, says="there is such a batch"),
            Wrong(turning_reads_for_each, says="read the cache once"),
            Wrong(turning_one_token, says="is computed"),
            Wrong(turning_one_operation, says="multiplied and added"),
            Wrong(turning_without_scores, says="scores and mixtures are computed"),
            Wrong(turning_without_cache, says="the caches are read"),
            Wrong(turning_rounded_down, says="reading still takes longer"),
            Wrong(turning_one_later, says="a smaller batch than yours"),
            Wrong(turning_not_rounded, says="no parts of a sequence"),
            Wrong(turning_parameters_from_bytes, says="told apart"),
            Wrong(turning_caches_alone_fit, says="do not fit beside the weights"),
            Wrong(turning_room_to_spare, says="there is such a batch"),
            Wrong(turning_longer_not_as_long, says="a smaller batch than yours"),
            Wrong(turning_drafts_skip_the_cache, says="meets the cache"),
            Wrong(turning_divides_by_nothing, says="division by zero"),
        ],
    ),
    "cache_bandwidth.verdicts": Bank(
        right=[verdicts_by_rows, verdicts_by_sets],
        wrong=[
            Wrong(verdicts_by_medians, says="nothing but noise"),
            Wrong(verdicts_beyond_a_tenth, says="the quartiles overlap"),
            Wrong(verdicts_backwards, says="of the second record what it is against the first"),
            Wrong(verdicts_crash_is_slow, says="did not run in one of the records"),
            Wrong(verdicts_gone_is_slow, says="only one of the records has it"),
            Wrong(verdicts_of_faster, says="you do not report it"),
            Wrong(verdicts_as_ratios, says="say 'faster' or 'slower'"),
            Wrong(verdicts_as_list, says="return a dict"),
            Wrong(verdicts_key_of_first, says="KeyError"),
            Wrong(verdicts_by_mean_spread, says="the quartiles overlap"),
            Wrong(verdicts_median_outside, says="the quartiles overlap"),
            Wrong(verdicts_beyond_a_twentieth_too, says="you do not report it"),
            Wrong(verdicts_other_keys, says="is no row"),
        ],
    ),
}
