"""Checks of the unit `self_cross_causal`: how many pairs a mask leaves, who saw whom, and what is to be predicted."""

import itertools

import torch

from attncourse._shared.masks import causal_mask, length_mask, query_positions
from attncourse.softmax_attention import attention_weights, softmax_attention

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import SHIFTS, draw_lengths, integer, normal, unlike_sizes
from ..expect import (
    expect,
    expect_close,
    expect_close_far,
    expect_gradients,
    expect_number,
    expect_rows_sum_to_one,
    expect_tensor,
    place,
)
from ..picture import Picture

exercise_unit(
    "self_cross_causal",
    title="Self, cross and causal attention",
    chapter="self_cross_causal",
    minutes=60,
    prerequisites=("softmax_attention",),
)


def _expect_none(faults, *, got, wanted):
    """Raise Broken, with both patterns as a picture, at the first pair of the first kind of fault that occurs.

    Faults are (flags, message); in a message {i} is the query, {j} the key, and {at} where the query stands among them.
    """
    t, s = got.shape
    for flags, message in faults:
        if flags.any():
            i, j = place(flags)
            raise Broken(message.format(i=i, j=j, at=s - t + i), Picture(got, wanted))


def _expect_count(got, wanted, mistakes, message):
    """Raise Broken unless got is `wanted`, with what the mistake that gives it is, or else with the message."""
    got = expect_number(got)
    if got != wanted:
        raise Broken(mistakes.get(got, message))


@exercise_check(
    "self_cross_causal.pairs",
    function="visible_pairs",
    difficulty="easy",
    importance="useful",
    points=2,
    section="what-it-costs",
)
def pairs(learner, rng):
    """Predict how many pairs of query and key each connectivity leaves."""
    for ahead in (integer(rng, 5, 40), 1, integer(rng, 5, 40), 0):
        t = integer(rng, 12, 40)
        s = t + ahead
        lengths = (torch.randperm(30, generator=rng)[: integer(rng, 3, 7)] + 2).tolist()
        for documents in (lengths, lengths[:1], [1, *lengths, 1]):
            _judge_pairs(learner(t, s, documents), t, s, documents)


