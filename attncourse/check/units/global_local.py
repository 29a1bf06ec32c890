"""Checks of the unit `global_local`: the pattern and its price, its symmetry, its hops, its projections, its blocks."""

import math

import torch

from attncourse.global_local import global_local_attention, global_local_attention_blocked, global_local_mask

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import hard_scores, integer, normal, unlike_sizes
from ..expect import expect, expect_close, expect_memory, expect_no_mistake, expect_number, expect_tensor, place
from ..picture import Picture

exercise_unit(
    "global_local",
    title="Global and local attention",
    chapter="global_local",
    minutes=90,
    prerequisites=("softmax_attention",),
)


def _mask(t, radius, hubs, length=None):
    """Return who reads whom, (t, t)."""
    lengths = None if length is None else torch.tensor([length])
    return global_local_mask(
        t, radius=radius, global_indices=torch.tensor(hubs, dtype=torch.long), key_lengths=lengths
    )[0, 0]


def _attention(q, k, v, radius, hubs, *, attention=global_local_attention, **options):
    """Return one head, (t, dk) to (t, dv)."""
    qkv = (x[None, None] for x in (q, k, v))
    return attention(*qkv, radius=radius, global_indices=torch.tensor(hubs), **options)[0, 0]


def _in_blocks(q, k, v, radius, hubs):
    """Return the same for long sequences."""
    return _attention(q, k, v, radius, hubs, attention=global_local_attention_blocked)


