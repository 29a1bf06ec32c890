"""Checks of the unit `softmax_attention`: the formula, its mask, its empty rows, its halves, and what it costs."""

import torch

from attncourse._shared import masks
from attncourse.softmax_attention import softmax_attention

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import SHIFTS, integer, normal, shift_scores, unlike_sizes
from ..expect import (
    expect,
    expect_close,
    expect_close_far,
    expect_gradients,
    expect_memory,
    expect_number,
    expect_reordering_changes_nothing,
    expect_rows_sum_to_one,
    expect_tensor,
    numbers_in,
    place,
    weights_of,
)
from ..picture import Picture

exercise_unit(
    "softmax_attention",
    title="Softmax attention",
    chapter="softmax_attention",
    minutes=90,
    prerequisites=("why_attention",),
)
ONLINE_SOFTMAX = "mechanism_or_implementation#online-softmax-one-pass-any-split"


def _draw(rng, *, t, s, dk, dv):
    return normal(rng, t, dk), normal(rng, s, dk), normal(rng, s, dv)


def _attention(q, k, v, *, causal=False):
    """Return the formula for one head."""
    return softmax_attention(*(x[None, None] for x in (q, k, v)), causal=causal)[0, 0]


def _mixed(levels, t):
    """Return a level for each of t rows, so that rows lie far from one another."""
    return torch.tensor(levels, dtype=torch.float64).repeat(t)[:t]


def _expect_far(learner, q, k, v, *, causal=False, case=""):
    """Expect exact results where all scores are large, of either sign, and where those of some rows are."""
    t, ones = len(q), torch.ones(len(k))
    cases = [(torch.full((t,), shift), f"{case}scores of about {shift:,.0f}") for shift in SHIFTS]
    for rows, what in [*cases, (_mixed(SHIFTS, t), f"{case}rows of scores that lie far from one another")]:
        far = *shift_scores(q, k, rows, ones), v
        expect_close_far(learner(*far), _attention(*far, causal=causal), what)


@exercise_check(
    "softmax_attention.cost",
    function="attention_cost",
    difficulty="easy",
    importance="core",
    points=2,
    section="what-it-costs",
)
def cost(learner, rng):
    """Predict the multiplications of attention and the bytes of its weights, from the shapes."""
    for _ in range(6):
        b, h, t, s, d = unlike_sizes(rng, 5, high=50)
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
    difficulty="easy",
    importance="core",
    points=3,
    section="from-a-loop-to-two-products",
    forbids=READY_MADE_ATTENTION,
)
def attend(learner, rng):
    """Write softmax(Q K^T / sqrt(dk)) V for one head."""
    t, s, dk, dv = unlike_sizes(rng, 4)
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
    expect_close(got, _attention(q, k, v), "the output differs from the formula")
    for queries, keys in ((s, t), (1, s), (t, 1), (1030, 3)):
        some = _draw(rng, t=queries, s=keys, dk=dk, dv=dv)
        expect_close(learner(*some), _attention(*some), f"with {queries} queries and {keys} keys the output is wrong")
    million = q * 1e3, k * 1e3, v
    expect_close_far(learner(*million), _attention(*million), "scores of about a million")
    _expect_far(learner, q, k, v)
    expect_gradients(learner, [q, k, v], _attention, wrt=dict(enumerate("qkv")), rng=rng)


@exercise_check(
    "softmax_attention.causal",
    function="causal_attend",
    difficulty="medium",
    importance="core",
    points=3,
    section="who-may-look-where",
    forbids=READY_MADE_ATTENTION,
)
def causal(learner, rng):
    """Mask the future when the queries are the last t of s positions."""
    t, dk, dv = unlike_sizes(rng, 3)
    s = t + integer(rng, 2, 6)
    for queries in (s, t, s - 1, 1):  # first the square case, then queries that continue a prefix
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
            what = "itself" if col == positions[row] else f"position {col}, which is not its future"
            raise Broken(f"{case}, position {positions[row]} did not see {what}", picture)
        expect_rows_sum_to_one(weights)
        wanted = _attention(q, k, v, causal=True)
        expect_close(learner(q, k, v), wanted, f"{case}, the output is not attention to the past")
        _expect_far(learner, q, k, v, causal=True, case=f"{case}, ")
        last = 2000.0 * (torch.arange(s) == s - 1)
        tempted = *shift_scores(q, k, torch.ones(queries), last), v
        what = f"{case}, scores of the last one thousands above the rest"
        expect_close_far(learner(*tempted), _attention(*tempted, causal=True), what)
    long = _draw(rng, t=7, s=1030, dk=dk, dv=dv)
    expect_close(
        learner(*long),
        _attention(*long, causal=True),
        "with 7 queries at the end of 1030 positions the output is wrong",
    )


