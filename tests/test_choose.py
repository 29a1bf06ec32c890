"""`choose`: its numbers against counts by hand and real objects, its rules one by one, and what must be monotone."""

import dataclasses
import itertools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.__main__ import main
from attncourse._shared.units import format_seconds
from attncourse.block_sparse import strided
from attncourse.choose import DESIGNS, Job, Shape, choose
from attncourse.choose.designs import global_local_pairs, strided_keys, strided_pairs
from attncourse.choose.quality import LOST, sharing_lost
from attncourse.global_local import global_local_mask
from attncourse.kv_cache import MODELS, cost
from attncourse.models.study import STUDIES, read_study
from attncourse.profile.counts import Count
from attncourse.profile.device_facts import device_facts
from attncourse.profile.limits import Limits
from attncourse.profile.record import Record, write_record
from attncourse.profile.roofline import Roofline

NAMES = [design.name for design in DESIGNS]
JOB = dict(
    length=8, batch=1, phase="decoding", source_length=None, causal=True, locality=None, exact=True, may_share=None,
    tensor_parallel=1, memory=None, latency=None, dtype="bfloat16", roofline=Roofline(1.0, 1.0),
)  # fmt: skip
CROSS = {"cross_attention", "multiplicative", "additive"}


def admitted(**job) -> list[str]:
    return [choice.design for choice in choose(**job) if choice.admitted]


def of(design: str, **job):
    (found,) = [choice for choice in choose(**job) if choice.design == design]
    return found


def test_every_design_is_listed_once_and_the_admitted_come_first():
    for job in (dict(length=4096), dict(length=8, source_length=5), dict(length=3000, phase="decoding", locality=64)):
        found = choose(**job)
        assert sorted(choice.design for choice in found) == sorted(NAMES)
        assert sorted(found, key=lambda choice: not choice.admitted) == found
        for choice in found:
            assert choice.admitted == (choice.excluded_by == ())
            assert choice.costs is not None or not choice.admitted
            assert choice.admitted <= (len(choice.reasons) >= 3)


# The usual recommendations, each as a job whose first answer it is.
@pytest.mark.parametrize(
    ("job", "first"),
    [
        (dict(length=2048), "multi_head"),  # moderate context, flexibility, a baseline
        (dict(length=2048, causal=False), "multi_head"),
        (dict(length=128, source_length=512), "cross_attention"),  # one sequence reads another
        (dict(length=128, source_length=512, phase="decoding"), "cross_attention"),
        (dict(length=131_072, locality=1024), "sliding_window"),  # long, and local
        (dict(length=131_072, locality=1024, causal=False), "sliding_window"),
        (dict(length=131_072, exact=False), "block_sparse"),  # restricted connectivity is tolerated
        (dict(length=1_000_000, exact=False, phase="decoding", batch=8, memory=1e9), "linear_attention"),  # streaming
        (dict(length=32_768, phase="decoding", batch=16), "multi_query"),  # decoding speed, cache footprint
        (dict(length=32_768, phase="decoding", batch=16, may_share=1), "latent"),  # small cache, heads of their own
        (
            dict(length=32_768, phase="decoding", batch=16, tensor_parallel=8),
            "grouped_query",
        ),  # a cache that splits by heads
        (dict(length=8192, phase="decoding", tensor_parallel=8, may_share=4), "grouped_query"),
        (dict(length=512, phase="decoding"), "multi_head"),  # short: the weights take the time
    ],
)
def test_the_usual_recommendations(job, first):
    assert admitted(**job)[0] == first


def test_latent_attention_replaces_nothing():
    firsts = {
        admitted(**job)[0]
        for job in (
            dict(length=2048), dict(length=128, source_length=512), dict(length=131_072, locality=1024),
            dict(length=131_072, exact=False), dict(length=32_768, phase="decoding", batch=16, may_share=1),
        )
    }  # fmt: skip
    assert len(firsts) == 5 and "latent" in firsts
    assert of("latent", length=64, causal=False).excluded_by == (
        "it shrinks the cache of a decoder, and what reads both sides keeps no cache",
    )


