"""Tiles, warps and stages of the kernels that matter most: every candidate that the chip takes, best first.

A candidate goes into the room's own CONFIGS, and the room's own launcher runs it. Several processes compile at once and
compare each candidate with the definition; then one process times those that are right, alone. What does not fit the chip is
a line, as is what breaks its process.
"""

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from attncourse import device
from attncourse.grouped_query import grouped_query_decode
from attncourse.latent import latent_attention_absorbed
from attncourse.profile.cases import Draw
from attncourse.profile.counts import Size
from attncourse.profile.decode_cases import _step, latent_case
from attncourse.softmax_attention import softmax_attention
from attncourse.testing import relative_error

from .clock import Clock, tried
from .report import Report, Told, told

Config = tuple[int, ...]
DTYPE = {"cuda": torch.float16, "cpu": torch.float32}
WRONG = {"cuda": 1e-2, "cpu": 1e-4}  # an error that no right config has
MOST_AT_ONCE = 12


@dataclass(frozen=True)
class Target:
    """An entry of a room's CONFIGS.

    Attributes:
        room: whose kernel it is.
        which: the kernel's name in CONFIGS, or how many queries it takes, or "" where the room has one table alone.
        width: the key of the entry: a padded width.
    """

    room: str
    which: str
    width: int

    def __str__(self) -> str:
        return " ".join(filter(None, [self.room, self.which, f"width {self.width}"]))

    @property
    def _configs(self) -> dict[int, Config]:
        """The room's own entries for this chip and kernel, by width."""
        room = import_module(f"attncourse.{self.room}.kernel")
        configs = room.CONFIGS[self.which] if self.which else room.CONFIGS
        if device() == "cpu":
            return configs["fma"]  # what float32 takes, interpreted
        major, _ = torch.cuda.get_device_capability()
        old = 75 if self.room == "latent" else "fma"
        return configs[old if major < 8 else 90 if major >= 9 else 80]

    @property
    def present(self) -> Config:
        """What CONFIGS has now."""
        return self._configs[self.width]

    def take(self, config: Config) -> None:
        """Put a candidate into CONFIGS, for this process."""
        self._configs[self.width] = config

    def candidates(self, where: str) -> list[Config]:
        """The present entry, and the others from near to far: those that differ from it in fewer numbers come first."""
        present = self.present
        if where == "cpu":
            return [present, (*present[:-2], 2 * present[-2], present[-1])]
        if self.room == "softmax_attention":
            axes = (32, 64, 128) if self.which != "fwd" else (64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 4)
        elif self.room == "grouped_query":
            axes = (32, 64, 128), (2, 4, 8), (1, 2, 3, 4, 5)
        else:
            axes = (16, 32, 64), (16, 32, 64, 128), (4, 8), (1, 2, 3)
        others = [config for config in itertools.product(*axes) if config != present]
        return [present, *sorted(others, key=lambda config: _distance(config, present))]


def _distance(config: Config, other: Config) -> tuple[int, float]:
    changed = sum(a != b for a, b in zip(config, other, strict=True))
    return changed, sum(max(a, b) / min(a, b) for a, b in zip(config, other, strict=True))


def targets(where: str) -> list[Target]:
    """What is swept: attention's three kernels at both widths, and the two decoders."""
    softmax = [
        Target("softmax_attention", which, width) for width in (64, 128) for which in ("fwd", "bwd_dkdv", "bwd_dq")
    ]
    latent = Target("latent", "many", 512) if where == "cuda" else Target("latent", "few", 128)
    decoders = [Target("grouped_query", "", 128), latent]
    if where == "cpu":
        return [softmax[0], softmax[1], *decoders]
    return [*decoders, *softmax]


def call_of(target: Target, *, where: str, small: bool) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """What the launcher does at a size, and the definition of it in float64: outputs, or a gradient, as one tensor.

    The small size is off the tiles' edges, and a multiple of 16 as the large one is: Triton compiles the same kernel for both.
    """
    draw = Draw(where, DTYPE[where])
    small = small or where == "cpu"
    if target.room == "softmax_attention":
        return _softmax(target, draw, small=small)
    s, b = (272, 1) if small else (16_384, 8)
    h = 4 if where == "cpu" else 32
    size = Size(b=b, h=h, g=h, t=1, s=s, dk=target.width, dv=target.width)
    if target.room == "grouped_query":
        from attncourse.grouped_query.kernel import plan_grouped_query_decode

        q, k, v = draw.qkv(_step(size, shared=4))
        plan = plan_grouped_query_decode(q, k, v)
        return (lambda: plan.run(q, k, v)[0]), lambda: grouped_query_decode(q.double(), k.double(), v.double())
    from attncourse.latent.kernel import plan_latent_decode

    width = target.width // 4
    inputs = latent_case(Size(b=b, h=h, g=h, t=1, s=s, dk=width, dv=width), draw).inputs
    plan = plan_latent_decode(*inputs)
    return (lambda: plan.run(*inputs)), lambda: latent_attention_absorbed(*(x.double() for x in inputs))