def _draw_visible(rng, t, s):
    """Return who sees whom: every row sees something, one of them all keys, one the first alone, one the last alone."""
    visible = torch.rand(t, s, generator=rng) > 0.4
    visible[torch.arange(t), torch.randint(s, (t,), generator=rng)] = True
    visible[0], visible[1], visible[2] = True, torch.arange(s) == 0, torch.arange(s) == s - 1
    return visible[torch.randperm(t, generator=rng)]


def _weights(scores, visible):
    """Return softmax over the visible keys; zeros for a row without any."""
    return masks.masked_softmax(masks.apply_mask(scores, visible))


@exercise_check(
    "softmax_attention.repair",
    function="masked_softmax",
    difficulty="easy",
    importance="useful",
    points=2,
    section="who-may-look-where",
)
def repair(learner, rng):
    """Repair a masked softmax that gives NaN where a row sees nothing."""
    t, s = (n + 4 for n in unlike_sizes(rng, 2))
    scores = normal(rng, t, s) * 3
    visible = _draw_visible(rng, t, s)
    empty = torch.isin(torch.arange(t), torch.tensor([0, integer(rng, 1, t - 1), t - 1]))
    visible = torch.cat([visible[:3], visible], dim=0)[:t] & ~empty[:, None]
    weights = learner(scores, visible)
    expect(isinstance(weights, torch.Tensor) and tuple(weights.shape) == (t, s), f"return weights of shape ({t}, {s})")
    expect(not weights.isnan().any(), f"row {place(weights.isnan())[:1]} is NaN; a row that sees nothing gives zeros")
    leak = (weights != 0) & ~visible & ~empty[:, None]
    expect(not leak.any(), f"the weight at {place(leak)} is not 0 though the key is not visible")
    filled = (weights != 0).any(dim=-1) & empty
    expect(not filled.any(), f"row {place(filled)} sees nothing, and its weights are not zeros")
    expect_rows_sum_to_one(weights[~empty])
    wanted = _weights(scores, visible)
    expect_close(weights, wanted, "the weights of rows that see something are not the softmax of what they see")
    for some, what in (
        (_draw_visible(rng, t, s), "every row sees something"),
        (torch.zeros(t, s).bool(), "no row sees anything"),
        (torch.ones(t, s).bool(), "every row sees everything"),
    ):
        expect_close(learner(scores, some), _weights(scores, some), f"where {what} the weights are wrong")
    for part in (slice(1), slice(1, 2)), (slice(t), slice(1)):
        small = scores[part], visible[part]
        expect_close(
            learner(*small), _weights(*small), f"for scores of shape {tuple(small[0].shape)} the weights are wrong"
        )
    tempted = scores + 5000.0 * ~visible
    expect_close_far(learner(tempted, visible), wanted, "hidden scores thousands above the visible ones")
    for level in SHIFTS:
        expect_close_far(learner(scores + level, visible), wanted, f"scores of about {level:,.0f}")
    rows = _mixed(SHIFTS, t)[:, None]
    expect_close_far(learner(scores + rows, visible), wanted, "rows of scores that lie far from one another")
    for far, case in (
        (scores, ""),
        (tempted, "hidden scores thousands above the visible ones: "),
        (scores + 800.0, "scores of about 800: "),
        (scores - 800.0, "scores of about -800: "),
    ):
        expect_gradients(learner, [far, visible], _weights, wrt={0: "scores"}, rng=rng, case=case)


def _expect_merged(got, out, lse, case):
    """Expect both results of a merge."""
    expect(not got[0].isnan().any(), f"{case} gives NaN")
    expect_close(got[0], out, f"{case} gives a wrong output")
    expect(not got[1].isnan().any(), f"{case} gives a log-sum-exp of NaN")
    expect_close(got[1], lse, f"{case} gives a wrong log-sum-exp")


