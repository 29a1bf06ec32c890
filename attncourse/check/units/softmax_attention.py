"""Checks of the unit `softmax_attention`: the formula, its mask, its empty rows, its halves, and what it costs."""

import torch

from attncourse.softmax_attention import softmax_attention, softmax_attention_with_lse

from ..core import READY_MADE_ATTENTION, Broken, Picture, exercise_check, exercise_unit
from ..draw import normal, sizes
from ..expect import (
    expect,
    expect_close,
    expect_memory,
    expect_number,
    expect_reordering_changes_nothing,
    expect_rows_sum_to_one,
    expect_same_in_pieces,
    expect_tensor,
    numbers_in,
    place,
    weights_of,
)

exercise_unit(
    "softmax_attention",
    title="Softmax attention",
    chapter="query_key_value",
    minutes=90,
    prerequisites=("why_attention",),
)


def _draw(rng, *, t, s, dk, dv):
    return normal(rng, t, dk), normal(rng, s, dk), normal(rng, s, dv)


@exercise_check("softmax_attention.cost", function="attention_cost", points=2, section="what-it-costs")
def cost(learner, rng):
    """Predict the multiplications of attention and the bytes of its weights, from the shapes."""
    for _ in range(4):
        b, h, t, s, d = torch.randint(2, 50, (5,), generator=rng).tolist()
        got = learner(b, h, t, s, d)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: multiplications, then bytes")
        multiplications, weight_bytes = (expect_number(x) for x in got)
        shapes = f"b={b}, h={h}, t={t}, s={s}, d={d}"
        products = b * h * t * s * d
        expect(
            multiplications != products, f"for {shapes}: that is one of the two products; the other mixes the values"
        )
        expect(multiplications != 2 * products // h, f"for {shapes}: that is one head's work, and there are {h}")
        expect(multiplications == 2 * products, f"for {shapes}: the number of multiplications is wrong")
        expect(weight_bytes != b * h * t * s, f"for {shapes}: those are numbers, not bytes; a float16 has two bytes")
        expect(weight_bytes != 2 * b * t * s, f"for {shapes}: each of the {h} heads has weights of its own")
        expect(weight_bytes == 2 * b * h * t * s, f"for {shapes}: the bytes of the weights in float16 are wrong")


@exercise_check(
    "softmax_attention.attend",
    function="attend",
    points=3,
    section="from-a-loop-to-two-products",
    forbids=READY_MADE_ATTENTION,
)
def attend(learner, rng):
    """Write softmax(Q K^T / sqrt(dk)) V for one head."""
    t, s, dk, dv = sizes(rng, 4)
    q, k, v = _draw(rng, t=t, s=s, dk=dk, dv=dv)
    got = expect_tensor(learner(q, k, v), (t, dv), what="the output")
    weights = expect_tensor(weights_of(learner, q, k), (t, s), what="the output for one-hot values")
    expect_rows_sum_to_one(weights)
    logits = weights.log() - weights.log().mean(dim=-1, keepdim=True)
    products = q @ k.T
    products = products - products.mean(dim=-1, keepdim=True)
    scale = float((logits * products).sum() / products.square().sum())
    expect(abs(scale - 1) > 1e-6, f"scores are not scaled: the weights are the softmax of q . k itself (dk is {dk})")
    expect(abs(scale - 1 / dk) > 1e-6, f"scores are divided by dk = {dk}, not by its square root")
    message = "the output changes when keys and values are reordered together"
    expect_reordering_changes_nothing(learner, [q, k, v], moved=(1, 2), rng=rng, message=message)
    expect_close(
        got, softmax_attention(*(x[None, None] for x in (q, k, v)))[0, 0], "the output differs from the formula"
    )
    huge = learner(q * 1e3, k * 1e3, v)
    expect(bool(huge.isfinite().all()), f"scores of about a million give NaN or infinity at {place(~huge.isfinite())}")
    cotangent = normal(rng, t, dv)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    truth = torch.autograd.grad(softmax_attention(*(x[None, None] for x in leaves))[0, 0], leaves, cotangent)
    for name, mine, theirs in zip("qkv", learner.grad(q, k, v, wrt=(0, 1, 2), cotangent=cotangent), truth, strict=True):
        expect_close(mine, theirs, f"the gradient with respect to {name} is wrong though the output is right")


@exercise_check(
    "softmax_attention.causal",
    function="causal_attend",
    points=3,
    section="who-may-look-where",
    forbids=READY_MADE_ATTENTION,
)
def causal(learner, rng):
    """Mask the future when the queries are the last t of s positions."""
    s, t, dk, dv = 9, 5, *sizes(rng, 2)
    for queries in (s, t):  # first the square case, then queries that continue a prefix
        q, k, v = _draw(rng, t=queries, s=s, dk=dk, dv=dv)
        weights = expect_tensor(weights_of(learner, q, k), (queries, s), what="the output for one-hot values")
        positions = torch.arange(queries) + s - queries
        case = f"with {queries} queries at the end of {s} positions"
        seen, allowed = weights > 0, torch.arange(s) <= positions[:, None]
        picture = Picture(seen, allowed)
        if (leak := seen & ~allowed).any():
            row, _ = place(leak)
            furthest = int(leak[row].nonzero()[-1])
            raise Broken(f"{case}, position {positions[row]} saw position {furthest}, its future", picture)
        if (blind := allowed & ~seen).any():
            row, col = place(blind)
            broken = f"{case}, position {positions[row]} did not see position {col}, which is not its future"
            raise Broken(broken, picture)
        expect_rows_sum_to_one(weights)
        wanted = softmax_attention(*(x[None, None] for x in (q, k, v)), causal=True)[0, 0]
        expect_close(learner(q, k, v), wanted, f"{case}, the output is not attention to the past")


@exercise_check("softmax_attention.repair", function="masked_softmax", points=2, section="who-may-look-where")
def repair(learner, rng):
    """Repair a masked softmax that gives NaN where a row sees nothing."""
    t, s = 5, 7
    scores = normal(rng, t, s) * 3
    visible = torch.rand(t, s, generator=rng) > 0.4
    visible[:, 0] = True
    visible[2] = False
    weights = learner(scores, visible)
    expect(isinstance(weights, torch.Tensor) and tuple(weights.shape) == (t, s), f"return weights of shape ({t}, {s})")
    expect(not weights.isnan().any(), f"row {place(weights.isnan())[:1]} is NaN; a row that sees nothing gives zeros")
    leak = (weights != 0) & ~visible
    leak[2] = False
    expect(not leak.any(), f"the weight at {place(leak)} is not 0 though the key is not visible")
    expect(not weights[2].any(), "row 2 sees nothing, and its weights are not zeros")
    seeing = torch.arange(t) != 2
    expect_rows_sum_to_one(weights[seeing])
    wanted = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)[seeing]
    expect_close(weights[seeing], wanted, "the weights of rows that see something are not the softmax of what they see")
    far = learner(scores - 1e4, visible)
    expect(
        bool(far.isfinite().all()) and not far[2].any(),
        "with scores of about -10000 the row that sees nothing is no longer zeros",
    )
    expect_close(far[seeing], wanted, "subtracting one number from all scores changes the weights", atol=1e-6)
    (grad,) = learner.grad(scores, visible, wrt=(0,), cotangent=normal(rng, t, s))
    expect(
        bool(grad.isfinite().all()),
        f"the weights are right and their gradient is NaN at {place(~grad.isfinite())}: where hides the NaN, but its gradient flows",
    )


