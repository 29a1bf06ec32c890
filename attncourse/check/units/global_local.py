"""Checks of the unit `global_local`: the pattern and its price, its symmetry, its hops, its projections, its blocks."""

import math

import torch

from attncourse.global_local import global_local_attention, global_local_mask

from ..core import READY_MADE_ATTENTION, Broken, Picture, exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor, place

exercise_unit(
    "global_local",
    title="Global and local attention",
    chapter="global_and_local",
    minutes=90,
    prerequisites=("softmax_attention",),
)


def _mask(t, radius, hubs, length=None):
    """Who reads whom, (t, t)."""
    lengths = None if length is None else torch.tensor([length])
    return global_local_mask(
        t, radius=radius, global_indices=torch.tensor(hubs, dtype=torch.long), key_lengths=lengths
    )[0, 0]


def _attention(q, k, v, radius, hubs, **options):
    """One head, (t, dk) to (t, dv)."""
    qkv = (x[None, None] for x in (q, k, v))
    return global_local_attention(*qkv, radius=radius, global_indices=torch.tensor(hubs), **options)[0, 0]


@exercise_check("global_local.pairs", function="count_pairs", points=2, section="count-the-pairs")
def pairs(learner, rng):
    """Predict how many pairs the pattern has."""
    for n in (0, 1, 2, 3):
        t, radius = integer(rng, 60, 200), integer(rng, 3, 9)
        hubs = torch.randperm(t - 40, generator=rng)[:n].add(20).sort().values.tolist()
        got = expect_number(learner(t, radius, hubs), what="the number of pairs")
        mask = _mask(t, radius, hubs)
        band, lines = int(_mask(t, radius, []).sum()), 2 * n * t - n * n
        read = mask.clone()
        read[hubs] = _mask(t, radius, [])[hubs]
        read[:, hubs] = True
        case = f"for t={t}, radius={radius}, global tokens {hubs}"
        expect(got != t * (2 * radius + 1), f"{case}: tokens near the ends have fewer neighbours")
        expect(n == 0 or got != band, f"{case}: the window alone is counted")
        expect(n == 0 or got != int(read.sum()), f"{case}: global tokens are read by all, and also read all")
        expect(
            n == 0 or got != int(mask.sum()) + n * n,
            f"{case}: what is in a row and a column of global tokens counts once",
        )
        expect(
            n == 0 or got != band + lines, f"{case}: a global token and its neighbour are one pair, and counted twice"
        )
        expect(got == int(mask.sum()), f"{case}: the number of pairs is wrong")


@exercise_check("global_local.mask", function="hub_mask", points=2, section="who-reads-whom")
def mask(learner, rng):
    """Build the mask of neighbours, global tokens and padding."""
    t, radius = 18, 2
    for length in (t, t - 5):
        hubs = [integer(rng, 5, 8), t - 2]
        got = learner(t, radius, hubs, length)
        expect(isinstance(got, torch.Tensor), f"the mask is a {type(got).__name__}, expected a tensor")
        expect(tuple(got.shape) == (t, t), f"the mask has shape {tuple(got.shape)}, expected {(t, t)}")
        expect(got.dtype == torch.bool, f"the mask is of {got.dtype}, expected booleans")
        _expect_pattern(got, t, radius, hubs, length, case=f"with {length} of {t} tokens that exist")


def _expect_pattern(seen, t, radius, hubs, length, *, case):
    """Broken with the first pair that is seen and should not be, or the other way round."""
    wanted = _mask(t, radius, hubs, length)
    picture = Picture(seen, wanted, rows="token that reads", columns="token that is read")
    far = (torch.arange(t)[:, None] - torch.arange(t)).abs() > radius
    exists = torch.arange(t) < length
    leak, blind = seen & ~wanted, wanted & ~seen
    rules = [
        (leak & exists[:, None] & ~exists, "token {} reads token {}, which is padding"),
        (leak & ~exists[:, None], "token {} is padding and reads token {}"),
        (leak & far, "token {} reads token {}, which is neither near nor global"),
        (blind & ~far, "token {} does not read its neighbour {}"),
    ]
    for wrong, words in rules:
        if wrong.any():
            raise Broken(f"{case}, radius {radius}: " + words.format(*place(wrong)), picture)
    if blind.any():
        row, col = place(blind)
        kind = (
            f"global token {row} does not read token {col}"
            if row in hubs
            else (f"token {row} does not read global token {col}")
        )
        raise Broken(f"{case}: {kind}", picture)


