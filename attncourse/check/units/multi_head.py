"""Checks of the unit `multi_head`: the layer, its price, its pruning, its rotary places, and what two heads can do."""

import torch

from attncourse._shared.rope import rotary_angles, rotate_half_split, rotate_interleaved
from attncourse.multi_head import multi_head_attention

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import SHIFTS, integer, normal, unlike_sizes
from ..expect import (
    expect,
    expect_blind_to_future,
    expect_close,
    expect_close_far,
    expect_gradients,
    expect_number,
    expect_tensor,
    place,
)

exercise_unit(
    "multi_head",
    title="Multi-head attention",
    chapter="multi_head",
    minutes=75,
    prerequisites=("softmax_attention",),
)


def _matrices(rng, *, d, h, dk, dv):
    return normal(rng, h * dk, d), normal(rng, h * dk, d), normal(rng, h * dv, d), normal(rng, d, h * dv)


@exercise_check(
    "multi_head.cost", function="layer_cost", difficulty="medium", importance="core", points=2, section="what-it-costs"
)
def cost(learner, rng):
    """Predict a layer's parameters, multiplications and cache bytes, and what the number of heads changes."""
    for _ in range(6):
        b, t, h, dh = unlike_sizes(rng, 4, high=40)
        d = h * dh
        got = learner(b, t, d, h)
        expect(isinstance(got, tuple | list) and len(got) == 3, "return three numbers")
        parameters, multiplications, cache = (expect_number(x) for x in got)
        case = f"for b={b}, t={t}, d={d}, h={h}"
        expect(parameters != 3 * d * d, f"{case}: w_q, w_k and w_v are counted, and w_o is not")
        expect(
            parameters != 4 * d * d * h,
            f"{case}: each head has matrices of width d / h, not of width d: too many weights",
        )
        expect(parameters == 4 * d * d, f"{case}: the number of parameters is wrong")
        projections, attention = 4 * b * t * d * d, 2 * b * t * t * d
        expect(
            multiplications != projections, f"{case}: the projections are counted, the scores and the mixing are not"
        )
        expect(
            multiplications != attention, f"{case}: the scores and the mixing are counted, the four projections are not"
        )
        expect(
            multiplications != projections + h * attention,
            f"{case}: h heads of width d are counted; they are d / h wide each, and share the width",
        )
        expect(multiplications == projections + attention, f"{case}: the number of multiplications is wrong")
        expect(cache != 2 * b * t * d, f"{case}: keys alone are cached, or numbers counted for bytes")
        expect(cache == 4 * b * t * d, f"{case}: the bytes of the cached keys and values in float16 are wrong")


@exercise_check(
    "multi_head.merge",
    function="merge_heads",
    difficulty="easy",
    importance="useful",
    points=2,
    section="one-projection-for-all-heads",
)
def merge(learner, rng):
    """Repair the merging of heads that runs, trains, and mixes tokens."""
    b, h, t, dv = unlike_sizes(rng, 4)
    x = normal(rng, b, h, t, dv)
    got = learner(x)
    shape = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
    sizes = f"b={b}, h={h}, t={t}, dv={dv}"
    expect(shape == (b, t, h * dv), f"the merged tensor has shape {shape}, expected (b, t, h * dv) for {sizes}")
    expect_tensor(got, shape)
    for token in range(t):
        changed = x.clone()
        changed[:, :, token] += 1.0
        moved = (learner(changed) - got).abs().amax(dim=(0, 2)) > 0
        others = moved & (torch.arange(t) != token)
        expect(
            not others.any(),
            f"what the heads say at token {token} ends up at token {place(others)[0] if others.any() else 0}",
        )
    for row in range(b):
        changed = x.clone()
        changed[row] += 1.0
        moved = (learner(changed) - got).abs().amax(dim=(1, 2)) > 0
        expect(moved.tolist() == [i == row for i in range(b)], f"sequence {row} ends up in another row of the batch")
    for head in range(h):
        changed = x.clone()
        changed[:, head] += 1.0
        moved = ((learner(changed) - got).abs().amax(dim=(0, 1)) > 0).nonzero().flatten()
        together = len(moved) == dv and int(moved[-1] - moved[0]) == dv - 1
        expect(together, f"the entries of head {head} do not stand side by side")
        expect(int(moved[0]) == head * dv, f"head {head} does not stand at its place in the order of heads")
    expect_close(got, torch.cat(list(x.unbind(1)), dim=-1), "the entries within a head are not as they were")
    for shape in ((1, h, t, dv), (b, 1, t, dv), (b, h, 1, dv), (b, h, t, 1), (dv, t, h, b)):
        x = normal(rng, *shape)
        expect_close(learner(x), torch.cat(list(x.unbind(1)), dim=-1), f"for x of shape {shape} the result is wrong")


