"""Ranking: what a job excludes is said with its rule, and the rest is ordered by time, then by what it gives up."""

import dataclasses
import math
from dataclasses import dataclass

from attncourse._shared.units import format_seconds
from attncourse.profile.limits import Limits
from attncourse.profile.record import Record
from attncourse.profile.roofline import Roofline

from .designs import DESIGNS, Costs, Design
from .job import Job, Shape, roofline_of
from .quality import sharing_lost

# Bounds of two designs that differ by less than this say nothing about which is faster.
ALIKE = 1.25


@dataclass(frozen=True)
class Choice:
    """A choice says what one design would be for a job.

    Args:
        design: its name.
        gives_up: what a model loses by it.
        excluded_by: the rules that exclude it, in words; none where it is admitted.
        reasons: what speaks for and against it, in sentences with numbers.
        costs: of a step of the whole model; None where the design does not apply at all.
        attention_seconds, others_seconds: the least times of attention and of the rest of the step on this device, each
            the longer of moving bytes and computing; None as costs.
        step_seconds: their sum, since the rest of a layer waits for its attention; None as costs.
        limit: what attention's time hangs on, "memory" or "compute"; None as costs.
    """

    design: str
    gives_up: str
    excluded_by: tuple[str, ...]
    reasons: tuple[str, ...]
    costs: Costs | None
    attention_seconds: float | None
    others_seconds: float | None
    step_seconds: float | None
    limit: str | None

    @property
    def admitted(self) -> bool:
        """Return whether nothing excludes it."""
        return not self.excluded_by

    @property
    def bounds(self) -> str:
        """Return the step's least time as the sum that it is, "23.9 ms = 20.5 ms + 3.39 ms"; "" where it does not apply."""
        if self.costs is None:
            return ""
        whole, *parts = map(format_seconds, (self.step_seconds, self.attention_seconds, self.others_seconds))
        return f"{whole} = {' + '.join(parts)}"


def choose(
    *,
    length: int,
    batch: int = 1,
    phase: str = "training",
    source_length: int | None = None,
    causal: bool = True,
    locality: int | None = None,
    exact: bool = True,
    may_share: int | None = None,
    tensor_parallel: int = 1,
    memory: float | None = None,
    latency: float | None = None,
    shape: Shape | None = None,
    dtype: str = "bfloat16",
    device: Roofline | Limits | Record | str = "H100",
) -> list[Choice]:
    """Return every design, those that are admitted first:
    the fastest, and among those as fast the one that gives up least.

    Times are bounds by the roofline: what must be moved and computed, at the rates of the device. A step's is the sum of
    two, attention's and that of the rest, projections and feed-forward. Two steps within a factor of 1.25 count as
    alike: where attention is a small part, nothing is worth giving up.

    Args:
        length: tokens of a sequence; in decoding those before the one that is written, itself included.
        batch: sequences at once.
        phase: "training", a step forward and backward, or "decoding", one token of every sequence.
        source_length: tokens of another sequence that is read in place of the own one; None for self-attention.
        causal: whether a token is blind to what comes after it.
        locality: what a token needs stands among so many tokens, itself included (and, not causal, so many after it);
            None: anywhere.
        exact: whether every pair that may matter must be weighed by softmax.
        may_share: how many query heads may share a key/value head; 1: each must have its own, None: any number.
            Grouped-query attention gets as many key/value heads as that takes, at least the shape's.
        tensor_parallel: devices that share out the heads and the matrices of one model, in decoding; each holds a whole
            key/value head or latent, where there are more devices than these. What they send each other is not counted.
        memory: bytes on each device for what attention keeps: caches and states, in training inputs and outputs for the backward pass.
        latency: seconds that a step may take, projections and feed-forward included.
        shape: the model's sizes (default: Llama 3.1 8B's).
        dtype: "float32", "bfloat16" or "float16".
        device: rates, measured (`Limits`, `Record`), typed in (`Roofline(bandwidth, flops)`), or a name in the vendors'
            table: peaks that no program reaches.

    Raises:
        ValueError: a size, a bound, a phase, a dtype or a device that is not one.
    """
    job = Job(
        length=length, batch=batch, phase=phase, source_length=source_length, causal=causal, locality=locality,
        exact=exact, may_share=may_share, tensor_parallel=tensor_parallel, memory=memory, latency=latency,
        shape=shape or Shape(), dtype=dtype, roofline=roofline_of(device, dtype=dtype),
    )  # fmt: skip
    choices = [_judge(design, job) for design in DESIGNS]
    fastest = min((choice.step_seconds for choice in choices if choice.admitted), default=math.inf)

    def place(item: tuple[int, Choice]) -> tuple:
        order, choice = item
        slower = choice.step_seconds / fastest if choice.admitted else math.inf
        return choice.excluded_by != (), math.floor(math.log(slower, ALIKE)) if choice.admitted else 0, order

    return [choice for _, choice in sorted(enumerate(choices), key=place)]


def _judge(design: Design, job: Job) -> Choice:
    """Return one design, with the numbers that it has where it applies."""
    excluded = design.applies(job)
    if excluded:
        return Choice(design.name, design.gives_up, tuple(excluded), (), None, None, None, None, None)
    costs, roofline = design.costs(job), job.roofline
    attention, others = roofline.seconds(costs.attention), roofline.seconds(costs.others)
    step = attention + others
    if job.memory is not None and costs.held_bytes > job.memory:
        excluded.append(f"it keeps {_gigabytes(costs.held_bytes)}, and there are {_gigabytes(job.memory)}")
    if job.latency is not None and step > job.latency:
        excluded.append(f"a step takes at least {format_seconds(step)}, and it may take {format_seconds(job.latency)}")
    limit = roofline.limit(costs.attention)
    choice = Choice(design.name, design.gives_up, tuple(excluded), (), costs, attention, others, step, limit)
    return dataclasses.replace(choice, reasons=_reasons(job, choice) + sharing_lost(design.name, job))


def _reasons(job: Job, choice: Choice) -> tuple[str, ...]:
    """Return what the numbers say, one sentence each."""
    costs, share = choice.costs, choice.attention_seconds / choice.step_seconds
    what = "moving bytes" if choice.limit == "memory" else "computing"
    kept = f"it keeps {_gigabytes(costs.held_bytes)}"
    if job.phase == "training":
        kept += " for the backward pass"
    elif costs.cache_bytes_per_token:
        kept += f", {costs.cache_bytes_per_token:,} bytes for each token of a sequence"
    else:
        kept += ", which does not grow with the length"
    return (
        f"a step takes at least {choice.bounds}, attention and the rest: {share:.0%} is attention",
        f"attention moves {_gigabytes(costs.attention.bytes)} and makes {costs.attention.flops / 1e9:,.3g} GFLOP: "
        f"{what} takes the longer",
        kept,
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.3g} GB"
