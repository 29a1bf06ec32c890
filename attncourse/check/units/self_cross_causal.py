"""Checks of the unit `self_cross_causal`: how many pairs a mask leaves, who saw whom, and what is to be predicted."""

import torch

from attncourse._shared.masks import causal_mask, length_mask, query_positions
from attncourse.softmax_attention import attention_weights, softmax_attention

from ..core import Broken, Picture, exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import expect, expect_close, expect_number, expect_rows_sum_to_one, expect_tensor, place

exercise_unit(
    "self_cross_causal",
    title="Self, cross and causal attention",
    chapter="self_cross_causal",
    minutes=60,
    prerequisites=("softmax_attention",),
)


def _expect_none(faults, *, got, wanted):
    """Broken, with both patterns as a picture, at the first pair of the first kind of fault that occurs.

    Faults are (flags, message); in a message {i} is the query, {j} the key, and {at} where the query stands among them.
    """
    t, s = got.shape
    for flags, message in faults:
        if flags.any():
            i, j = place(flags)
            raise Broken(message.format(i=i, j=j, at=s - t + i), Picture(got, wanted))


@exercise_check("self_cross_causal.pairs", function="visible_pairs", points=2, section="what-it-costs")
def pairs(learner, rng):
    """Predict how many pairs of query and key each connectivity leaves."""
    for _ in range(4):
        t = integer(rng, 12, 40)
        s = t + integer(rng, 5, 40)
        lengths = torch.randint(3, 30, (4,), generator=rng).tolist()
        got = learner(t, s, lengths)
        expect(
            isinstance(got, tuple | list) and len(got) == 4,
            "return four numbers: self, cross, causal, packed, in order",
        )
        of_self, of_cross, of_causal, of_packed = (expect_number(x) for x in got)
        sizes = f"t={t}, s={s}"
        expect(of_self != s * (s - 1), f"self, {sizes}: a token sees itself too")
        expect(of_self == s * s, f"self, {sizes}: the number of pairs among {s} tokens is wrong")
        expect(of_cross != (t + s) ** 2, f"cross, {sizes}: one sequence reads the other; neither reads itself")
        expect(of_cross == t * s, f"cross, {sizes}: the number of pairs between {t} queries and {s} keys is wrong")
        expect(
            of_causal != t * (t + 1) // 2,
            f"causal, {sizes}: that is a triangle over the {t} queries alone, and {s - t} positions stand before them",
        )
        expect(of_causal != t * s - t * (t + 1) // 2, f"causal, {sizes}: the queries' own positions are not counted")
        expect(
            of_causal == t * s - t * (t - 1) // 2,
            f"causal, {sizes}: the number of pairs up to each query's own position is wrong",
        )
        total = sum(lengths)
        packed = f"packed, documents of {lengths}"
        expect(of_packed != total * (total + 1) // 2, f"{packed}: those are pairs across documents as well")
        expect(of_packed != sum(n * n for n in lengths), f"{packed}: those are pairs with the future as well")
        expect(
            of_packed == sum(n * (n + 1) // 2 for n in lengths),
            f"{packed}: the number of pairs within the documents is wrong",
        )


@exercise_check("self_cross_causal.cross", function="cross_attend", points=3, section="cross-attention")
def cross(learner, rng):
    """Read a padded memory from another sequence."""
    b, t, s, d, dc, dk, dv = 3, *(torch.randperm(6, generator=rng)[:6] + 3).tolist()
    lengths = torch.tensor([s, s - 1, 2])
    x, w_q = normal(rng, b, t, d), normal(rng, d, dk)
    # Half of the memory is found by, the other half says which place it is: what is read is then the weights.
    content, places = normal(rng, b, s, dc), torch.eye(s, dtype=torch.float64).expand(b, s, s)
    memory = torch.cat([content, places], dim=-1)
    w_k = torch.cat([normal(rng, dc, dk), torch.zeros(s, dk, dtype=torch.float64)])
    pick = torch.cat([torch.zeros(dc, s, dtype=torch.float64), torch.eye(s, dtype=torch.float64)])
    weights = expect_tensor(learner(x, memory, lengths, w_q, w_k, pick), (b, t, s), what="the output")

    exists = length_mask(lengths, s)[:, 0].expand(b, t, s)
    for row, n in enumerate(lengths.tolist()):
        seen, may = weights[row] != 0, exists[row]
        faults = (
            (seen & ~may, f"batch row {row}: query {{i}} reads place {{j}} of a memory of {n} tokens"),
            (may & ~seen, f"batch row {row}: query {{i}} does not read place {{j}} of a memory of {n} tokens"),
        )
        _expect_none(faults, got=seen, wanted=may)
    sums = weights.sum(dim=-1)
    if torch.allclose(sums[0], torch.ones_like(sums[0])) and not torch.allclose(sums, torch.ones_like(sums)):
        raise Broken(f"of a memory with padding a query's weights sum to {sums.min():.2f}: padding took a share")
    expect_rows_sum_to_one(weights)
    q, k = (x @ w_q)[:, None], (memory @ w_k)[:, None]
    unscaled = attention_weights(q, k, key_lengths=lengths, scale=1.0)[:, 0]
    expect(not torch.allclose(weights, unscaled), "scores are not divided by the square root of dk")

    w_v = normal(rng, dc + s, dv)
    wanted = softmax_attention(q, k, (memory @ w_v)[:, None], key_lengths=lengths)[:, 0]
    expect_close(
        learner(x, memory, lengths, w_q, w_k, w_v), wanted, "the output is not the weighted mixture of the values"
    )
    poisoned = memory.masked_fill(~exists[:, 0, :, None], torch.nan)
    got = learner(x, poisoned, lengths, w_q, w_k, w_v)
    expect(
        isinstance(got, torch.Tensor) and not got.isnan().any(),
        "padding that holds NaN comes through: a weight of 0 times NaN is NaN",
    )
    grads = learner.grad(x, poisoned, lengths, w_q, w_k, w_v, wrt=(0, 4), cotangent=normal(rng, b, t, dv))
    for name, grad in zip(("x", "w_k"), grads, strict=True):
        expect(
            bool(grad.isfinite().all()),
            f"padding that holds NaN: the output is right, and its gradient with respect to {name} is NaN",
        )


def _draw_runs(rng, *, t, s, change):
    """Outputs before, outputs after each of s tokens was replaced, and which of the t rows moved with which token."""
    before = normal(rng, t, 4)
    moved = torch.rand(t, s, generator=rng) < 0.5
    # Its own token and the one before it move each row; of its future, the next one does, the one after does not, ...
    future = ~causal_mask(t, s)
    for i in range(t):
        ahead = future[i].nonzero()[:, 0]
        moved[i, ahead[::2]], moved[i, ahead[1::2]] = True, False
        moved[i, max(s - t + i - 1, 0) : s - t + i + 1] = True
    after = before + torch.where(moved.T[..., None], change(before), torch.zeros_like(before))
    return before, after, moved & future


def _large(before):
    return torch.full_like(before, 0.5)


def _cancelling(before):
    return before.new_tensor([0.5, -0.5, 0.25, -0.25]).expand_as(before)


def _tiny(before):
    """A few hundred units in the last place of one feature."""
    return before.new_tensor([0.0, 0.0, 1e-13, 0.0]).expand_as(before)


def _nan(before):
    return before.new_tensor([torch.nan, 0.0, 0.0, 0.0]).expand_as(before)


@exercise_check("self_cross_causal.leaks", function="find_leaks", points=3, section="a-leak-test")
def leaks(learner, rng):
    """Write a leak test: from outputs before and after each token was replaced, say who saw its future."""
    n = integer(rng, 6, 9)
    t = n - integer(rng, 2, 4)
    cases = (
        (n, _large, ""),
        (t, _large, ""),
        (n, _cancelling, ", by changes that sum to 0 over the features"),
        (n, _tiny, ", by 1e-13 in one feature"),
        (n, _nan, ", to NaN"),
    )
    for rows, change, how in cases:
        before, after, wanted = _draw_runs(rng, t=rows, s=n, change=change)
        got = learner(before, after)
        expect(
            isinstance(got, torch.Tensor) and tuple(got.shape) == (rows, n),
            f"return a tensor of shape ({rows}, {n}): a row for each output, a column for each token replaced",
        )
        got = got.bool()
        swapped = rows == n and torch.equal(got, wanted.T)
        expect(not swapped, "rows and columns are swapped: a row is an output, a column a token replaced")
        moved = (after != before).any(dim=-1).T  # NaN differs from everything
        past = torch.arange(n) < query_positions(rows, n)
        own = torch.arange(n) == query_positions(rows, n)
        earlier = "in its past" if rows == n else "which stands before it: rows do not count from 0"
        row = f"{rows} queries at the end of {n} positions: row {{i}}, at position {{at}}, "
        faults = (
            (got & past, f"{row}is reported with position {{j}}, {earlier}"),
            (got & own, f"{row}is reported with position {{j}}, which is its own: it may see that"),
            (got & ~moved, f"{row}is reported with position {{j}}, and did not move when that token was replaced"),
            (wanted & ~got, f"{row}moved when the token at {{j}} was replaced{how}: a leak that is not reported"),
        )
        _expect_none(faults, got=got, wanted=wanted)


def _draw_packed(rng, *, b, n):
    """Document numbers (b, n), each document's tokens together, 0 at the end where nothing stands."""
    documents = torch.zeros(b, n, dtype=torch.long)
    for row in range(b):
        names, start = torch.randperm(9, generator=rng) + 1, 0
        for name in names[:3].tolist():
            stop = start + integer(rng, 3, 5)
            documents[row, start:stop] = name
            start = stop
    return documents


@exercise_check("self_cross_causal.packed", function="packed_mask", points=3, section="causal-attention")
def packed(learner, rng):
    """Build the mask of a packed batch: causal within a document, nothing across, nothing for padding."""
    b, n = 2, 14
    documents = _draw_packed(rng, b=b, n=n)
    got = learner(documents)
    expect(
        isinstance(got, torch.Tensor) and tuple(got.shape) == (b, n, n),
        f"return a tensor of shape ({b}, {n}, {n}): batch, query, key",
    )
    expect(got.dtype == torch.bool, f"the mask is of {got.dtype}; True says visible, False not")
    past, own = causal_mask(n, n), torch.eye(n, dtype=torch.bool)
    for row, names in enumerate(documents):
        exists = names > 0
        both = exists[:, None] & exists
        same = names[:, None] == names
        wanted, seen = both & same & past, got[row]
        where = f"batch row {row}: position {{i}}"
        faults = (
            (seen & ~both, f"{where} sees position {{j}}, and one of them is padding"),
            (seen & ~same, f"{where} sees position {{j}} of another document"),
            (seen & ~past, f"{where} sees position {{j}}, its future"),
            (wanted & own & ~seen, f"{where} does not see itself"),
            (wanted & ~seen, f"{where} does not see position {{j}}, earlier in its document"),
        )
        _expect_none(faults, got=seen, wanted=wanted)


@exercise_check("self_cross_causal.shift", function="next_token_batch", points=2, section="one-row-is-many-predictions")
def shift(learner, rng):
    """Repair inputs and targets whose off-by-one lets a model predict its own input."""
    length, count = integer(rng, 4, 8), integer(rng, 3, 6)
    for rest in (1, 0, 3):
        n = count * length + rest
        rows = (n - 1) // length
        tokens = torch.randperm(900, generator=rng)[:n] + 100  # no two alike: each says where it comes from
        got = learner(tokens, length)
        case = f"{n} tokens in rows of {length}"
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: inputs, then targets")
        for what, x in zip(("inputs", "targets"), got, strict=True):
            fits = isinstance(x, torch.Tensor) and x.ndim == 2 and x.shape[1] == length
            expect(fits, f"{case}: {what} are not rows of {length} tokens")
            expect(len(x) >= rows, f"{case}: {what} have {len(x)} rows; a row that has all its targets is thrown away")
            expect(len(x) <= rows, f"{case}: {what} have {len(x)} rows; the last one has no token left to predict")
        inputs, targets = got
        stream = tokens[: rows * length].view(rows, length)
        wrong = inputs != stream
        expect(not wrong.any(), f"{case}: the input at row, place {place(wrong)} is not the stream's next token")
        ahead = tokens[1 : rows * length + 1].view(rows, length)
        wrong = targets != ahead
        if not wrong.any():
            continue
        i, j = wrong.nonzero()[-1].tolist()  # at a row's end more mistakes show than at its beginning
        where = f"{case}: the target at row, place {i, j}"
        expect(
            targets[i, j] != inputs[i, j], f"{where} is the token that is read there: the model predicts its own input"
        )
        expect(targets[i, j] != inputs[i, 0], f"{where} is the first token of its own row: the end wraps around")
        expect(targets[i, j] != inputs[i, j - 1], f"{where} is the token before: the model predicts the past")
        raise Broken(f"{where} is not the token that follows")