def _softmax(target: Target, draw: Draw, *, small: bool):
    from attncourse.softmax_attention.kernel import softmax_attention_triton

    t, b, h = (144, 1, 16) if small else (4096, 4, 2048 // target.width)
    if draw.device == "cpu":
        t, h = 37, 2
    q, k, v = (
        x.requires_grad_(target.which != "fwd") for x in draw.qkv(Size(b, h, h, t, t, target.width, target.width))
    )
    if target.which == "fwd":
        exact = lambda: softmax_attention(q.double(), k.double(), v.double(), causal=True)  # noqa: E731
        return (lambda: softmax_attention_triton(q, k, v, causal=True)), exact
    out = softmax_attention_triton(q, k, v, causal=True)
    along = torch.ones_like(out) * torch.arange(t, device=out.device)[:, None] / t

    def gradients(out, along) -> Tensor:
        return torch.stack(torch.autograd.grad(out, (q, k, v), along, retain_graph=True))

    def exact_gradients() -> Tensor:
        return gradients(softmax_attention(q.double(), k.double(), v.double(), causal=True), along.double())

    return (lambda: gradients(out, along)), exact_gradients


def check(target: Target, config: Config, where: str) -> float:
    """In a process of its own: compile a candidate, for the small size and for the one that is timed; its error.

    Raises:
        Exception: whatever the compiler or the chip says of it.
    """
    before = target.present
    target.take(config)
    try:
        if where == "cuda":
            call_of(target, where=where, small=False)[0]()
            torch.cuda.synchronize()
        call, exact = call_of(target, where=where, small=True)
        return relative_error(call(), exact())
    finally:
        target.take(before)


def time_one(target: Target, config: Config, *, where: str, clock: Clock) -> float:
    """Seconds of the launcher with a candidate; what was there before is put back."""
    before = target.present
    target.take(config)
    try:
        call = call_of(target, where=where, small=False)[0]
        return clock.seconds(call) if target.room == "softmax_attention" else clock.replayed(call)
    finally:
        target.take(before)


class Checkers:
    """Processes that check candidates side by side; where one is killed, or its GPU is in doubt, all are new afterwards."""

    def __init__(self, where: str):
        self.where = where
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        most = max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) - 2))
        return ProcessPoolExecutor(most, mp_context=multiprocessing.get_context("spawn"))

    def check(self, batch: list[tuple[Target, Config]], *, seconds: float) -> list[tuple[float | None, str | None]]:
        """Error or problem of each candidate; TimeoutError is the problem of those that were not done in time."""
        end = time.monotonic() + seconds
        futures = [self._submit(target, config) for target, config in batch]
        found = [tried(partial(_result, future, end)) for future in futures]
        if any(problem and ("CUDA error" in problem or "BrokenProcessPool" in problem) for _, problem in found):
            self.close()
            self._pool = self._new()
        return found

    def _submit(self, target: Target, config: Config) -> Future:
        try:
            return self._pool.submit(check, target, config, self.where)
        except BrokenProcessPool:
            self._pool = self._new()
            return self._pool.submit(check, target, config, self.where)

    def close(self) -> None:
        """Let go of what has not begun, and wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future, end: float) -> float:
    return future.result(timeout=max(end - time.monotonic(), 0.1))


def rounds(where: str) -> Iterator[list[tuple[Target, Config]]]:
    """A few candidates of each target at a time, so that time that runs out takes the far ones of all targets."""
    lists = {target: target.candidates(where) for target in targets(where)}
    for i in range(0, max(map(len, lists.values())), 4):
        yield [(target, config) for target, configs in lists.items() for config in configs[i : i + 4]]


def sweep(report: Report, told: Told) -> None:
    """Check and time, round by round, until the time is over; while one is timed, nothing is checked."""
    checkers = Checkers(told.device)
    rows: dict[Target, list[dict]] = {target: [] for target in targets(told.device)}
    late = 0
    for batch in rounds(told.device):
        if told.left <= 0:
            late += len(batch)
            continue
        checked = checkers.check(batch, seconds=told.left)
        for (target, config), (error, problem) in zip(batch, checked, strict=True):
            if told.left <= 0 or (problem or "").startswith("TimeoutError"):
                late += 1
                continue
            row = time_row(target, config, error, problem, where=told.device)
            rows[target].append(row)
            if row["now"] and row["problem"]:
                report.failures.append(f"{target}, as CONFIGS has it: {row['problem']}")
        show(report, rows)
    checkers.close()
    if late:
        report.not_run.append(f"{late} candidates: no time was left")
    report.failures += [
        f"{target}: no time was left for what CONFIGS has" for target, found in rows.items() if not found
    ]


def time_row(target: Target, config: Config, error: float | None, problem: str | None, *, where: str) -> dict:
    """A line of the table: a candidate that is right is timed."""
    seconds, clock = None, Clock(where, milliseconds=20)
    if problem is None and not error < WRONG[where]:
        problem = f"wrong, error {error:.2g}"
    if problem is None:
        seconds, problem = tried(partial(time_one, target, config, where=where, clock=clock))
    now = "now" if config == target.present else ""
    return {"config": " ".join(map(str, config)), "now": now, "us": seconds and 1e6 * seconds, "of now": None, "error": error,
            "problem": problem}  # fmt: skip


def show(report: Report, rows: dict[Target, list[dict]]) -> None:
    """Best first, beside what CONFIGS has now."""
    words = []
    for target, found in rows.items():
        found.sort(key=lambda row: float("inf") if row["us"] is None else row["us"])
        now = next((row["us"] for row in found if row["now"]), None)
        if now:
            words.append(f"{target}: {now / found[0]['us']:.2f}x by {found[0]['config']}")
            for row in found:
                row["of now"] = row["us"] and row["us"] / now
        report.table(f"{target}: config, best first", found)
    tried_out = sum(map(len, rows.values()))
    report.words = f"{tried_out} candidates tried; " + "; ".join(words)
    report.save()


def main() -> int:
    """Sweep."""
    given = told(__doc__)
    report = given.report
    report.save()
    sweep(report, given)
    if given.device == "cpu":
        report.not_run.append("every candidate but the nearest, and what the chip makes of it: not run, needs a GPU")
    return report.finish(report.words)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without waiting for checks that nobody asks for any more: who started this ends them