@exercise_check(
    "global_local.symmetric",
    function="attend",
    points=2,
    section="who-reads-whom",
    forbids=READY_MADE_ATTENTION,
)
def symmetric(learner, rng):
    """Repair attention whose global tokens are read by all, and read their neighbours alone."""
    t, radius, dk, dv = 15, 2, 5, 7
    hubs = [integer(rng, 0, 5), integer(rng, 8, 15)]
    q, k, v = normal(rng, t, dk), normal(rng, t, dk), normal(rng, t, dv)
    weights = learner(q, k, torch.eye(t, dtype=torch.float64), radius, hubs)
    expect_tensor(weights, (t, t), what="the output for one-hot values")
    _expect_pattern(weights > 0, t, radius, hubs, t, case=f"with global tokens {hubs}")
    sums = weights.sum(dim=-1)
    expect(torch.allclose(sums, torch.ones_like(sums)), "weights of a row do not sum to 1: mask scores, not weights")
    wanted = _attention(q, k, torch.eye(t, dtype=torch.float64), radius, hubs)
    near = ((torch.arange(t)[:, None] - torch.tensor(hubs)).abs() <= radius).any(dim=-1)
    right = torch.isclose(weights, wanted).all(dim=-1)
    near[hubs] = False
    expect(
        not (torch.equal(~right, near) and (weights[near][:, hubs] > wanted[near][:, hubs]).any()),
        "the right tokens are read, and a global token that is a neighbour as well is read twice",
    )
    expect_close(
        learner(q, k, v, radius, hubs), _attention(q, k, v, radius, hubs), "the output differs from the formula"
    )


def _layers(t, i, j, radii, hubs):
    """The least number of layers after which token i knows of token j, 0 for never: by multiplying masks."""
    known = torch.eye(t, dtype=torch.float64)
    for layer, radius in enumerate(radii, start=1):
        known = (_mask(t, radius, hubs).double() @ known).clamp_max(1)
        if known[i, j] > 0:
            return layer
    return 0


@exercise_check("global_local.layers", function="layers_needed", points=2, section="two-hops")
def layers(learner, rng):
    """Predict after how many layers one token knows of another."""
    t, radii = 60, [1, 2, 4, 8]
    i = integer(rng, 2, 9)

    def ask(j, hubs):
        return expect_number(learner(t, i, j, radii, hubs), what="the number of layers")

    def case(j, hubs):
        return f"token {i} of {t} asks for token {j}, radii {radii}, global tokens {hubs}"

    for distance in (1, 3, 7, 12):
        j, got = i + distance, ask(i + distance, [])
        wanted, backwards = _layers(t, i, j, radii, []), _layers(t, i, j, radii[::-1], [])
        expect(got == wanted or got != backwards, f"{case(j, [])}: the first layer has the first radius")
        same = math.ceil(distance / radii[0])
        expect(got == wanted or got != same, f"{case(j, [])}: each layer has a radius of its own")
        expect(got == wanted, f"{case(j, [])}: windows add up from layer to layer")
    got = ask(i + 16, [])
    expect(got == 0, f"{case(i + 16, [])}: all windows together do not reach so far")
    hub = integer(rng, 40, 50)
    for j, hubs, why in (
        (i + 30, [hub], "one layer into the global token, one out of it"),
        (hub, [hub], "the token asked for is global itself, and read directly"),
        (i + 30, [i], "the token that asks is global itself, and reads everything"),
        (i + 1, [hub], "the window is the shorter way"),
    ):
        expect(ask(j, hubs) == _layers(t, i, j, radii, hubs), f"{case(j, hubs)}: {why}")