def _layer(x, w_q, w_k, w_v, w_o, n_heads, *, scale=None):
    """Return causal multi-head self-attention over one sequence."""
    return multi_head_attention(x[None], x[None], w_q, w_k, w_v, w_o, n_heads=n_heads, scale=scale, causal=True)[0]


def _far_layer(x, matrices, h, *, rows, columns):
    """Return x and matrices whose scores hold rows[i] + columns[j] more in every head:
    three features and two key entries more.

    The features are 1, rows[i] and columns[i]; queries read the second and the first, keys the first and the third.
    """
    w_q, w_k, w_v, w_o = matrices
    w_q, w_k = (torch.nn.functional.pad(w.unflatten(0, (h, -1)), (0, 3, 0, 2)) for w in (w_q, w_k))
    dk = w_q.shape[1]
    w_q[:, -2, -2] = w_q[:, -1, -3] = dk**0.5
    w_k[:, -2, -3] = w_k[:, -1, -1] = 1.0
    w_v, w_o = torch.nn.functional.pad(w_v, (0, 3)), torch.nn.functional.pad(w_o, (0, 0, 0, 3))
    x = torch.cat([x, torch.stack([torch.ones_like(rows), rows, columns], dim=1).to(x)], dim=1)
    return [x, w_q.flatten(0, 1), w_k.flatten(0, 1), w_v, w_o, h]


@exercise_check(
    "multi_head.attend",
    function="multi_head",
    difficulty="medium",
    importance="core",
    points=3,
    section="multi-head-attention-in-eight-lines",
    forbids=READY_MADE_ATTENTION,
)
def attend(learner, rng):
    """Write causal multi-head self-attention from its four matrices."""
    drawn = unlike_sizes(rng, 5)
    h, t = sorted(drawn)[:2]  # the small ones: the check calls twice for each token
    d, dk, dv = (n for n in drawn if n not in (h, t))
    x, matrices = normal(rng, t, d), _matrices(rng, d=d, h=h, dk=dk, dv=dv)
    got = expect_tensor(learner(x, *matrices, h), (t, d), what="the output")
    expect_blind_to_future(learner, [x, *matrices, h], moved=0, axis=0, rng=rng)
    if torch.allclose(got, _layer(x, *matrices, 1, scale=dk**-0.5)) or torch.allclose(got, _layer(x, *matrices, 1)):
        raise Broken("all heads share one softmax: that is a single head as wide as all of them")
    if torch.allclose(got, _layer(x, *matrices, h, scale=(h * dk) ** -0.5)):
        raise Broken(
            "scores are scaled by the width of all heads together; a head's own width is what varies its scores"
        )
    expect(not torch.allclose(got, _layer(x, *matrices, h, scale=1.0)), "scores are not scaled")
    alone = learner(x[:1], *matrices, h)  # one token: every weight is 1, whatever the scores
    expect_close(
        alone,
        x[:1] @ matrices[2].T @ matrices[3].T,
        "with a single token the output is not W_o W_v x: heads are out of order",
    )
    wanted = _layer(x, *matrices, h)
    expect_close(got, wanted, "the output is not that of the heads, each with its own rows of w_q, w_k and w_v")
    for heads, widths in ((1, (dk, dv)), (h, (dv, dk))):
        some = normal(rng, t, d), *_matrices(rng, d=d, h=heads, dk=widths[0], dv=widths[1]), heads
        expect_close(learner(*some), _layer(*some), f"with n_heads={heads} and other widths the output is wrong")

    level, nothing = torch.ones(t, dtype=torch.float64), torch.zeros(t, dtype=torch.float64)
    mixed = torch.tensor(SHIFTS, dtype=torch.float64).repeat(t)[:t]
    for rows, columns, what in (
        *((level * shift, nothing, f"scores of about {shift:,.0f}") for shift in SHIFTS),
        (mixed, nothing, "rows of scores that lie far from one another"),
        (nothing, 2000.0 * (torch.arange(t) == t - 1), "scores of the last token thousands above the rest"),
    ):
        far = _far_layer(x, matrices, h, rows=rows, columns=columns)
        expect_close_far(learner(*far), _layer(*far), what)
    names = dict(enumerate(("w_q", "w_k", "w_v", "w_o"), start=1))
    expect_gradients(learner, [x, *matrices, h], _layer, wrt=names, rng=rng)


