"""Checks of the unit `additive`: Bahdanau's score, its alignment under padding, and what it costs."""

import torch

from attncourse.additive import additive_attention, additive_scores, additive_weights

from ..core import Broken, exercise_check, exercise_unit
from ..expect import expect, expect_close, expect_number, expect_rows_sum_to_one, expect_tensor, place

exercise_unit(
    "additive", title="Additive attention", chapter="short_history", minutes=40, prerequisites=("softmax_attention",)
)


def _draw(rng, *, t, s, dq, dk, a):
    """Queries, keys and the three parameters, all of different sizes; float64, moderate numbers."""
    shapes = [(t, dq), (s, dk), (a, dq), (a, dk), (a,)]
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


def _sizes(rng):
    """Five sizes of which no two are equal: a swapped axis shows."""
    t, s, dq, dk, a = (torch.randperm(7, generator=rng)[:5] + 2).tolist()
    return dict(t=t, s=s, dq=dq, dk=dk, a=a)


def _batched(*matrices):
    return [x[None, None] for x in matrices]


@exercise_check("additive.score", function="additive_score", points=3, section="additive-attention")
def score(learner, rng):
    """Score every pair of query and key by w_score . tanh(w_q q + w_k k)."""
    sizes = _sizes(rng)
    q, k, w_q, w_k, w_score = _draw(rng, **sizes)
    got = expect_tensor(learner(q, k, w_q, w_k, w_score), (sizes["t"], sizes["s"]), what="the matrix of scores")
    wanted = additive_scores(*_batched(q, k), w_q, w_k, w_score)[0, 0]

    # With huge projections tanh is +-1: every score is a signed sum of w_score, far below a thousand.
    far = learner(q * 1e6, k * 1e6, w_q, w_k, w_score)
    expect(bool((far.abs() < 1e3).all()), "scores grow without bound with the inputs: where is the tanh?")

    only_q = learner(q, torch.zeros_like(k), w_q, w_k, w_score)
    expect(bool((only_q - only_q[:, :1]).abs().max() < 1e-9), "equal keys get different scores from one query")
    half = learner(q, k, w_q, w_k, w_score * 2)
    expect_close(half, got * 2, "twice the w_score does not give twice the scores: it belongs outside the tanh")
    silent = learner(q, k, torch.zeros_like(w_q), w_k, w_score)
    expect(
        bool((silent - silent[:1]).abs().max() < 1e-9),
        "with w_q = 0 the query still changes the scores: w_q is not applied to it",
    )
    deaf = learner(q, k, w_q, torch.zeros_like(w_k), w_score)
    expect(
        bool((deaf - deaf[:, :1]).abs().max() < 1e-9),
        "with w_k = 0 the key still changes the scores: w_k is not applied to it",
    )
    expect_close(got, wanted, "scores differ from w_score . tanh(w_q q + w_k k)")

    cotangent = torch.randn(got.shape, generator=rng, dtype=torch.float64)
    grads = learner.grad(q, k, w_q, w_k, w_score, wrt=(0, 2, 4), cotangent=cotangent)
    leaves = [x.clone().requires_grad_() for x in (q, w_q, w_score)]
    truth = torch.autograd.grad(
        additive_scores(*_batched(leaves[0], k), leaves[1], w_k, leaves[2])[0, 0], leaves, cotangent
    )
    for name, mine, theirs in zip(("q", "w_q", "w_score"), grads, truth, strict=True):
        expect_close(mine, theirs, f"the gradient with respect to {name} is wrong though the scores are right")