@exercise_check(
    "softmax_attention.merge",
    function="merge",
    difficulty="medium",
    importance="core",
    points=3,
    section=ONLINE_SOFTMAX,
)
def merge(learner, rng):
    """Merge attention over two halves of the keys, from the outputs and log-sum-exps alone."""
    t, cut, dk, dv = unlike_sizes(rng, 4)
    s = 2 * cut + integer(rng, 2, 5)
    q, k, v = (x[None, None] for x in _draw(rng, t=t, s=s, dk=dk, dv=dv))
    q = q * 3

    def part(keys):
        out, lse = softmax_attention(q, k[:, :, keys], v[:, :, keys], return_lse=True)
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
    _expect_merged(learner(*right, *left), whole, whole_lse, "the later half as the first")
    row = learner(*(x[:1] for x in (*left, *right)))
    _expect_merged(row, whole[:1], whole_lse[:1], "a merge for one query")
    column = learner(left[0][:, :1], left[1], right[0][:, :1], right[1])
    _expect_merged(column, whole[:, :1], whole_lse, "a merge of values of width 1")

    levels = 2000.0, -2000.0, 1e6, -1e6
    for level in (*(torch.full((t,), level).double() for level in levels), _mixed(levels, t)):
        got = learner(left[0], left[1] + level, right[0], right[1] + level)
        _expect_merged(got, whole, whole_lse + level, f"a log-sum-exp of about {level[0] + whole_lse[0]:,.0f}")
    above = left[1].max() - right[1].min() + 3000.0
    got = learner(*left, right[0], right[1] + above)
    _expect_merged(got, right[0], right[1] + above, "a half whose log-sum-exps are thousands above the other's")
    got = learner(left[0], left[1] + above, *right)
    _expect_merged(got, left[0], left[1] + above, "a half whose log-sum-exps are thousands below the other's")

    nothing = torch.zeros_like(whole), torch.full((t,), -torch.inf, dtype=torch.float64)
    _expect_merged(learner(*left, *nothing), *left, "merging with a half without keys (log-sum-exp -inf)")
    _expect_merged(learner(*nothing, *right), *right, "merging with a first half without keys (log-sum-exp -inf)")
    _expect_merged(learner(*nothing, *nothing), *nothing, "merging two halves without keys (log-sum-exp -inf)")
    # rows that see nothing of the one half, of the other, and of both, beside rows that see both
    a, b = (torch.tensor(flags).repeat(t)[:t] for flags in ([1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]))
    some_left, some_right = (
        (out * x[:, None], lse.where(x > 0, -torch.inf)) for (out, lse), x in ((left, a), (right, b))
    )
    visible = torch.cat([a[:, None].expand(t, cut), b[:, None].expand(t, s - cut)], dim=1) > 0
    out, lse = softmax_attention(q, k, v, mask=visible, return_lse=True)
    got = learner(*some_left, *some_right)
    _expect_merged(got, out[0, 0], lse[0, 0], "merging where only some rows see keys in a half")


def _read(learner, q, k, v, lengths, *, state=None, done=0, case="", far=""):
    """Read on from key `done` in pieces, each output being attention over all keys so far; return the state after each."""
    states = []
    for number, n in enumerate(lengths, 1):
        got = learner(state, q, k[done : done + n], v[done : done + n])
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the output so far, then the state")
        done += n
        wanted = _attention(q, k[:done], v[:done])
        if far:
            expect_close_far(got[0], wanted, far)
        else:
            expect_close(got[0], wanted, f"{case}after piece {number} the output is not attention over all keys so far")
        state = got[1]
        states.append(state)
    return states


def _pieces(rng, count, at_most):
    """Return lengths of at most `at_most` that add up to count."""
    lengths = []
    while (left := count - sum(lengths)) > 0:
        lengths.append(min(left, integer(rng, 1, at_most + 1)))
    return lengths