@exercise_check(
    "multi_head.prune",
    function="prune_head",
    difficulty="medium",
    importance="useful",
    points=2,
    section="pruning-heads",
)
def prune(learner, rng):
    """Cut a head out of the four matrices, so that the others say what they said."""
    few, d, *widths = sorted(unlike_sizes(rng, 4))
    for h, (dk, dv) in ((few, widths), (few, widths[::-1]), (2, widths)):
        matrices = _matrices(rng, d=d, h=h, dk=dk, dv=dv)
        for head in (1, 0, *range(2, h)):
            _judge_pruned(learner(*matrices, h, head), matrices, h, head)


def _judge_pruned(got, matrices, h, head):
    names = ("w_q", "w_k", "w_v", "w_o")
    case = f"without head {head} of {h}"
    expect(isinstance(got, tuple | list) and len(got) == 4, "return four matrices: w_q, w_k, w_v, w_o")
    wanted = _without(matrices, head, h)
    sizes = [tuple(w.shape) for w in got]
    expect(
        sizes != [tuple(w.shape) for w in matrices],
        f"{case}, all matrices are as large as before: a silenced head costs as much as one that speaks",
    )
    expect(sizes[3] != tuple(matrices[3].shape), f"{case}, w_o is as large as before: a head owns columns of it")
    for name, w, truth in zip(names, got, wanted, strict=True):
        expect(w.shape == truth.shape, f"{case}, {name} has shape {tuple(w.shape)}: not what {h - 1} heads own of it")
    for other in range(h):
        same = all(torch.equal(w, cut) for w, cut in zip(got, _without(matrices, other, h), strict=True))
        expect(other == head or not same, f"{case}: head {other} was cut instead")
    for name, w, truth in zip(names, got, wanted, strict=True):
        expect_close(w, truth, f"{case}, {name} does not hold what the other heads own")


def _without(matrices, head, h):
    """Return the matrices of all heads but one, in their order."""
    rows = [i for i in range(h) if i != head]
    kept = [w.unflatten(0, (h, -1))[rows].flatten(0, 1) for w in matrices[:3]]
    return [*kept, matrices[3].unflatten(1, (h, -1))[:, rows].flatten(1, 2)]