def _placed_hubs(rng, t):
    """Return lists of global tokens, not in order: at both ends, at the start alone, next to each other, further apart."""
    i, j, far = integer(rng, 4, t // 2 - 1), integer(rng, 1, 3), integer(rng, t // 2 + 2, t - 2)
    return [t - 1, 0], [0], [i + j, i], [far, 1, i]


@exercise_check(
    "global_local.pairs",
    function="count_pairs",
    difficulty="medium",
    importance="useful",
    points=2,
    section="count-the-pairs",
)
def pairs(learner, rng):
    """Predict how many pairs the pattern has."""
    t = integer(rng, 60, 200)
    for hubs in ([], *_placed_hubs(rng, t), [t // 2, t // 3, 20]):
        _expect_pairs(learner, t, integer(rng, 3, 9), hubs)
    for hubs in ([], [0], [6, 2]):
        _expect_pairs(learner, 8, integer(rng, 8, 12), hubs)


def _expect_pairs(learner, t, radius, hubs):
    got = expect_number(learner(t, radius, hubs), what="the number of pairs")
    mask, near, n = _mask(t, radius, hubs), _mask(t, radius, []), len(hubs)
    wanted, band = int(mask.sum()), int(near.sum())
    read = mask.clone()
    read[hubs] = near[hubs]
    read[:, hubs] = True
    mistakes = {
        "tokens near the ends have fewer neighbours": t * (2 * radius + 1),
        "the window alone is counted": band,
        "global tokens are read by all, and also read all": int(read.sum()),
        "what is in a row and a column of global tokens counts once": wanted + n * n,
        "a global token and its neighbour are one pair, and counted twice": band + 2 * n * t - n * n,
    }
    case = f"for t={t}, radius={radius}, global tokens {hubs}"
    expect_no_mistake(got, wanted, {f"{case}: {mistake}": value for mistake, value in mistakes.items()})
    expect(got == wanted, f"{case}: the number of pairs is wrong")


@exercise_check(
    "global_local.mask",
    function="hub_mask",
    difficulty="easy",
    importance="core",
    points=2,
    section="the-pattern-a-window-and-global-tokens",
)
def mask(learner, rng):
    """Build the mask of neighbours, global tokens and padding."""
    t, radius = integer(rng, 16, 21), integer(rng, 2, 4)
    cases = [([integer(rng, 5, 8), t - 2], length, radius) for length in (t, t - 5)]
    cases += [(hubs, length, radius) for hubs in _placed_hubs(rng, t) for length in (t, t - integer(rng, 2, 6), 1)]
    cases += [([1, t - 1], length, radius) for radius in (1, t + 1) for length in (t, t - 3, 0)]
    for hubs, length, radius in cases:
        got = learner(t, radius, hubs, length)
        expect(isinstance(got, torch.Tensor), f"the mask is a {type(got).__name__}, expected a tensor")
        expect(tuple(got.shape) == (t, t), f"the mask has shape {tuple(got.shape)}, expected {(t, t)}")
        expect(got.dtype == torch.bool, f"the mask is of {got.dtype}, expected booleans")
        _expect_pattern(got, t, radius, hubs, length, case=f"with {length} of {t} tokens that exist")


def _expect_pattern(seen, t, radius, hubs, length, *, case):
    """Raise Broken with the first pair that is seen and should not be, or the other way round."""
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
    difficulty="easy",
    importance="useful",
    points=2,
    section="the-pattern-a-window-and-global-tokens",
    forbids=READY_MADE_ATTENTION,
)
def symmetric(learner, rng):
    """Repair attention whose global tokens are read by all, and read their neighbours alone."""
    t, radius = integer(rng, 15, 19), 2
    for hubs in ([integer(rng, 0, 5), integer(rng, 8, 15)], *_placed_hubs(rng, t)):
        _expect_symmetric(learner, rng, t, radius, hubs)
        radius = integer(rng, 1, 4)
    _expect_symmetric(learner, rng, 5, 7, [3, 1])
    _expect_exact_for_hard_scores(learner, rng, t, radius)


def _expect_symmetric(learner, rng, t, radius, hubs):
    dk, dv = unlike_sizes(rng, 2, high=12)
    q, k, v = normal(rng, t, dk), normal(rng, t, dk), normal(rng, t, dv)
    one_hot = torch.eye(t, dtype=torch.float64)
    weights = expect_tensor(learner(q, k, one_hot, radius, hubs), (t, t), what="the output for one-hot values")
    _expect_pattern(weights > 0, t, radius, hubs, t, case=f"with global tokens {hubs}")
    sums = weights.sum(dim=-1)
    expect(torch.allclose(sums, torch.ones_like(sums)), "weights of a row do not sum to 1: mask scores, not weights")
    wanted = _attention(q, k, one_hot, radius, hubs)
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


def _expect_exact_for_hard_scores(learner, rng, t, radius):
    """Expect exact results for scores that overflow, vanish or stand below a finite fill,
    with global tokens at two pairs of places.
    """
    dk, dv = unlike_sizes(rng, 2, high=12)
    v = normal(rng, t, dv)
    places = (
        torch.randperm(t - 2, generator=rng)[:4] + 1
    ).tolist()  # whichever key stands above all, one pair is off it
    for case, q, k in hard_scores(rng, t, t, dk):
        for hubs in (places[:2], places[2:]):
            got = expect_tensor(learner(q, k, v, radius, hubs), (t, dv), what=f"{case}, the output")
            message = f"{case}, the output differs: hide scores before the softmax, and let it subtract a maximum"
            expect_close(got, _attention(q, k, v, radius, hubs), message, rtol=1e-4, atol=1e-6)


def _layers(t, i, j, radii, hubs):
    """Return the least number of layers after which token i knows of token j, 0 for never: by multiplying masks."""
    known = torch.eye(t, dtype=torch.float64)
    for layer, radius in enumerate(radii, start=1):
        known = (_mask(t, radius, hubs).double() @ known).clamp_max(1)
        if known[i, j] > 0:
            return layer
    return 0


@exercise_check(
    "global_local.layers",
    function="layers_needed",
    difficulty="medium",
    importance="useful",
    points=2,
    section="two-hops-reach-through-layers",
)
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
    for radii in _stacks(rng):
        _expect_layers(learner, rng, radii)


def _stacks(rng):
    """Return radii of stacks of one layer and more, growing, shrinking and alike."""
    width = integer(rng, 2, 6)
    yield [width]
    yield [width + 3, 1]
    yield [width, width, width]
    yield (torch.randperm(9, generator=rng)[:4] + 1).tolist()


def _expect_layers(learner, rng, radii):
    """Expect right layers for tokens on either side, as far as the windows reach and one further;
    with no, with other, and as global tokens.
    """
    t, reached = 2 * sum(radii) + 12, 0
    for radius in radii:
        reached += radius
        for distance in (reached, reached + 1):
            left = integer(rng, 0, t - distance)
            right = left + distance
            other = next(p for p in range(t - 1, -1, -1) if p not in (left, right))
            for i, j in ((left, right), (right, left)):
                for hubs in ([], [other], [other, i], [j]):
                    got = expect_number(learner(t, i, j, radii, hubs), what="the number of layers")
                    case = f"token {i} of {t} asks for token {j}, radii {radii}, global tokens {hubs}"
                    wanted = _layers(t, i, j, radii, hubs)
                    expect(got == 0 or got <= len(radii), f"{case}: more layers than the stack of {len(radii)} has")
                    expect(got == 0 or wanted != 0, f"{case}: the whole stack does not get there")
                    expect(got == wanted, f"{case}: the number of layers is wrong")


@exercise_check(
    "global_local.projections",
    function="longformer_head",
    difficulty="medium",
    importance="extra",
    points=3,
    section="two-softmaxes-two-sets-of-projections",
    forbids=READY_MADE_ATTENTION,
)
def projections(learner, rng):
    """Give global tokens projections of their own."""
    t, radius = integer(rng, 14, 18), integer(rng, 1, 4)
    for hubs in ([integer(rng, 8, 13), integer(rng, 0, 6)], *_placed_hubs(rng, t)):
        _expect_own_projections(learner, rng, t, radius, hubs)
    _expect_own_projections(learner, rng, 4, 6, [2])
    for hubs in ([t - 3, 2], [5]):
        _expect_exact_head(learner, rng, t, radius, hubs)


def _longformer(x, w_q, w_k, w_v, u_q, u_k, u_v, radius, hubs):
    """Return one head by definition."""
    theirs = tuple(y[None, None] for y in (x[hubs] @ u_q.T, x @ u_k.T, x @ u_v.T))
    return _attention(x @ w_q.T, x @ w_k.T, x @ w_v.T, radius, hubs, global_qkv=theirs)


def _draw_head(rng, t):
    """Return inputs, and the six matrices."""
    d, dk, dv = unlike_sizes(rng, 3, low=4)
    return [normal(rng, t, d), *(normal(rng, width, d) / 2 for width in (dk, dk, dv, dk, dk, dv))]


def _expect_own_projections(learner, rng, t, radius, hubs):
    tensors = _draw_head(rng, t)
    matrices, u = tensors[1:], tensors[4:]
    wanted = _longformer(*tensors, radius, hubs)
    got = expect_tensor(learner(*tensors, radius, hubs), tuple(wanted.shape), what="the output")
    ordinary = torch.tensor([i not in hubs for i in range(t)])
    wrong = ~torch.isclose(got, wanted).all(dim=-1)
    for names, mixed in (
        ("queries, keys and values", matrices[:3]),
        ("keys and values", [u[0], *matrices[1:3]]),
        ("values", [*u[:2], matrices[2]]),
        ("queries", [matrices[0], *u[1:]]),
    ):
        there = _longformer(tensors[0], *matrices[:3], *mixed, radius, hubs)[~ordinary]
        expect(not torch.allclose(got[~ordinary], there), f"global tokens use the {names} of the ordinary projections")
    expect(
        not (wrong & ordinary).any(),
        f"ordinary token {place(wrong & ordinary)} is wrong: it reads all tokens, global ones too, "
        "by the ordinary projections and in one softmax",
    )
    expect(not wrong.any(), f"global token {place(wrong)} is wrong: it reads every token")
    cotangent = normal(rng, *wanted.shape)
    leaves = [y.clone().requires_grad_() for y in tensors]
    truth = torch.autograd.grad(_longformer(*leaves, radius, hubs), leaves, cotangent)
    mine = learner.grad(*tensors, radius, hubs, wrt=tuple(range(7)), cotangent=cotangent)
    for name, ours, theirs in zip(("x", "w_q", "w_k", "w_v", "u_q", "u_k", "u_v"), mine, truth, strict=True):
        expect_close(ours, theirs, f"the gradient with respect to {name} is wrong though the output is right")


def _expect_exact_head(learner, rng, t, radius, hubs):
    """Expect an exact head: the first entries of x make scores far from 0, or of which one stands above all;
    values do not see them.
    """
    x, *matrices = _draw_head(rng, t)
    dk = len(matrices[0])
    for matrix in matrices:
        matrix[:, :2] = 0.0
    for w_q, w_k in (matrices[:2], matrices[3:5]):
        w_q[0], w_k[0] = 0.0, 0.0
        w_q[0, 0], w_k[0, 1] = dk**0.5, 1.0
    for case, q, k in hard_scores(rng, t, t, 3):
        x[:, 0], x[:, 1] = q[:, 0] / 3**0.5, k[:, 0]
        wanted = _longformer(x, *matrices, radius, hubs)
        got = expect_tensor(learner(x, *matrices, radius, hubs), tuple(wanted.shape), what=f"{case}, the output")
        message = f"{case}, the output is wrong: hide scores before the softmax, and let it subtract a maximum"
        expect_close(got, wanted, message, rtol=1e-4, atol=1e-6)


@exercise_check(
    "global_local.blocks",
    function="attend_in_blocks",
    difficulty="hard",
    importance="extra",
    points=3,
    section="blocked-computation-in-linear-memory",
    forbids=READY_MADE_ATTENTION,
    not_verified="how many pairs you compute: memory is measured, work is not",
)
def blocks(learner, rng):
    """Attend in memory that is linear in the length."""
    cases = [(7, 2, [0, 3]), (193, 9, [0, 96]), (128, 200, [0, 64]), (129, 9, [70, 5])]
    t = integer(rng, 260, 300)
    cases += [(t, integer(rng, 3, 40), hubs) for hubs in _placed_hubs(rng, t)]
    cases += [(t, 150, [integer(rng, 1, t)]), (128, 5, [127, 63, 64])]
    for t, radius, hubs in cases:
        _expect_blocks(learner, rng, t, radius, hubs)
    _expect_exact_for_hard_scores(learner, rng, integer(rng, 140, 160), integer(rng, 4, 9))
    _expect_blocks(learner, rng, integer(rng, 1100, 1500), integer(rng, 20, 40), [integer(rng, 700, 1000), 7])
    t, radius = integer(rng, 4050, 4150), integer(rng, 28, 36)
    hubs = [t - 1, integer(rng, 1, t // 2)]
    q, k, v = (normal(rng, t, 16).float() for _ in range(3))
    whole = 4 * t * t
    message = f"with {t} tokens in float32 a matrix of all scores, {whole / 1e6:.0f} MB, is too large to form"
    wanted = _in_blocks(q.double(), k.double(), v.double(), radius, hubs).float()
    expect_memory(learner, [q, k, v, radius, hubs], wanted, at_most=whole // 3, message=message)


def _expect_blocks(learner, rng, t, radius, hubs):
    dk, dv = unlike_sizes(rng, 2, low=5)
    q, k, v = normal(rng, t, dk), normal(rng, t, dk), normal(rng, t, dv)
    got = expect_tensor(learner(q, k, v, radius, hubs), (t, dv), what="the output")
    wanted = (_attention if t < 1000 else _in_blocks)(q, k, v, radius, hubs)
    wrong = ~torch.isclose(got, wanted).all(dim=-1)
    expect(
        not wrong[hubs].any(),
        f"with {t} tokens and radius {radius}, the rows of the global tokens {hubs} are wrong",
    )
    expect_close(got, wanted, f"with {t} tokens and radius {radius} the output differs from the formula")
