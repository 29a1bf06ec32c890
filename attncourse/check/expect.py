"""Judgements that more than one check makes. Each raises Broken with the property and the place."""

import math
from collections import Counter

import torch
from torch import Tensor

from .core import Broken
from .picture import Picture


def expect(condition: bool, message: str) -> None:
    """Raise Broken(message) unless the condition holds."""
    if not condition:
        raise Broken(message)


def expect_tensor(got, shape: tuple[int, ...], *, what: str = "the result") -> Tensor:
    """Return got if it is a floating-point tensor of this shape without NaN; `what` names it in the message."""
    expect(isinstance(got, Tensor), f"{what} is a {type(got).__name__}, expected a tensor of shape {shape}")
    expect(tuple(got.shape) == shape, f"{what} has shape {tuple(got.shape)}, expected {shape}")
    expect(got.is_floating_point(), f"{what} is of {got.dtype}, expected floating point")
    expect(not got.isnan().any(), f"{what} holds NaN at {place(got.isnan())}")
    return got


def expect_number(got, *, what: str = "the result") -> float:
    """Return got if it is a finite int or float, or a tensor of one element; `what` names it in the message."""
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    expect(isinstance(got, int | float) and not isinstance(got, bool), f"{what} is {got!r}, expected a number")
    expect(abs(got) < float("inf"), f"{what} is {got}, expected a finite number")
    return got


