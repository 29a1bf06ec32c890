"""Counts against hand counts and instrumented runs; the roofline; records; and that one failure costs one line."""

import dataclasses
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import attncourse
from attncourse import softmax_attention
from attncourse.__main__ import main
from attncourse.profile import measure
from attncourse.profile.cases import CASES, Draw, sdpa_backend, sdpa_form
from attncourse.profile.command import describe_measurements
from attncourse.profile.compare import Pair, compare_records, pair_records
from attncourse.profile.counts import Count, Size, attention_count, banded_pairs, projection_count
from attncourse.profile.device_facts import PRINTED, device_facts, versions
from attncourse.profile.limits import Limits, measure_limits
from attncourse.profile.measure import describe_problem, measure_form, measure_mechanisms
from attncourse.profile.record import Measurement, Record, read_record, write_record
from attncourse.profile.roofline import Roofline
from attncourse.profile.timing import time_calls
from attncourse.softmax_attention.case import case as softmax_case

SMALL = Size(b=2, h=4, g=2, t=128, s=128, dk=16, dv=16)
LIMITS = Limits(copy=1e10, read=1e10, matmul={"float32": 1e11})


def flops_of(call, *inputs) -> int:
    """Products that PyTorch's own counter sees."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops()


@given(st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(-9, 12), st.none() | st.integers(-9, 12))
def test_pairs_are_those_of_the_mask(t, s, before, after):
    pairs = 0
    for i in range(t):
        for j in range(s):
            distance = s - t + i - j
            pairs += (before is None or distance <= before) and (after is None or -distance <= after)
    assert banded_pairs(t, s, before=before, after=after) == pairs


def test_pairs_of_a_billion_tokens_are_counted_at_once():
    n, window = 10**9, 4096
    assert banded_pairs(n, n, after=0) == n * (n + 1) // 2
    assert banded_pairs(n, n, before=window - 1, after=0) == n * window - window * (window - 1) // 2


def test_attention_is_counted_as_by_hand():
    # 3 queries and 5 keys see each other: 15 pairs a head, 8 heads in all; a score takes 4 products, a mixture 6.
    size = Size(b=2, h=4, g=2, t=3, s=5, dk=4, dv=6)
    count = attention_count(size, pairs=15, itemsize=2)
    assert count.flops == 8 * 15 * (4 + 6) * 2
    assert count.bytes == 2 * (2 * 4 * 3 * 4 + 2 * 2 * 5 * 4 + 2 * 2 * 5 * 6 + 2 * 4 * 3 * 6)
    assert count.intensity == count.flops / count.bytes


def test_a_projection_is_counted_as_pytorch_counts_it():
    layer, x = torch.nn.Linear(7, 11), torch.randn(5, 7)
    count = projection_count(5, 7, 11, itemsize=4)
    assert count.flops == flops_of(layer, x)
    assert count.bytes == x.nbytes + layer(x).nbytes + sum(p.nbytes for p in layer.parameters())


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_go_in_and_out(name):
    case = CASES[name](SMALL, Draw())
    with torch.no_grad():
        out = case.forms["reference"](*case.inputs)
    assert case.count.bytes == out.nbytes + sum(x.nbytes for x in case.inputs)


@pytest.mark.parametrize("name", ["multiplicative", "multi_head", "block_sparse"])
def test_flops_are_those_of_an_instrumented_run(name):
    case = CASES[name](SMALL, Draw())
    assert case.count.flops == flops_of(case.forms["reference"], *case.inputs)


def test_additive_flops_are_those_of_an_instrumented_run_and_its_sums():
    case = CASES["additive"](SMALL, Draw())
    sums = SMALL.b * SMALL.h * SMALL.t * SMALL.s * SMALL.dk
    assert case.count.flops == flops_of(case.forms["reference"], *case.inputs) + sums


@pytest.mark.parametrize(("name", "share"), [("softmax_attention", 1), ("sliding_window", 1), ("hard_attention", 1)])
def test_masked_forms_are_counted_by_their_pairs(name, share):
    case = CASES[name](SMALL, Draw())
    pairs = banded_pairs(SMALL.t, SMALL.s, after=0)  # the window is longer than the sequence
    assert case.count.flops * SMALL.t * SMALL.s == flops_of(case.forms["reference"], *case.inputs) * pairs * share


def test_linear_attention_is_counted_token_by_token():
    case = CASES["linear_attention"](SMALL, Draw())
    of_state = SMALL.dk * SMALL.dv + SMALL.dk  # S, and the normalizer z
    assert case.count.flops == 2 * SMALL.b * SMALL.s * (SMALL.g + SMALL.h) * of_state


def test_global_local_is_counted_by_its_mask():
    case = CASES["global_local"](dataclasses.replace(SMALL, t=300, s=300), Draw())
    pairs = sum(1 for i in range(300) for j in range(300) if abs(i - j) <= 128 or min(i, j) < 4)
    assert case.count.flops == 2 * SMALL.b * SMALL.h * pairs * 32


@pytest.mark.parametrize("name", CASES)
def test_every_form_computes_the_same(name):
    case = CASES[name](Size(b=1, h=2, g=2, t=20, s=20, dk=16, dv=16), Draw())
    with torch.no_grad():
        expected = case.forms["reference"](*case.inputs)
        for form in case.forms.values():
            torch.testing.assert_close(form(*case.inputs), expected, atol=1e-5, rtol=1e-4)


def test_the_roofline_bends_at_its_ridge():
    roofline = Roofline(bandwidth=100.0, flops=1000.0)
    assert roofline.ridge == 10
    assert roofline.seconds(Count(flops=50, bytes=100)) == 1.0 and roofline.limit(Count(50, 100)) == "memory"
    assert roofline.seconds(Count(flops=5000, bytes=100)) == 5.0 and roofline.limit(Count(5000, 100)) == "compute"


def test_limits_are_rates_of_calls_that_take_their_time():
    limits = measure_limits("cpu", dtypes=(torch.float32,), read_bytes=2**22, matrix=64)
    assert 1e8 < limits.read < 1e13 and 1e8 < limits.copy < 1e13
    assert 1e7 < limits.matmul["float32"] < 1e14


def test_calls_take_turns_and_the_median_is_one_of_them():
    turns = []
    timing = time_calls([lambda: turns.append(0), lambda: turns.append(1)], device="cpu", least_runs=5, seconds=0)
    assert turns == [0, 1, 0, 0, 1, 0, 1, 0]  # 3 warm-ups, then 5 runs
    assert 0 < timing.low <= timing.median <= timing.high and timing.spread >= 0


def test_a_measured_form_says_what_it_reached():
    one = measure_form("sliding_window", "blocked", size=SMALL, device="cpu", dtype="float32", limits=LIMITS)
    assert one.problem is None and 0 < one.low <= one.seconds <= one.high
    assert one.predicted == max(one.bytes / 1e10, one.flops / 1e11)
    assert one.fraction == one.predicted / one.seconds
    assert one.peak_bytes >= SMALL.b * SMALL.h * SMALL.t * SMALL.dv * 4  # the result at least


def test_an_interpreted_kernel_is_not_timed():
    one = measure_form("softmax_attention", "triton", size=SMALL, device="cpu", dtype="float32", limits=LIMITS)
    assert one.seconds is None and "interpreter" in one.problem


def test_what_fails_is_named(monkeypatch):
    def case(size, draw):
        def too_much(*qkv):
            return torch.empty(2**50)

        def refuses(*qkv):
            raise ValueError("no such head\nand more")

        return dataclasses.replace(softmax_case(size, draw), forms={"large": too_much, "picky": refuses})

    monkeypatch.setitem(CASES, "softmax_attention", case)
    told = dict(size=SMALL, device="cpu", dtype="float32", limits=LIMITS)
    assert measure_form("softmax_attention", "large", **told).problem == "out of memory"
    assert measure_form("softmax_attention", "picky", **told).problem == "ValueError: no such head"
    assert describe_problem(MemoryError()) == "out of memory"


def dies_at_blocked(mechanism, form, **told):
    """In place of measure_form: a process that is killed by the operating system."""
    if form == "blocked":
        os._exit(9)
    return measure_form(mechanism, form, **told)


def test_a_killed_process_costs_its_own_line(monkeypatch):
    monkeypatch.setattr(measure, "measure_form", dies_at_blocked)
    told = dict(size=dataclasses.replace(SMALL, t=16, s=16), device="cpu", dtype="float32", limits=LIMITS)
    lines = list(measure_mechanisms(["softmax_attention"], **told, progress=lambda what: None))
    assert [line.form for line in lines] == ["reference", "blocked", "torch", "triton"]
    assert [line.seconds is None for line in lines] == [False, True, False, True]
    assert "killed" in lines[1].problem


@pytest.fixture
def record():
    run = Measurement("m", "f", "w", {"b": 1}, "float32", 10, 20, 0.5, "memory", 1.0, 0.9, 1.1, 40)
    failed = dataclasses.replace(
        run, form="g", seconds=None, low=None, high=None, peak_bytes=None, problem="out of memory"
    )
    return Record(device_facts("cpu"), LIMITS, versions(), "2026-01-02", "python -m attncourse profile", (run, failed))


def test_a_record_comes_back_as_it_went(record, tmp_path):
    for printed in (None, PRINTED["T4"]):
        record = dataclasses.replace(record, device=dataclasses.replace(record.device, printed=printed))
        write_record(record, tmp_path / "r.json")
        assert read_record(tmp_path / "r.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert "2026-01-02" in record.caption and torch.__version__ in record.caption


def timed(record, seconds, *, form="f", spread=0.1):
    """The record with one measurement, of this time and these quartiles."""
    fields = dict(form=form, seconds=seconds, low=seconds * (1 - spread), high=seconds * (1 + spread))
    return dataclasses.replace(record, measurements=(dataclasses.replace(record.measurements[0], **fields),))


@pytest.mark.parametrize(
    ("seconds", "ratio", "verdict"),
    [(2.0, 2.0, "slower"), (0.5, 0.5, "faster"), (1.15, 1.15, "within the noise"), (0.9, 0.9, "within the noise")],
)
def test_a_verdict_needs_more_than_noise(record, seconds, ratio, verdict):
    (pair,), *alone = pair_records(timed(record, 1.0), timed(record, seconds))
    assert pair.ratio == ratio and pair.verdict == verdict and alone == [[], []]


def replayed(record, seconds, graph):
    """The record with one measurement by both clocks."""
    one = timed(record, seconds).measurements[0]
    told = dict(replay=graph, replay_low=0.9 * graph, replay_high=1.1 * graph, cold=True)
    return dataclasses.replace(record, measurements=(dataclasses.replace(one, **told),))


def test_each_clock_that_both_records_have_is_compared_by_itself(record):
    first, second = replayed(record, 1.0, 0.5), replayed(record, 1.05, 0.25)
    pairs, *_ = pair_records(first, second)
    assert [(pair.clock, pair.ratio, pair.verdict) for pair in pairs] == [
        ("call", 1.05, "within the noise"),
        ("graph", 0.5, "faster"),
    ]
    assert [pair.clock for pair in pair_records(first, timed(record, 1.0))[0]] == ["call"]
    (line,) = [line for line in compare_records(first, second).splitlines() if " graph " in line]
    assert "500 (450..550)" in line and "250 (225..275)" in line and line.endswith("faster")


def test_two_fused_attentions_are_told_apart_in_a_comparison(record):
    both = [dataclasses.replace(timed(record, 1.0).measurements[0], backend=name) for name in ("cudnn", "flash")]
    assert Pair(*both).form == "f (cudnn) / f (flash)" and Pair(both[0], both[0]).form == "f (cudnn)"


def test_what_one_record_alone_has_is_said(record, tmp_path, capsys):
    other = dataclasses.replace(record.device, name="another")
    write_record(timed(record, 1.0), tmp_path / "a.json")
    write_record(dataclasses.replace(timed(record, 1.0, form="h"), device=other), tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "A alone: m f (w, b 1)" in printed and "B alone: m h (w, b 1)" in printed and "devices differ" in printed


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"device": {}}'])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is no record of measurements"):
        read_record(tmp_path / "r.json")


def test_the_table_says_what_did_not_run(record):
    text = describe_measurements(record.measurements)
    assert "50.0%" in text and "did not run, out of memory: m g" in text


def test_the_table_has_both_clocks_and_says_what_has_one(record):
    text = describe_measurements(record.measurements)
    assert "graph" not in text and "measured ms" in text
    both, call = replayed(record, 1.0, 0.625).measurements[0], record.measurements[0]
    uncaptured = dataclasses.replace(call, form="h", replay_problem="it waits")
    warm = dataclasses.replace(both, form="j", cold=False, backend="cudnn")
    lines = describe_measurements((both, uncaptured, warm)).splitlines()
    assert "call ms" in lines[0] and "graph ms" in lines[0] and "measured ms" not in lines[0]
    cells = lines[2].split()
    assert "80.0%" in cells and "1e+03" in cells and "625" in cells and "562..688" in cells
    assert "50.0%" in lines[3].split() and "-" in lines[3].split() and "j (cudnn)" in lines[4]
    assert "no graph, it waits: m h at b 1" in lines
    assert next(line for line in lines if line.startswith("not cold")).endswith(": m j at b 1")


@pytest.mark.parametrize("name", ["flash", "math"])
def test_the_fused_attention_of_a_name_is_the_one_that_runs(name):
    q, k, v = torch.randn(3, 2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    form = sdpa_form(name, is_causal=True)
    assert sdpa_backend(lambda: form(q, k, v)) == name
    torch.testing.assert_close(form(q, k, v), sdpa_form(is_causal=True)(q, k, v))
    expected = softmax_attention.softmax_attention(q, k, v, causal=True)
    torch.testing.assert_close(form(q, k, v), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(attncourse.device() == "cuda", reason="there is a GPU")
def test_a_fused_attention_that_is_not_there_has_no_substitute():
    q = torch.randn(1, 1, 4, 16)
    with pytest.raises(RuntimeError):
        sdpa_form("cudnn")(q, q, q)


def test_the_form_torch_says_which_fused_attention_it_took():
    told = dict(size=SMALL, device="cpu", dtype="float32", limits=LIMITS, seconds=0.0)
    one = measure_form("softmax_attention", "torch", **told)
    assert one.backend == sdpa_backend(
        lambda: sdpa_form(is_causal=True, enable_gqa=True)(*CASES["softmax_attention"](SMALL, Draw()).inputs)
    )
    assert one.form_named == f"torch ({one.backend})" and one.cold is None and one.graph is None
    assert measure_form("softmax_attention", "blocked", **told).form_named == "blocked"


def test_the_command_measures_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("attncourse.profile.limits.READ_BYTES", {"cpu": 2**22})
    monkeypatch.setattr("attncourse.profile.limits.MATRIX", {"cpu": 64})
    path = tmp_path / "record.json"
    assert (
        main(["profile", "--device", "cpu", "--mechanism", "linear_attention", "--length", "32", "--out", str(path)])
        == 0
    )
    printed = capsys.readouterr().out
    assert "linear_attention" in printed and "of limit" in printed and "torch" in printed
    lines = read_record(path).measurements
    assert [line.form for line in lines] == ["reference", "blocked", "triton"]
    assert lines[0].size["s"] == 32 and lines[0].seconds > 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Size(b=1, h=3, g=2, t=1, s=1, dk=1, dv=1), "2 key/value heads must divide the 3 query heads"),
        (lambda: Size(b=0, h=2, g=2, t=1, s=1, dk=1, dv=1), "b must be an integer of at least 1, got 0"),
        (lambda: Roofline(0.0, 1.0), "positive rates, got 0.0 bytes/s"),
        (lambda: sdpa_form("fast"), "backend must be one of flash, cudnn, efficient, math, or None, got 'fast'"),
        (lambda: time_calls([], device="cpu"), "give a call and a run, got 0 calls"),
        (lambda: measure_form("soft", "torch", size=SMALL, device="cpu", dtype="float32", limits=LIMITS), "got 'soft'"),
        (
            lambda: measure_form("additive", "torch", size=SMALL, device="cpu", dtype="float32", limits=LIMITS),
            "additive has the forms reference, blocked, triton, got 'torch'",
        ),
        (
            lambda: measure_form("additive", "blocked", size=SMALL, device="cpu", dtype="int8", limits=LIMITS),
            "dtype must be one of float32, got 'int8'",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(attncourse.device() == "cuda", reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["profile", "--device", "cuda"])
    assert stopped.value.code == 2 and "needs a GPU" in capsys.readouterr().err
