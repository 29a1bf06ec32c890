"""Checks of the unit `additive`: Bahdanau's score, its alignment under padding, and what it costs."""

import torch

from attncourse._shared import masks
from attncourse.additive import additive_attention, additive_scores, additive_weights

from ..core import Broken, exercise_check, exercise_unit
from ..draw import SHIFTS, draw_lengths, integer, normal, unlike_sizes
from ..expect import (
    expect,
    expect_close,
    expect_close_far,
    expect_gradients,
    expect_number,
    expect_rows_sum_to_one,
    expect_tensor,
)

exercise_unit(
    "additive", title="Additive attention", chapter="short_history", minutes=40, prerequisites=("softmax_attention",)
)


def _draw(rng, *, t, s, dq, dk, a):
    """Return queries, keys and the three parameters, all of different sizes; float64, moderate numbers."""
    return [normal(rng, *shape) for shape in ((t, dq), (s, dk), (a, dq), (a, dk), (a,))]


def _scores(q, k, w_q, w_k, w_score):
    return additive_scores(q[None, None], k[None, None], w_q, w_k, w_score)[0, 0]


@exercise_check(
    "additive.score",
    function="additive_score",
    difficulty="easy",
    importance="core",
    points=3,
    section="additive-attention",
)
def score(learner, rng):
    """Score every pair of query and key by w_score . tanh(w_q q + w_k k)."""
    t, s, dq, dk, a = unlike_sizes(rng, 5)
    q, k, w_q, w_k, w_score = _draw(rng, t=t, s=s, dq=dq, dk=dk, a=a)
    got = expect_tensor(learner(q, k, w_q, w_k, w_score), (t, s), what="the matrix of scores")

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
    expect_close(got, _scores(q, k, w_q, w_k, w_score), "scores differ from w_score . tanh(w_q q + w_k k)")
    for size, what in ((10.0, "ten times larger"), (1e6, "a million times larger"), (1e-3, "a thousand times smaller")):
        inputs = q * size, k * size, w_q, w_k, w_score
        expect_close(learner(*inputs), _scores(*inputs), f"with q and k {what} the scores are wrong")
    for queries, keys in ((s, t), (1, s), (t, 1)):
        inputs = _draw(rng, t=queries, s=keys, dq=dk, dk=dq, a=a)
        expect_close(learner(*inputs), _scores(*inputs), f"with {queries} queries and {keys} keys the scores are wrong")
    names = dict(enumerate(("q", "k", "w_q", "w_k", "w_score")))
    expect_gradients(learner, [q, k, w_q, w_k, w_score], _scores, wrt=names, rng=rng)


def _expect_no_weight_on_padding(weights, lengths):
    for row, length in enumerate(lengths.tolist()):
        leak = weights[row, :, length:].sum()
        expect(leak == 0, f"batch row {row} has {length} keys, and padding behind them gets weight {leak:.2g} in all")


def _context(queries, memory, lengths, *parameters):
    """Return the context and the alignment, without heads."""
    q, k = queries[:, None], memory[:, None]
    weights = additive_weights(q, k, *parameters, key_lengths=lengths)[:, 0]
    return additive_attention(q, k, k, *parameters, key_lengths=lengths)[:, 0], weights


def _far_scores(queries, memory, flags, parameters, *, signs, level, flagged):
    """Return parameters with two hidden units more:
    one adds level * signs[i] to the scores of query i, one `flagged` to those of flagged keys.

    A tanh of +-50 is +-1 in float64.
    """
    w_q, w_k, w_score = parameters
    b = len(queries)
    queries = torch.cat([queries, signs[:, None].expand(b, -1, 1)], dim=-1)
    memory = torch.cat([memory, flags[..., None].to(memory)], dim=-1)
    w_q, w_k = (torch.nn.functional.pad(w, (0, 1, 0, 2)) for w in (w_q, w_k))
    w_q[-2, -1], w_k[-1, -1] = 50.0, 50.0
    return queries, memory, w_q, w_k, torch.cat([w_score, w_score.new_tensor([level, flagged])])