@exercise_check("additive.context", function="additive_context", points=3, section="additive-attention")
def context(learner, rng):
    """Read the values by the alignment, as if padded keys did not exist."""
    sizes = _sizes(rng)
    _, _, w_q, w_k, w_score = _draw(rng, **sizes)
    t, s, b = sizes["t"], sizes["s"], 3
    queries = torch.randn(b, t, sizes["dq"], generator=rng, dtype=torch.float64)
    memory = torch.randn(b, s, sizes["dk"], generator=rng, dtype=torch.float64)
    lengths = torch.tensor([s, s - 1, 1])
    got = learner(queries, memory, lengths, w_q, w_k, w_score)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: the context, then the alignment")
    out, weights = got
    expect_tensor(weights, (b, t, s), what="the alignment")
    expect_tensor(out, (b, t, sizes["dk"]), what="the context")
    for row, length in enumerate(lengths.tolist()):
        leak = weights[row, :, length:].sum()
        expect(leak == 0, f"batch row {row} has {length} keys, and padding behind them gets weight {leak:.2g} in all")
    expect_rows_sum_to_one(weights)

    changed = memory.clone()
    changed[1, s - 1] += 5.0
    moved = (learner(queries, changed, lengths, w_q, w_k, w_score)[0] - out).abs().amax(dim=(1, 2))
    expect(moved[1] == 0, "the content of a padded key changes the context of batch row 1")
    wanted_weights = additive_weights(queries[:, None], memory[:, None], w_q, w_k, w_score, key_lengths=lengths)[:, 0]
    expect_close(weights, wanted_weights, "the alignment is not the softmax of the scores of the keys that exist")
    wanted = additive_attention(
        queries[:, None], memory[:, None], memory[:, None], w_q, w_k, w_score, key_lengths=lengths
    )[:, 0]
    expect_close(out, wanted, "the context is not the memory weighted by the alignment")


@exercise_check("additive.cost", function="additive_cost", points=2, section="what-it-costs")
def cost(learner, rng):
    """Predict the multiplications and the bytes of the hidden layer, from the shapes."""
    for _ in range(4):
        b, t, s, a, d = (torch.randint(2, 40, (5,), generator=rng)).tolist()
        got = learner(b, t, s, a, d)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: multiplications, then bytes")
        multiplications, hidden_bytes = (expect_number(x) for x in got)
        shapes = f"b={b}, t={t}, s={s}, a={a}, d={d}"
        projected_once, score = b * (t + s) * d * a, b * t * s * a
        per_pair = 2 * b * t * s * d * a + score
        expect(
            multiplications != per_pair,
            f"for {shapes}: you project query and key again for every pair; each needs it once",
        )
        expect(
            multiplications != projected_once,
            f"for {shapes}: the product with w_score is missing, once a pair and unit",
        )
        expect(multiplications != score, f"for {shapes}: the projections of queries and keys are missing")
        expect(multiplications == projected_once + score, f"for {shapes}: the number of multiplications is wrong")
        numbers = b * t * s * a
        expect(hidden_bytes != numbers, f"for {shapes}: those are numbers, not bytes; a float32 has four bytes")
        expect(
            hidden_bytes != 4 * b * t * s,
            f"for {shapes}: those are the bytes of the scores; the hidden layer has an axis more",
        )
        expect(hidden_bytes == 4 * numbers, f"for {shapes}: the bytes of the hidden layer are wrong")


@exercise_check("additive.repair", function="masked_alignment", points=2, section="where-it-fails")
def repair(learner, rng):
    """Repair an alignment whose mask comes after the softmax."""
    b, t, s = 3, 4, 6
    scores = torch.randn(b, t, s, generator=rng, dtype=torch.float64) * 3
    lengths = torch.tensor([s, 2, 4])
    weights = expect_tensor(learner(scores, lengths), (b, t, s), what="the alignment")
    for row, length in enumerate(lengths.tolist()):
        leak = weights[row, :, length:].sum()
        expect(leak == 0, f"batch row {row} has {length} keys, and padding behind them gets weight {leak:.2g} in all")
    sums = weights.sum(dim=-1)
    short = (sums < 1 - 1e-6).nonzero()
    if len(short):
        where = tuple(short[0].tolist())
        raise Broken(f"row {where} sums to {sums[where].item():.2f}: padding took its share before it was removed")
    expect_rows_sum_to_one(weights)
    shifted = learner(scores + 1000.0, lengths)
    expect(bool(shifted.isfinite().all()), f"scores of about 1000 give NaN or infinity at {place(~shifted.isfinite())}")
    hidden = torch.arange(s) >= lengths[:, None, None]
    wanted = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
    expect_close(weights, wanted, "the weights of the keys that exist are not the softmax of their scores")
    expect_close(shifted, wanted, "adding one number to all scores changes the weights", atol=1e-6)
    none = learner(scores, torch.tensor([s, 0, 4]))
    expect(bool(none.isfinite().all()), "a batch row without any key gives NaN; its weights are zeros")
    expect(not none[1].any(), "a batch row without any key gets weights; they are zeros")
