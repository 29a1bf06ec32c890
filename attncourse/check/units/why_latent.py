"""Checks of the unit `why_latent`: what latents cost, layers of two kinds, shares of devices, a server, the turning batch."""

from fractions import Fraction

import torch

from attncourse.kv_cache import cost

from ..core import exercise_check, exercise_unit
from ..draw import integer
from ..expect import expect, expect_no_mistake, expect_number
from .cache_bandwidth import draw_step, turning_point

exercise_unit(
    "why_latent",
    title="Why it drew so much attention",
    chapter="why_latent",
    minutes=75,
    prerequisites=("latent",),
)


def _expect_integer(got, case: str, *, what: str) -> int:
    number = expect_number(got, what=f"{case}: {what}")
    expect(number == int(number), f"{case}: {what} is {number}, and there are no parts of one")
    return int(number)


@exercise_check(
    "why_latent.latent",
    function="latent_cost",
    difficulty="easy",
    importance="core",
    points=2,
    section="what-a-token-costs-in-each-design",
)
def latent(learner, rng):
    """Predict the bytes of a token as a latent, and as the keys and values that it stands for."""
    for _ in range(4):
        layers, heads, rank, nope, rope, value = (7 * torch.randperm(9, generator=rng)[:6] + 10).tolist()
        got = learner(layers, heads, rank, nope, rope, value)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: latent, then expanded")
        small, large = (expect_number(x) for x in got)
        case = f"layers={layers}, heads={heads}, rank={rank}, nope={nope}, rope={rope}, value={value}: "
        wanted = 2 * layers * (rank + rope)
        expect(small != wanted // 2, case + "those are numbers; each is stored in two bytes")
        expect(small != 2 * wanted, case + "keys and values come out of the same latent, which is stored once")
        expect(small != 2 * layers * rank, case + "the rotated part of the key cannot come out of the latent")
        expect(small != 2 * layers * (rank + heads * rope), case + "one rotated key serves all heads")
        expect(small != 2 * (rank + rope), case + "that is one layer's")
        expect(small == wanted, case + "the bytes of the latent are wrong")
        expect(large != 2 * layers * heads * (nope + value), case + "a head's key has a part that is rotated, too")
        expect(large != 2 * layers * (nope + rope + value), case + "expanded, every head has its own key and value")
        expect(large == 2 * layers * heads * (nope + rope + value), case + "the bytes of keys and values are wrong")


DERIVED_WIDTH = 36  # the hidden size over the query heads, and no head_dim or half of one that is drawn
FULL, SLIDING = "full_attention", "sliding_attention"


def _draw_mixed(rng, kinds: str) -> dict:
    """Return a config with layers of one kind, or of both in an order without a rule,
    which no two ways to count give the same.
    """
    n_layers, n_kv_heads, queries = 2 * integer(rng, 2, 5) + 1, integer(rng, 2, 5), integer(rng, 2, 5)
    layer_types = [SLIDING if s else FULL for s in (torch.rand(n_layers, generator=rng) < 0.5).tolist()]
    layer_types[:3] = [SLIDING, SLIDING, FULL]
    if kinds != "both":
        layer_types = [kinds] * n_layers
    return {
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_kv_heads * queries,
        "num_key_value_heads": n_kv_heads,
        "head_dim": 8 * integer(rng, 5, 9),
        "hidden_size": n_kv_heads * queries * DERIVED_WIDTH,
        "sliding_window": integer(rng, 20, 40),
        "layer_types": layer_types,
    }


@exercise_check(
    "why_latent.mixed",
    function="sequence_bytes",
    difficulty="medium",
    importance="useful",
    points=3,
    section="layers-of-two-kinds",
)
def mixed(learner, rng):
    """Compute the bytes of a sequence from a published config whose layers are of two kinds."""
    jobs = [
        ("both", "long"),
        ("both", "long"),
        ("both", "short"),
        ("both", "one more"),
        (SLIDING, "long"),
        (FULL, "long"),
    ]
    for kinds, length in jobs:
        config = _draw_mixed(rng, kinds)
        window = config["sliding_window"]
        context = {"long": window * integer(rng, 5, 9) + 1, "short": window - integer(rng, 5, 15)}.get(
            length, window + 1
        )
        got = expect_number(learner(config, context))

        def bytes_of(config=config, context=context, **changes):
            return cost({**config, **changes}, context=context).bytes_per_sequence

        n_layers, n_sliding = config["num_hidden_layers"], config["layer_types"].count(SLIDING)
        each = bytes_of(context=1) // n_layers
        case = f"for {context} tokens, a window of {window}, {n_sliding} of {n_layers} layers sliding: "
        mistakes = {
            "that is half: there are keys and values, of two bytes a number": bytes_of() / 2,
            "you count a key and a value for every query head, and the config says how many are stored": bytes_of(
                num_key_value_heads=config["num_attention_heads"]
            ),
            "head_dim is given, and need not be the hidden size over the query heads": bytes_of(head_dim=DERIVED_WIDTH),
            "sliding layers keep no more than their window": bytes_of(layer_types=[FULL] * n_layers),
            "only the layers named sliding_attention have a window": bytes_of(layer_types=[SLIDING] * n_layers),
            "the two kinds of layers are taken for each other": bytes_of(
                layer_types=[{FULL: SLIDING, SLIDING: FULL}[kind] for kind in config["layer_types"]]
            ),
            "the text is shorter than the window, which is not full yet": each
            * (n_sliding * window + (n_layers - n_sliding) * context),
        }
        expect_no_mistake(got, bytes_of(), {case + what: value for what, value in mistakes.items()})
        expect(got == bytes_of(), case + "the bytes are wrong")


def _draw_shares(rng):
    """Return (stored heads, query heads that share one, devices) of every kind that the exercise allows."""
    prime = [2, 3, 5, 7]

    def drawn():
        return prime[integer(rng, 0, 4)]

    fewer, more, queries, devices = drawn(), drawn(), drawn(), drawn()
    cases = [
        (fewer * more, queries, fewer),  # several stored heads a device
        (fewer * more, 1, fewer),  # no query heads that share
        (fewer, queries, fewer),  # one a device
        (fewer, more, fewer * more),  # several devices a stored head, a query head each
        (fewer, more * queries, fewer * more),
        (1, devices * queries, devices),
        (fewer, queries, 1),
    ]
    return [cases[i] for i in torch.randperm(len(cases), generator=rng).tolist()]


@exercise_check(
    "why_latent.shard",
    function="stored_heads",
    difficulty="medium",
    importance="extra",
    points=3,
    section="several-devices",
)
def shard(learner, rng):
    """Say which stored heads each device needs when devices share out the query heads."""
    for n_kv_heads, queries, devices in _draw_shares(rng):
        n_heads = n_kv_heads * queries
        case = f"{n_heads} query heads, {n_kv_heads} stored, {devices} devices: "
        got = learner(n_heads, n_kv_heads, devices)
        expect(isinstance(got, list | tuple), case + f"return a list with a list for each device, got {got!r}")
        expect(len(got) == devices, case + f"there are {len(got)} lists, expected one for each device")
        share = n_heads // devices
        stored = [_heads_in(heads, n_kv_heads, case + f"device {device}") for device, heads in enumerate(got)]
        for device, heads in enumerate(stored):
            needed = {head // queries for head in range(device * share, (device + 1) * share)}
            where = case + f"device {device} "
            expect(len(heads) > 0, where + "stores nothing, and its query heads have nothing to read")
            expect(len(set(heads)) == len(heads), where + "stores a head more than once; its query heads can share it")
            expect(needed <= set(heads), where + "lacks a head that one of its query heads reads")
            expect(set(heads) <= needed, where + "stores a head that none of its query heads reads")


def _heads_in(stored, n_kv_heads: int, where: str) -> list[int]:
    expect(isinstance(stored, list | tuple), f"{where}: expected a list, got {stored!r}")
    heads = [_expect_integer(head, where, what="a head") for head in stored]
    known = all(0 <= head < n_kv_heads for head in heads)
    expect(known, f"{where} stores a head that there is not: they are numbered from 0")
    return heads


def _grouped(rng, n_kv_heads, queries):
    return {
        "num_hidden_layers": integer(rng, 20, 60),
        "num_attention_heads": n_kv_heads * queries,
        "num_key_value_heads": n_kv_heads,
        "head_dim": 8 * integer(rng, 5, 20),
    }


def _latent(rng, devices):
    return {
        "num_hidden_layers": integer(rng, 20, 60),
        "num_attention_heads": 8 * devices,
        "kv_lora_rank": 8 * integer(rng, 20, 60),
        "qk_rope_head_dim": 8 * integer(rng, 3, 9),
    }


def _draw_server(rng, kind: str) -> tuple[dict, int]:
    """Return a config, and over how many devices it is shared out."""
    devices, times = integer(rng, 3, 9), integer(rng, 2, 5)
    if kind == "latent":
        return _latent(rng, devices), devices
    n_kv_heads, devices = {
        "shared out": (devices * times, devices),
        "few heads": (devices, devices * times),
        "one head": (1, devices),
        "one each": (devices, devices),
        "one device": (times, 1),
    }[kind]
    return _grouped(rng, n_kv_heads, 2 * max(1, devices // n_kv_heads)), devices


@exercise_check(
    "why_latent.server",
    function="sequences_that_fit",
    difficulty="medium",
    importance="core",
    points=3,
    section="a-server",
)
def server(learner, rng):
    """Size a server: how many sequences fit into the memory of its devices, beside the weights."""
    for kind in ("shared out", "latent", "few heads", "one head", "one each", "one device"):
        config, devices = _draw_server(rng, kind)
        for large in (False, True):  # weights: beyond the memory of a single device, in the second case
            context = integer(rng, 1000, 9000)
            sizes = cost(config, context=context, tensor_parallel=devices)
            each, once = sizes.bytes_per_sequence_on_device, sizes.bytes_per_sequence
            fit = integer(rng, 6, 9) if large else integer(rng, 60, 90)
            weights = devices * each * integer(rng, *((90, 190) if large else (5, 9)))
            left = fit * each + (0 if large else 7 * each // 10)  # in the second case, the last sequence just fits
            memory = weights // devices + left
            got = expect_number(learner(config, context, devices, memory, weights))
            case = f"{'latent attention' if kind == 'latent' else str(config['num_key_value_heads']) + ' stored heads'}, {devices} devices: "
            divided = left // (once / devices)
            mistakes = {
                "the weights need room, too": memory // each,
                "the devices share out the weights; none holds them all": max(0, (memory - weights) // each),
                "a device stores the heads that its query heads read, not all": left // once,
                "the last of your sequences does not fit whole": fit + 1,
            }
            if kind == "latent":
                mistakes["a latent has no heads to share out, so every device needs all of it"] = divided
            elif config["num_key_value_heads"] < devices:
                mistakes["there are fewer heads than devices, and half a head is none"] = divided
            expect_no_mistake(got, fit, {case + what: value for what, value in mistakes.items()})
            _expect_integer(got, case.removesuffix(": "), what="the number of sequences")
            expect(got == fit, case + "the number of sequences is wrong")
            none = learner(config, context, devices, weights // devices // 2, weights)
            expect(none == 0, case + f"with room for half of the weights you serve {none!r} sequences, expected 0")
            short = learner(config, context, devices, weights // devices + each - 1, weights)
            expect(short == 0, case + f"with a byte too little for a single sequence you serve {short!r}, expected 0")


TURNS = {
    "with caches": "turns",
    "with an empty cache": "turns",
    "where computing takes just as long as reading": "exactly",
    "each sequence takes longer to read than to compute": "never",
    "each sequence takes as long to read as to compute": "alike",
}


@exercise_check(
    "why_latent.turning_batch",
    function="turning_batch",
    difficulty="medium",
    importance="useful",
    points=3,
    section="more-work-for-each-byte",
)
def turning_batch(learner, rng):
    """Find the batch from which a decoding step is held up by its products and no longer by reading."""
    for what, kind in [*TURNS.items(), *TURNS.items()]:
        sizes = draw_step(rng, kind, cached=what != "with an empty cache")
        weights, parameters, cache_bytes, cache_flops, bandwidth, flops = sizes
        got = learner(*sizes)

        def solve(parameters=parameters, cache_bytes=cache_bytes, cache_flops=cache_flops, sizes=sizes):
            return turning_point(sizes[0], parameters, cache_bytes, cache_flops, 1, *sizes[4:])

        if solve() is None:
            expect(got is None, f"{what}, so no batch turns; you return {got!r}, expected None")
            continue
        expect(got is not None, f"{what}: you return None, and a batch that turns exists")
        batch = _expect_integer(got, what, what="the batch")
        mistakes = {
            "parameters and the bytes of the weights are told apart, and these need not be two each": solve(
                parameters=Fraction(weights, 2)
            ),
            "a weight costs every token a multiplication and an addition": solve(parameters=Fraction(parameters, 2)),
            "you count the weights alone": solve(cache_bytes=0, cache_flops=0),
            "every sequence has a cache of its own that is read": solve(cache_bytes=0),
            "scores and mixtures are products, too": solve(cache_flops=0),
        }
        known = {f"{what}: {mistake}": value for mistake, value in mistakes.items() if value is not None}
        expect_no_mistake(batch, solve(), known)
        computing = batch * (2 * parameters + cache_flops) * bandwidth
        reading = (weights + batch * cache_bytes) * flops
        expect(computing >= reading, f"{what}: at your batch reading still takes longer than computing")
        expect(batch == solve(), f"{what}: a smaller batch than yours turns already")
