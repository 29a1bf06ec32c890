"""Checks of the unit `why_attention`: what a recurrence forgets, what a lookup reads, how accuracy is counted."""

from itertools import pairwise

import torch

from ..core import Broken, exercise_check, exercise_unit
from ..draw import cycled, integer, normal, primes
from ..expect import expect, expect_close, expect_number, expect_rows_sum_to_one, expect_tensor, place

exercise_unit("why_attention", title="Why attention", chapter="why_attention", minutes=45)


def _draw_rotation(rng, d):
    """Return an orthogonal matrix far from symmetric."""
    while True:
        rotation, _ = torch.linalg.qr(normal(rng, d, d))
        if (rotation - rotation.T).norm() > 0.5:
            return rotation


def _draw_recurrences(rng):
    """Return (weight, steps): any, with two directions that grow almost alike, of one entry, and many steps."""
    d = integer(rng, 3, 7)
    almost = torch.linspace(0.5, 1, d, dtype=torch.float64)
    almost[-2:] = torch.tensor([0.99, 1.0])
    left, right = _draw_rotation(rng, d), _draw_rotation(rng, d)
    return [
        (normal(rng, d, d), integer(rng, 2, 6)),
        (normal(rng, d + 2, d + 2), 3),
        (left * almost @ right, 1),
        (left * almost @ left.T, 3),
        (normal(rng, 1, 1) - 2, 3),
        (_draw_rotation(rng, d) * 0.97 + 0.02 * normal(rng, d, d), 60),
        (torch.zeros(d, d, dtype=torch.float64), 2),
    ]


@exercise_check(
    "why_attention.influence",
    function="largest_influence",
    difficulty="easy",
    importance="useful",
    points=2,
    section="fading-gradients-in-recurrent-networks",
)
def influence(learner, rng):
    """Predict how far the largest effect of one word travels through a linear recurrence."""
    d = integer(rng, 3, 6)
    weight = normal(rng, d, d)

    def ask(w, steps):
        return expect_number(learner(w, steps), what=f"the influence over {steps} steps")

    once, doubled = ask(weight, 4), ask(2 * weight, 4)
    expect(once > 0, f"the influence over 4 steps is {once}, yet the weight passes every change on")
    growth = doubled / once
    expect(
        abs(growth - 16) < 1e-3,
        f"twice the weight over 4 steps: the influence grew {growth:.3g}-fold; is the weight applied once a step?",
    )

    rotation = _draw_rotation(rng, d)
    ratio = ask(rotation, 5)
    expect(
        abs(ratio - 1) < 1e-6,
        f"a rotation keeps every length, but over 5 rotations your influence of a change of length 1 is {ratio:.3g}",
    )

    shift = torch.diag(torch.full((d - 1,), 3.0, dtype=torch.float64), 1)
    expect(
        ask(shift, 1) > 1e-9,
        "a weight with no eigenvalue but 0 can still pass a change on for a step; your influence of it is 0",
    )
    expect(
        abs(ask(shift, d)) < 1e-9,
        f"a weight that moves each entry to its neighbour loses all after {d} steps; your influence of it is not 0",
    )

    for weight, steps in _draw_recurrences(rng):
        got, power = ask(weight, steps), torch.linalg.matrix_power(weight, steps)
        changes = torch.cat([normal(rng, len(weight), 500), torch.linalg.svd(power).Vh[:1].T], dim=1)
        moved = ((power @ changes).norm(dim=0) / changes.norm(dim=0)).max().item()
        expect(got >= moved * (1 - 1e-8), f"some change of length 1 moves the state by more than your {got:.3g}")
        expect(got <= moved * (1 + 1e-8), f"over {steps} steps no change reaches so far: too large")
    expect(
        abs(ask(weight, 0) - 1) < 1e-9,
        "over 0 steps nothing has acted on a change yet, but your influence is not its length",
    )


def _final_state(weight, source):
    state = torch.zeros(len(weight), dtype=torch.float64)
    for word in source:
        state = weight @ state + word
    return state