@exercise_check(
    "global_local.projections",
    function="longformer_head",
    points=3,
    section="projections-of-their-own",
    forbids=READY_MADE_ATTENTION,
)
def projections(learner, rng):
    """Give global tokens projections of their own."""
    t, d, dk, dv, radius = 14, 6, 5, 4, 2
    hubs = [integer(rng, 8, 13), integer(rng, 0, 6)]
    x, matrices = normal(rng, t, d), [normal(rng, width, d) / 2 for width in (dk, dk, dv, dk, dk, dv)]
    arguments = [x, *matrices, radius, hubs]

    def by_definition(x, w_q, w_k, w_v, u_q, u_k, u_v):
        theirs = tuple(y[None, None] for y in (x[hubs] @ u_q.T, x @ u_k.T, x @ u_v.T))
        return _attention(x @ w_q.T, x @ w_k.T, x @ w_v.T, radius, hubs, global_qkv=theirs)

    got = expect_tensor(learner(*arguments), (t, dv), what="the output")
    wanted = by_definition(x, *matrices)
    ordinary = torch.tensor([i not in hubs for i in range(t)])
    wrong = ~torch.isclose(got, wanted).all(dim=-1)
    u = matrices[3:]
    for names, mixed in (
        ("queries, keys and values", matrices[:3]),
        ("keys and values", [u[0], *matrices[1:3]]),
        ("values", [*u[:2], matrices[2]]),
        ("queries", [matrices[0], *u[1:]]),
    ):
        there = by_definition(x, *matrices[:3], *mixed)[~ordinary]
        expect(not torch.allclose(got[~ordinary], there), f"global tokens use the {names} of the ordinary projections")
    expect(
        not (wrong & ordinary).any(),
        f"ordinary token {place(wrong & ordinary)} is wrong: it reads all tokens, global ones too, "
        "by the ordinary projections and in one softmax",
    )
    expect(not wrong.any(), f"global token {place(wrong)} is wrong: it reads every token")
    cotangent = normal(rng, t, dv)
    leaves = [y.clone().requires_grad_() for y in (x, *matrices)]
    truth = torch.autograd.grad(by_definition(*leaves), leaves, cotangent)
    mine = learner.grad(*arguments, wrt=tuple(range(7)), cotangent=cotangent)
    for name, ours, theirs in zip(("x", "w_q", "w_k", "w_v", "u_q", "u_k", "u_v"), mine, truth, strict=True):
        expect_close(ours, theirs, f"the gradient with respect to {name} is wrong though the output is right")


@exercise_check(
    "global_local.blocks",
    function="attend_in_blocks",
    points=3,
    section="blocks-and-hubs",
    forbids=READY_MADE_ATTENTION,
)
def blocks(learner, rng):
    """Attend in memory that is linear in the length."""
    for t, radius in ((7, 2), (193, 9), (128, 200)):
        hubs = [0, t // 2]
        q, k, v = normal(rng, t, 8), normal(rng, t, 8), normal(rng, t, 6)
        got = expect_tensor(learner(q, k, v, radius, hubs), (t, 6), what="the output")
        wanted = _attention(q, k, v, radius, hubs)
        wrong = ~torch.isclose(got, wanted).all(dim=-1)
        expect(
            not wrong[hubs].any(),
            f"with {t} tokens and radius {radius}, the rows of the global tokens {hubs} are wrong",
        )
        expect_close(got, wanted, f"with {t} tokens and radius {radius} the output differs from the formula")
    t, radius = 4096, 32
    q, k, v = (normal(rng, t, 16).float() for _ in range(3))
    whole = 4 * t * t
    message = f"with {t} tokens in float32 a matrix of all scores, {whole / 1e6:.0f} MB, is too large to form"
    expect_memory(learner, [q, k, v, radius, [0, t // 2]], at_most=whole // 3, message=message)
