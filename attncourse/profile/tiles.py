"""Candidates of tiles, warps and stages: each goes into a room's own CONFIGS, and the room's own launcher runs it.

Several processes compile at once and compare each candidate with the definition; then one process times those that are
right, alone. What does not fit the chip is a line, as is what breaks its process.
"""

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from attncourse._shared.device import device
from attncourse._shared.launch import chip_in, device_capability
from attncourse.grouped_query import grouped_query_decode
from attncourse.latent import latent_attention_absorbed
from attncourse.testing import relative_error

from .cases import CASES, Draw
from .clock import Clock, tried
from .counts import Size
from .decode_cases import _step, latent_case

Config = tuple[int, ...]
DTYPE = {"cuda": torch.float16, "cpu": torch.float32}
WRONG = {"cuda": 1e-2, "cpu": 1e-4}  # an error that no right config has
MOST_AT_ONCE = 12
DECODERS = ("grouped_query", "latent")
# The other rooms whose kernels have a table: they read whole texts.
PREFILL = tuple(
    path.parent.name
    for path in sorted(Path(__file__).parents[1].glob("*/kernel.py"))
    if "\nCONFIGS = " in path.read_text(encoding="utf-8") and path.parent.name not in DECODERS
)


def capability() -> int:
    """Return the compute capability of the device here, as a launch finds it."""
    return device_capability(torch.empty(0, device=device()))


@dataclass(frozen=True)
class Target:
    """A target is an entry of a room's CONFIGS.

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
    def configs(self) -> dict[int, Config]:
        """Return the room's own entries for this chip and kernel, by width."""
        room = import_module(f"attncourse.{self.room}.kernel")
        configs = room.CONFIGS[self.which] if self.which else room.CONFIGS
        return configs[chip_in(configs, bits=32 if device() == "cpu" else 16, capability=capability())]

    @property
    def present(self) -> Config:
        """Return what CONFIGS has now."""
        return self.configs[self.width]

    def take(self, config: Config) -> None:
        """Put a candidate into CONFIGS, for this process."""
        self.configs[self.width] = config

    def candidates(self, where: str) -> list[Config]:
        """Return the present entry, and the others from near to far:
        those that differ from it in fewer numbers come first.
        """
        present = self.present
        if where == "cpu":
            return [present, (*present[:-2], 2 * present[-2], present[-1])]
        if self.room == "grouped_query":
            axes = (32, 64, 128), (2, 4, 8), (1, 2, 3, 4, 5)
        elif self.room == "latent":
            axes = (16, 32, 64), (16, 32, 64, 128), (4, 8), (1, 2, 3)
        elif self.room == "linear_attention":
            axes = (16, 32, 64), (16, 32, 64), (4, 8), (1, 2, 3)
        else:
            axes = (32, 64, 128) if self.which != "fwd" else (64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 4)
        others = [config for config in itertools.product(*axes) if config != present]
        return [present, *sorted(others, key=lambda config: _distance(config, present))]


def _distance(config: Config, other: Config) -> tuple[int, float]:
    changed = sum(a != b for a, b in zip(config, other, strict=True))
    return changed, sum(max(a, b) / min(a, b) for a, b in zip(config, other, strict=True))


def prefill_targets(room: str) -> list[Target]:
    """Return the entries of a room's kernels that serve the widths of heads in use."""
    configs = import_module(f"attncourse.{room}.kernel").CONFIGS
    tables = [""] if "fma" in configs else configs  # one table, or one a kernel
    found = (
        Target(room, which, min(n for n in Target(room, which, width).configs if n >= width))
        for width in (64, 128)
        for which in tables
    )
    return list(dict.fromkeys(found))


def decode_target(room: str, where: str) -> Target:
    """Return a decoder at the size of models in use; on a CPU a small one, which the interpreter reads in seconds."""
    if room == "grouped_query":
        return Target(room, "", 128)
    return Target(room, "many", 512) if where == "cuda" else Target(room, "few", 128)


