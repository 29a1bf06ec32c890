"""Steps of decoding: forms against float64, bytes against storages, operations against PyTorch's counter; bench and replay."""

import dataclasses
import json
import re
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

import attncourse
from attncourse.__main__ import main
from attncourse._shared.cache import CacheShape
from attncourse.kv_cache import ContiguousCache, Fp8, Int8, PagedCache, PagePool, RingCache, cost
from attncourse.latent import latent_attention_absorbed
from attncourse.lessons.cache_bandwidth.decode_record import (
    DESIGNS,
    bytes_and_seconds,
    clock_in_words,
    decode_batches,
    decode_steps,
    live_or_recorded,
    live_record,
    own_form,
    rates,
    remark,
    replayed,
)
from attncourse.lessons.cache_bandwidth.fitted_floor import Floor, fit_floor
from attncourse.lessons.cache_bandwidth.occupancy import busy_share, full_from, rounds
from attncourse.lessons.cache_bandwidth.whole_model import WholeModel
from attncourse.profile import bench, measure
from attncourse.profile.bench import GRIDS, Grid, decode_work, prefill_work, quick, record_name
from attncourse.profile.cases import CASES, Draw, Planned
from attncourse.profile.counts import Count, Size
from attncourse.profile.decode_cases import DECODE_CASES, FLEX_CASES
from attncourse.profile.device_facts import DeviceFacts, device_facts, versions
from attncourse.profile.limits import Limits
from attncourse.profile.measure import measure_form
from attncourse.profile.record import Measurement, Record, read_record, read_records, write_record
from attncourse.profile.roofline import Roofline

ROOT = Path(__file__).parents[1]
SIZE = Size(b=3, h=8, g=8, t=1, s=1040, dk=16, dv=16)  # a window of 1024 does not hold all of it; 65 pages do
LIMITS = Limits(copy=1e10, read=1e10, matmul={"float32": 1e11})


def expected(name, inputs):
    """Softmax attention in float64, head by head, from keys and values that are unpacked here."""
    if name == "decode_latent":
        q_nope, q_rope, latent, k_rope, w_uk, w_uv = (x.double() for x in inputs)
        k = torch.einsum("bsr,hnr->bhsn", latent[:, 0], w_uk)
        k = torch.cat([k, k_rope.expand(-1, len(w_uk), -1, -1)], dim=-1)
        q, v = torch.cat([q_nope, q_rope], dim=-1), torch.einsum("bsr,hdr->bhsd", latent[:, 0], w_uv)
    else:
        q, *stored = inputs
        half = len(stored) // 2
        if name == "decode_int8":
            k, v = ((codes.double() - zero) * scale for codes, scale, zero in (stored[:half], stored[half:]))
        elif name == "decode_fp8":
            k, v = (codes.double() * scale for codes, scale in (stored[:half], stored[half:]))
        elif name == "decode_paged":
            pages_k, pages_v, table, lengths = stored
            rows = [
                [torch.cat([pages[i] for i in row], dim=1)[:, : int(n)] for row, n in zip(table, lengths, strict=True)]
                for pages in (pages_k, pages_v)
            ]
            k, v = (torch.stack(of) for of in rows)
        else:
            k, v = stored
        q = q.double()
        k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    return weights @ v


