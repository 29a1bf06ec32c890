"""Checks of the unit `cache_bandwidth`: the time of a step, splits that fill a chip, the batch that turns, two records."""

import json
import math
from dataclasses import asdict, replace

import torch

from attncourse.profile.counts import Size
from attncourse.profile.facts import DeviceFacts
from attncourse.profile.limits import Limits
from attncourse.profile.record import Measurement, Record

from ..core import exercise_check, exercise_unit
from ..draw import integer
from ..expect import expect, expect_number

exercise_unit(
    "cache_bandwidth",
    title="Profiling KV-cache bandwidth on a GPU",
    chapter="cache_bandwidth",
    minutes=70,
    prerequisites=("kv_cache", "latent"),
)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)


def _step_seconds(batch, n_heads, n_kv_heads, head_dim, context, window, itemsize, bandwidth, flops):
    """Seconds of reading and seconds of computing."""
    tokens = context if window is None else min(context, window)
    read = 2 * batch * n_kv_heads * head_dim * tokens * itemsize
    return read / bandwidth, 4 * batch * n_heads * head_dim * tokens / flops


@exercise_check("cache_bandwidth.step_seconds", function="step_seconds", points=2, section="predict")
def step_seconds(learner, rng):
    """Predict the time of one step of decoding from what it reads and computes."""
    for bound, windowed in (("memory", False), ("compute", False), ("memory", True), ("compute", True)):
        batch, n_kv_heads, shared = integer(rng, 7, 10), integer(rng, 3, 9), integer(rng, 3, 7)  # batch is never shared
        context, itemsize = 1000 * integer(rng, 5, 40) + 7, 4
        window = 500 + integer(rng, 1, 400) if windowed else None
        bandwidth = 1e9 * integer(rng, 100, 900)
        # Between the two bounds lies a factor that no single mistake crosses.
        ridge = 2 * shared / itemsize
        flops = bandwidth * ridge * (100 if bound == "memory" else 0.01)
        args = (
            batch,
            n_kv_heads * shared,
            n_kv_heads,
            8 * integer(rng, 5, 17),
            context,
            window,
            itemsize,
            bandwidth,
            flops,
        )
        got = expect_number(learner(*args))
        reading, computing = _step_seconds(*args)
        slower, faster = max(reading, computing), min(reading, computing)
        case = f"{batch} sequences of {context} tokens, window {window}, short of {bound}: "
        expect(not _close(got, slower + faster), case + "reading and computing overlap, they do not take turns")
        expect(not _close(got, faster), case + "the step is over when the slower of the two is")
        whole = _step_seconds(*args[:5], None, *args[6:])
        expect(not windowed or not _close(got, max(whole)), case + "a window's older tokens are not read")
        expect(not _close(got * batch, slower), case + "each sequence has a cache of its own")
        if bound == "memory":
            expect(not _close(2 * got, reading), case + "a token leaves a key and a value")
            expect(not _close(itemsize * got, reading), case + "those are numbers, and the bandwidth is in bytes")
            expect(not _close(got, shared * reading), case + "query heads that share a stored head read it once")
        else:
            expect(
                not _close(2 * got, computing),
                case + "an entry is multiplied and added, in the score and again in the mixture",
            )
            expect(not _close(shared * got, computing), case + "every query head computes, also those that share")
        expect(_close(got, slower), case + "the time is wrong")


