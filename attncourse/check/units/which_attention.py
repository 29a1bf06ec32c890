"""Checks of the unit `which_attention`: what a step costs, a pick for a server, other weights, rollout, a window elsewhere."""

from functools import reduce

import torch

from attncourse.lessons.which_attention.explain import rollout as rollout_of
from attncourse.sliding_window import local_mask

from ..core import Broken, exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import expect, expect_close, expect_no_mistake, expect_number, expect_rows_sum_to_one, expect_tensor
from ..picture import Picture

exercise_unit(
    "which_attention",
    title="Which attention",
    chapter="which_attention",
    minutes=75,
    prerequisites=("why_latent",),
)


@exercise_check(
    "which_attention.step",
    function="step_cost",
    difficulty="medium",
    importance="core",
    points=2,
    section="efficient-methods-solve-the-same-problem",
)
def step(learner, rng):
    """Predict the bytes that one step of decoding reads, and the operations that it makes with them."""
    for kind in ("no window", "full window", "short text", "just full", "one more", "no groups", "one stored head"):
        args = _draw_step(rng, kind)
        got = learner(*args)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: bytes, then operations")
        _judge_step(*map(expect_number, got), *args)


def _draw_step(rng, kind: str) -> tuple:
    layers, n_kv_heads, width = integer(rng, 11, 20), integer(rng, 2, 6), 8 * integer(rng, 3, 9) + 1
    n_heads, window, length = n_kv_heads * integer(rng, 3, 7), integer(rng, 30, 60), integer(rng, 200, 300)
    if kind == "no groups":
        n_heads = n_kv_heads
    elif kind == "one stored head":
        n_kv_heads = 1
    kept = None if kind in ("no window", "no groups") else window
    if kept:
        length = {"short text": window - integer(rng, 5, 20), "just full": window, "one more": window + 1}.get(
            kind, length
        )
    return layers, n_heads, n_kv_heads, width, kept, length


def _judge_step(size, flops, layers, n_heads, n_kv_heads, width, window, length) -> None:
    case = (
        f"for {layers} layers, {n_heads} query heads, {n_kv_heads} stored heads of width {width}, window {window}, "
        f"{length} tokens: "
    )
    seen = length if window is None else min(window, length)
    each, product = 2 * 2 * layers * width, 2 * 2 * layers * n_heads * width  # of a stored head's token, of a token
    wanted = each * n_kv_heads * seen
    mistakes = {
        "that is half the bytes: keys and values are read, two bytes a number": wanted / 2,
        "those are the bytes of one layer": wanted / layers,
        "what a group of heads shares is read once, not once a head": each * n_heads * seen,
        "those are the bytes of a single token of the cache": wanted / seen,
        "a step reads what the window holds, no more": each * n_kv_heads * length,
    }
    if window is not None:
        mistakes["the text is shorter than the window, and a step reads no more than there is"] = (
            each * n_kv_heads * window
        )
    expect_no_mistake(size, wanted, {case + what: value for what, value in mistakes.items()})
    expect(size == wanted, case + "the bytes are wrong")
    mistakes = {
        "that is half the operations: scores and mixtures, 2 for a product with its sum": product * seen / 2,
        "heads that share keys still make scores of their own": product * seen / n_heads * n_kv_heads,
        "a step computes with what the window holds, no more": product * length,
    }
    expect_no_mistake(flops, product * seen, {case + what: value for what, value in mistakes.items()})
    expect(flops == product * seen, case + "the operations are wrong")


def _draw_server(rng) -> dict:
    """Return rates, and what else a step takes, so that times are numbers of hundredths of a second."""
    bandwidth, flops = 1e12 * integer(rng, 1, 5), 1e14 * integer(rng, 1, 9)
    return {"memory": 1e9 * integer(rng, 30, 90), "bandwidth": bandwidth, "flops": flops}


def _design(server: dict, name: str, *, reading: float = 0.0, computing: float = 0.0, kept: float = 0.5) -> dict:
    """Return a design by the seconds that its bytes and its operations take, and the share of the memory that it keeps."""
    return {
        "name": name,
        "kept": kept * server["memory"],
        "bytes": reading * server["bandwidth"],
        "flops": computing * server["flops"],
    }