@exercise_check(
    "additive.context",
    function="additive_context",
    difficulty="easy",
    importance="useful",
    points=3,
    section="additive-attention",
)
def context(learner, rng):
    """Read the values by the alignment, as if padded keys did not exist."""
    b, t, s, dq, dk, a = unlike_sizes(rng, 6, high=17)
    _, _, *parameters = _draw(rng, t=t, s=s, dq=dq, dk=dk, a=a)
    queries, memory = normal(rng, b, t, dq), normal(rng, b, s, dk)
    lengths = draw_lengths(rng, b, s, among=(1, s, integer(rng, 2, s)))
    padding = torch.arange(s) >= lengths[:, None]
    got = learner(queries, memory, lengths, *parameters)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: the context, then the alignment")
    out, weights = got
    expect_tensor(weights, (b, t, s), what="the alignment")
    expect_tensor(out, (b, t, dk), what="the context")
    _expect_no_weight_on_padding(weights, lengths)
    expect_rows_sum_to_one(weights)

    row = int((lengths < s).nonzero()[0])
    changed = memory.clone()
    changed[row, lengths[row] :] += 5.0
    moved = (learner(queries, changed, lengths, *parameters)[0] - out).abs().amax(dim=(1, 2))
    expect(bool(moved[row] < 1e-9), f"the content of a padded key changes the context of batch row {row}")
    wanted, wanted_weights = _context(queries, memory, lengths, *parameters)
    expect_close(weights, wanted_weights, "the alignment is not the softmax of the scores of the keys that exist")
    expect_close(out, wanted, "the context is not the memory weighted by the alignment")
    for part, what in ((slice(1), "a single batch row"), (slice(1, b), "other batch rows")):
        small = queries[part, :1], memory[part], lengths[part]
        for x, truth in zip(learner(*small, *parameters), _context(*small, *parameters), strict=True):
            expect_close(x, truth, f"with one query and {what} the result is wrong")
    for anything in (torch.nan, torch.inf, -torch.inf, 1e300):
        got = learner(queries, memory.masked_fill(padding[..., None], anything), lengths, *parameters)
        for x, truth, what in zip(got, (wanted, wanted_weights), ("context", "alignment"), strict=True):
            expect(not x.isnan().any(), f"padding that holds {anything} gives NaN in the {what}: 0 times it is not 0")
            expect_close(x, truth, f"padding that holds {anything} changes the {what}")

    ones = torch.ones(t, dtype=torch.float64)
    alternating = ones * (-1.0) ** torch.arange(t)
    for level, signs, flags, flagged, what in (
        *((shift, ones, padding, 0.0, f"scores of about {shift:,.0f}") for shift in SHIFTS),
        (2e9, alternating, padding, 0.0, "rows of scores that lie far from one another"),
        (0.0, ones, padding, 5000.0, "scores of padding thousands above all others"),
        (0.0, ones, ~padding, -5000.0, "scores of keys that exist thousands below those of zeros"),
    ):
        q, m, *far = _far_scores(queries, memory, flags, parameters, signs=signs, level=level, flagged=flagged)
        got = learner(q, m, lengths, *far)
        for x, truth in zip(got, _context(q, m, lengths, *far), strict=True):
            expect_close_far(x, truth, what)


@exercise_check(
    "additive.cost", function="additive_cost", difficulty="easy", importance="extra", points=2, section="what-it-costs"
)
def cost(learner, rng):
    """Predict the multiplications and the bytes of the hidden layer, from the shapes."""
    for _ in range(6):
        b, t, s, a, d = unlike_sizes(rng, 5, high=40)
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


def _alignment(scores, lengths):
    """Return softmax over the keys that exist; zeros where there is none."""
    return masks.masked_softmax(masks.apply_mask(scores, masks.length_mask(lengths, scores.shape[-1])[:, 0]))


@exercise_check(
    "additive.repair",
    function="masked_alignment",
    difficulty="easy",
    importance="useful",
    points=2,
    section="where-it-fails",
)
def repair(learner, rng):
    """Repair an alignment whose mask comes after the softmax."""
    b, t, s = unlike_sizes(rng, 3, low=5)
    scores = normal(rng, b, t, s) * 3
    lengths = draw_lengths(rng, b, s, among=(1, s, integer(rng, 2, s)))
    weights = expect_tensor(learner(scores, lengths), (b, t, s), what="the alignment")
    _expect_no_weight_on_padding(weights, lengths)
    sums = weights.sum(dim=-1)
    short = (sums < 1 - 1e-6).nonzero()
    if len(short):
        where = tuple(short[0].tolist())
        raise Broken(f"row {where} sums to {sums[where].item():.2f}: padding took its share before it was removed")
    expect_rows_sum_to_one(weights)
    expect_close(
        weights, _alignment(scores, lengths), "the weights of the keys that exist are not the softmax of theirs"
    )

    lengths = draw_lengths(rng, b, s, among=(0, 1, s))
    empty, padding = lengths == 0, torch.arange(s) >= lengths[:, None, None]
    wanted = _alignment(scores, lengths)
    none = learner(scores, lengths)
    expect(bool(none.isfinite().all()), "a batch row without any key gives NaN; its weights are zeros")
    expect(not none[empty].any(), "a batch row without any key gets weights; they are zeros")
    expect_close(none, wanted, "beside a batch row without any key the weights are wrong")
    nothing = torch.zeros_like(lengths)
    expect_close(learner(scores, nothing), torch.zeros_like(scores), "where no batch row has a key there are weights")
    for level in SHIFTS:
        expect_close_far(learner(scores + level, lengths), wanted, f"scores of about {level:,.0f}")
    rows = torch.tensor(SHIFTS, dtype=torch.float64).repeat(t)[:t, None]
    expect_close_far(learner(scores + rows, lengths), wanted, "rows of scores that lie far from one another")
    tempted = learner(scores + 5000.0 * padding, lengths)
    expect_close_far(tempted, wanted, "scores of padding thousands above all others")