def expect_close(got: Tensor, wanted: Tensor, message: str, *, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Raise Broken(message, with the first place that differs) unless got is wanted within rtol and atol.
    Values are not shown.
    """
    expect_tensor(got, tuple(wanted.shape))
    apart = ~torch.isclose(got.double(), wanted.double(), rtol=rtol, atol=atol)
    expect(not apart.any(), f"{message} (first at index {place(apart)}, {int(apart.sum())} of {apart.numel()} entries)")


def expect_rows_sum_to_one(weights: Tensor) -> None:
    """Expect attention weights that are non-negative and sum to 1 over the keys, the last axis."""
    expect(bool((weights >= 0).all()), f"a weight is negative, at {place(weights < 0)}")
    sums = weights.sum(dim=-1)
    worst = sums.flatten()[(sums - 1).abs().argmax()].item()
    if abs(worst - 1) < 1e-5:
        return
    other = weights.sum(dim=-2)
    if torch.allclose(other, torch.ones_like(other), atol=1e-5):
        raise Broken(f"rows sum to {worst:.2f}, columns to 1.00: softmax runs over the wrong axis")
    raise Broken(f"rows sum to {worst:.2f}, not to 1: the weights are not normalised over the keys")


def place(flags: Tensor) -> tuple[int, ...]:
    """Return the index of the first True among the flags; () where there is none."""
    found = flags.nonzero()
    return tuple(found[0].tolist()) if len(found) else ()


def seen_by(learner, args: list, *, moved: int, axis: int, position: int, rng: torch.Generator) -> Tensor:
    """Return which positions of the result's second-last axis move when argument `moved` changes at `position` of
    `axis`.

    Args:
        learner, args: the function, and its arguments before the change.
        rng: what draws the change.
    """
    before = learner(*args)
    changed = args[moved].clone()
    change = torch.randn(changed.select(axis, position).shape, generator=rng, dtype=torch.float64)
    changed.select(axis, position).add_(change.to(changed.dtype))
    after = learner(*args[:moved], changed, *args[moved + 1 :])
    expect(isinstance(before, Tensor), f"the result is a {type(before).__name__}, expected a tensor")
    expect_tensor(after, tuple(before.shape))
    difference = (before - after).abs().amax(dim=-1)
    return difference.flatten(0, -2).amax(dim=0) > 0 if difference.ndim > 1 else difference > 0


def expect_blind_to_future(learner, args: list, *, moved: int, axis: int, rng: torch.Generator) -> None:
    """Expect causality: change one position and no earlier row of the result may move.

    Args:
        learner, args: the function, and its arguments before the change.
        moved, axis: the argument that changes, and along which axis.
        rng: what draws the change.
    """
    length = args[moved].shape[axis]
    positions = range(length)
    columns = [seen_by(learner, args, moved=moved, axis=axis, position=p, rng=rng) for p in positions]
    seen, allowed = torch.stack(columns, dim=1), torch.ones(length, length, dtype=torch.bool).tril()
    leaks = (seen & ~allowed).T.nonzero().tolist()
    if leaks:
        position, row = leaks[0]
        picture = Picture(seen, allowed, rows="position that reads", columns="position that is read")
        raise Broken(f"position {row} saw position {position}, its future", picture)


def expect_reordering_changes_nothing(
    learner, args: list, *, moved: tuple[int, ...], rng: torch.Generator, message: str
) -> None:
    """Expect that the rows of the arguments at `moved`, reordered together, give the same result.

    Args:
        learner, args: the function, and its arguments before they are reordered.
        rng: what draws the order.
        message: what is said where they do not.
    """
    order = torch.randperm(len(args[moved[0]]), generator=rng)
    reordered = [x[order] if i in moved else x for i, x in enumerate(args)]
    expect_close(learner(*reordered), learner(*args), message)


def expect_same_in_pieces(learner, pieces: list[tuple], wanted: Tensor, *, what: str) -> list:
    """Return the states of a stream that ends with the result of all at once:
    `learner(state, *piece) -> (result so far, state)`.

    The first state is None. The state travels through this side, so that nothing else can carry what was read.

    Args:
        pieces: arguments of the calls.
        wanted: the result of all at once.
        what: the name of the result in the message.
    """
    states = [None]
    for piece in pieces:
        got = learner(states[-1], *piece)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the result so far, then the state")
        out, state = got
        states.append(state)
    sizes = ", ".join(str(len(piece[-1])) for piece in pieces)
    expect_close(out, wanted, f"{what} read in pieces of {sizes} differs from {what} read at once")
    return states[1:]


def expect_memory(
    learner, args: list, wanted: Tensor, *, at_most: int, message: str, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Expect that the result is `wanted`, and that a call holds no more bytes at its peak than `at_most`,
    found buffers included.

    What forms a matrix that is too large is found out, and so is what gives another result where this is measured.

    Args:
        learner, args: the function, and its arguments.
        message: what is said where it holds more.
        rtol, atol: tolerances of the result.
    """
    got, peak = learner.peak(*args)
    expect(peak <= at_most, f"{message}: it held {peak / 1e6:.1f} MB at once")
    sizes = ", ".join(str(len(x)) for x in args if isinstance(x, Tensor) and x.ndim)
    expect_close(got, wanted, f"with long inputs (of {sizes}) the result is another", rtol=rtol, atol=atol)


def weights_of(learner, q: Tensor, k: Tensor) -> Tensor:
    """Return the weights that the learner's attention of (q, k, v) must have used:
    with the identity as values, they are its output.
    """
    return learner(q, k, torch.eye(len(k), dtype=torch.float64))


def numbers_in(state) -> int:
    """Return how many numbers a state holds."""
    if isinstance(state, Tensor):
        return state.numel()
    if hasattr(state, "__dict__"):
        state = vars(state)
    if isinstance(state, dict):
        state = list(state.values())
    return sum(map(numbers_in, state)) if isinstance(state, list | tuple) else int(state is not None)


def expect_close_far(got, wanted: Tensor, case: str) -> None:
    """Expect the exact result where scores are far from 0, to the digits that float64 has left there.

    Args:
        got, wanted: what came back, and what is right.
        case: which scores, for the message.
    """
    expect(isinstance(got, Tensor), f"the result is a {type(got).__name__}, expected a tensor")
    expect(bool(got.isfinite().all()), f"{case} give NaN or infinity at {place(~got.isfinite())}")
    expect_close(got, wanted, f"{case} give a wrong result", rtol=1e-5, atol=1e-5)


def expect_gradients(learner, args: list, reference, *, wrt: dict[int, str], rng: torch.Generator, case="") -> None:
    """Expect that gradients with respect to the arguments at the positions `wrt`,
    each with its name, are those of `reference`.

    Args:
        learner, args: the function, and its arguments.
        rng: what draws the cotangent.
        case: where, for the message.
    """
    leaves = [x.clone().requires_grad_() if i in wrt else x for i, x in enumerate(args)]
    out = reference(*leaves)
    cotangent = torch.randn(out.shape, generator=rng, dtype=out.dtype)
    truth = torch.autograd.grad(out, [leaves[i] for i in wrt], cotangent)
    grads = learner.grad(*args, wrt=tuple(wrt), cotangent=cotangent)
    for name, mine, theirs in zip(wrt.values(), grads, truth, strict=True):
        message = f"{case}the gradient with respect to {name} is {{}} though the result is right"
        expect(
            bool(mine.isfinite().all()),
            message.format(f"NaN or infinity at {place(~mine.isfinite())}, which flows back though it was hidden,"),
        )
        expect_close(mine, theirs, message.format("wrong"))


def expect_no_mistake(got: float, wanted: float, mistakes: dict[str, float]) -> None:
    """Raise Broken(message) where got is what one of the known mistakes gives;
    where that is `wanted` as well, it is none.

    Args:
        mistakes: by message, the number that each gives.
    """
    for message, value in mistakes.items():
        expect(math.isclose(got, wanted, rel_tol=1e-9) or not math.isclose(got, value, rel_tol=1e-9), message)


def read_in_pieces(learner, pieces: list[tuple], width: int) -> tuple[Tensor, list]:
    """Return the outputs of all pieces of a stream below each other, `width` numbers each,
    and the state after each piece.

    `learner(state, *piece) -> (output of the piece, state)`; the first state is None.
    """
    outs, states = [], [None]
    for piece in pieces:
        got = learner(states[-1], *piece)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the piece's output, then the state")
        outs.append(expect_tensor(got[0], (len(piece[-1]), width), what="the output of a piece"))
        states.append(got[1])
    return torch.cat(outs), states[1:]


def numbers_added(before, after) -> int:
    """Return how many numbers `after` holds that `before` did not:
    what a step put into a state, however it is laid out.
    """
    return (Counter(_numbers(after)) - Counter(_numbers(before))).total()


def _numbers(state) -> list[float]:
    if isinstance(state, Tensor):
        return state.double().nan_to_num().flatten().tolist()  # NaN, in slots that were never written, equals nothing
    if hasattr(state, "__dict__"):
        state = vars(state)
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return [number for part in state for number in _numbers(part)]
    return [float(state)] if isinstance(state, int | float) else []