# Each story: designs in order of preference by (reading, computing, kept), what else a step takes, who is right, and what is
# broken where another is picked. Times are scaled together by powers of two, so that what is just met is met exactly.
STORIES = (
    ([(0.5, 0.1, 0.9), (0.1, 0.1, 0.5)], 0.0, 1, "both fit, and the second takes a fraction of the first one's time"),
    ([(0.11, 0.1, 0.9), (0.1, 0.1, 0.5)], 0.0, 0, "times within a factor of 1.25 are alike, and the first gives up less"),
    ([(0.124, 0.0, 0.9), (0.1, 0.0, 0.5)], 0.0, 0, "times within a factor of 1.25 are alike, and the first gives up less"),
    ([(0.126, 0.0, 0.9), (0.1, 0.0, 0.5)], 0.0, 1, "times beyond a factor of 1.25 are not alike"),
    ([(1.25, 0.5, 0.9), (1.0, 0.5, 0.5)], 0.0, 0, "a time that is just 1.25 times the fastest one is at most that"),
    ([(0.1, 0.1, 1.5), (0.2, 0.1, 0.5)], 0.0, 1, "what does not fit into the memory cannot be picked"),
    ([(0.1, 0.1, 1.01), (0.2, 0.1, 0.5)], 0.0, 1, "what does not fit into the memory cannot be picked"),
    ([(0.1, 0.1, 1.0), (0.1, 0.1, 0.5)], 0.0, 0, "what fills the memory to the byte fits into it"),
    ([(0.2, 0.0, 0.5), (0.11, 0.11, 0.5)], 0.0, 1, "reading and computing overlap: the longer of both counts, not the sum"),
    ([(0.1, 0.4, 0.5), (0.2, 0.1, 0.5)], 0.0, 1, "computing can be what takes the time"),
    ([(0.2, 0.1, 0.5), (0.1, 0.1, 0.5)], 1.0, 0, "what a step does besides is part of its time: it makes these two alike"),
    ([(0.29, 0.1, 0.5), (0.2, 0.1, 0.5)], 0.19, 0, "what a step does besides is added, also where it is the least part"),
    ([(0.3, 0.1, 0.5), (0.1, 0.1, 0.5)], 0.2, 1, "what a step does besides overlaps with nothing: not with reading"),
    ([(0.1, 0.3, 0.5), (0.1, 0.1, 0.5)], 0.2, 1, "what a step does besides overlaps with nothing: not with computing"),
    ([(0.3, 0.1, 0.5), (0.1, 0.1, 1.5), (0.28, 0.1, 0.5)], 0.0, 0, "the fastest is the fastest of those that fit"),
    ([(0.5, 0.1, 0.3), (0.12, 0.1, 0.8), (0.1, 0.1, 0.7), (0.11, 0.1, 0.1)], 0.0, 1, "of those that are alike, the first gives up least"),
    ([(0.1, 0.1, 1.3), (0.4, 0.1, 0.8), (0.11, 0.1, 0.7), (0.1, 0.1, 0.9)], 0.0, 2, "of those that fit and are alike, the first gives up least"),
    ([(0.1, 0.1, 0.5)], 0.0, 0, "the only design fits"),
    ([(0.1, 0.1, 1.2), (0.1, 0.1, 1.5)], 0.0, None, "nothing fits, and then the answer is None"),
)  # fmt: skip


@exercise_check(
    "which_attention.pick",
    function="pick",
    difficulty="medium",
    importance="core",
    points=3,
    section="from-a-job-to-a-ranked-list",
)
def pick(learner, rng):
    """Pick a design for a server by memory, time, and what is given up."""
    for kinds, others, right, broken in STORIES:
        server, scale = _draw_server(rng), 2.0 ** -integer(rng, 3, 9)
        names = ["ABCDEF"[i] for i in torch.randperm(6, generator=rng)[: len(kinds)].tolist()]
        designs = [
            _design(server, name, reading=scale * reading, computing=scale * computing, kept=kept)
            for name, (reading, computing, kept) in zip(names, kinds, strict=True)
        ]
        got = learner(designs, others=scale * others, **server)
        expect(got is None or got in names, f"return the name of a design or None, got {got!r}")
        expect(got == (None if right is None else names[right]), f"of {len(names)} designs: {broken}")


@exercise_check(
    "which_attention.weights",
    function="same_output",
    difficulty="hard",
    importance="useful",
    points=3,
    section="attention-weights-explain-the-output",
)
def weights(learner, rng):
    """Build other weights that mix the same output."""
    for more in (2, 2, 3, 5, 9):  # tokens than values are wide: with two more, only one direction is free
        dv = integer(rng, 1, 5)
        s = dv + more
        own = torch.softmax(0.25 * normal(rng, s), dim=0)  # no weight is so small that it stops every move
        values = normal(rng, s, dv)
        other = expect_tensor(learner(own, values), (s,), what="the weights")
        case = f"with {s} tokens and values of width {dv}"
        expect(bool((other >= -1e-12).all()), f"{case}, the weight of token {int(other.argmin())} is negative")
        expect(abs(float(other.sum()) - 1) < 1e-8, f"{case}, the weights do not sum to one")
        expect_close(other @ values, own @ values, f"{case}, the mixture of the values is another one", rtol=1e-8)
        moved = 0.5 * float((other - own).abs().sum())
        expect(
            moved > 0.01, f"{case}, the weights are the ones that were given, or next to it: move more than a hundredth"
        )