@exercise_check("softmax_attention.merge", function="merge", points=3, section="one-pass-any-split")
def merge(learner, rng):
    """Merge attention over two halves of the keys, from the outputs and log-sum-exps alone."""
    t, s, dk, dv = 4, 9, *sizes(rng, 2)
    q, k, v = (x[None, None] for x in _draw(rng, t=t, s=s, dk=dk, dv=dv))
    q = q * 3
    cut = 3

    def part(keys):
        out, lse = softmax_attention_with_lse(q, k[:, :, keys], v[:, :, keys])
        return out[0, 0], lse[0, 0]

    left, right, (whole, whole_lse) = part(slice(cut)), part(slice(cut, s)), part(slice(s))
    got = learner(*left, *right)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: the output, then its log-sum-exp")
    out, lse = expect_tensor(got[0], (t, dv), what="the output"), expect_tensor(got[1], (t,), what="the log-sum-exp")
    expect(
        not torch.allclose(out, (left[0] + right[0]) / 2),
        "the halves are averaged; the one whose scores are larger counts more",
    )
    expect(
        not torch.allclose(out, (cut * left[0] + (s - cut) * right[0]) / s),
        "the halves are weighted by their number of keys, not by their scores",
    )
    expect_close(out, whole, "the output is not that of attention over all keys")
    expect_close(lse, whole_lse, "the output is right, and its log-sum-exp is not that of all scores")
    swapped = learner(*right, *left)
    expect_close(swapped[0], whole, "the result depends on which half comes first")
    far = learner(left[0], left[1] + 2000.0, right[0], right[1] + 2000.0)
    expect(bool(far[0].isfinite().all()), "log-sum-exps of about 2000 overflow: subtract the larger one before exp")
    nothing = torch.zeros_like(left[0]), torch.full((t,), -torch.inf, dtype=torch.float64)
    beside = learner(*left, *nothing)
    expect(not beside[0].isnan().any(), "merging with a half without keys (log-sum-exp -inf) gives NaN")
    expect_close(beside[0], left[0], "merging with a half without keys changes the output")
    both = learner(*nothing, *nothing)
    expect(not both[0].isnan().any(), "merging two halves without keys gives NaN; the output is zeros")