def _judge_pairs(got, t, s, lengths):
    expect(
        isinstance(got, tuple | list) and len(got) == 4,
        "return four numbers: self, cross, causal, packed, in order",
    )
    sizes, packed, total = f"t={t}, s={s}", f"packed, documents of {lengths}", sum(lengths)
    _expect_count(
        got[0],
        s * s,
        {s * (s - 1): f"self, {sizes}: a token sees itself too"},
        f"self, {sizes}: the number of pairs among {s} tokens is wrong",
    )
    _expect_count(
        got[1],
        t * s,
        {(t + s) ** 2: f"cross, {sizes}: one sequence reads the other; neither reads itself"},
        f"cross, {sizes}: the number of pairs between {t} queries and {s} keys is wrong",
    )
    triangle = f"that is a triangle over the {t} queries alone, and {s - t} positions stand before them"
    _expect_count(
        got[2],
        t * s - t * (t - 1) // 2,
        {
            t * (t + 1) // 2: f"causal, {sizes}: {triangle}",
            t * s - t * (t + 1) // 2: f"causal, {sizes}: the queries' own positions are not counted",
        },
        f"causal, {sizes}: the number of pairs up to each query's own position is wrong",
    )
    _expect_count(
        got[3],
        sum(n * (n + 1) // 2 for n in lengths),
        {
            total * (total + 1) // 2: f"{packed}: those are pairs across documents as well",
            sum(n * n for n in lengths): f"{packed}: those are pairs with the future as well",
        },
        f"{packed}: the number of pairs within the documents is wrong",
    )


def _cross(x, memory, lengths, w_q, w_k, w_v):
    """Return cross-attention without heads; what stands behind a memory's length does not count."""
    exists = length_mask(lengths, memory.shape[1])[:, 0].mT
    memory = memory.masked_fill(~exists, 0.0)
    q, k, v = (y[:, None] for y in (x @ w_q, memory @ w_k, memory @ w_v))
    return softmax_attention(q, k, v, key_lengths=lengths)[:, 0]


def _far_cross(x, memory, lengths, w_q, w_k, w_v, *, rows, on_padding):
    """Return arguments whose scores hold rows[i] more, and those of padding `on_padding` more.

    x and memory get two features more, queries and keys two entries: see `shift_scores`.
    """
    width, features = w_q.shape[1] + 2, (0, 2, 0, 2)
    padding = torch.arange(memory.shape[1]) >= lengths[:, None]
    ones = torch.ones_like(x[..., 0])
    x = torch.cat([x, torch.stack([ones * rows, ones * on_padding], dim=-1) * width**0.5], dim=-1)
    memory = torch.cat([memory, torch.stack([torch.ones_like(padding), padding], dim=-1).to(x)], dim=-1)
    w_q, w_k = (torch.nn.functional.pad(w, features) for w in (w_q, w_k))
    w_q[-2:, -2:] = w_k[-2:, -2:] = torch.eye(2, dtype=x.dtype)
    return [x, memory, lengths, w_q, w_k, torch.nn.functional.pad(w_v, (0, 0, 0, 2))]


@exercise_check(
    "self_cross_causal.cross",
    function="cross_attend",
    difficulty="easy",
    importance="core",
    points=3,
    section="cross-attention",
    forbids=READY_MADE_ATTENTION,
)
def cross(learner, rng):
    """Read a padded memory from another sequence."""
    b, t, s, d, dc, dk, dv = unlike_sizes(rng, 7, high=19)
    lengths = draw_lengths(rng, b, s, among=(2, s))
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
    full = sums[lengths == s]
    if torch.allclose(full, torch.ones_like(full)) and not torch.allclose(sums, torch.ones_like(sums)):
        raise Broken(f"of a memory with padding a query's weights sum to {sums.min():.2f}: padding took a share")
    expect_rows_sum_to_one(weights)
    q, k = (x @ w_q)[:, None], (memory @ w_k)[:, None]
    unscaled = attention_weights(q, k, key_lengths=lengths, scale=1.0)[:, 0]
    expect(not torch.allclose(weights, unscaled), "scores are not divided by the square root of dk")

    w_v = normal(rng, dc + s, dv)
    wanted = _cross(x, memory, lengths, w_q, w_k, w_v)
    expect_close(
        learner(x, memory, lengths, w_q, w_k, w_v), wanted, "the output is not the weighted mixture of the values"
    )
    for tokens in (t, 1):
        some = [normal(rng, b, tokens, d), memory, draw_lengths(rng, b, s, among=(1, s)), w_q, w_k, w_v]
        expect_close(learner(*some), _cross(*some), f"with {tokens} queries and memories from 1 token on it is wrong")
    _expect_blind_to_padding(learner, [x, memory, lengths, w_q, w_k, w_v], wanted, rng)

    for rows, on_padding, what in (
        *((torch.full((t,), shift), 0.0, f"scores of about {shift:,.0f}") for shift in SHIFTS),
        (torch.tensor(SHIFTS).repeat(t)[:t], 0.0, "rows of scores that lie far from one another"),
        (torch.zeros(t), 5000.0, "scores of padding thousands above all others"),
    ):
        far = _far_cross(x, memory, lengths, w_q, w_k, w_v, rows=rows, on_padding=on_padding)
        expect_close_far(learner(*far), _cross(*far), what)


def _expect_blind_to_padding(learner, args, wanted, rng):
    """Expect that what stands behind a memory's length, NaN and infinity too,
    reaches neither the output nor a gradient.
    """
    x, memory, lengths, *weights = args
    padding = (torch.arange(memory.shape[1]) >= lengths[:, None])[..., None]
    for anything in (torch.nan, torch.inf, -torch.inf, 1e300):
        got = learner(x, memory.masked_fill(padding, anything), lengths, *weights)
        nan = isinstance(got, torch.Tensor) and not got.isnan().any()
        expect(nan, f"padding that holds {anything} comes through: a weight of 0 times it is not 0")
        expect_close(got, wanted, f"padding that holds {anything} changes the output")
    for anything, case in (
        (0.5, ""),
        (torch.nan, "padding that holds NaN: "),
        (torch.inf, "padding that holds infinity: "),
    ):
        poisoned = [x, memory.masked_fill(padding, anything), lengths, *weights]
        names = {0: "x", 1: "memory", 3: "w_q", 4: "w_k", 5: "w_v"}
        expect_gradients(learner, poisoned, _cross, wrt=names, rng=rng, case=case)


def _draw_runs(rng, *, t, s, d, change, leaks):
    """Return outputs before, outputs after each of s tokens was replaced,
    and which of the t rows moved with which token.

    Every row moves with the tokens up to its own. `leaks` says with which of its future: "some", so that the next token
    moves a row and the one after does not, and so on; or "random", "none", "all".
    """
    before = normal(rng, t, d)
    future = ~causal_mask(t, s)
    ahead = future.cumsum(dim=1)
    moves = {
        "some": ahead % 2 == 1,
        "random": torch.rand(t, s, generator=rng) < 0.4,
        "none": torch.zeros_like(future),
        "all": torch.ones_like(future),
    }
    moved = torch.where(future, moves[leaks], torch.rand(t, s, generator=rng) < 0.7)
    moved |= ~future & (ahead == 0) & (torch.arange(s) >= query_positions(t, s) - 1)
    after = torch.where(moved.T[..., None], change(before, integer(rng, 0, d)), before)
    return before, after, moved & future


def _features(before, first, count=1):
    """Return a feature for each row, from `first` on in turn: rows together cover all features.
    Two adjacent ones for count=2.
    """
    t, d = before.shape
    turn = (torch.arange(t)[:, None] + first + torch.arange(count)) % d
    return torch.nn.functional.one_hot(turn, d).double()  # (t, count, d)


def _large(before, first):
    return before + 0.5


def _smaller(before, first):
    return before - 0.5 * _features(before, first)[:, 0]


def _cancelling(before, first):
    more, less = _features(before, first, count=2).unbind(1)
    return before + 0.5 * more - 0.5 * less


def _tiny(before, first):
    """Return a few hundred units in the last place of one feature."""
    return before + 1e-13 * _features(before, first)[:, 0]


def _least(before, first):
    """Return the next number, in one feature."""
    return before.nextafter(before.where(_features(before, first)[:, 0] == 0, torch.inf))


def _nan(before, first):
    return before.where(_features(before, first)[:, 0] == 0, torch.nan)


@exercise_check(
    "self_cross_causal.leaks",
    function="find_leaks",
    difficulty="medium",
    importance="core",
    points=3,
    section="a-leak-test",
)
def leaks(learner, rng):
    """Write a leak test: from outputs before and after each token was replaced, say who saw its future."""
    n = integer(rng, 9, 12)
    t, d = n - integer(rng, 2, 4), integer(rng, 3, 5)
    cases = (
        (_large, "some", ""),
        (_cancelling, "some", ", by changes that sum to 0 over the features"),
        (_tiny, "some", ", by 1e-13 in one feature"),
        (_nan, "some", ", to NaN"),
        (_smaller, "random", ", in one feature that became smaller"),
        (_least, "random", ", to the next number in one feature"),
        (_large, "none", ""),
        (_smaller, "all", ", in one feature that became smaller"),
    )
    for rows, (change, which, how) in itertools.product((n, t, 1), cases):
        before, after, wanted = _draw_runs(rng, t=rows, s=n, d=d, change=change, leaks=which)
        got = learner(before, after)
        expect(
            isinstance(got, torch.Tensor) and tuple(got.shape) == (rows, n),
            f"return a tensor of shape ({rows}, {n}): a row for each output, a column for each token replaced",
        )
        got = got.bool()
        swapped = rows == n and torch.equal(got, wanted.T) and not torch.equal(got, wanted)
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


def _draw_packed(rng, n):
    """Return document numbers of four rows of n:
    with padding behind, before and between documents, without any, and no document.

    Names come in any order, small and large, and stand for other documents in other rows.
    """
    pool = torch.cat([torch.arange(1, 5), torch.randint(10, 90000, (3,), generator=rng)])
    rows = [torch.zeros(n, dtype=torch.long)]
    for padded in ("behind", "before", "between", "nowhere"):
        names = pool[torch.randperm(len(pool), generator=rng)][:4]
        lengths = torch.tensor([integer(rng, 3, 5), 1, integer(rng, 3, 5), 2])
        lengths = lengths[torch.randperm(4, generator=rng)]
        left = n - int(lengths.sum())
        if padded == "nowhere":
            lengths[0] += left
        pieces = list(names.repeat_interleave(lengths).split(lengths.tolist()))
        if padded != "nowhere":
            where = {"behind": 4, "before": 0, "between": integer(rng, 1, 4)}[padded]
            pieces.insert(where, torch.zeros(left, dtype=torch.long))
        rows.append(torch.cat(pieces))
    return torch.stack(rows)[torch.randperm(5, generator=rng)]


@exercise_check(
    "self_cross_causal.packed",
    function="packed_mask",
    difficulty="medium",
    importance="useful",
    points=3,
    section="causal-attention",
)
def packed(learner, rng):
    """Build the mask of a packed batch: causal within a document, nothing across, nothing for padding."""
    n = integer(rng, 15, 20)
    documents = _draw_packed(rng, n)
    _judge_packed(learner(documents), documents)
    for few in (documents[:1], documents[1:3], documents[3:, :1], torch.full((2, 7), 3)):
        _judge_packed(learner(few), few)


def _judge_packed(got, documents):
    b, n = documents.shape
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


@exercise_check(
    "self_cross_causal.shift",
    function="next_token_batch",
    difficulty="easy",
    importance="core",
    points=2,
    section="teacher-forcing-one-row-is-many-predictions",
)
def shift(learner, rng):
    """Repair inputs and targets whose off-by-one lets a model predict its own input."""
    some, many = integer(rng, 4, 8), integer(rng, 3, 6)
    for length, count, rest in (
        *((some, many, rest) for rest in (1, 0, 3, some - 1)),
        (some, 1, 1),
        (some, 1, some - 1),
        (1, many, 0),
        (some, 40, 2),
    ):
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