@pytest.mark.parametrize(("may_share", "kv_heads"), [(None, 8), (1, 32), (2, 16), (3, 16), (4, 8), (32, 8), (99, 8)])
def test_grouped_query_has_as_many_heads_as_sharing_allows(may_share, kv_heads):
    found = of("grouped_query", length=8192, phase="decoding", may_share=may_share)
    if kv_heads == 32:
        assert found.excluded_by == ("with a key/value head for each query head it is multi-head attention",)
    else:
        assert found.costs.cache_bytes_per_token == 32 * 2 * kv_heads * 128 * 2
    allowed = may_share is None or may_share >= 32
    assert of("multi_query", length=8192, phase="decoding", may_share=may_share).admitted == allowed


def test_devices_share_out_heads_and_copy_what_has_none():
    job = dict(length=8192, batch=3, phase="decoding", exact=False, locality=100)
    one, eight = ({c.design: c for c in choose(**job, tensor_parallel=n)} for n in (1, 8))
    kept = {name: eight[name].costs.held_bytes / found.costs.held_bytes for name, found in one.items() if found.costs}
    assert kept.pop("latent") == kept.pop("multi_query") == 1, "a latent and a single head are on every device"
    assert set(kept.values()) == {1 / 8}
    for name, found in one.items():
        if found.costs:
            assert eight[name].costs.others.flops == found.costs.others.flops // 8
            assert eight[name].costs.attention.flops == found.costs.attention.flops // 8
    cross = dict(length=5, source_length=96, phase="decoding")
    for name in CROSS:
        one, eight = (of(name, **cross, tensor_parallel=n).costs for n in (1, 8))
        assert (one.held_bytes, one.attention.bytes) == (8 * eight.held_bytes, 8 * eight.attention.bytes)


