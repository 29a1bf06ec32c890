"""Forward and backward of the kernels beside what PyTorch has: its backends by name, and FlexAttention under the same mask.

First each form is compared with the definition in float64 at a small size, then it is timed. A backward pass counts 2.5 times
the operations of its forward pass, as FlashAttention's papers do; of linear attention seconds alone are given.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from attncourse.block_sparse import local_and_random
from attncourse.profile.cases import CASES, Case, Draw, Form, flex_form, sdpa_form
from attncourse.profile.clock import Clock, tried
from attncourse.profile.counts import Size
from attncourse.profile.decode_cases import latent_case
from attncourse.testing import relative_error

from .peers import HERE, pattern_mask, window_mask
from .report import Report, Told, told

LENGTHS = {"cuda": (4096, 1024, 16_384), "cpu": (64,)}
WIDTHS = {"cuda": (64, 128), "cpu": (16,)}
DTYPE = {"cuda": "float16", "cpu": "float32"}
ROWS = 16_384  # tokens of a batch: the shorter the texts, the more of them
MODEL = {"cuda": 2048, "cpu": 32}  # heads times width
SMALL = 257  # tokens of the comparison with the definition, off every block's edge
MOST_MATH = 4096  # tokens to which the backend that forms every score is timed
# Errors against float64 that no right form has: those of a wrong mask are a hundred times larger.
WRONG = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-3}
WINDOW, RADIUS, RANDOM = 256, 1, 2  # as the bench has them
BACKWARD = 2.5
FLEX = "flex"
MECHANISMS = ("softmax_attention", "sliding_window", "block_sparse", "linear_attention", "latent")


@dataclass(frozen=True)
class Entry:
    """An entry is a form to be compared and timed.

    Attributes:
        name: of the form.
        make: a length -> the form.
        backward: whether it has a backward pass.
        longest: tokens to which it is timed.
        same: whether it computes the same; what attends to every pair instead is timed, and not compared.
    """

    name: str
    make: Callable[[int], Callable[..., Tensor]]
    backward: bool = True
    longest: int | None = None
    same: bool = True

    @property
    def compared(self) -> bool:
        """Return whether it is compared with the definition;
        FlexAttention, which is compiled for each size, is with the kernel.
        """
        return self.same and self.name != FLEX


def case_of(mechanism: str, t: int, *, device: str, width: int) -> Case:
    """Return the package's own case: inputs, forms and counts."""
    h = max(1, MODEL[device] // width)
    b = max(1, ROWS // t) if device == "cuda" else 1
    size, draw = Size(b=b, h=h, g=h, t=t, s=t, dk=width, dv=width), Draw(device, getattr(torch, DTYPE[device]))
    if mechanism == "latent":  # one step of decoding, which is what its kernel is for
        return latent_case(replace(size, t=1), draw)
    return CASES[mechanism](size, draw)


def entries(mechanism: str, *, device: str, width: int) -> Iterator[Entry]:
    """Yield the kernel, and what stands beside it; FlexAttention last, since its compilation takes longest."""

    def own(form: str) -> Callable[[int], Callable[..., Tensor]]:
        return lambda t: case_of(mechanism, t, device=device, width=width).forms[form]

    if mechanism == "latent":
        yield Entry("kernel", lambda t: planned(own("triton")(t).plan), backward=False)
        yield Entry("sdpa", own("torch"), backward=False)
        return
    yield Entry("kernel", own("triton"))
    same, causal = mechanism == "softmax_attention", mechanism != "block_sparse"
    for name in HERE[device]:
        longest = MOST_MATH if name == "math" else None
        what = f"sdpa, {name}" if same else f"sdpa over {'all before' if causal else 'all pairs'}, {name}"
        yield Entry(what, lambda t, name=name: sdpa_form(name, is_causal=causal), longest=longest, same=same)
    compiled = device == "cuda"
    if mechanism == "sliding_window":
        make = lambda t: flex_form(window_mask(t, window=WINDOW, device=device), compiled=compiled)  # noqa: E731
        yield Entry(FLEX, make, backward=compiled)
    if mechanism == "block_sparse":
        make = lambda t: flex_form(_near_and_random(t, device=device), compiled=compiled)  # noqa: E731
        yield Entry(FLEX, make, backward=compiled)


def planned(make: Callable[..., Form]) -> Form:
    """Return a kernel, planned by `make` at its first call: what a step of a model runs."""
    plan = None

    def attend(*inputs: Tensor) -> Tensor:
        nonlocal plan
        if plan is None:
            plan = make(*inputs)
        return plan(*inputs)

    return attend


def _near_and_random(t: int, *, device: str):
    pattern = local_and_random(t, radius=RADIUS, n_random=RANDOM, seed=0).to(device)
    return pattern_mask(pattern, device=device)


def compare(entry: Entry, mechanism: str, *, device: str, width: int) -> tuple[float, float | None]:
    """Return errors of the output and of the gradients against the definition in float64, at a small size."""
    t = SMALL if device == "cuda" else 33
    case = case_of(mechanism, t, device=device, width=width)
    inputs = [x[:1].clone() if x.ndim == 4 else x for x in case.inputs]
    got = _outputs(entry.make(t), inputs, backward=entry.backward)
    definition = case.forms["blocked" if mechanism == "latent" else "reference"]
    exact = _outputs(definition, [x.double() for x in inputs], backward=entry.backward)
    errors = [relative_error(mine, its) for mine, its in zip(got, exact, strict=True)]
    return errors[0], max(errors[1:], default=None)


def _outputs(form: Callable[..., Tensor], inputs: list[Tensor], *, backward: bool) -> list[Tensor]:
    """Return the output, and with `backward` the gradients of its product with a fixed tensor."""
    if not backward:
        with torch.no_grad():
            return [form(*inputs)]
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = form(*leaves)
    rng = torch.Generator().manual_seed(1)
    along = torch.randn(out.shape, generator=rng).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, along)]