@exercise_check(
    "cache_bandwidth.splits", function="choose_splits", points=3, section="one-program-a-head-starves-the-chip"
)
def splits(learner, rng):
    """Choose the fewest splits that give every slot of a chip a program, without splits that are too short."""
    for kind in ("few", "short", "full", "exact", "tiny", "large"):
        processors, resident, least = integer(rng, 60, 140), integer(rng, 2, 4), 64 * integer(rng, 2, 6) + 1
        batch = integer(rng, 2, 5)
        n_kv_heads = batch + integer(rng, 1, 3)
        groups, slots = batch * n_kv_heads, processors * resident
        if kind == "few" and slots % groups == 0:  # so that rounding shows
            processors += 1
        context = 4 * least * slots
        if kind == "short":  # too few keys for as many splits as the chip would take
            context = least * integer(rng, 2, 4) + least // 2
        elif kind == "tiny":
            context = least // 2
        elif kind == "full":
            batch = slots
        elif kind == "exact":
            processors = groups * integer(rng, 3, 6)
        elif kind == "large":  # more groups than slots, and not a multiple
            batch = slots // n_kv_heads + 3
        groups, slots = batch * n_kv_heads, processors * resident
        got = expect_number(learner(batch, n_kv_heads, context, processors, resident, least))
        case = (
            f"{batch} sequences, {n_kv_heads} stored heads, {context} keys, {processors} multiprocessors of {resident} "
            f"programs, splits of at least {least}: "
        )
        expect(got == int(got), case + "there are no parts of a split")
        expect(got >= 1, case + "a sequence that is not cut is one split, not none")
        most = max(1, context // least)
        expect(got <= most, case + "your splits are shorter than they may be")
        wanted = min(most, -(-slots // groups))
        alone = min(most, -(-processors // groups))
        expect(got != alone or alone == wanted, case + "a multiprocessor holds more than one program at a time")
        no_heads = min(most, -(-slots // batch))
        expect(got != no_heads or no_heads == wanted, case + "each stored head is a program of its own already")
        no_batch = min(most, -(-slots // n_kv_heads))
        expect(got != no_batch or no_batch == wanted, case + "each sequence is a program of its own already")
        expect(got >= wanted, case + "some slots have no program, and the keys could be cut further")
        expect(got <= wanted, case + "fewer splits fill every slot too, and have less to merge")


@exercise_check(
    "cache_bandwidth.turning", function="compute_bound_batch", points=3, section="tokens-a-second-of-a-whole-model"
)
def turning(learner, rng):
    """Find the smallest batch that is bound by computing, if there is one and it fits."""
    for kind in ("turns", "never", "does not fit", "drafts", "drafts", "turns"):
        case, args = _draw_turning(rng, kind)
        weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops = args
        got = learner(*args)

        def solve(parameters=parameters, cache_bytes=cache_bytes, cache_flops=cache_flops, drafted=drafted, args=args):
            return _turning_batch(args[0], parameters, cache_bytes, cache_flops, drafted, *args[6:])

        right = solve()
        fits = (memory - weights) // cache_bytes
        if right is None or right > fits:
            why = (
                "no batch is large enough"
                if right is None
                else "the caches of such a batch do not fit beside the weights"
            )
            expect(got is None, case + f"{why}: return None")
            continue
        expect(got is not None, case + "there is such a batch, and it fits")
        got = expect_number(got)
        expect(got == int(got), case + "there are no parts of a sequence")
        per_token = solve(cache_bytes=cache_bytes * drafted)
        expect(got != per_token or drafted == 1, case + "tokens that are drafted together read the cache once")
        expect(got != solve(drafted=1) or drafted == 1, case + "each of the tokens that are drafted is computed")
        expect(got != solve(parameters=parameters / 2), case + "a parameter is multiplied and added")
        expect(got != solve(cache_flops=0), case + "scores and mixtures are computed, too")
        expect(got != solve(cache_bytes=0), case + "the caches are read, too")
        moved = (weights + got * cache_bytes) / bandwidth
        computed = got * drafted * (2 * parameters + cache_flops) / flops
        expect(computed >= moved, case + "at your batch reading still takes longer than computing")
        expect(got <= right, case + "a smaller batch than yours turns already")


def _turning_batch(weights, parameters, cache_bytes, cache_flops, drafted, bandwidth, flops):
    gained = drafted * (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
    return math.ceil(weights / bandwidth / gained) if gained > 0 else None


def _draw_turning(rng, kind: str):
    """A case in words and the arguments; no two ways to count give the same batch, and none lies near an integer."""
    while True:
        parameters = integer(rng, 5, 90) * 10**9
        weights = 2 * parameters
        bandwidth, flops = integer(rng, 10, 50) * 10**11, integer(rng, 100, 900) * 10**12
        drafted = integer(rng, 3, 6) if kind == "drafts" else 1
        share = 1.5 if kind == "never" else (0.2 + 0.2 * integer(rng, 0, 100) / 100)
        cache_bytes = int(share * 2 * parameters / flops * bandwidth)
        cache_flops = int(0.25 * parameters)
        ways = [
            _turning_batch(weights, parameters * p, cache_bytes * c, cache_flops * f, d, bandwidth, flops)
            for p, c, f, d in ((1, 1, 1, drafted), (0.5, 1, 1, drafted), (1, 0, 1, drafted), (1, 1, 0, drafted),
                               (1, drafted, 1, drafted), (1, 1, 1, 1))
        ]  # fmt: skip
        right = ways[0]
        if (right is None) != (kind == "never"):
            continue
        if right is not None:
            gained = drafted * (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
            others = ways[1:] if drafted > 1 else ways[1:4]
            if right in others or not 0.1 < weights / bandwidth / gained % 1 < 0.9:
                continue
        batch = right or 300
        memory = weights + cache_bytes * (batch // 2 if kind == "does not fit" else 2 * batch) + cache_bytes // 2
        names = {"turns": "room for many sequences", "never": "long contexts", "does not fit": "little memory"}
        case = f"{drafted} new token{'s' * (drafted > 1)} a sequence, {names.get(kind, 'drafted together')}: "
        return case, (weights, parameters, cache_bytes, cache_flops, drafted, memory, bandwidth, flops)


# Quartiles of the second record about the first's: how far its low, median and high lie from the first's median.
_KINDS = {
    "faster": (0.60, 0.70, 0.80),
    "slower": (1.25, 1.40, 1.50),
    "overlaps, faster": (0.70, 0.80, 0.97),  # by a fifth, and yet within the noise
    "overlaps, slower": (1.03, 1.20, 1.35),
    "same": (0.96, 1.01, 1.06),
}
_FIRST = (0.95, 1.00, 1.05)
_ORDER = ("lacks", "did not run", "same", "overlaps, faster", "overlaps, slower", "faster", "slower")


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


@exercise_check("cache_bandwidth.verdicts", function="beyond_the_noise", points=3, section="make-a-record")
def verdicts(learner, rng):
    """Read two records of measurements, and say which rows differ by more than the noise."""
    for _ in range(2):
        first, second, wanted, kinds = _draw_records(rng)
        got = learner(_record(first, "2026-01-01"), _record(second, "2026-01-02"))
        expect(isinstance(got, dict), f"return a dict, got a {type(got).__name__}")
        for key, kind in sorted(kinds.items(), key=lambda row: _ORDER.index(row[1])):
            verdict, where = got.get(key), f"row {key!r}: "
            if kind == "lacks":
                expect(key not in got, where + "only one of the records has it, so there is nothing to compare")
            elif kind == "did not run":
                expect(key not in got, where + "it did not run in one of the records, and its time is null")
            elif kind.startswith("overlaps"):
                expect(key not in got, where + "the medians differ, but the quartiles overlap: that may be noise")
            elif kind == "same":
                expect(key not in got, where + "nothing but noise lies between the two")
            else:
                expect(key in got, where + "the quartiles of the two lie apart, and you do not report it")
                other = {"faster": "slower", "slower": "faster"}[kind]
                expect(verdict != other, where + "say of the second record what it is against the first")
                expect(verdict == kind, where + f"say 'faster' or 'slower', got {verdict!r}")
        unknown = [key for key in got if key not in wanted]
        expect(not unknown, f"{unknown[:1]!r} is no row: a key is 'mechanism form b=... s=...'")


def _draw_records(rng):
    """Rows of both records in different order, the wanted verdicts, and the kind of each row by its key."""
    names = ["decode_mha", "decode_mqa", "decode_fp8", "decode_latent"]
    places = [
        (name, form, b, s) for name in names for form in ("torch", "triton") for b in (1, 8) for s in (1024, 4096)
    ]
    order = torch.randperm(len(places), generator=rng).tolist()
    kinds = [*_KINDS, "lacks", "did not run"]
    first, second, wanted, by_key = [], [], {}, {}
    for i, place in enumerate(order):
        name, form, b, s = places[place]
        kind = kinds[i % len(kinds)]
        scale = 1e-5 * integer(rng, 10, 1000)
        key = f"{name} {form} b={b} s={s}"
        by_key[key] = kind
        before = tuple(scale * x for x in _FIRST)
        first.append(_row(name, form, b, s, before))
        if kind in _KINDS:
            second.append(_row(name, form, b, s, tuple(scale * x for x in _KINDS[kind])))
        elif kind == "did not run":
            second.append(_row(name, form, b, s, None))
        if kind in ("faster", "slower"):
            wanted[key] = kind
    mixed = torch.randperm(len(second), generator=rng).tolist()
    return first, [second[i] for i in mixed], wanted, by_key