def test_sharing_says_what_it_lost_in_the_courses_models():
    said = {name: of(name, length=8192, phase="decoding").reasons[-1] for name in NAMES[:4]}
    assert said["grouped_query"].startswith("4 query heads share") and said["multi_query"].startswith(
        "32 query heads share"
    )
    assert all("nats" not in said[name] for name in ("multi_head", "latent"))
    for share, (mean, low, high) in LOST.items():
        (found,) = sharing_lost(
            "grouped_query", Job(**JOB | {"shape": Shape(n_heads=8, d_model=64, n_kv_heads=8 // share)})
        )
        assert f"{mean:+.3f} nats per character (95 % interval {low:+.3f} to {high:+.3f};" in found


@pytest.mark.skipif(not (STUDIES / "grouped_query_sharing.json").exists(), reason="the study is not recorded here")
def test_what_sharing_lost_is_what_was_recorded():
    losses = read_study("grouped_query_sharing").results["losses"]
    for share, told in LOST.items():
        pairs = zip(losses[f"h 8, g {8 // share}"], losses["h 8, g 8"], strict=True)
        differences = torch.tensor([shared - own for shared, own in pairs], dtype=torch.float64)
        mean, error = float(differences.mean()), float(differences.std()) / len(differences) ** 0.5
        assert told == pytest.approx((mean, mean - 2.262 * error, mean + 2.262 * error), abs=2e-3)


def test_grouped_query_is_between_both_ends():
    cached = {name: of(name, length=8192, phase="decoding").costs.cache_bytes_per_token for name in NAMES[:4]}
    assert cached == {
        "multi_head": 32 * 2 * 32 * 128 * 2, "grouped_query": 32 * 2 * 8 * 128 * 2, "multi_query": 32 * 2 * 128 * 2,
        "latent": 32 * (512 + 64) * 2,
    }  # fmt: skip


def test_a_llama_caches_what_the_calculator_says():
    model = cost(MODELS["llama-3.1-8b"].config, context=10_007, batch=3)
    costs = of("grouped_query", length=10_007, batch=3, phase="decoding").costs
    assert costs.cache_bytes_per_token == model.bytes_per_token and costs.held_bytes == model.bytes_total
    assert costs.attention == Count(model.flops_per_step, model.bytes_read_on_device)


def test_training_by_hand():
    shape = Shape(d_model=8, n_heads=2, n_layers=3, d_feed=20)
    costs = of("multi_head", length=5, batch=2, shape=shape, dtype="float32").costs
    pairs, rows = 15, 10
    assert costs.attention.flops == 3 * 3 * 2 * (2 * 2 * pairs * (4 + 4))  # passes, layers, FLOPs, b h pairs (dk + dv)
    assert costs.attention.bytes == 3 * 3 * 4 * (4 * rows * 8)
    assert costs.others.flops == 3 * 3 * 2 * rows * (4 * 8 * 8 + 2 * 8 * 20)
    assert costs.held_bytes == 3 * 4 * (4 * rows * 8) and costs.cache_bytes_per_token == 0


def test_the_times_are_the_rooflines():
    found = of("latent", length=1000, phase="decoding", device=Roofline(1e9, 1e12))
    costs = found.costs
    assert found.attention_seconds == max(costs.attention.bytes / 1e9, costs.attention.flops / 1e12)
    assert found.others_seconds == max(costs.others.bytes / 1e9, costs.others.flops / 1e12)
    assert found.step_seconds == found.attention_seconds + found.others_seconds
    served = of("grouped_query", length=32_768, batch=16, phase="decoding")
    assert served.bounds == "23.9 ms = 20.5 ms + 3.39 ms" and served.reasons[0].startswith(
        f"a step takes at least {served.bounds}"
    )
    assert of("additive", length=32).bounds == ""
    assert (
        found.limit == "memory"
        and of("latent", length=1000, phase="decoding", device=Roofline(1e12, 1e9)).limit == "compute"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00581, "5.81 ms"), (0.5, "500 ms"), (1.0, "1 s"), (39.12, "39.1 s"), (119.0, "119 s"), (834.0, "13.9 min"),
     (7100.0, "118 min"), (9000.0, "2.5 h")],
)  # fmt: skip
def test_times_are_in_the_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text


def test_a_linear_state_does_not_grow_and_a_window_stops_growing():
    job = dict(phase="decoding", exact=False, locality=100)
    for name in ("linear_attention", "sliding_window"):
        short, long = (of(name, length=n, **job) for n in (1000, 100_000))
        assert short.costs == long.costs and short.costs.cache_bytes_per_token == 0
    assert (
        of("sliding_window", length=50, **job).costs.held_bytes == of("multi_head", length=50, **job).costs.held_bytes
    )
    shape = Shape(d_model=24, n_heads=3, n_layers=2)
    assert of("linear_attention", length=9, shape=shape, **job).costs.held_bytes == 2 * 3 * 8 * 9 * 4


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_is_as_wide_as_what_is_needed(causal):
    n, near = 500, 30
    shape = Shape(d_model=8, n_heads=2, n_layers=1)
    pairs = n * near - near * (near - 1) // 2  # every token and those before it, fewer at the beginning
    pairs = pairs if causal else 2 * pairs - n
    flops = of("sliding_window", length=n, locality=near, shape=shape, causal=causal).costs.attention.flops
    assert flops == 3 * 2 * 2 * pairs * (4 + 4)
    if not causal:
        mask = global_local_mask(n, radius=near - 1, global_indices=torch.arange(4))
        hubs = of("global_local", length=n, locality=near, shape=shape, causal=False).costs.attention.flops
        assert hubs == 3 * 2 * 2 * int(mask.sum()) * (4 + 4)
    job = dict(phase="decoding", shape=shape, locality=near)
    token = of("multi_head", length=n, **job).costs.cache_bytes_per_token
    assert of("sliding_window", length=n, **job).costs.held_bytes == near * token


@pytest.mark.parametrize(("n", "stride"), [(1, 1), (17, 4), (65, 8), (64, 64), (101, 200), (53, 1)])
def test_strided_pairs_are_those_of_the_pattern(n, stride):
    mask = strided(n, stride=stride).dense_mask()
    assert strided_pairs(n, stride) == int(mask.sum())
    assert [strided_keys(p, stride) for p in range(n)] == mask.sum(dim=1).tolist()
    assert strided_pairs(n, stride) == sum(strided_keys(p, stride) for p in range(n))
    both = strided(n, stride=stride, causal=False).dense_mask()
    assert 2 * strided_pairs(n, stride) - n == int(both.sum())


@pytest.mark.parametrize(
    ("n", "radius", "n_global"), [(1, 0, 1), (13, 2, 4), (29, 0, 3), (31, 40, 2), (20, 1, 0), (9, 3, 9)]
)
def test_global_local_pairs_are_those_of_the_mask(n, radius, n_global):
    mask = global_local_mask(n, radius=radius, global_indices=torch.arange(n_global))
    assert global_local_pairs(n, radius=radius, n_global=n_global) == int(mask.sum())


JOBS = st.fixed_dictionaries(
    dict(
        length=st.integers(1, 3000), batch=st.integers(1, 8), phase=st.sampled_from(["training", "decoding"]),
        locality=st.none() | st.integers(1, 500), exact=st.booleans(), may_share=st.none() | st.integers(1, 40),
        memory=st.none() | st.floats(1e6, 1e11), latency=st.none() | st.floats(1e-4, 1.0),
    )
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(JOBS, st.integers(1, 1000), st.sampled_from(["length", "batch"]))
def test_more_to_do_never_costs_less(job, more, name):
    before = {choice.design: choice for choice in choose(**job)}
    for choice in choose(**job | {name: job[name] + more}):
        old = before[choice.design]
        if old.costs is None or choice.costs is None:
            assert old.costs is choice.costs, "the rules do not look at sizes"
            continue
        assert choice.step_seconds >= old.step_seconds and choice.costs.held_bytes >= old.costs.held_bytes
        assert old.admitted or not choice.admitted, "what was too much is still too much"


@settings(max_examples=60, deadline=None)
@given(JOBS, st.floats(1.0, 100.0))
def test_what_is_relaxed_never_excludes(job, factor):
    allowed = set(admitted(**job))
    for name in ("memory", "latency"):
        if job[name] is not None:
            assert allowed <= set(admitted(**job | {name: factor * job[name]}))
            assert allowed <= set(admitted(**job | {name: None}))
    assert allowed <= set(admitted(**job | {"exact": False})) and allowed <= set(admitted(**job | {"may_share": None}))


@settings(max_examples=60, deadline=None)
@given(JOBS)
def test_the_order_is_by_time_and_then_by_what_is_given_up(job):
    found = [choice for choice in choose(**job) if choice.admitted]
    if not found:
        return
    fastest = min(choice.step_seconds for choice in found)
    assert found[0].step_seconds <= 1.25 * fastest * (1 + 1e-9)
    for first, then in itertools.pairwise(found):
        assert first.step_seconds < 1.25 * then.step_seconds
        if then.step_seconds < first.step_seconds:
            assert NAMES.index(first.design) < NAMES.index(then.design), (
                "the slower is first only where it gives up less"
            )


def test_who_reads_another_sequence_is_told_from_who_reads_itself():
    assert set(admitted(length=7, exact=False, locality=3)) == set(NAMES) - CROSS - {"global_local"}
    assert set(admitted(length=7, exact=False, source_length=3)) == CROSS
    both_sides = set(admitted(length=7, exact=False, locality=3, causal=False))
    assert both_sides == set(NAMES) - CROSS - {"latent"}


def test_excluded_designs_say_by_which_rule():
    found = {
        choice.design: choice for choice in choose(length=32_768, batch=8, phase="decoding", memory=40e9, latency=0.01)
    }
    assert found["multi_head"].excluded_by == (
        "it keeps 137 GB, and there are 40 GB",
        "a step takes at least 44.9 ms, and it may take 10 ms",
    )
    assert found["multi_head"].costs is not None and found["multi_query"].admitted
    assert "nothing beyond its window" in found["sliding_window"].excluded_by[0]
    assert found["sliding_window"].costs is None


def _record(limits: Limits) -> Record:
    """A record of a device that reaches these limits."""
    return Record(device_facts("cpu"), limits, {"torch": "2"}, "2026-01-01", "typed", ())


def test_rates_are_those_of_the_device():
    limits = Limits(copy=1.0, read=2e12, matmul={"bfloat16": 3e14})
    measured = of("multi_head", length=4096, device=limits)
    assert measured == of("multi_head", length=4096, device=Roofline(2e12, 3e14))
    assert measured == of("multi_head", length=4096, device=_record(limits))
    slow, fast = (of("multi_head", length=4096, device=name) for name in ("A100", "H100"))
    assert slow.costs == fast.costs and slow.step_seconds > 2 * fast.step_seconds


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (dict(length=0), "length must be an integer of at least 1, got 0"),
        (dict(length=8, batch=2.0), "batch must be an integer of at least 1, got 2.0"),
        (dict(length=8, locality=0), "locality must be an integer of at least 1"),
        (dict(length=8, phase="prefill"), "phase must be one of training, decoding, got 'prefill'"),
        (dict(length=8, phase="decoding", causal=False), "decoding is causal"),
        (dict(length=8, source_length=3, locality=2), "locality is a distance within one sequence"),
        (dict(length=8, memory=0), "memory must be positive, in bytes, got 0"),
        (dict(length=8, latency=-1.0), "latency must be positive, in seconds, got -1.0"),
        (dict(length=8, may_share=0), "may_share must be an integer of at least 1"),
        (dict(length=8, tensor_parallel=8), "only decoding is counted on several devices, got tensor_parallel=8"),
        (dict(length=8, phase="decoding", tensor_parallel=3), "the 3 devices must divide the 32 heads"),
        (dict(length=8, dtype="int8"), "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (dict(length=8, device="abacus"), "device must be one of .* got 'abacus'"),
        (dict(length=8, device="V100"), "known for float32, float16, got dtype='bfloat16'"),
    ],
)
def test_what_is_no_job_is_refused(job, message):
    with pytest.raises(ValueError, match=message):
        choose(**job)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(d_model=10, n_heads=3), "the 3 heads must divide the d_model of 10"),
        (dict(n_heads=8, n_kv_heads=3), "the 3 key/value heads must divide the 8 query heads"),
        (dict(n_layers=0), "n_layers must be an integer of at least 1"),
    ],
)
def test_what_is_no_shape_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Shape(**sizes)


