"""Checks of the unit `multi_head`: the layer, its price, its pruning, its rotary places, and what two heads can do."""

import torch

from attncourse._shared.rope import rotary_angles, rotate_half_split, rotate_interleaved
from attncourse.multi_head import multi_head_attention

from ..core import Broken, exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import expect, expect_blind_to_future, expect_close, expect_number, expect_tensor, place

exercise_unit(
    "multi_head",
    title="Multi-head attention",
    chapter="multi_head",
    minutes=75,
    prerequisites=("softmax_attention",),
)


def _matrices(rng, *, d, h, dk, dv):
    return normal(rng, h * dk, d), normal(rng, h * dk, d), normal(rng, h * dv, d), normal(rng, d, h * dv)


@exercise_check("multi_head.cost", function="layer_cost", points=2, section="what-it-costs")
def cost(learner, rng):
    """Predict a layer's parameters, multiplications and cache bytes, and what the number of heads changes."""
    for _ in range(4):
        b, t, h, dh = integer(rng, 2, 9), integer(rng, 20, 90), integer(rng, 3, 9), integer(rng, 8, 40)
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


@exercise_check("multi_head.merge", function="merge_heads", points=2, section="one-projection-for-all")
def merge(learner, rng):
    """Repair the merging of heads that runs, trains, and mixes tokens."""
    h, dv = 3, 2
    b, t = (torch.randperm(3, generator=rng)[:2] + 4).tolist()
    x = normal(rng, b, h, t, dv)
    got = expect_tensor(learner(x), (b, t, h * dv), what="the merged tensor")
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


@exercise_check("multi_head.attend", function="multi_head", points=3, section="one-projection-for-all")
def attend(learner, rng):
    """Write causal multi-head self-attention from its four matrices."""
    d, h, dk, dv, t = 7, 3, 4, 2, 6
    x, matrices = normal(rng, t, d), _matrices(rng, d=d, h=h, dk=dk, dv=dv)
    got = expect_tensor(learner(x, *matrices, h), (t, d), what="the output")
    expect_blind_to_future(learner, [x, *matrices, h], moved=0, axis=0, rng=rng)

    def wanted(*, heads=h, scale=None, causal=True):
        return multi_head_attention(x[None], x[None], *matrices, n_heads=heads, scale=scale, causal=causal)[0]

    if torch.allclose(got, wanted(heads=1, scale=dk**-0.5)) or torch.allclose(got, wanted(heads=1)):
        raise Broken("all heads share one softmax: that is a single head as wide as all of them")
    if torch.allclose(got, wanted(scale=(h * dk) ** -0.5)):
        raise Broken(
            "scores are scaled by the width of all heads together; a head's own width is what varies its scores"
        )
    expect(not torch.allclose(got, wanted(scale=1.0)), "scores are not scaled")
    alone = learner(x[:1], *matrices, h)  # one token: every weight is 1, whatever the scores
    expect_close(
        alone,
        x[:1] @ matrices[2].T @ matrices[3].T,
        "with a single token the output is not W_o W_v x: heads are out of order",
    )
    expect_close(got, wanted(), "the output is not that of the heads, each with its own rows of w_q, w_k and w_v")
    cotangent = normal(rng, t, d)
    leaves = [w.clone().requires_grad_() for w in matrices]
    out = multi_head_attention(x[None], x[None], *leaves, n_heads=h, causal=True)[0]
    truth = torch.autograd.grad(out, leaves, cotangent)
    grads = learner.grad(x, *matrices, h, wrt=(1, 2, 3, 4), cotangent=cotangent)
    for name, mine, theirs in zip(("w_q", "w_k", "w_v", "w_o"), grads, truth, strict=True):
        expect_close(mine, theirs, f"the gradient with respect to {name} is wrong though the output is right")


@exercise_check("multi_head.prune", function="prune_head", points=2, section="heads-that-can-go")
def prune(learner, rng):
    """Cut a head out of the four matrices, so that the others say what they said."""
    d, h, dk, dv = 7, 4, 3, 2
    matrices = _matrices(rng, d=d, h=h, dk=dk, dv=dv)
    names = ("w_q", "w_k", "w_v", "w_o")
    for head in (1, 0, h - 1):
        got = learner(*matrices, h, head)
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
            expect_tensor(w, tuple(truth.shape), what=f"{case}, {name}")
        for other in range(h):
            same = all(torch.equal(w, cut) for w, cut in zip(got, _without(matrices, other, h), strict=True))
            expect(other == head or not same, f"{case}: head {other} was cut instead")
        for name, w, truth in zip(names, got, wanted, strict=True):
            expect_close(w, truth, f"{case}, {name} does not hold what the other heads own")


def _without(matrices, head, h):
    """The matrices of all heads but one, in their order."""
    rows = [i for i in range(h) if i != head]
    kept = [w.unflatten(0, (h, -1))[rows].flatten(0, 1) for w in matrices[:3]]
    return [*kept, matrices[3].unflatten(1, (h, -1))[:, rows].flatten(1, 2)]


@exercise_check("multi_head.rotary", function="rotate", points=2, section="where-a-token-stands")
def rotary(learner, rng):
    """Repair a rotary embedding that turns the wrong pairs."""
    t, dk, base = 5, 8, 100.0
    x, positions = normal(rng, t, dk), torch.arange(t) * 3
    got = expect_tensor(learner(x, positions, base), (t, dk), what="the turned x")
    still = learner(x, torch.zeros_like(positions), base)
    expect_close(still, x, "at position 0 nothing turns, and yet x changes")
    lengths, before = got.norm(dim=-1), x.norm(dim=-1)
    longer = (lengths - before).abs() > 1e-6 * before
    expect(
        not longer.any(), f"row {place(longer)} does not keep its length: what turns must be pairs, both by one angle"
    )
    k = normal(rng, t, dk)
    score = (got * learner(k, positions + 2, base)).sum(dim=-1)
    shifted = (learner(x, positions + 40, base) * learner(k, positions + 42, base)).sum(dim=-1)
    expect_close(shifted, score, "a score changes when query and key move on together", atol=1e-8)
    angles = rotary_angles(positions, dk, base=base, dtype=torch.float64)
    expect(
        not torch.allclose(got, rotate_interleaved(x, angles)),
        "entries 2i and 2i + 1 turn together: that is the other layout; here i and i + dk / 2 do",
    )
    expect(
        not torch.allclose(got, rotate_half_split(x, -angles)), "it turns backwards: (1, 0) must turn towards (0, 1)"
    )
    expect_close(got, rotate_half_split(x, angles), "pairs turn together, and by other angles than m * base^(-2i / dk)")


@exercise_check("multi_head.differ", function="differ_weights", points=3, section="what-one-head-cannot-say")
def differ(learner, rng):
    """Build two heads that together tell whether two bits differ, which no single head can."""
    got = learner()
    expect(isinstance(got, tuple | list) and len(got) == 4, "return four matrices: w_q, w_k, w_v, w_o")
    w_q, w_k, w_v, w_o = got
    for name, w in zip(("w_q", "w_k", "w_v", "w_o"), got, strict=True):
        expect(isinstance(w, torch.Tensor) and w.ndim == 2, f"{name} is not a matrix")
        expect(w.is_floating_point() and bool((w.abs() <= 100).all()), f"an entry of {name} is beyond 100, or no float")
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
    """The first pair of bits that a flag marks."""
    return bits[place(flags)].int().tolist() if flags.any() else []
