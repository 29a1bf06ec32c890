"""Checks of the unit `why_latent`: what latents cost, layers of two kinds, shares of devices, a server, the turning batch."""

import math

import torch

from attncourse.kv_cache import cost

from ..core import Broken, exercise_check, exercise_unit
from ..draw import integer
from ..expect import expect, expect_number

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


@exercise_check("why_latent.latent", function="latent_cost", points=2, section="what-a-token-costs-in-each-design")
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


def _draw_mixed(rng):
    """A config with layers of both kinds, in which no two ways to count give the same."""
    n_layers, n_kv_heads, queries = 2 * integer(rng, 2, 5) + 1, integer(rng, 2, 5), integer(rng, 2, 5)
    sliding = (torch.rand(n_layers, generator=rng) < 0.5).tolist()
    sliding[:3] = [True, True, False]
    return {
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_kv_heads * queries,
        "num_key_value_heads": n_kv_heads,
        "head_dim": 8 * integer(rng, 5, 9),
        "hidden_size": n_kv_heads * queries * DERIVED_WIDTH,
        "sliding_window": integer(rng, 20, 40),
        "layer_types": ["sliding_attention" if s else "full_attention" for s in sliding],
    }


@exercise_check("why_latent.mixed", function="sequence_bytes", points=3, section="layers-of-two-kinds")
def mixed(learner, rng):
    """Compute the bytes of a sequence from a published config whose layers are of two kinds."""
    for longer in (True, True, False):
        config = _draw_mixed(rng)
        window = config["sliding_window"]
        context = window * integer(rng, 5, 9) + 1 if longer else window - integer(rng, 5, 15)
        got = expect_number(learner(config, context))

        def wanted(config=config, context=context, **changes):
            return cost({**config, **changes}, context=context).bytes_per_sequence

        right, n_layers = wanted(), config["num_hidden_layers"]
        case = f"for {context} tokens and a window of {window}: "
        expect(got != right / 2, case + "that is half: there are keys and values, of two bytes a number")
        expect(
            got != wanted(num_key_value_heads=config["num_attention_heads"]),
            case + "you count a key and a value for every query head, and the config says how many are stored",
        )
        expect(
            got != wanted(head_dim=DERIVED_WIDTH),
            case + "head_dim is given, and need not be the hidden size over the query heads",
        )
        everything = {"layer_types": ["full_attention"] * n_layers}
        expect(got != wanted(**everything) or not longer, case + "sliding layers keep no more than their window")
        windows = {"layer_types": ["sliding_attention"] * n_layers}
        expect(got != wanted(**windows) or not longer, case + "only the layers named sliding_attention have a window")
        swapped = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}
        kinds = [swapped[kind] for kind in config["layer_types"]]
        expect(
            got != wanted(layer_types=kinds) or not longer, case + "the two kinds of layers are taken for each other"
        )
        n_sliding = config["layer_types"].count("sliding_attention")
        filled = right // n_layers // context * (n_sliding * window + (n_layers - n_sliding) * context)
        expect(got != filled or longer, case + "the text is shorter than the window, which is not full yet")
        expect(got == right, case + "the bytes are wrong")