@exercise_check(
    "multi_head.rotary",
    function="rotate",
    difficulty="medium",
    importance="core",
    points=2,
    section="positions-rotary-or-learned",
)
def rotary(learner, rng):
    """Repair a rotary embedding that turns the wrong pairs."""
    t = integer(rng, 5, 9)
    some = integer(rng, 50, 20000)
    for dk, base in ((2 * integer(rng, 5, 8), float(some)), (6, some // 3 + 17), (2, some + 0.5)):
        _judge_rotary(learner, rng, t, dk, base)


def _judge_rotary(learner, rng, t, dk, base):
    """Judge to four digits: angles in float32 are right as well."""
    x, positions = normal(rng, t, dk), torch.randperm(90, generator=rng)[:t]
    got = expect_tensor(learner(x, positions, base), (t, dk), what="the turned x")
    still = learner(x, torch.zeros_like(positions), base)
    expect_close(still, x, "at position 0 nothing turns, and yet x changes")
    lengths, before = got.norm(dim=-1), x.norm(dim=-1)
    longer = (lengths - before).abs() > 1e-4 * before
    expect(
        not longer.any(), f"row {place(longer)} does not keep its length: what turns must be pairs, both by one angle"
    )
    k = normal(rng, t, dk)
    score = (got * learner(k, positions + 2, base)).sum(dim=-1)
    shifted = (learner(x, positions + 40, base) * learner(k, positions + 42, base)).sum(dim=-1)
    expect_close(shifted, score, "a score changes when query and key move on together", atol=1e-3)
    angles = rotary_angles(positions, dk, base=base, dtype=torch.float64)
    expect(
        dk == 2 or not torch.allclose(got, rotate_interleaved(x, angles), atol=1e-4),
        "entries 2i and 2i + 1 turn together: that is the other layout; here i and i + dk / 2 do",
    )
    wanted, backwards = (rotate_half_split(x, turn) for turn in (angles, -angles))
    message = "it turns backwards: (1, 0) must turn towards (0, 1)"
    expect(not torch.allclose(got, backwards, atol=1e-4), message)
    message = f"for dk={dk} pairs turn together, and by other angles than m * base^(-2i / dk)"
    expect_close(got, wanted, message, rtol=1e-4, atol=1e-4)
    expect_close(learner(x[:1], positions[:1], base), wanted[:1], f"a single row, {message}", rtol=1e-4, atol=1e-4)


@exercise_check(
    "multi_head.differ",
    function="differ_weights",
    difficulty="hard",
    importance="extra",
    points=3,
    section="what-one-head-cannot-do-compare-two-tokens",
)
def differ(learner, rng):
    """Build two heads that together tell whether two bits differ, which no single head can."""
    got = learner()
    expect(isinstance(got, tuple | list) and len(got) == 4, "return four matrices: w_q, w_k, w_v, w_o")
    w_q, w_k, w_v, w_o = got
    for name, w in zip(("w_q", "w_k", "w_v", "w_o"), got, strict=True):
        expect(isinstance(w, torch.Tensor) and w.ndim == 2, f"{name} is not a matrix")
        real = not (w.is_complex() or w.dtype == torch.bool)
        expect(real and bool((w.abs() <= 100).all()), f"an entry of {name} is beyond 100, or no real number")
    fits = (w_q.shape == w_k.shape) and {w_q.shape[1], w_v.shape[1]} == {2} and w_o.shape == (1, w_v.shape[0])
    expect(
        fits and w_q.shape[0] % 2 == w_v.shape[0] % 2 == 0,
        f"the shapes do not fit two heads that read (1, bit): {', '.join(str(tuple(w.shape)) for w in got)}",
    )
    bits = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    context = torch.stack([torch.ones_like(bits), bits], dim=-1)
    asking = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64).expand(4, 1, 2)
    says = multi_head_attention(asking, context, *(w.double() for w in got), n_heads=2).flatten()
    undecided = ~(says.abs() > 0.05)
    expect(
        not undecided.any(),
        f"for bits {_bits(bits, undecided)} the output is undecided; beyond 0.05 to either side is asked",
    )
    wrong = (says > 0) != (bits[:, 0] != bits[:, 1])
    expect(not wrong.any(), f"for bits {_bits(bits, wrong)} the output has the wrong sign")


def _bits(bits, flags):
    """Return the first pair of bits that a flag marks."""
    return bits[place(flags)].int().tolist() if flags.any() else []
