"""The clock of replayed graphs: against known work of a pretended GPU here, and against Triton's own clocks on a real one."""

import contextlib
import os
from dataclasses import replace

import pytest
import torch

from attncourse.profile import measure
from attncourse.profile.cases import Planned
from attncourse.profile.limits import Limits
from attncourse.profile.measure import MOST_COPIES, ROTATED_BYTES, measure_work, replay_too, rotation
from attncourse.profile.record import Measurement
from attncourse.profile.timing import Timing, graph_seconds, time_calls


class PretendedGpu:
    """What graphs need of torch.cuda: streams, a capture, and a clock that advances by work, not by Python."""

    def __init__(self, monkeypatch):
        self.now, self.stream, self.mode = 0.0, "main", "default"
        self.recording, self.broken = None, False
        self.log = []  # (stream, name) of what ran
        self.captured = []  # the names of each capture that ended
        pieces = dict(
            Stream=lambda: _Stream("side"), stream=self.on, current_stream=lambda: _Stream(self.stream), set_stream=self.set_stream,
            CUDAGraph=lambda: _Graph(self), graph=self.capture, graph_pool_handle=lambda: (0, 1), current_device=lambda: 0,
            Event=lambda enable_timing: _Event(self), get_sync_debug_mode=lambda: self.mode,
            set_sync_debug_mode=lambda mode: setattr(self, "mode", mode),
        )  # fmt: skip
        for name, piece in pieces.items():
            monkeypatch.setattr(torch.cuda, name, piece)

    def work(self, name, seconds):
        """What a launch does."""
        if self.recording is not None:
            self.recording.append((name, seconds))
        else:
            self.now += seconds
            self.log.append((self.stream, name))

    def wait(self, *, seen=True):
        """What a synchronisation does; not all are seen by PyTorch's debug mode."""
        if self.recording is not None:
            self.broken = True
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.mode == "error" and seen:
            raise RuntimeError("called a synchronizing CUDA operation")

    def set_stream(self, stream):
        self.stream = stream.name

    @contextlib.contextmanager
    def on(self, stream):
        before, self.stream = self.stream, stream.name
        try:
            yield
        finally:
            self.stream = before

    @contextlib.contextmanager
    def capture(self, graph, pool=None):
        before, self.stream, self.recording = self.stream, "capture", graph.nodes
        try:
            yield
        finally:
            self.recording = None
            if self.broken:  # as PyTorch: the stream stays where it is
                self.broken = False
                raise RuntimeError("operation failed due to a previous error during capture")
            self.captured.append([name for name, _ in graph.nodes])
            self.stream = before


class _Stream:
    device = "cpu"

    def __init__(self, name):
        self.name = name

    def wait_stream(self, other):
        pass


class _Graph:
    def __init__(self, gpu):
        self.gpu, self.nodes = gpu, []

    def replay(self):
        for name, seconds in self.nodes:
            self.gpu.work(name, seconds)

    def reset(self):
        self.nodes.clear()


class _Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = self.gpu.now

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


@pytest.fixture
def gpu(monkeypatch):
    return PretendedGpu(monkeypatch)


def test_a_replay_is_divided_by_its_steps_and_the_calls_take_turns_in_it(gpu):
    calls = [lambda: gpu.work("a", 1e-3), lambda: gpu.work("b", 3e-3)]
    timing = graph_seconds(calls, steps=20, seconds=0)
    assert gpu.captured == [["a", "b"] * 10]
    assert timing.median == pytest.approx(2e-3) and timing.low == pytest.approx(timing.high)


def test_each_call_has_as_many_turns_as_the_others(gpu):
    calls = [lambda n=n: gpu.work(n, n * 1e-3) for n in (1, 2, 6)]
    assert graph_seconds(calls, steps=20, seconds=0).median == pytest.approx(3e-3)
    assert gpu.captured == [[1, 2, 6] * 7]


def test_what_warms_up_does_so_on_a_side_stream_and_replays_run_on_the_callers(gpu):
    graph_seconds([lambda: gpu.work("a", 1e-3)], steps=2, warmup=3, least_runs=5, seconds=0)
    assert gpu.log[:4] == [("side", "a")] * 4  # three, and one more where waiting is an error
    assert gpu.log[4:] == [("main", "a")] * 2 * (1 + 5)  # one replay before those that are timed


def test_a_call_that_waits_is_found_before_the_capture(gpu):
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        graph_seconds([gpu.wait], seconds=0)
    assert gpu.captured == [] and (gpu.stream, gpu.mode) == ("main", "default")


def test_after_a_capture_that_broke_off_the_first_cause_is_named_and_the_next_one_works(gpu):
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        graph_seconds([lambda: gpu.wait(seen=False)], seconds=0)
    assert gpu.stream == "main"
    assert graph_seconds([lambda: gpu.work("a", 1e-3)], seconds=0).median == pytest.approx(1e-3)


@pytest.mark.bad_input
@pytest.mark.parametrize("told", [dict(calls=[]), dict(steps=0), dict(least_runs=0)])
def test_nothing_to_replay_is_an_error(told):
    calls = told.pop("calls", [lambda: None])
    with pytest.raises(ValueError, match="give a call, a step and a run, got"):
        graph_seconds(calls, **told)


CALLED = Measurement("m", "f", "w", {"b": 1}, "float32", 10, 20, 5e-4, "memory", 1e-2, 9e-3, 1.1e-2, 40, cold=True)