def test_a_shape_has_the_proportions_it_says():
    shape = Shape(d_model=5120, n_heads=40)
    assert (shape.head_dim, shape.kv_lora_rank, shape.qk_rope_head_dim, shape.n_kv_heads) == (128, 512, 64, 10)
    assert Shape(d_model=6, n_heads=3).n_kv_heads == 1
    assert dataclasses.replace(Shape(n_kv_heads=2)).n_kv_heads == 2


def run(capsys, *arguments: str) -> str:
    assert main(["choose", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_ranking_and_the_rules(capsys):
    said = run(capsys, "--length", "32768", "--batch", "16", "--phase", "decoding", "--may-share", "1", "--why")
    table, why, rules = said.strip().split("\n\n")
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["latent", "multi_head"]
    assert "36,864" in table and why.startswith(
        "latent: a step takes at least 9.28 ms = 5.77 ms + 3.51 ms, attention and the rest"
    )
    assert "not multi_query: all its 32 query heads share a key/value head, and at most 1 may" in rules
    assert len(rules.splitlines()) == len(NAMES) - 2


def test_a_million_tokens_are_counted_at_once_and_long_times_said_in_minutes(capsys):
    began = time.process_time()
    said = run(capsys, "--length", "1000000", "--inexact")
    assert time.process_time() - began < 1.0
    assert "13.9 min" in said and "39.1 s" in said


def test_the_command_takes_rates_from_where_it_is_told(capsys, tmp_path):
    typed = run(capsys, "--length", "2048", "--bandwidth", "3350GB/s", "--tflops", "989.4")
    assert typed == run(capsys, "--length", "2048") == run(capsys, "--length", "2048", "--device", "H100")
    assert typed != run(capsys, "--length", "2048", "--device", "A100")
    write_record(_record(Limits(copy=1.0, read=3350e9, matmul={"bfloat16": 989.4e12})), tmp_path / "device.json")
    assert typed == run(capsys, "--length", "2048", "--record", str(tmp_path / "device.json"))
    assert "nothing is admitted" in run(capsys, "--length", "2048", "--latency", "1e-9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "0"], "length must be an integer of at least 1"),
        (["--length", "8", "--tflops", "1"], "give --bandwidth and --tflops together"),
        (["--length", "8", "--device", "T4", "--bandwidth", "1GB/s"], "say the device once"),
        (["--length", "8", "--memory", "much"], "a size must read like 80GB"),
        (["--length", "8", "--record", "missing.json"], "missing.json"),
    ],
)
def test_the_command_explains_what_it_refuses(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["choose", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