@exercise_check(
    "why_attention.collision",
    function="collide",
    difficulty="medium",
    importance="extra",
    points=3,
    section="fading-gradients-in-recurrent-networks",
)
def collision(learner, rng):
    """Break a fixed vector: two different sources that one recurrence cannot tell apart."""
    d = integer(rng, 3, 6)
    # Close to a rotation nothing dies out: sources that end alike must have been made to.
    weight = _draw_rotation(rng, d) + 0.1 * normal(rng, d, d)
    longer = integer(rng, 4, 9)

    def apart(sources, w):
        return (_final_state(w, sources[0]) - _final_state(w, sources[1])).norm().item()

    gaps = {}
    for length in (2, longer, 3):
        sources = expect_tensor(learner(weight, length), (2, length, d), what="the pair of sources").double()
        largest = sources.abs().max()
        expect(
            largest < 1e3, f"a word holds an entry of {largest:.3g}: stay below 1000, or rounding does the colliding"
        )
        first = (sources[0, 0] - sources[1, 0]).norm().item()
        expect(first >= 1, f"the first words lie {first:.2g} apart, asked is at least 1")
        gaps[length] = apart(sources, weight)
        if gaps[length] < 1e-6:
            continue
        for other, doing in ((weight.T, "were transposed"), (torch.eye(d, dtype=torch.float64), "changed nothing")):
            if apart(sources, other) < 1e-6:
                raise Broken(f"two sources of {length} words do not end alike; they would if the weight {doing}")
    expect(
        gaps[2] > 1e-6 or gaps[longer] < 1e-6,
        f"two sources of 2 words end alike, but of {longer} words they do not: the states lie {gaps[longer]:.2g} apart",
    )
    worst = max(gaps.values())
    expect(worst < 1e-6, f"the two sources end in different states, {worst:.2g} apart")
    singular = weight.clone()
    singular[:, 0] = singular[:, 1:].sum(dim=1)  # no inverse, and most states are the successor of no state
    for w in (singular, singular.T):
        sources = expect_tensor(learner(w, longer), (2, longer, d), what="the pair of sources").double()
        first = (sources[0, 0] - sources[1, 0]).norm().item()
        largest = sources.abs().max()
        expect(first >= 1 and largest < 1e3, "for a weight without an inverse the words are too near, or too large")
        gap = apart(sources, w)
        expect(gap < 1e-6, f"for a weight without an inverse the two sources end in different states, {gap:.2g} apart")


@exercise_check(
    "why_attention.read",
    function="read_memory",
    difficulty="easy",
    importance="core",
    points=3,
    section="attention-the-decoder-looks-back",
)
def read(learner, rng):
    """Turn scores into a weighted mixture of the tokens that exist."""
    t, s, d = primes(rng, 3, most=13)
    s, t = s + 4, t + 1
    scores, memory = normal(rng, t, s) * 2, normal(rng, s, d)
    expect_tensor(learner(scores, memory, s), (t, d), what="what is read")

    # a memory of unit vectors gives the weights themselves back
    weights = expect_tensor(learner(scores, torch.eye(s, dtype=torch.float64), s), (t, s), what="what is read")
    expect_rows_sum_to_one(weights)
    expect(
        bool((weights.amax(dim=-1) < 1 - 1e-12).any()), "each query takes one token whole: the lookup is hard, not soft"
    )

    length = integer(rng, 3, s - 1)
    unit = torch.eye(s, dtype=torch.float64)
    padded = expect_tensor(learner(scores, unit, length), (t, s), what="what is read")
    leak = padded[:, length:].abs()
    if leak.any():
        behind = length + place(leak.T > 0)[0]
        raise Broken(
            f"the source has {length} tokens, and what stands at place {behind} behind them "
            f"still gets weight {leak.max():.2g}"
        )
    sums = padded.sum(dim=-1)
    expect(
        bool((sums - 1).abs().max() < 1e-6),
        f"with padding the weights of a query sum to {sums[(sums - 1).abs().argmax()]:.2f}: padding took a share",
    )

    def wanted_of(scores, length):
        return torch.softmax(scores[:, :length], dim=-1) @ memory[:length]

    wanted = wanted_of(scores, length)

    def poison(anything):
        behind = torch.arange(s) >= length
        return scores.masked_fill(behind, anything), memory.masked_fill(behind[:, None], anything)

    for anything in (torch.nan, torch.inf, -torch.inf, 1e30):
        got = learner(*poison(anything), length)
        expect(isinstance(got, torch.Tensor), f"what is read is a {type(got).__name__}, expected a tensor")
        expect(
            not got.isnan().any(),
            f"padding holds {anything}, and NaN came through: a weight of 0 times NaN or infinity is NaN",
        )
        expect_close(got, wanted, "what is read is not the softmax of the scores times the memory")
    for n in (1, length, s):
        message = f"with {n} of {s} tokens what is read is not the softmax of the scores times the memory"
        expect_close(learner(scores, memory, n), wanted_of(scores, n), message)

    levels = cycled(t, 1000.0, -1000.0, -2e9)[:, None]
    far = learner(scores + levels, memory, length)
    expect(isinstance(far, torch.Tensor) and bool(far.isfinite().all()), FAR)
    wanted_far = wanted_of(scores + levels, length)  # not `wanted`: scores of 2e9 are rounded
    expect_close(
        far, wanted_far, "adding one number to all scores of a query changes what is read", rtol=1e-4, atol=1e-5
    )
    wide = scores * 400
    expect_close(
        learner(wide, memory, length), wanted_of(wide, length), "with scores of hundreds apart what is read is wrong"
    )

    for case, given, stored in (
        ("", scores, memory),
        ("where padding holds NaN ", *poison(torch.nan)),
        ("for scores of about 1000 ", scores + 1000, memory),
    ):
        cotangent = normal(rng, t, d)
        (grad,) = learner.grad(given, stored, length, wrt=(0,), cotangent=cotangent)
        leaf = given.clone().requires_grad_()
        (truth,) = torch.autograd.grad(wanted_of(leaf, length), leaf, cotangent)
        expect_close(grad, truth, f"{case}what is read is right, but its gradient with respect to the scores is not")