def call_of(target: Target, *, where: str, small: bool) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return what the launcher does at a size, and the definition of it in float64:
    outputs, or a gradient, as one tensor.

    The small size is off the tiles' edges, and a multiple of 16 as the large one is: Triton compiles the same kernel
    for both.
    """
    draw = Draw(where, DTYPE[where])
    small = small or where == "cpu"
    if target.room not in DECODERS:
        return _prefill(target, draw, small=small)
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


def _prefill(target: Target, draw: Draw, *, small: bool):
    t, b, h = (144, 1, 16) if small else (4096, 4, 2048 // target.width)
    if draw.device == "cpu":
        t, h = 37, 2
    case = CASES[target.room](Size(b, h, h, t, t, target.width, target.width), draw)
    inputs, definition, kernel = case.inputs, case.forms["reference"], case.forms["triton"]
    if not target.which.startswith("bwd"):
        return (lambda: kernel(*inputs)), lambda: definition(*(x.double() for x in inputs))
    inputs = [x.requires_grad_() for x in inputs]
    out = kernel(*inputs)
    along = torch.ones_like(out) * torch.arange(t, device=out.device)[:, None] / t

    def gradients(out: Tensor, along: Tensor) -> Tensor:
        found = torch.autograd.grad(out, inputs, along, retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in found])

    return (lambda: gradients(out, along)), lambda: gradients(definition(*(x.double() for x in inputs)), along.double())


def check(target: Target, config: Config, where: str) -> float:
    """Return a candidate's error: a process of its own compiles it, for the small size and for the one that is timed.

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
    """Return the seconds of the launcher with a candidate; what was there before is put back."""
    before = target.present
    target.take(config)
    try:
        call = call_of(target, where=where, small=False)[0]
        return clock.replayed(call) if target.room in DECODERS else clock.seconds(call)
    finally:
        target.take(before)


class Checkers:
    """Checkers are processes that check candidates side by side;
    where one is killed, or its GPU is in doubt, all are new afterwards.
    """

    def __init__(self, where: str):
        self.where = where
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        most = max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) - 2))
        return ProcessPoolExecutor(most, mp_context=multiprocessing.get_context("spawn"))

    def check(self, batch: list[tuple[Target, Config]], *, seconds: float) -> list[tuple[float | None, str | None]]:
        """Return error or problem of each candidate; TimeoutError is the problem of those that were not done in time."""
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


@dataclass(frozen=True)
class Trial:
    """A trial is what came out of one candidate.

    Attributes:
        now: whether it is what CONFIGS has.
        seconds: of a call; None where it was not timed, and `problem` says why.
        error: against the definition in float64; None where it did not run.
    """

    config: Config
    now: bool
    seconds: float | None
    error: float | None
    problem: str | None


def rounds(targets: Iterable[Target], where: str) -> Iterator[list[tuple[Target, Config]]]:
    """Yield a few candidates of each target at a time, so that time that runs out takes the far ones of all targets."""
    lists = {target: target.candidates(where) for target in targets}
    for i in range(0, max(map(len, lists.values())), 4):
        yield [(target, config) for target, configs in lists.items() for config in configs[i : i + 4]]


def trial(target: Target, config: Config, error: float | None, problem: str | None, *, where: str) -> Trial:
    """Return the trial of a candidate that was checked; it is timed if it is right."""
    seconds, clock = None, Clock(where, milliseconds=20)
    if problem is None and not error < WRONG[where]:
        problem = f"wrong, error {error:.2g}"
    if problem is None:
        seconds, problem = tried(partial(time_one, target, config, where=where, clock=clock))
    return Trial(config, config == target.present, seconds, error, problem)


def try_all(
    targets: Iterable[Target], where: str, *, left: Callable[[], float]
) -> Iterator[tuple[Target, Config, Trial | None]]:
    """Check and time candidate after candidate, the near ones of all targets first; while one is timed, none is checked.

    Args:
        left: how many seconds are left; candidates that come later have no Trial.
    """
    checkers = Checkers(where)
    try:
        for batch in rounds(targets, where):
            if left() <= 0:
                yield from ((*pair, None) for pair in batch)
                continue
            checked = checkers.check(batch, seconds=left())
            for (target, config), (error, problem) in zip(batch, checked, strict=True):
                late = left() <= 0 or (problem or "").startswith("TimeoutError")
                yield target, config, None if late else trial(target, config, error, problem, where=where)
    finally:
        checkers.close()