@exercise_check(
    "softmax_attention.stream",
    function="read_piece",
    points=3,
    section="one-pass-any-split",
    forbids=READY_MADE_ATTENTION,
)
def stream(learner, rng):
    """Attend to keys that arrive piece by piece, with a state that does not grow."""
    t, s, dk, dv = 3, 11, *sizes(rng, 2)
    q, k, v = _draw(rng, t=t, s=s, dk=dk, dv=dv)
    whole = softmax_attention(*(x[None, None] for x in (q, k, v)))[0, 0]
    for lengths in ((s,), (4, 7), (1, 2, 3, 5), (1,) * s):
        cuts = zip(k.split(lengths), v.split(lengths), strict=True)
        states = expect_same_in_pieces(learner, [(q, *piece) for piece in cuts], whole, what="attention")
        first, last = numbers_in(states[0]), numbers_in(states[-1])
        expect(first == last, f"the state grows with what was read: {first} numbers after a piece, {last} after all")
    order = (q @ k.T).sum(dim=0).argsort()  # every piece has larger scores than the one before
    rising = [(q, k[i : i + 1] * 2000, v[i : i + 1]) for i in order]
    wanted = softmax_attention(*(x[None, None] for x in (q, k[order] * 2000, v[order])))[0, 0]
    expect_same_in_pieces(learner, rising, wanted, what="attention with scores of several thousand")


@exercise_check(
    "softmax_attention.tiles",
    function="attend_in_tiles",
    points=2,
    section="one-pass-any-split",
    forbids=READY_MADE_ATTENTION,
)
def tiles(learner, rng):
    """Attend over a long sequence without ever holding the matrix of its scores."""
    for t, s in ((7, 5), (131, 257), (300, 64)):
        q, k, v = _draw(rng, t=t, s=s, dk=8, dv=6)
        got = expect_tensor(learner(q, k, v), (t, 6), what="the output")
        wanted = softmax_attention(*(x[None, None] for x in (q, k, v)))[0, 0]
        expect_close(got, wanted, f"with {t} queries and {s} keys the output differs from the formula")
    n = 4096
    q, k, v = (x.float() for x in _draw(rng, t=n, s=n, dk=16, dv=16))
    whole = 4 * n * n
    message = f"with {n} queries and keys in float32 the matrix of scores, {whole / 1e6:.0f} MB, is too large to form"
    expect_memory(learner, [q, k, v], at_most=whole // 3, message=message)