@exercise_check(
    "which_attention.rollout",
    function="rollout",
    difficulty="medium",
    importance="extra",
    points=2,
    section="following-the-weights-through-layers",
)
def rollout(learner, rng):
    """Follow weights through layers: how much of each input does each output hold?"""
    for layers, causal in ((3, True), (4, False), (2, True), (5, False)):
        heads, t = (integer(rng, 2, 5), integer(rng, 5, 8)) if layers > 2 else (integer(rng, 1, 3), 4)
        scores = 2 * normal(rng, layers, heads, t, t)
        if causal:
            scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), -torch.inf)
        given = torch.softmax(scores, dim=-1)
        got = expect_tensor(learner(given), (t, t), what="the shares")
        _judge_rollout(got, given, f"with {layers} layers, " + ("causal: " if causal else "not causal: "))


def _judge_rollout(got: torch.Tensor, given: torch.Tensor, case: str) -> None:
    expect_rows_sum_to_one(got)
    wanted, mean = rollout_of(given[:, None])[0], given.mean(dim=1)
    half = 0.5 * (mean + torch.eye(mean.shape[-1], dtype=mean.dtype))
    mistakes = {
        "each layer's output is half its input, which never went through attention": reduce(lambda x, y: y @ x, mean),
        "layers are multiplied in the wrong order: the last one is applied last, so it stands on the left": reduce(lambda x, y: x @ y, half),
        "those are the shares of the last layer alone": half[-1],
        "those are the shares of the first layer alone": half[0],
        "layers follow each other, so that they are multiplied, not averaged": half.mean(dim=0),
        "all heads count alike, not one of them alone": rollout_of(given[:, None, :1])[0],
    }  # fmt: skip
    right = torch.allclose(got, wanted)
    for what, mistake in mistakes.items():
        expect(right or not torch.allclose(got, mistake), case + what)
    expect_close(got, wanted, case + "the shares are not the product of the layers' halves")


def _visible(pair: tuple[int, int], n: int) -> torch.Tensor:
    """Return who sees whom under FlashAttention's window_size."""
    left, right = pair
    ahead = torch.arange(n) - torch.arange(n)[:, None]
    return ((ahead >= -left) | (left < 0)) & ((ahead <= right) | (right < 0))


@exercise_check(
    "which_attention.translate",
    function="window_size",
    difficulty="medium",
    importance="useful",
    points=2,
    section="in-the-words-of-a-library",
)
def translate(learner, rng):
    """Say windows, radii and causal masks as FlashAttention's pair."""
    n, windows, radii = 14, (integer(rng, 2, 6), integer(rng, 7, 13)), (integer(rng, 1, 4), integer(rng, 5, 10))
    full = torch.ones(n, n, dtype=torch.bool)
    jobs = [
        *((dict(window=w, radius=None, causal=True), local_mask(n, n, window=w)) for w in windows),
        *((dict(window=None, radius=r, causal=False), local_mask(n, n, radius=r)) for r in radii),
        (dict(window=None, radius=None, causal=True), full.tril()),
        (dict(window=None, radius=None, causal=False), full),
        (dict(window=1, radius=None, causal=True), full.tril().triu()),
    ]
    for told, wanted in jobs:
        pair = learner(**told)
        both = isinstance(pair, tuple | list) and len(pair) == 2 and all(type(x) is int for x in pair)
        expect(both, "return a pair of integers: left, right")
        seen = _visible(tuple(pair), n)
        case = ", ".join(f"{name}={value}" for name, value in told.items())
        picture = Picture(seen, wanted)
        if (ahead := (seen & ~wanted).triu(1)).any():
            raise Broken(f"for {case}, a query sees what comes after it" + _how_far(told, ahead), picture)
        if (seen & ~wanted).any():
            raise Broken(
                f"for {case}, a query sees too many keys before it: its own is not counted in the pair", picture
            )
        if (wanted & ~seen).any():
            raise Broken(f"for {case}, a query does not see all that it should" + _how_few(told), picture)
        expect(min(pair) >= -1, f"for {case}, the pair holds a number below -1, which says nothing")


def _how_far(told: dict, ahead: torch.Tensor) -> str:
    return ", too far" if told["radius"] is not None else ", and causal attention is blind to that"


def _how_few(told: dict) -> str:
    if told["radius"] is not None:
        return ": the radius holds on both sides"
    return ": no bound is -1, and 0 is the query's own key alone" if told["window"] is None else " of its window"