@pytest.mark.parametrize("name", DECODE_CASES)
@pytest.mark.parametrize("form", ["torch", "blocked", "numba"])
def test_every_form_decodes_as_float64_does(name, form):
    for size in (SIZE, dataclasses.replace(SIZE, b=2, s=1), dataclasses.replace(SIZE, s=37)):
        case = DECODE_CASES[name](size, Draw())
        with torch.no_grad():
            out = case.forms[form](*case.inputs)
        torch.testing.assert_close(out.double(), expected(name, case.inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.dry
@pytest.mark.parametrize("name", DECODE_CASES)
def test_the_kernels_decode_as_float64_does(name):
    case = DECODE_CASES[name](Size(b=2, h=4, g=4, t=1, s=37, dk=16, dv=16), Draw())
    with torch.no_grad():
        out = case.forms["triton"](*case.inputs)
    torch.testing.assert_close(out.double(), expected(name, case.inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", DECODE_CASES)
@pytest.mark.parametrize("form", ["triton", "numba"])
def test_a_plan_for_some_inputs_decodes_others_that_lie_alike(form, name):
    size = Size(b=2, h=4, g=4, t=1, s=37, dk=16, dv=16)
    planned, others = (DECODE_CASES[name](size, Draw(seed=seed)) for seed in (0, 1))
    assert isinstance(planned.forms[form], Planned)
    clones = tuple(x.clone() for x in others.inputs)  # what takes turns
    with torch.no_grad():
        run = planned.forms[form].plan(*planned.inputs)
        for inputs in (clones, planned.inputs):
            torch.testing.assert_close(run(*inputs).double(), expected(name, inputs), rtol=1e-3, atol=1e-4)


class DrawnElsewhere(Draw):
    """Draws for "cuda" what lies on the processor."""

    def __post_init__(self):
        object.__setattr__(self, "rng", torch.Generator().manual_seed(self.seed))

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.rng)


@pytest.mark.parametrize("name", FLEX_CASES)
def test_flex_attention_is_compiled_once_and_decodes(name, monkeypatch):
    compiled, real = [], torch.compile

    def compile(function, **told):
        if function is not flex_attention:  # which compiles on its own where it is not compiled
            return real(function, **told)
        compiled.append(told)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    case = DECODE_CASES[name](SIZE, Draw())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of FlexAttention, that it is not compiled
        for _ in range(2):
            out = case.forms["flex"](*case.inputs)
    assert compiled == [{"dynamic": False}]
    torch.testing.assert_close(out.double(), expected(name, case.inputs), rtol=1e-4, atol=1e-5)


def test_the_grid_takes_flex_attention_where_a_case_has_it():
    forms = {(name, form) for name, form, _ in decode_work(GRIDS["cuda"], device="cuda", forms=("triton", "flex"))}
    assert {name for name, form in forms if form == "flex"} == set(FLEX_CASES)
    assert {name for name, form in forms if form == "triton"} == set(DECODE_CASES)
    assert {form for _, form, _ in decode_work(GRIDS["cuda"], device="cuda")} == {"triton", "torch"}


@pytest.mark.parametrize("name", sorted(set(DECODE_CASES) - {"decode_paged"}))  # whose table has to lie on the device
def test_the_kernels_for_processors_are_forms_there_alone(name):
    assert "numba" in DECODE_CASES[name](SIZE, Draw()).forms
    assert "numba" not in DECODE_CASES[name](SIZE, DrawnElsewhere("cuda")).forms


@pytest.mark.parametrize("name", DECODE_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bytes_are_those_of_the_storage_and_of_queries_and_outputs(name, dtype):
    case = DECODE_CASES[name](SIZE, Draw(dtype=dtype))
    out = SIZE.b * SIZE.h * SIZE.dv * dtype.itemsize
    assert case.count.bytes == sum(x.nbytes for x in case.inputs) + out


def test_a_part_of_a_page_is_not_counted():
    whole, part = (DECODE_CASES["decode_paged"](dataclasses.replace(SIZE, s=s), Draw()).count for s in (1040, 1039))
    assert whole.bytes - part.bytes == SIZE.b * 2 * 16 * 2 * 4  # a key and a value of two heads in float32


@pytest.mark.parametrize("name", DECODE_CASES)
def test_operations_are_those_that_pytorch_counts(name):
    case = DECODE_CASES[name](SIZE, Draw())
    # the blocked form of latents also multiplies to merge its splits
    form = latent_attention_absorbed if name == "decode_latent" else case.forms["blocked"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        form(*case.inputs)
    assert case.count.flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("decode_mha", lambda: ContiguousCache(3, CacheShape(8, (16, 16)), capacity=1040)),
        ("decode_gqa_2", lambda: ContiguousCache(3, CacheShape(4, (16, 16)), capacity=1040)),
        ("decode_gqa_4", lambda: ContiguousCache(3, CacheShape(2, (16, 16)), capacity=1040)),
        ("decode_mqa", lambda: ContiguousCache(3, CacheShape(1, (16, 16)), capacity=1040)),
        ("decode_window", lambda: RingCache(3, CacheShape(2, (16, 16)), window=1024)),
        ("decode_int8", lambda: ContiguousCache(3, CacheShape(2, (16, 16)), capacity=1040, codec=Int8())),
        ("decode_fp8", lambda: ContiguousCache(3, CacheShape(2, (16, 16)), capacity=1040, codec=Fp8())),
    ],
)
def test_bytes_are_those_of_a_cache_that_is_allocated(name, build):
    queries = 2 * 3 * 8 * 16 * 4
    assert DECODE_CASES[name](SIZE, Draw()).count.bytes - queries == build().nbytes


def test_bytes_are_those_of_pages_and_of_latents_that_are_allocated():
    cache = PagedCache(3, PagePool(3 * 65, CacheShape(2, (16, 16)), page_size=16))
    cache.append(*(torch.zeros(3, 2, 1040, 16) for _ in range(2)))
    tables = cache.block_table[:, :65].nbytes + cache.cache_seqlens.nbytes
    assert DECODE_CASES["decode_paged"](SIZE, Draw()).count.bytes - 2 * 3 * 8 * 16 * 4 == cache.nbytes + tables
    latents = ContiguousCache(3, CacheShape(1, (64, 8)), capacity=1040)
    beside = 4 * (3 * 8 * (16 + 8 + 16) + 8 * 64 * (16 + 16))  # queries and outputs, and both projections
    assert DECODE_CASES["decode_latent"](SIZE, Draw()).count.bytes - beside == latents.nbytes


def test_every_design_has_a_name_and_none_is_a_mechanism_of_prefill():
    assert set(DESIGNS) == set(DECODE_CASES) and not set(DECODE_CASES) & set(CASES)


def test_a_grid_leaves_out_what_does_not_fit():
    grid = Grid((64, 128), (1, 2), heads=2, width=8, most_bytes=2 * 2 * 128 * 8 * 4, seconds=0.0)
    assert [(size.b, size.s) for size in grid.sizes(itemsize=4)] == [(1, 64), (1, 128), (2, 64)]
    work = [*decode_work(grid, device="cpu", mechanisms=["decode_mqa"])]
    assert [(form, size.b, size.s) for _, form, size in work] == [
        (form, b, s) for b, s in ((1, 64), (1, 128), (2, 64)) for form in ("blocked", "torch", "numba")
    ]
    for device, grid in GRIDS.items():
        whole, small = ([*decode_work(g, device=device)] for g in (grid, quick(grid)))
        assert {name for name, _, _ in whole} == set(DECODE_CASES) and set(small) < set(whole)


def test_prefill_runs_every_form_but_the_interpreters():
    everything = {(name, form) for name in CASES for form in measure.smallest_case(name).forms}
    assert {(n, f) for n, f, _ in prefill_work(SIZE, device="cuda")} == everything
    assert {(n, f) for n, f, _ in prefill_work(SIZE, device="cpu")} == {x for x in everything if x[1] != "triton"}


def test_a_step_is_measured_like_any_form():
    one = measure_form("decode_paged", "blocked", size=SIZE, device="cpu", dtype="float32", limits=LIMITS, seconds=0.0)
    assert one.problem is None and 0 < one.low <= one.seconds <= one.high and one.size["s"] == 1040
    assert one.predicted == Roofline(1e10, 1e11).seconds(Count(one.flops, one.bytes))


def test_on_a_processor_a_plan_is_made_once_and_its_runs_are_timed(monkeypatch):
    from attncourse.grouped_query import cpu_kernel

    plans, real = [], cpu_kernel.plan_grouped_query_decode_numba

    def plan(*inputs, **named):
        plans.append(real(*inputs, **named))
        return plans[-1]

    monkeypatch.setattr(cpu_kernel, "plan_grouped_query_decode_numba", plan)
    one = measure_form("decode_mqa", "numba", size=SIZE, device="cpu", dtype="float32", limits=LIMITS, seconds=0.0)
    assert one.problem is None and one.seconds > 0 and len(plans) == 1


def small_bench(monkeypatch):
    """A bench of two small steps of two designs, and limits that take no time."""
    grid = Grid((32, 64), (1,), heads=2, width=8, most_bytes=2**20, seconds=0.0)
    monkeypatch.setattr(bench, "GRIDS", {"cpu": grid})
    monkeypatch.setattr(bench, "prefill_work", lambda size, *, device: iter([("linear_attention", "blocked", size)]))
    two = [(name, "blocked", size) for size in grid.sizes(itemsize=4) for name in ("decode_mqa", "decode_fp8")]
    monkeypatch.setattr(bench, "decode_work", lambda grid, *, device, forms: iter(two))
    monkeypatch.setattr("attncourse.profile.limits.READ_BYTES", {"cpu": 2**20})
    monkeypatch.setattr("attncourse.profile.limits.MATRIX", {"cpu": 32})


def test_the_bench_writes_a_record_that_is_named_after_device_and_date(monkeypatch, tmp_path, capsys):
    small_bench(monkeypatch)
    assert main(["bench", "--device", "cpu", "--quick", "--out", str(tmp_path / "new")]) == 0
    (path,) = (tmp_path / "new").iterdir()
    assert re.fullmatch(r"[a-z0-9-]+-\d{4}-\d\d-\d\d\.json", path.name) and str(path) in capsys.readouterr().out
    record = read_record(path)
    assert [m.mechanism for m in record.measurements] == ["linear_attention"] + ["decode_mqa", "decode_fp8"] * 2
    assert record.measurements[0].size["s"] == 128 and all(m.seconds > 0 for m in record.measurements)
    assert read_records(path.parent) == [record]


def test_what_ends_the_bench_leaves_what_was_measured(monkeypatch, tmp_path):
    small_bench(monkeypatch)
    real = bench.measure_work

    def interrupted(work, **told):
        for i, one in enumerate(real(work, **told)):
            if one.mechanism == "decode_mqa" and i > 0:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(bench, "measure_work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["bench", "--device", "cpu", "--quick", "--out", str(tmp_path)])
    (record,) = read_records(tmp_path)
    assert [m.mechanism for m in record.measurements] == ["linear_attention", "decode_mqa", "decode_fp8"]


def test_a_records_name_has_no_odd_characters():
    facts = dataclasses.replace(device_facts("cpu"), name="Made-Up (R) GPU, 3.5 GHz")
    assert record_name(facts, "2026-01-02") == "made-up-r-gpu-3-5-ghz-2026-01-02.json"
    assert record_name(dataclasses.replace(facts, name="處理器"), "2026-01-02") == "cpu-2026-01-02.json"


@pytest.mark.parametrize(
    ("goals", "ran"),
    [("bench-compare A=one.json B=two.json", True), ("bench-compare one.json two.json", True), ("one.json", False)],
)
def test_make_takes_two_records_either_way(goals, ran):
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", *goals.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode == 0) == ran, done.stderr
    assert ("attncourse compare one.json two.json" in done.stdout) == ran


def test_make_bench_hands_its_folder_on():
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "bench", "ARGS=--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert "attncourse bench --quick" in done.stdout


def made_up_record(*, kind="cuda", name="MADE-UP GPU, not a measurement", capability="9.0", date="2026-01-02"):
    """A record of a device that does not exist: each step takes 10 us and its bytes at 1 GB/s."""
    facts = DeviceFacts(name, kind, 80 * 10**9, 100, None if kind == "cuda" else 2, capability, "1.2.3", None)
    form = "triton" if kind == "cuda" else "blocked"
    rows = []
    for mechanism in DESIGNS:
        for b, s in ((1, 1024), (1, 4096), (8, 1024)):
            size = Size(b=b, h=32, g=32, t=1, s=s, dk=128, dv=128)
            seconds = 1e-5 + b * s * 1e-6
            told = dict(flops=10, bytes=b * s * 1000, predicted=b * s * 1e-7, limit="memory", peak_bytes=8)
            times = dict(seconds=seconds, low=0.9 * seconds, high=1.1 * seconds)
            for which in (form, "torch", *["numba"] * (kind == "cpu")):
                rows.append(Measurement(mechanism, which, "w", dataclasses.asdict(size), "float16", **told, **times))
    rows[0] = dataclasses.replace(rows[0], seconds=None, low=None, high=None, peak_bytes=None, problem="out of memory")
    limits = Limits(1e10, 1e10, {"float16": 1e12})
    return Record(facts, limits, versions(), date, "python -m attncourse bench", tuple(rows))


def test_a_record_is_read_by_design_context_and_batch():
    record = made_up_record()
    assert decode_batches(record) == [1, 8]
    steps = decode_steps(record, batch=1)
    assert set(steps) == set(DESIGNS.values())
    assert set(steps["MHA"]) == {4096}, "the step of 1024 tokens did not run"
    assert set(steps["MQA"]) == {1024, 4096} and steps["MQA"][4096].form == "triton"
    assert set(decode_steps(record, batch=8)["fp8"]) == {1024} and decode_steps(record, batch=2) == {}


def test_records_of_a_folder_come_by_date_and_none_from_no_folder(tmp_path):
    assert read_records(tmp_path / "none") == []
    for name, date in (("a", "2026-03-01"), ("b", "2026-01-01"), ("c", "2026-02-01")):
        write_record(made_up_record(date=date), tmp_path / f"{name}.json")
    assert [record.date for record in read_records(tmp_path)] == ["2026-01-01", "2026-02-01", "2026-03-01"]


def replay(tmp_path, monkeypatch, capsys):
    """The chapter's cells on records, run without the rest of it: their captions, how many figures, what they print."""
    import matplotlib.pyplot as plt

    from attncourse.lessons.cache_bandwidth.figures import bandwidth_reached, floor_and_wall

    cells = json.loads((ROOT / "book" / "cache_bandwidth.ipynb").read_text(encoding="utf-8"))["cells"]
    source = {cell["id"]: "".join(cell["source"]) for cell in cells}
    captions = []
    names = dict(
        attncourse=attncourse, RECORDS=Path("measurements"), read_records=read_records, remark=remark, GRIDS=GRIDS,
        live_or_recorded=live_or_recorded, own_form=own_form, replace=dataclasses.replace, grid=GRIDS["cpu"],
        bandwidth_reached=bandwidth_reached, floor_and_wall=floor_and_wall, fit_floor=fit_floor, rates=rates,
        bytes_and_seconds=bytes_and_seconds, DECODE_CASES=DECODE_CASES, replayed=replayed,
        clock_in_words=clock_in_words, Markdown=captions.append,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    plt.close("all")
    for name in ("gpu-record", "gpu-floor", "cpu-records"):
        exec(source[name], names)
    figures = len(plt.get_fignums())
    plt.close("all")
    return captions, figures, capsys.readouterr().out


@pytest.mark.skipif(attncourse.device() == "cuda", reason="with a GPU the chapter measures")
def test_the_replay_shows_what_was_recorded_and_says_what_was_not(tmp_path, monkeypatch, capsys):
    captions, figures, printed = replay(tmp_path, monkeypatch, capsys)
    assert figures == 0 and printed == "" and captions[1] == "*Recorded: nothing.*"
    assert "neither measured nor recorded" in captions[0] and captions[0].endswith(": 0.*")
    (tmp_path / "measurements").mkdir()
    cpu = made_up_record(kind="cpu", name="MADE-UP CPU, not a measurement", capability=None)
    write_record(cpu, tmp_path / "measurements" / "cpu.json")
    captions, figures, _ = replay(tmp_path, monkeypatch, capsys)
    assert figures == 1 and captions[1] == f"*Recorded: {cpu.caption}.*" and captions[0].endswith(": 0.*")
    gpu = made_up_record(capability="7.5")
    write_record(gpu, tmp_path / "measurements" / "gpu.json")
    captions, figures, printed = replay(tmp_path, monkeypatch, capsys)
    assert figures == 3 and "steps: recorded; records of a GPU in measurements/: 1" in captions[0]
    for part in ("one call from Python", "MADE-UP GPU", "driver 1.2.3", "2026-01-02", torch.__version__):
        assert part in captions[0]
    assert "overhead   10.0 us" in printed and "no matrix instructions" in captions[0]


def with_graphs(record):
    """The record's steps replayed, too, in a fifth of a call's time; the first of them not cold."""
    rows = [
        m
        if m.seconds is None
        else dataclasses.replace(m, replay=m.seconds / 5, replay_low=m.low / 5, replay_high=m.high / 5, cold=i > 1)
        for i, m in enumerate(record.measurements)
    ]
    return dataclasses.replace(record, measurements=tuple(rows))


@pytest.mark.skipif(attncourse.device() == "cuda", reason="with a GPU the chapter measures")
def test_the_replay_shows_both_clocks_and_says_which_is_which(tmp_path, monkeypatch, capsys):
    (tmp_path / "measurements").mkdir()
    gpu = with_graphs(made_up_record())
    write_record(gpu, tmp_path / "measurements" / "gpu.json")
    captions, figures, printed = replay(tmp_path, monkeypatch, capsys)
    assert figures == 2 and "a step of a replayed CUDA graph" in captions[0]
    assert "the chip's own cache: 1." in captions[0]
    assert "overhead    2.0 us (10.0 us called from Python)" in printed


def test_what_runs_here_is_measured_and_else_the_newest_record_is_taken(tmp_path, monkeypatch):
    asked = dict(device="cpu", form="blocked", folder=tmp_path)
    for date in ("2026-01-01", "2026-03-01"):
        write_record(made_up_record(kind="cpu", date=date), tmp_path / f"{date}.json")
    write_record(made_up_record(date="2026-04-01"), tmp_path / "gpu.json")
    record, how = live_or_recorded(GRIDS["cpu"], here=False, **asked)
    assert (record.date, how) == ("2026-03-01", "recorded")
    none, how = live_or_recorded(GRIDS["cpu"], here=False, **asked | dict(form="triton"))
    assert none is None and how.startswith("neither")
    monkeypatch.setattr("attncourse.lessons.cache_bandwidth.decode_record.live_record", lambda grid, **options: options)
    options, how = live_or_recorded(GRIDS["cpu"], here=True, **asked)
    assert how == "measured now" and options["form"] == "blocked"


def test_points_and_rates_are_of_all_steps_by_the_clock_that_is_asked_for():
    record = with_graphs(made_up_record())
    sizes, seconds = bytes_and_seconds(record)["MQA"]
    assert sizes == [1_024_000, 4_096_000, 8_192_000]
    assert seconds == pytest.approx([(1e-5 + n * 1e-9) / 5 for n in sizes])
    assert bytes_and_seconds(record, clock="call")["MQA"][1] == pytest.approx([5 * t for t in seconds])
    assert len(bytes_and_seconds(record)["MHA"][0]) == 2, "a step that did not run has no point"
    found = rates(record, form="torch", clock="call")
    assert list(found) == ["1 sequence", "8 sequences"] and set(found["1 sequence"]["MQA"]) == {1024, 4096}
    assert found["8 sequences"]["MQA"][1024] == pytest.approx(8_192_000 / (1e-5 + 8_192_000 * 1e-9))
    replays = rates(record)["8 sequences"]["MQA"][1024]
    assert replays == pytest.approx(5 * found["8 sequences"]["MQA"][1024])


def test_a_record_says_by_which_clock_its_steps_are_held_to_a_limit():
    record = made_up_record()
    assert not replayed(record) and clock_in_words(record) == "one call from Python"
    graphs = with_graphs(record)
    assert replayed(graphs) and clock_in_words(graphs) == "a step of a replayed CUDA graph"
    mixed = dataclasses.replace(graphs, measurements=graphs.measurements[:9] + record.measurements[9:])
    assert replayed(mixed) and "or one call from Python where there is no graph" in clock_in_words(mixed)


def test_an_old_chip_is_remarked_on():
    assert "7.5" in remark(made_up_record(capability="7.5").device)
    assert remark(made_up_record(capability="8.0").device) == remark(device_facts("cpu")) == ""


def test_a_live_record_has_the_courses_own_forms(monkeypatch):
    monkeypatch.setattr("attncourse.profile.limits.READ_BYTES", {"cpu": 2**20})
    monkeypatch.setattr("attncourse.profile.limits.MATRIX", {"cpu": 32})
    grid = Grid((16, 32), (1, 2), heads=4, width=8, most_bytes=2**20, seconds=0.0)
    record = live_record(grid, device="cpu")
    assert {m.form for m in record.measurements} == {"blocked"} and decode_batches(record) == [1, 2]
    assert all(set(steps) == {16, 32} for steps in decode_steps(record, batch=2).values())
    assert record.limits.matmul.keys() == {"float32"}


def test_a_line_is_found_again():
    sizes = [1e4, 1e5, 1e6, 1e7, 1e8]
    found = fit_floor(sizes, [3e-5 + x / 2e10 for x in sizes])
    assert found.overhead == pytest.approx(3e-5, rel=1e-6) and found.bandwidth == pytest.approx(2e10, rel=1e-6)
    assert found.half == pytest.approx(6e5, rel=1e-6) and found.seconds(6e5) == pytest.approx(6e-5, rel=1e-6)


def test_the_fit_weighs_short_and_long_calls_alike():
    sizes, factors = [1e3, 1e4, 1e7, 1e8], [1.1, 0.9, 1.1, 0.9]
    times = [f * (2e-5 + x / 1e10) for f, x in zip(factors, sizes, strict=True)]
    found = fit_floor(sizes, times)
    assert 0.8 < found.overhead / 2e-5 < 1.2 and 0.8 < found.bandwidth / 1e10 < 1.2

    def loss(floor):
        return sum((floor.seconds(x) / t - 1) ** 2 for x, t in zip(sizes, times, strict=True))

    for change in (0.98, 1.02):
        assert loss(found) < loss(dataclasses.replace(found, overhead=change * found.overhead))
        assert loss(found) < loss(dataclasses.replace(found, bandwidth=change * found.bandwidth))


def test_no_overhead_is_negative():
    found = fit_floor([1.0, 2.0, 3.0], [0.5, 2.0, 3.5])
    assert found.overhead == 0 and found.bandwidth > 0
    assert Floor(0.0, 2.0).half == 0


def test_times_that_do_not_grow_are_all_overhead():
    found = fit_floor([1e6, 2e6, 4e6], [1.5e-4, 1.4e-4, 1.3e-4])
    assert 1.3e-4 < found.overhead < 1.5e-4 and found.half == float("inf")
    assert found.seconds(1e9) == found.overhead


def test_programs_are_counted_in_rounds():
    assert [rounds(n, slots=10) for n in (1, 10, 11)] == [1, 1, 2]
    assert busy_share(1, slots=132) == 1 / 132 and busy_share(1, slots=132, splits=132) == 1
    assert busy_share(11, slots=10) == 11 / 20
    for groups, slots in ((1, 132), (7, 40), (200, 132), (132, 132)):
        found = full_from(groups, slots=slots)
        assert groups * found >= slots and (found == 1 or groups * (found - 1) < slots)


@pytest.mark.parametrize("name", ["llama-2-7b", "falcon-7b", "minicpm3-4b"])
def test_the_turning_batch_is_the_first_that_is_bound_by_computing(name):
    for context in (64, 512, 4096):
        for new_tokens in (1, 4):
            model = WholeModel(1.4e10, 7e9, cost(name, context=context), new_tokens)
            roofline = Roofline(3.35e12, 989.4e12)
            first = next((b for b in range(1, 5000) if roofline.limit(model.count(b)) == "compute"), None)
            turning = model.turning_batch(roofline)
            assert turning == first or (turning is not None and first is None and turning >= 5000)


def test_a_whole_model_is_counted_by_hand():
    one = cost("llama-2-7b", context=100)
    model = WholeModel(1.4e10, 7e9, one, new_tokens=2)
    cache = 2 * 32 * 32 * 128 * 2 * 100  # keys and values, layers, heads, width, bytes, tokens
    assert model.count(3) == Count(3 * 2 * (14e9 + 2 * cache / 2), 1.4e10 + 3 * cache)
    slow = Roofline(1e9, 1e30)
    assert model.tokens_per_second(3, slow) == pytest.approx(6 / ((1.4e10 + 3 * cache) / 1e9))
    assert model.fits(1.4e10 + 5.5 * cache) == 5 and model.fits(1e9) == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_floor([1.0], [1.0]), "at least two sizes"),
        (lambda: fit_floor([1.0, 2.0], [1.0, 0.0]), "a positive time each"),
        (lambda: WholeModel(1.0, 1.0, cost("gpt2", context=1, batch=2)), "a batch of 2"),
        (lambda: WholeModel(0.0, 1.0, cost("gpt2", context=1)), "got 0.0 bytes"),
        (lambda: WholeModel(1.0, 1.0, cost("gpt2", context=1), 0), "new_tokens must be an integer of at least 1"),
        (lambda: busy_share(0, slots=1), "groups must be an integer of at least 1"),
        (lambda: rounds(1, slots=0), "slots must be an integer of at least 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.parametrize("name", DECODE_CASES)
def test_the_kernels_decode_on_a_gpu(name):
    case = DECODE_CASES[name](Size(b=2, h=32, g=32, t=1, s=4097, dk=128, dv=128), Draw("cuda", torch.float16))
    with torch.no_grad():
        out = case.forms["triton"](*case.inputs)
    torch.testing.assert_close(out.double(), expected(name, case.inputs), rtol=2e-2, atol=2e-3)