@exercise_check("why_latent.shard", function="stored_heads", points=3, section="several-devices")
def shard(learner, rng):
    """Say which stored heads each device needs when devices share out the query heads."""
    order = torch.randperm(4, generator=rng).tolist()
    for n_kv_heads, queries, devices in [((8, 4, 4), (4, 8, 8), (1, 16, 4), (6, 2, 3))[i] for i in order]:
        n_heads = n_kv_heads * queries
        case = f"{n_heads} query heads, {n_kv_heads} stored, {devices} devices: "
        got = learner(n_heads, n_kv_heads, devices)
        expect(isinstance(got, list | tuple), case + f"return a list with a list for each device, got {got!r}")
        expect(len(got) == devices, case + f"there are {len(got)} lists, expected one for each device")
        for device, stored in enumerate(got):
            expect(isinstance(stored, list | tuple), case + f"device {device}: expected a list, got {stored!r}")
            heads = [_expect_integer(head, case + f"device {device}", what="a head") for head in stored]
            known = all(0 <= head < n_kv_heads for head in heads)
            expect(known, case + f"device {device} stores a head that there is not: they are numbered from 0")
        share = n_heads // devices
        for device, stored in enumerate(got):
            needed = {head // queries for head in range(device * share, (device + 1) * share)}
            where = case + f"device {device} "
            expect(len(stored) > 0, where + "stores nothing, and its query heads have nothing to read")
            expect(
                len(set(stored)) == len(stored), where + "stores a head more than once; its query heads can share it"
            )
            expect(needed <= set(stored), where + "lacks a head that one of its query heads reads")
            expect(set(stored) <= needed, where + "stores a head that none of its query heads reads")


def _grouped(rng, n_kv_heads, queries):
    return {
        "num_hidden_layers": integer(rng, 20, 60),
        "num_attention_heads": n_kv_heads * queries,
        "num_key_value_heads": n_kv_heads,
        "head_dim": 8 * integer(rng, 5, 20),
    }


def _latent(rng):
    return {
        "num_hidden_layers": integer(rng, 20, 60),
        "num_attention_heads": 32,
        "kv_lora_rank": 8 * integer(rng, 20, 60),
        "qk_rope_head_dim": 8 * integer(rng, 3, 9),
    }


@exercise_check("why_latent.server", function="sequences_that_fit", points=3, section="a-server")
def server(learner, rng):
    """Size a server: how many sequences fit into the memory of its devices, beside the weights."""
    for kind in ("shared out", "latent", "few heads"):
        devices = 4
        config = {"shared out": _grouped(rng, 8, 4), "latent": _latent(rng), "few heads": _grouped(rng, 2, 8)}[kind]
        context = integer(rng, 1000, 9000)
        sizes = cost(config, context=context, tensor_parallel=devices)
        each, once = sizes.bytes_per_sequence_on_device, sizes.bytes_per_sequence
        fit = integer(rng, 60, 90)
        weights = devices * each * integer(rng, 5, 9)
        memory = weights // devices + fit * each + 7 * each // 10
        left = memory - weights // devices
        got = expect_number(learner(config, context, devices, memory, weights))
        case = f"{'latent attention' if kind == 'latent' else str(config['num_key_value_heads']) + ' stored heads'}, {devices} devices: "
        expect(got != memory // each, case + "the weights need room, too")
        expect(got != (memory - weights) // each, case + "the devices share out the weights; none holds them all")
        expect(
            kind != "latent" or got != left // (once // devices),
            case + "a latent has no heads to share out, so every device needs all of it",
        )
        expect(
            kind != "few heads" or got != left // (once // devices),
            case + "there are fewer heads than devices, and half a head is none",
        )
        expect(
            kind == "latent" or got != left // once,
            case + "a device stores the heads that its query heads read, not all",
        )
        expect(got != fit + 1, case + "the last of your sequences does not fit whole")
        _expect_integer(got, case.removesuffix(": "), what="the number of sequences")
        expect(got == fit, case + "the number of sequences is wrong")
        none = learner(config, context, devices, weights // devices // 2, weights)
        expect(none == 0, case + f"with room for half of the weights you serve {none!r} sequences, expected 0")


@exercise_check("why_latent.turning_batch", function="turning_batch", points=3, section="more-work-for-each-byte")
def turning_batch(learner, rng):
    """Find the batch from which a decoding step is held up by its products and no longer by reading."""
    for case_number in range(5):
        sizes = _draw_step(rng, turns=case_number < 4, cached=case_number > 0)
        weights, parameters, cache_bytes, cache_flops, bandwidth, flops = sizes
        got = learner(*sizes)
        if case_number == 4:
            expect(
                got is None,
                f"each sequence takes longer to read than to compute, so no batch turns; you return {got!r}, expected None",
            )
            continue
        what = "with caches" if cache_bytes else "with an empty cache"
        expect(got is not None, f"{what}: you return None, and a batch that turns exists")
        batch = _expect_integer(got, what, what="the batch")

        def solve(per_parameter=2, cache_bytes=cache_bytes, cache_flops=cache_flops, sizes=sizes):
            return _turning_point(sizes[0], per_parameter * sizes[1], cache_bytes, cache_flops, *sizes[4:])

        expect(batch != solve(per_parameter=1), f"{what}: a weight costs every token a multiplication and an addition")
        if cache_bytes:
            expect(batch != solve(cache_bytes=0), f"{what}: every sequence has a cache of its own that is read")
            expect(batch != solve(cache_flops=0), f"{what}: scores and mixtures are products, too")
            nothing = solve(cache_bytes=0, cache_flops=0)
            expect(batch != nothing, f"{what}: you count the weights alone")
        computing = batch * (2 * parameters + cache_flops) / flops
        reading = (weights + batch * cache_bytes) / bandwidth
        expect(computing >= reading, f"{what}: at your batch reading still takes longer than computing")
        if batch != solve():
            raise Broken(f"{what}: a smaller batch than yours turns already")


def _turning_point(weights, flops_of_weights, cache_bytes, cache_flops, bandwidth, flops) -> int | None:
    gained = (flops_of_weights + cache_flops) / flops - cache_bytes / bandwidth
    return math.ceil(weights / bandwidth / gained) if gained > 0 else None


def _draw_step(rng, *, turns: bool, cached: bool):
    """Sizes of a step whose turning batch is well between two integers, or is none."""
    while True:
        parameters = integer(rng, 5, 90) * 10**9
        weights = integer(rng, 1, 3) * parameters
        bandwidth, flops = integer(rng, 10, 50) * 10**11, integer(rng, 100, 900) * 10**12
        per_token = 2 * parameters / flops  # seconds
        share = (0.2 + 0.3 * integer(rng, 0, 100) / 100) if turns else 1.5
        cache_bytes = int(share * per_token * bandwidth) if cached else 0
        cache_flops = int(0.3 * parameters) if cached else 0
        gained = (2 * parameters + cache_flops) / flops - cache_bytes / bandwidth
        exact = weights / bandwidth / gained
        if not turns or 0.1 < exact % 1 < 0.9:
            return weights, parameters, cache_bytes, cache_flops, bandwidth, flops