def test_the_graphs_time_stands_beside_the_calls_and_is_what_the_limit_is_held_to(gpu):
    both = replay_too(CALLED, lambda seconds: gpu.work("a", seconds), [(1e-3,), (3e-3,)], seconds=0)
    assert both == replace(CALLED, replay=both.replay, replay_low=both.replay_low, replay_high=both.replay_high)
    assert both.replay == pytest.approx(2e-3) and both.replay_problem is None
    assert both.call == Timing(1e-2, 9e-3, 1.1e-2) and both.step == both.graph
    assert both.fraction == pytest.approx(0.25) and CALLED.fraction == pytest.approx(0.05)


def test_a_plan_is_made_once_and_its_run_is_what_is_captured(gpu):
    plans = []

    def plan(*inputs):
        plans.append(inputs)
        return lambda x: gpu.work(("run", x), 1e-3)

    def call(x):
        gpu.wait()
        gpu.work("call", 1.0)

    both = replay_too(CALLED, Planned(call, plan), [(1,), (2,)], seconds=0)
    assert plans == [(1,)] and gpu.captured == [[("run", 1), ("run", 2)] * 5]  # 10 ms a call: 10 steps are a replay
    assert both.replay == pytest.approx(1e-3)


@pytest.mark.parametrize("seen", [True, False])
def test_what_cannot_be_captured_keeps_its_first_time_and_says_why(gpu, seen):
    one = replay_too(CALLED, lambda: gpu.wait(seen=seen), [()], seconds=0)
    assert one == replace(CALLED, replay_problem=one.replay_problem) and one.graph is None
    assert one.step == one.call and one.fraction == CALLED.fraction
    assert one.replay_problem.startswith("RuntimeError: " + ("called a sync" if seen else "operation not permitted"))


def test_a_long_call_has_fewer_steps_and_all_its_inputs(gpu):
    slow = replace(CALLED, seconds=3.0)
    replay_too(slow, lambda n: gpu.work(n, 3.0), [(1,), (2,)], seconds=0)
    replay_too(replace(CALLED, seconds=1e-5), lambda n: gpu.work(n, 1e-6), [(1,), (2,)], seconds=0)
    assert gpu.captured == [[1, 2], [1, 2] * 10]


def test_inputs_that_take_turns_are_larger_than_the_cache_or_the_measurement_says_so():
    assert rotation(ROTATED_BYTES, cache=None) == (1, None)
    assert rotation(ROTATED_BYTES // 4 - 1, cache=50 * 10**6) == (5, True)
    large = 200 * 10**6  # three of them are more than is rotated otherwise
    assert rotation(10**8, cache=large) == (6, True)
    assert rotation(3 * large // MOST_COPIES, cache=large) == (MOST_COPIES, True)
    assert rotation(3 * large // MOST_COPIES - 1, cache=large) == (MOST_COPIES, False)
    assert rotation(1, cache=1000) == (MOST_COPIES, False)


def in_this_process(mechanism, form, **told):
    """In place of measure_form: the process that measured, and a capture that broke off."""
    problem = "RuntimeError: no graph" if form == "blocked" else None
    return replace(CALLED, form=form, what=str(os.getpid()), replay_problem=problem)


@pytest.mark.parametrize(("device", "processes"), [("cuda", 2), ("cpu", 1)])
def test_a_process_whose_capture_broke_off_measures_nothing_more(monkeypatch, device, processes):
    monkeypatch.setattr(measure, "measure_form", in_this_process)
    size, told = measure.SIZES["cpu"], dict(dtype="float32", limits=Limits(1.0, 1.0, {"float32": 1.0}))
    work = [("decode_mqa", form, size) for form in ("torch", "blocked", "triton")]
    lines = list(measure_work(work, device=device, **told, progress=lambda what: None))
    assert [line.form for line in lines] == ["torch", "blocked", "triton"]
    assert lines[0].what == lines[1].what and len({line.what for line in lines}) == processes


@pytest.mark.gpu
def test_both_clocks_agree_with_tritons_on_a_large_copy():
    from triton.testing import do_bench, do_bench_cudagraph

    x = torch.randn(2**27, device="cuda")
    y = torch.empty_like(x)

    def copy():
        y.copy_(x)

    in_graph = do_bench_cudagraph(copy, return_mode="median") / 1e3
    assert graph_seconds([copy]).median == pytest.approx(in_graph, rel=0.15)
    called = do_bench(copy, return_mode="median") / 1e3
    assert time_calls([copy], device="cuda").median == pytest.approx(called, rel=0.15)


@pytest.mark.gpu
def test_the_graphs_clock_holds_no_host():
    """A step of a few microseconds behind a millisecond of Python."""
    x = torch.randn(2**12, device="cuda")

    def slow_host():
        sum(range(100_000))
        x.mul_(1.0)

    assert time_calls([slow_host], device="cuda").median > 10 * graph_seconds([slow_host]).median


@pytest.mark.gpu
def test_on_a_gpu_what_follows_a_capture_that_broke_off_works():
    x = torch.randn(2**20, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        graph_seconds([lambda: x.sum().item()], seconds=0)
    with pytest.raises(RuntimeError):
        graph_seconds([torch.cuda.synchronize], seconds=0)  # which the debug mode does not see
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    y = torch.randn(2**20, device="cuda") + torch.randn(2**24, device="cuda")[: 2**20]
    assert float(y.std()) == pytest.approx(2**0.5, rel=0.01)
    assert graph_seconds([lambda: x * 2], seconds=0).median > 0