def time_both(
    entry: Entry, mechanism: str, *, device: str, width: int, t: int, clock: Clock
) -> Iterator[tuple[str, float | None, str | None, int]]:
    """Yield (direction, seconds, problem, operations of the forward pass):
    forward, and backward where there is such a pass.
    """
    made, problem = tried(lambda: (case_of(mechanism, t, device=device, width=width), entry.make(t)))
    if problem:
        yield "forward", None, problem, 0
        return
    case, form = made
    with torch.no_grad():
        if entry.name == FLEX:
            problem = unlike_the_kernel(form, case)
            if problem:
                yield "forward", None, problem, 0
                return
        forward = tried(lambda: clock.seconds(lambda: form(*case.inputs)))
    yield "forward", *forward, case.count.flops
    if not entry.backward or forward[1]:
        return

    def run_backward() -> float:
        leaves = [x.detach().requires_grad_() for x in case.inputs]
        out = form(*leaves)
        along = torch.randn_like(out)
        return clock.seconds(lambda: torch.autograd.grad(out, leaves, along, retain_graph=True))

    yield "backward", *tried(run_backward), case.count.flops


def unlike_the_kernel(form: Callable[..., Tensor], case: Case) -> str | None:
    """Return what is wrong with a form whose output should be the kernel's, or None."""
    error, problem = tried(lambda: relative_error(form(*case.inputs), case.forms["triton"](*case.inputs)))
    wrong = error is not None and not error < WRONG[str(case.inputs[0].dtype).removeprefix("torch.")]
    return f"wrong beside the kernel, error {error:.2g}" if wrong else problem


def work(device: str) -> Iterator[tuple[str, Entry, int, int]]:
    """Yield mechanism, form, width and length, in the order in which they matter: FlexAttention's compilations last."""
    every = [
        (mechanism, entry, width, t)
        for t in LENGTHS[device]
        for width in WIDTHS[device]
        for mechanism in MECHANISMS
        for entry in entries(mechanism, device=device, width=width)
        if entry.longest is None or t <= entry.longest
    ]
    yield from sorted(every, key=lambda item: item[1].name == FLEX)


def check_all(report: Report, told: Told) -> set[tuple[str, str, int]]:
    """Compare each form once per width; return what is wrong or cannot run, which is not timed then."""
    refused, rows, device = set(), [], told.device
    for key, entry in {(m, entry.name, width): entry for m, entry, width, _ in work(device) if entry.compared}.items():
        mechanism, name, width = key
        errors, problem = tried(partial(compare, entry, mechanism, device=device, width=width))
        forward, backward = errors or (None, None)
        rows.append({"mechanism": mechanism, "form": name, "width": width, "error": forward, "of gradients": backward,
                     "problem": problem})  # fmt: skip
        report.table("errors against float64", rows)
        worst = max(x for x in (forward, backward, 0.0) if x is not None)
        if problem or worst > WRONG[DTYPE[device]]:
            refused.add(key)
            # A backend that refuses a size is a line of the table; the kernel that does is a fault, and so is a wrong result.
            if name == "kernel" or not problem:
                report.failures.append(f"{mechanism} by {name}, width {width}: {problem or f'error {worst:.2g}'}")
    return refused


def time_all(report: Report, told: Told, *, refused: set[tuple[str, str, int]]) -> None:
    """Time what is right, until the time is over."""
    device, rows, late = told.device, [], 0
    clock = Clock(device, milliseconds=30)
    for mechanism, entry, width, t in work(device):
        if (mechanism, entry.name, width) in refused:
            continue
        if told.left <= 0:
            late += 1
            continue
        told_of = dict(device=device, width=width, t=t, clock=clock)
        for direction, seconds, problem, flops in time_both(entry, mechanism, **told_of):
            # Of what computes something else, or counts otherwise, the seconds alone.
            counts = entry.same and mechanism != "linear_attention"
            flops = flops * (BACKWARD if direction == "backward" else 1) if counts else None
            rate = flops / seconds / 1e12 if flops and seconds else None
            rows.append({
                "mechanism": mechanism, "form": entry.name, "width": width, "tokens": t, "direction": direction,
                "ms": seconds and 1e3 * seconds, "TFLOP/s": rate, "problem": problem,
            })  # fmt: skip
            if problem and (entry.name == "kernel" or problem.startswith("wrong")):
                report.failures.append(f"{mechanism} {direction}, width {width}, {t} tokens: {problem}")
        rows.sort(key=lambda row: (row["mechanism"], row["width"], row["tokens"], row["direction"] == "backward"))
        report.words = f"{len(rows)} times of {len({row['mechanism'] for row in rows})} mechanisms"
        report.table("times", rows)
    if late:
        report.not_run.append(f"times of {late} forms and sizes: no time was left")


def main() -> int:
    """Compare, then time."""
    given = told(__doc__)
    report = given.report
    report.save()
    time_all(report, given, refused=check_all(report, given))
    if given.device == "cpu":
        report.not_run.append("sizes of 1k tokens and more, 16 bits, cuDNN's and the efficient backend, FlexAttention compiled: "
                              "not run, needs a GPU; times are the interpreter's")  # fmt: skip
    return report.finish(report.words)


if __name__ == "__main__":
    sys.exit(main())
