"""Checks of the unit `cache_bandwidth`: the time of a step, splits that fill a chip, the batch that turns, two records."""

import json
import math
from dataclasses import asdict, replace
from fractions import Fraction

import torch

from attncourse.profile.counts import Size
from attncourse.profile.device_facts import DeviceFacts
from attncourse.profile.limits import Limits
from attncourse.profile.record import Measurement, Record

from ..core import exercise_check, exercise_unit
from ..draw import integer
from ..expect import expect, expect_no_mistake, expect_number

exercise_unit(
    "cache_bandwidth",
    title="Profiling KV-cache bandwidth",
    chapter="cache_bandwidth",
    minutes=70,
    prerequisites=("kv_cache", "latent"),
)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)


def _step_seconds(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    """Return seconds of reading and seconds of computing."""
    tokens = context if window is None else min(context, window)
    read = 2 * batch * n_kv_heads * head_dim * tokens * itemsize
    return read / bandwidth, 4 * batch * n_heads * head_dim * tokens / flops


@exercise_check(
    "cache_bandwidth.step_seconds",
    function="step_seconds",
    difficulty="easy",
    importance="core",
    points=2,
    section="predict",
)
def step_seconds(learner, rng):
    """Predict the time of one step of decoding from what it reads and computes."""
    # In the first cases lies a factor between the bounds that no mistake crosses; in the last ones they are close.
    for ratio, least_shared in ((100, 3), (0.01, 3), (1.4, 1), (0.7, 1)):
        itemsizes = [4, *_shuffled(rng, [1, 2])]
        for itemsize, kind in zip(itemsizes, ("no window", "full window", "short context"), strict=True):
            args = _draw_decoding(rng, kind, itemsize, ratio, least_shared=least_shared)
            _judge_seconds(expect_number(learner(*args)), *args)


def _shuffled(rng, items: list) -> list:
    return [items[i] for i in torch.randperm(len(items), generator=rng).tolist()]


def _draw_decoding(rng, kind: str, itemsize: int, ratio: float, *, least_shared: int) -> tuple:
    """Return arguments of a step that takes `ratio` times as long to read as to compute."""
    batch, n_kv_heads = integer(rng, 9, 16), integer(rng, 3, 9)
    shared = integer(rng, least_shared, 7)
    context = 1000 * integer(rng, 5, 40) + integer(rng, 1, 1000)
    window = {"no window": None, "full window": context // integer(rng, 5, 17), "short context": 5 * context + 3}[kind]
    bandwidth = 1e9 * integer(rng, 100, 900)
    flops = bandwidth * 2 * shared / itemsize * ratio
    n_heads, head_dim = n_kv_heads * shared, 8 * integer(rng, 5, 17)
    return batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops


def _judge_seconds(got, batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops) -> None:
    shared = n_heads // n_kv_heads

    def seconds(tokens):
        return _step_seconds(batch, n_heads, n_kv_heads, head_dim, tokens, None, itemsize, bandwidth, flops)

    reading, computing = seconds(context if window is None else min(context, window))
    case = f"{batch} sequences of {context} tokens, window {window}, {itemsize} bytes a number, short of "
    case += "memory: " if reading > computing else "compute: "
    mistakes = {
        "reading and computing overlap, they do not take turns": reading + computing,
        "the step is over when the slower of the two is": min(reading, computing),
        "each sequence has a cache of its own": max(reading, computing) / batch,
    }
    if window is not None and window < context:
        mistakes["a window's older tokens are not read"] = max(seconds(context))
    elif window is not None:
        mistakes["the text is shorter than the window, which is not full yet"] = max(seconds(window))
    if reading > computing:
        mistakes |= {
            "a token leaves a key and a value": reading / 2,
            "those are numbers, and the bandwidth is in bytes": reading / itemsize,
            "not every number takes two bytes: see itemsize": reading / itemsize * 2,
            "not every number takes four bytes: see itemsize": reading / itemsize * 4,
            "query heads that share a stored head read it once": shared * reading,
        }
    else:
        mistakes |= {
            "an entry is multiplied and added, in the score and again in the mixture": computing / 2,
            "every query head computes, also those that share": computing / shared,
        }
    expect_no_mistake(got, max(reading, computing), {case + what: value for what, value in mistakes.items()})
    expect(_close(got, max(reading, computing)), case + "the time is wrong")


@exercise_check(
    "cache_bandwidth.splits",
    function="choose_splits",
    difficulty="medium",
    importance="useful",
    points=3,
    section="one-program-per-head-starves-the-chip",
)
def splits(learner, rng):
    """Choose the fewest splits that give every slot of a chip a program, without splits that are too short."""
    for kind in ("a little left", "much left", "nothing left", "short", "whole", "tiny", "full", "large", "one each"):
        args = batch, n_kv_heads, context, processors, resident, least = _draw_splits(rng, kind)
        groups, slots = batch * n_kv_heads, processors * resident
        got = expect_number(learner(*args))
        case = (
            f"{batch} sequences, {n_kv_heads} stored heads, {context} keys, {processors} multiprocessors of {resident} "
            f"programs, splits of at least {least}: "
        )
        expect(got == int(got), case + "there are no parts of a split")
        expect(got >= 1, case + "a sequence that is not cut is one split, not none")
        most = max(1, context // least)
        expect(got <= most, case + "your splits are shorter than they may be")
        wanted = min(most, -(-slots // groups))
        mistakes = {
            "a multiprocessor holds more than one program at a time": min(most, -(-processors // groups)),
            "each stored head is a program of its own already": min(most, -(-slots // batch)),
            "each sequence is a program of its own already": min(most, -(-slots // n_kv_heads)),
        }
        expect_no_mistake(got, wanted, {case + what: value for what, value in mistakes.items()})
        expect(got >= wanted, case + "some slots have no program, and the keys could be cut further")
        expect(got <= wanted, case + "fewer splits fill every slot too, and have less to merge")


def _draw_splits(rng, kind: str) -> tuple[int, int, int, int, int, int]:
    """Return arguments of a choice. What is left of the slots after as many whole splits as go,
    and the keys, go by kind.
    """
    least = 64 * integer(rng, 2, 6) + 1
    while True:
        batch, resident, processors = integer(rng, 2, 6), integer(rng, 2, 5), integer(rng, 60, 140)
        n_kv_heads = batch + integer(rng, 1, 4)
        groups, slots = batch * n_kv_heads, processors * resident
        wanted, left = -(-slots // groups), slots % groups / groups
        share = {"nothing left": left == 0, "much left": left > 0.6}.get(kind, 0 < left < 0.4)
        if share and wanted > 2 and wanted != resident * -(-processors // groups):
            break
    few = wanted - 1  # splits, where there are too few keys for as many as the chip would take
    context = {
        "short": few * least + integer(rng, least // 2 + 1, least),
        "whole": few * least,
        "tiny": integer(rng, 1, least // 2),
    }.get(kind, 4 * least * slots)
    if kind == "full":
        batch = slots
    elif kind == "large":  # more groups than slots, and not a multiple
        batch = slots // n_kv_heads + 3
    elif kind == "one each":
        n_kv_heads, batch = resident, processors
    return batch, n_kv_heads, context, processors, resident, least


TURNING = {
    "turns": "room for many sequences",
    "exactly": "computing just as long as reading",
    "never": "long contexts",
    "alike": "caches that take as long to read as to compute",
    "fits": "a memory that is just full",
    "does not fit": "little memory",
    "not by a byte": "a byte of memory too little",
    "no room": "too little memory for the weights",
}


@exercise_check(
    "cache_bandwidth.turning",
    function="compute_bound_batch",
    difficulty="medium",
    importance="core",
    points=3,
    section="tokens-per-second-of-a-whole-model",
)
def turning(learner, rng):
    """Find the smallest batch that is bound by computing, if there is one and it fits."""
    for drafts in (False, True):
        for kind in TURNING:
            args = _draw_turning(rng, kind, drafted=integer(rng, 3, 6) if drafts else 1)
            drafted = args[4]
            case = f"{drafted} new token{'s' * (drafted > 1)} a sequence, {TURNING[kind]}: "
            _judge_turning(learner(*args), case, *args)


def _judge_turning(got, case, weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops) -> None:
    def solve(parameters=parameters, cache_bytes=cache_bytes, cache_flops=cache_flops, drafted=drafted):
        return turning_point(weights, parameters, cache_bytes, cache_flops, drafted, bandwidth, flops)

    right = solve()
    expect(right is not None or got is None, case + "no batch is large enough: return None")
    fits = right is not None and weights + right * cache_bytes <= memory
    if not fits:
        expect(got is None, case + "the caches of such a batch do not fit beside the weights: return None")
        return
    expect(got is not None, case + "there is such a batch, and it fits")
    got = expect_number(got)
    expect(got == int(got), case + "there are no parts of a sequence")
    mistakes = {
        "tokens that are drafted together read the cache once": solve(cache_bytes=cache_bytes * drafted),
        "each of the tokens that are drafted is computed": solve(drafted=1),
        "each of the tokens that are drafted meets the cache": solve(cache_flops=Fraction(cache_flops, drafted)),
        "parameters and the bytes of the weights are told apart, and these need not be two each": solve(
            parameters=Fraction(weights, 2)
        ),
        "a parameter is multiplied and added": solve(parameters=Fraction(parameters, 2)),
        "scores and mixtures are computed, too": solve(cache_flops=0),
        "the caches are read, too": solve(cache_bytes=0),
    }
    expect_no_mistake(got, right, {case + what: value for what, value in mistakes.items() if value is not None})
    computing = got * drafted * (2 * parameters + cache_flops) * bandwidth
    expect(
        computing >= (weights + got * cache_bytes) * flops,
        case + "at your batch reading still takes longer than computing",
    )
    expect(got <= right, case + "a smaller batch than yours turns already")


def turning_point(weights, parameters, cache_bytes, cache_flops, drafted, bandwidth, flops) -> int | None:
    """Return the smallest batch for which computing takes at least as long as reading, in whole numbers;
    None if none does.
    """
    gained = drafted * (2 * parameters + cache_flops) * bandwidth - cache_bytes * flops
    return math.ceil(Fraction(weights * flops) / gained) if gained > 0 else None


def _draw_turning(rng, kind: str, *, drafted: int) -> tuple[int, ...]:
    """Return arguments for which no two ways to count give the same batch, and none that a rounding error could change."""
    while True:
        weights, parameters, cache_bytes, cache_flops, bandwidth, flops = draw_step(
            rng, {"never": "never", "alike": "alike", "exactly": "exactly"}.get(kind, "turns"), tokens=drafted
        )
        ways = [
            turning_point(weights, p, c, f, d, bandwidth, flops)
            for p, c, f, d in (
                (parameters, cache_bytes, cache_flops, drafted),
                (Fraction(parameters, 2), cache_bytes, cache_flops, drafted),
                (Fraction(weights, 2), cache_bytes, cache_flops, drafted),
                (parameters, 0, cache_flops, drafted),
                (parameters, cache_bytes, 0, drafted),
                (parameters, cache_bytes * drafted, cache_flops, drafted),
                (parameters, cache_bytes, Fraction(cache_flops, drafted), drafted),
                (parameters, cache_bytes, cache_flops, 1),
            )
        ]
        others = [way for way in (ways[1:] if drafted > 1 else ways[1:5]) if way is not None]
        if ways[0] is not None and len({ways[0], *others}) <= len(others):
            continue
        batch = ways[0] or 300
        full = weights + cache_bytes * batch
        memory = {
            "fits": full,
            "not by a byte": full - 1,
            "does not fit": weights + cache_bytes * (batch // 2),
            "no room": weights - integer(rng, 1, 100) * 10**6,
        }.get(kind, weights + 2 * full)
        return weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops


def draw_step(rng, kind: str, *, tokens: int = 1, cached: bool = True) -> tuple[int, ...]:
    """Return weights, parameters, cache_bytes, cache_flops, bandwidth and flops of a step whose turning batch is well
    between two integers, or is one exactly, or is none: kind is turns, exactly, never, or alike.

    Where a rounding error would decide, bytes and operations a second are powers of two, and every quotient is exact.
    """
    dyadic = kind in ("exactly", "alike")
    while True:
        ridge = 2 ** integer(rng, 7, 10) if dyadic else integer(rng, 150, 600)
        bandwidth = 2 ** integer(rng, 40, 43) if dyadic else integer(rng, 10, 50) * 10**11
        flops = bandwidth * ridge
        parameters = integer(rng, 10_000, 100_000) * 2**20
        # Of weights of several kinds, in one byte, two or four: not two a parameter, which are its operations too.
        weights = (3 + 2 * integer(rng, 0, 3)) * parameters // 2
        cache_flops = integer(rng, 20, 60) * parameters // 102_400 * 1024 if cached else 0
        work = tokens * (2 * parameters + cache_flops) // ridge  # in bytes that are read meanwhile
        share = {"never": 1.5, "alike": 1.0}.get(kind, (0.2 + 0.2 * integer(rng, 0, 100) / 100) / tokens)
        cache_bytes = int(share * work) if cached else 0
        if kind == "exactly":
            weights = integer(rng, 60, 400) * (work - cache_bytes)
        gained = tokens * (2 * parameters + cache_flops) * bandwidth - cache_bytes * flops
        if kind in ("never", "alike"):
            return weights, parameters, cache_bytes, cache_flops, bandwidth, flops
        exact = Fraction(weights * flops, gained)
        if exact > 10 and (kind == "exactly" or 0.1 < exact % 1 < 0.9):
            return weights, parameters, cache_bytes, cache_flops, bandwidth, flops


# (low, median, high) of the first record and of the second, about the first's median.
_KINDS = {
    "faster": [
        ((0.95, 1.00, 1.05), (0.60, 0.70, 0.80)),
        ((0.99, 1.00, 1.01), (0.96, 0.97, 0.98)),  # by little, and yet beyond the noise
        ((0.99, 1.00, 1.40), (0.50, 0.97, 0.98)),  # noise that is long on the far sides
    ],
    "slower": [
        ((0.95, 1.00, 1.05), (1.25, 1.40, 1.50)),
        ((0.99, 1.00, 1.01), (1.02, 1.03, 1.04)),
        ((0.60, 1.00, 1.01), (1.02, 1.03, 1.50)),
    ],
    "overlaps, faster": [
        ((0.95, 1.00, 1.05), (0.70, 0.80, 0.97)),  # by a fifth, and yet within the noise
        ((0.91, 1.00, 1.01), (0.60, 0.61, 0.93)),
    ],
    "overlaps, slower": [
        ((0.95, 1.00, 1.05), (1.03, 1.20, 1.35)),
        ((0.99, 1.00, 1.40), (1.38, 1.70, 1.71)),
    ],
    "same": [
        ((0.95, 1.00, 1.05), (0.96, 1.01, 1.06)),
        ((0.90, 1.00, 1.10), (0.97, 0.98, 0.99)),
        ((0.97, 1.00, 1.03), (0.80, 1.02, 1.20)),
    ],
}
# Why there is nothing to say of a row, and the order in which rows are looked at.
_NOTHING = {
    "lacks": "only one of the records has it, so there is nothing to compare",
    "lacked": "only one of the records has it, so there is nothing to compare",
    "did not run": "it did not run in one of the records, and its time is null",
    "had not run": "it did not run in one of the records, and its time is null",
    "never ran": "it did not run in either of the records, and its times are null",
    "same": "nothing but noise lies between the two",
    "overlaps, faster": "the medians differ, but the quartiles overlap: that may be noise",
    "overlaps, slower": "the medians differ, but the quartiles overlap: that may be noise",
}
_ORDER = (*_NOTHING, "faster", "slower")


def _record(rows, date: str) -> str:
    facts = DeviceFacts("made-up device of an exercise", "cuda", 10**10, 50, None, "8.0", "1.0", None)
    limits = Limits(1e11, 1e11, {"float16": 1e13})
    return json.dumps(asdict(Record(facts, limits, {"torch": "0"}, date, "made up by a check", tuple(rows))))


def _row(mechanism: str, form: str, b: int, s: int, times: tuple[float, float, float] | None) -> Measurement:
    size = asdict(Size(b=b, h=8, g=8, t=1, s=s, dk=64, dv=64))
    row = Measurement(mechanism, form, "made up", size, "float16", 10, 10, 1e-6, "memory")
    if times is None:
        return replace(row, problem="out of memory")
    low, median, high = times
    return replace(row, seconds=median, low=low, high=high, peak_bytes=10)


@exercise_check(
    "cache_bandwidth.verdicts",
    function="beyond_the_noise",
    difficulty="medium",
    importance="extra",
    points=3,
    section="make-a-record",
)
def verdicts(learner, rng):
    """Read two records of measurements, and say which rows differ by more than the noise."""
    for _ in range(2):
        first, second, kinds = _draw_records(rng)
        got = learner(_record(first, "2026-01-01"), _record(second, "2026-01-02"))
        expect(isinstance(got, dict), f"return a dict, got a {type(got).__name__}")
        for key, kind in sorted(kinds.items(), key=lambda row: _ORDER.index(row[1])):
            where = f"row {key!r}: "
            if kind in _NOTHING:
                expect(key not in got, where + _NOTHING[kind])
                continue
            expect(key in got, where + "the quartiles of the two lie apart, and you do not report it")
            other = {"faster": "slower", "slower": "faster"}[kind]
            expect(got[key] != other, where + "say of the second record what it is against the first")
            expect(got[key] == kind, where + f"say 'faster' or 'slower', got {got[key]!r}")
        unknown = [key for key in got if key not in kinds]
        expect(not unknown, f"{unknown[:1]!r} is no row: a key is 'mechanism form b=... s=...'")


def _draw_records(rng):
    """Return rows of both records in different order, and the kind of each row by its key."""
    names = ["decode_mha", "decode_mqa", "decode_fp8", "decode_latent"]
    places = [
        (name, form, b, s) for name in names for form in ("torch", "triton") for b in (1, 8) for s in (1024, 4096)
    ]
    stories = [(kind, *quartiles) for kind, rows in _KINDS.items() for quartiles in rows]
    stories += [(kind, (0.95, 1.00, 1.05), (0.60, 0.70, 0.80)) for kind in _NOTHING if kind not in _KINDS]
    first, second, kinds = [], [], {}
    for i, place in enumerate(torch.randperm(len(places), generator=rng).tolist()):
        name, form, b, s = places[place]
        kind, before, after = stories[i % len(stories)]
        scale = 1e-5 * integer(rng, 10, 1000)
        kinds[f"{name} {form} b={b} s={s}"] = kind
        before, after = (tuple(scale * x for x in quartiles) for quartiles in (before, after))
        if kind != "lacked":
            first.append(_row(name, form, b, s, None if kind in ("had not run", "never ran") else before))
        if kind != "lacks":
            second.append(_row(name, form, b, s, None if kind in ("did not run", "never ran") else after))
    first, second = (_shuffled(rng, rows) for rows in (first, second))
    return first, second, kinds