FAR = "scores of about 1000 or -1000 overflow, or leave nothing; only differences between scores should matter"


def _draw_report(rng):
    """Return texts, answers, lengths and edges, in any order; a bucket is empty, and lengths lie on edges."""
    buckets = integer(rng, 4, 7)
    edges = [integer(rng, 1, 9)]
    for _ in range(buckets):
        edges.append(edges[-1] + integer(rng, 3, 6))
    empty = integer(rng, 0, buckets)
    written, wanted, lengths = [], [], []
    for bucket in (b for b in range(buckets) if b != empty):
        places = [edges[bucket], edges[bucket + 1] - 1]
        places += [integer(rng, edges[bucket], edges[bucket + 1]) for _ in range(integer(rng, 3, 9))]
        for i, n in enumerate(places):
            answer = f"{'ab'[integer(rng, 0, 2)]}0{integer(rng, 0, 1000):03}"
            spoiled = (answer, answer + "0", answer[:-1], answer[:-1] + chr(ord(answer[-1]) ^ 1), answer)
            written.append(spoiled[integer(rng, 0, 5) if i > 1 else i])  # right once, and wrong once
            wanted.append(answer)
            lengths.append(n)
    order = torch.randperm(len(lengths), generator=rng).tolist()
    return *([part[i] for i in order] for part in (written, wanted, lengths)), edges


def _expect_report(got, buckets):
    shape = f"expected a list of {buckets} pairs (accuracy, count)"
    expect(isinstance(got, list) and len(got) == buckets, f"the report is {got!r}, {shape}")
    for pair in got:
        expect(isinstance(pair, tuple | list) and len(pair) == 2, f"the report holds {pair!r}, {shape}")
    return [tuple(pair) for pair in got]


@exercise_check(
    "why_attention.accuracy",
    function="accuracy_by_length",
    difficulty="easy",
    importance="useful",
    points=3,
    section="path-or-room-two-controls",
)
def accuracy(learner, rng):
    """Repair a report of exact matches by source length."""
    written, wanted, lengths, edges = _draw_report(rng)
    buckets = len(edges) - 1
    got = _expect_report(learner(written, wanted, lengths, edges), buckets)
    total = sum(count for _, count in got)
    expect(total <= len(lengths), f"{len(lengths)} examples went in, and the buckets hold {total}: some stand in two")
    expect(total == len(lengths), f"{len(lengths)} examples went in, and the buckets hold {total}: some stand in none")
    for i, (low, high) in enumerate(pairwise(edges)):
        count = sum(low <= n < high for n in lengths)
        expect(got[i][1] == count, f"bucket {i} is {low} <= length < {high}, and it holds an example of another length")
        if count == 0:
            expect(got[i][0] is None, f"bucket {i} is empty: nothing was measured there, and yet it says {got[i][0]}")
            continue
        expect_number(got[i][0], what=f"the accuracy of bucket {i}")

    def ask(texts, answers=wanted):
        return [a for a, _ in _expect_report(learner(texts, answers, lengths, edges), buckets) if a is not None]

    perfect = ask(wanted)
    expect(all(a == 1 for a in perfect), f"all texts are right, and a bucket says {min(perfect):.2f}: a share of what?")
    for spoiled, fault in (
        ([w[:-1] + "x" for w in wanted], "whose last character is wrong"),
        ([w[:-1] for w in wanted], "that stop a character early"),
        ([w + "0" for w in wanted], "with a character too many"),
        (["b" + w[1:] if w[0] == "a" else "a" + w[1:] for w in wanted], "whose first character is wrong"),
        ([w[:2] + w[:1:-1] + "." for w in wanted], "of which little is right"),
        ([w.upper() for w in wanted], "in capitals where small letters are right"),
        ([" " + w for w in wanted], "with a blank in front"),
        ([w + "\n" for w in wanted], "with a line's end behind them"),
        (["" for _ in wanted], "of no character"),
    ):
        wrong = ask(spoiled)
        expect(not any(wrong), f"texts {fault} count as right, or partly: a bucket says {max(wrong):.2f}")
    for i, (low, high) in enumerate(pairwise(edges)):
        judged = [w == x for w, x, n in zip(written, wanted, lengths, strict=True) if low <= n < high]
        if judged:
            expect(abs(got[i][0] - sum(judged) / len(judged)) < 1e-9, f"bucket {i}: the accuracy is wrong")
    numbers = [w[1:] for w in wanted]  # some begin with 0s
    expect(not any(ask([str(int(w)) for w in numbers], numbers)), "numbers without the zeros in front count as right")
    none = _expect_report(learner([], [], [], edges[:2]), 1)
    expect(none[0][1] == 0 and none[0][0] is None, "of no example at all something is reported")