@exercise_check(
    "softmax_attention.stream",
    function="read_piece",
    difficulty="hard",
    importance="useful",
    points=3,
    section=ONLINE_SOFTMAX,
    forbids=READY_MADE_ATTENTION,
    may_change=(0,),
)
def stream(learner, rng):
    """Attend to keys that arrive piece by piece, with a state that does not grow."""
    t, dk, dv = unlike_sizes(rng, 3, high=12)
    text = 300
    q, k, v = _draw(rng, t=t, s=text, dk=dk, dv=dv)
    sizes = []
    for lengths in ([11], _pieces(rng, 11, 4), [1] * 11, _pieces(rng, 50, 9), _pieces(rng, text, 40)):
        case = f"a text of {sum(lengths)} tokens, "
        sizes += map(numbers_in, _read(learner, q, k, v, lengths, case=case))
    expect(min(sizes) == max(sizes), f"the state grows with what was read: from {min(sizes)} numbers to {max(sizes)}")
    room = text * min(dk, dv)
    expect(
        max(sizes) < room, f"the state of {max(sizes)} numbers has room for the keys of {text} tokens: none may stay"
    )

    _read(learner, q[:1], k, v, [3, 1, 2], case="for one query, ")
    _read(learner, q, k, v[:, :1], [3, 1, 2], case="for values of width 1, ")

    ones, falling = torch.ones(12), torch.arange(12).flip(0) * 1000.0
    k, v = k[:12], v[:12]
    far = [(q.new_full((t,), shift), ones, f"scores of about {shift:,.0f}, read in pieces,") for shift in SHIFTS]
    far += [
        (_mixed(SHIFTS, t), ones, "rows of scores that lie far from one another, read in pieces,"),
        (q.new_ones(t), falling.flip(0), "scores that grow by a thousand from key to key"),
        (q.new_ones(t), falling, "scores that fall by a thousand from key to key"),
    ]
    for rows, columns, what in far:
        wide_q, wide_k = shift_scores(q, k, rows, columns)
        for at_most in (1, 5):
            _read(learner, wide_q, wide_k, v, _pieces(rng, 12, at_most), far=what)

    other = _draw(rng, t=t, s=12, dk=dk, dv=dv)
    here, there = _read(learner, q, k, v, [4])[-1], _read(learner, *other, [3])[-1]
    case = "two texts read in turns: "
    _read(learner, q, k, v, [5, 3], state=here, done=4, case=case)
    _read(learner, *other, [2, 7], state=there, done=3, case=case)
    forked = other[1].clone(), other[2].clone()
    forked[0][:4], forked[1][:4] = k[:4], v[:4]
    _read(learner, q, *forked, [6], state=here, done=4, case="from an earlier state on with other keys: ")


@exercise_check(
    "softmax_attention.tiles",
    function="attend_in_tiles",
    difficulty="medium",
    importance="useful",
    points=2,
    section=ONLINE_SOFTMAX,
    forbids=READY_MADE_ATTENTION,
)
def tiles(learner, rng):
    """Attend over a long sequence without ever holding the matrix of its scores."""
    dk, dv = unlike_sizes(rng, 2)
    for t, s in ((7, 5), (1, 6), (131, 257), (300, 64), (1030, 1021)):
        q, k, v = _draw(rng, t=t, s=s, dk=dk, dv=dv)
        got = expect_tensor(learner(q, k, v), (t, dv), what="the output")
        expect_close(got, _attention(q, k, v), f"with {t} queries and {s} keys the output differs from the formula")
    q = q[:41]
    _expect_far(learner, q, k, v)
    rising = torch.arange(len(k)) * 100.0
    for columns, what in (
        (rising, "scores that grow from key to key"),
        (rising.flip(0), "scores that fall from key to key"),
    ):
        far = *shift_scores(q, k, torch.ones(len(q)), columns), v
        expect_close_far(learner(*far), _attention(*far), what)
    t, s = 4096 + integer(rng, 1, 60), 4096 - integer(rng, 1, 60)
    q, k, v = (x.float() for x in _draw(rng, t=t, s=s, dk=dk, dv=dv))
    whole = 4 * t * s
    message = (
        f"with {t} queries and {s} keys in float32 the matrix of scores, {whole / 1e6:.0f} MB, is too large to form"
    )
    wanted = torch.cat([_attention(some, k, v) for some in q.split(256)])
    expect_memory(learner, [q, k, v], wanted, at_most=whole * 3 // 5, message=message)
