"""Checks of the unit `real_systems`: diagrams of systems, cross-attention, search, reading several passages, and work."""

import itertools

import torch

from attncourse.softmax_attention import softmax_attention

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import cycled, integer, lifted, normal, primes
from ..expect import expect, expect_close, expect_number, expect_rows_sum_to_one, expect_tensor, place
from ..picture import Picture

exercise_unit(
    "real_systems",
    title="Self and cross attention in real systems",
    chapter="real_systems",
    minutes=75,
    prerequisites=("multi_head",),
)


@exercise_check(
    "real_systems.cost",
    function="block_operations",
    difficulty="medium",
    importance="useful",
    points=2,
    section="what-it-costs",
)
def cost(learner, rng):
    """Predict the operations of one layer of a decoder alone, and of an encoder with its decoder."""
    for i in range(4):
        s, t, d = (torch.randperm(40, generator=rng)[:3] + 5).tolist()
        s, t = (min(s, t), max(s, t)) if i % 2 else (max(s, t), min(s, t))
        got = learner(s, t, d)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: decoder-only, encoder-decoder")
        one, two = (expect_number(x) for x in got)
        case = f"for s={s}, t={t}, d={d}: "
        linear, squares = 24 * (s + t) * d**2, 4 * (s + t) ** 2 * d
        expect(2 * one != linear + squares, case + "a multiplication and an addition are two operations")
        expect(one != linear, case + "decoder-only lacks the scores and the mixing of values")
        expect(one != linear + squares // 2, case + "decoder-only: each product counts scores and mixing; that is one")
        expect(
            one != linear + 4 * (s**2 + t**2) * d,
            case + "decoder-only is one sequence: a target token reads source tokens too",
        )
        expect(one == linear + squares, case + "the operations of decoder-only are wrong")
        stacks = linear + 4 * (s**2 + t**2) * d
        cross = 4 * (s + t) * d**2 + 4 * t * s * d
        expect(two != stacks, case + "encoder-decoder: nothing was counted for cross-attention")
        expect(two != stacks + 4 * t * s * d, case + "encoder-decoder: cross-attention has four projections of its own")
        expect(
            two not in (stacks + 8 * t * d**2 + 4 * t * s * d, stacks + 8 * s * d**2 + 4 * t * s * d),
            case + "encoder-decoder: two of cross-attention's projections are of target tokens, two of source tokens",
        )
        expect(
            two != stacks + cross + 16 * t * d**2, case + "encoder-decoder: a block has one feed-forward, not one each"
        )
        expect(two == stacks + cross, case + "the operations of encoder-decoder are wrong")


SYSTEMS = ("encoder-only", "decoder-only", "prefix", "encoder-decoder", "image and text")


def _diagram(system, first, second):
    n = first + second
    everything = torch.ones(n, n, dtype=torch.bool)
    past = everything.tril()
    reads_first = torch.arange(n)[:, None] >= first
    return {
        "encoder-only": everything,
        "decoder-only": past,
        "prefix": past | (torch.arange(n) < first),
        "encoder-decoder": past | (torch.arange(n) < first),
        "image and text": everything & (reads_first | (torch.arange(n) < first)),
    }[system]


@exercise_check(
    "real_systems.connect",
    function="who_reads_whom",
    difficulty="medium",
    importance="core",
    points=3,
    section="who-reads-whom-four-masks",
)
def connect(learner, rng):
    """Write down the diagram of each system: which token may read which."""
    few, more = integer(rng, 3, 5), integer(rng, 5, 8)
    for system, (first, second) in itertools.product(SYSTEMS, ((few, more), (more, few), (1, few), (few, 1))):
        case, n = f"{system}, {first} tokens and then {second}", first + second
        got = learner(system, first, second)
        expect(
            isinstance(got, torch.Tensor) and tuple(got.shape) == (n, n), f"{case}: return a matrix of shape ({n}, {n})"
        )
        expect(got.dtype == torch.bool, f"{case}: the matrix is of {got.dtype}, expected booleans")
        wanted = _diagram(system, first, second)
        picture = Picture(got.double(), wanted.double(), rows="reads", columns="is read")
        if torch.equal(got, wanted.T) and not torch.equal(wanted, wanted.T):
            raise Broken(f"{case}: rows and columns are swapped; a row reads, a column is read", picture)
        wrong = got != wanted
        if wrong.any():
            row, column = place(wrong)
            here = f"{_name(row, first)} {'reads' if got[row, column] else 'does not read'} {_name(column, first)}"
            raise Broken(f"{case}: {here}", picture)


def _name(i, first):
    return f"token {i} of the first group" if i < first else f"token {i - first} of the second group"


@exercise_check(
    "real_systems.cross",
    function="cross_attend",
    difficulty="easy",
    importance="core",
    points=3,
    section="encoder-decoder-cross-attention-aligns",
    forbids=READY_MADE_ATTENTION,
)
def cross(learner, rng):
    """Let queries read a second sequence, whose rows are of different lengths."""
    t, s, d, dc, dk, dv = primes(rng, 6)
    b, s = 4, s + 3
    x, context = normal(rng, b, t, d), normal(rng, b, s, dc)
    w_q, w_k, w_v = normal(rng, dk, d) * 0.5, normal(rng, dk, dc) * 0.5, normal(rng, dv, dc)
    lengths = torch.tensor([s, integer(rng, 3, s - 1), 1, integer(rng, 2, s)])[torch.randperm(b, generator=rng)]
    whole, short = int(lengths.argmax()), int((lengths < s).nonzero()[integer(rng, 0, 3)])
    arguments = (w_q, w_k, w_v, lengths)

    got = expect_tensor(learner(x, context, *arguments), (b, t, dv), what="the output")
    changed = learner(x, context + 1.0, *arguments)
    expect(not torch.allclose(got, changed), "the output does not change with the context: what is it that is read?")
    clean = _cross(x, context, *arguments)
    unscaled = _cross(x, context, *arguments, scale=1.0)
    expect(not torch.allclose(got[whole], unscaled[whole]), "the scores are not scaled")
    padded = _cross(x, context, w_q, w_k, w_v, torch.full((b,), s))
    expect(
        not torch.allclose(got[short], padded[short]),
        f"row {short} has {int(lengths[short])} of {s} context tokens, and the others took part: they are padding",
    )
    behind = (torch.arange(s) >= lengths[:, None])[..., None]
    for anything in (torch.nan, torch.inf, 1e30, -1e30):
        hidden = learner(x, context.masked_fill(behind, anything), *arguments)
        expect(isinstance(hidden, torch.Tensor), f"the output is a {type(hidden).__name__}, expected a tensor")
        expect(
            not hidden.isnan().any(),
            f"padding holds {anything}, and NaN came through: a weight of 0 times NaN or infinity is NaN",
        )
    # Where all values are 1, a mixture of them is 1.
    pick, ones = torch.zeros_like(w_v), context.clone()
    pick[:, 0], ones[..., 0] = 1.0, 1.0
    read = learner(x, ones, w_q, w_k, pick, lengths)
    for row, fault in (
        (whole, "the weights of a query do not sum to 1"),
        (short, "padding took a share of the weight"),
    ):
        off = (read[row] - 1).abs() > 1e-6
        expect(not off.any(), f"all values are 1, and in row {row} something else is read: {fault}")
    expect_close(got, clean, "the output differs from attention of the projected queries over the context's tokens")
    for anything in (0.0, torch.nan, torch.inf, 1e30, -1e30):
        hidden = learner(x, context.masked_fill(behind, anything), *arguments)
        expect_close(hidden, clean, f"the output changes with what stands in the padding, here {anything}")
    far = _lifted_projections(x, context, w_q, w_k, cycled(t, 900.0, -900.0, -2e9))
    case = "where all scores of a query are near 900, -900 or -2e9, the output"
    hidden = expect_tensor(learner(*far, w_v, lengths), (b, t, dv), what=case)
    expect_close(hidden, _cross(*far, w_v, lengths), f"{case} is wrong", rtol=1e-4, atol=1e-5)
    _judge_gradients(learner, rng, (x, context, *arguments), behind)


def _cross(x, context, w_q, w_k, w_v, lengths, **options):
    q, k, v = x @ w_q.T, context @ w_k.T, context @ w_v.T
    return softmax_attention(q[:, None], k[:, None], v[:, None], key_lengths=lengths, **options)[:, 0]


def _lifted_projections(x, context, w_q, w_k, levels):
    """Return (x, context, w_q, w_k) whose scores, scaled, lie around a level of each query's own."""
    x, context, w_q, w_k = (y.clone() for y in (x, context, w_q, w_k))
    x[..., 0], context[..., 0] = levels, 1.0
    w_q[:, 0] = w_q[0] = w_k[0] = 0.0
    w_q[0, 0], w_k[0, 0] = 1.0, len(w_k) ** 0.5
    return x, context, w_q, w_k


def _judge_gradients(learner, rng, arguments, behind):
    x, context, *others = arguments
    leaves = x.clone().requires_grad_(), context.clone().requires_grad_()
    wanted = _cross(*leaves, *others)
    cotangent = normal(rng, *wanted.shape)
    truth = torch.autograd.grad(wanted, leaves, cotangent)
    grads = learner.grad(x, context, *others, wrt=(0, 1), cotangent=cotangent)
    expect(
        bool((grads[0] != 0).any()) and bool((grads[1] != 0).any()), "no gradient reaches the queries or the context"
    )
    expect(not grads[1].masked_select(behind).any(), "a gradient reaches the padding of the context")
    for what, got, true in zip(("x", "the context"), grads, truth, strict=True):
        expect_close(got, true, f"the output is right, and its gradient with respect to {what} is not")
    grads = learner.grad(x, context.masked_fill(behind, torch.nan), *others, wrt=(0, 1), cotangent=cotangent)
    for what, got, true in zip(("x", "the context"), grads, truth, strict=True):
        case = f"where padding holds NaN, the gradient with respect to {what}"
        expect(bool(got.isfinite().all()), f"{case} is NaN or infinite")
        expect_close(got, true, f"{case} is wrong")


def _library(rng):
    n, words = primes(rng, 2)
    n, words = n + 3, words + 6
    counts = torch.randint(0, 4, (n, words), generator=rng).double()
    counts[counts == 3] = 0
    counts[:, 0] = 1  # a word that every passage holds
    counts[1:, 1] = 0
    counts[0, 1] = 1  # and one that a single passage holds
    counts[0, 2], counts[1, 2] = 5, 1
    counts[:, 4] = 0  # one that none holds
    counts[-1] = 0  # a passage without words
    counts[1, 5] = 7
    return counts


def _scores(counts, query, k1, b):
    n, lengths = len(counts), counts.sum(dim=1)
    holding = (counts > 0).double().sum(dim=0)
    rarity = torch.log(1 + (n - holding + 0.5) / (holding + 0.5))
    weights = rarity * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / lengths.mean())[:, None])
    return weights[:, query].sum(dim=1)


@exercise_check(
    "real_systems.search",
    function="bm25",
    difficulty="medium",
    importance="extra",
    points=2,
    section="search-bm25",
)
def search(learner, rng):
    """Score passages for a query by BM25."""
    counts = _library(rng)
    n, words = counts.shape
    k1, b = (integer(rng, 8, 20) / 10, integer(rng, 3, 9) / 10)

    def ask(counts, query, k1=k1, b=b):
        return expect_tensor(learner(counts, query, k1, b), (n,), what="the scores")

    rare, common = ask(counts, [1]), ask(counts, [0])
    expect(bool((rare[1:] == 0).all()), f"passage {1 + int(rare[1:].ne(0).int().argmax())} lacks the word and scores")
    expect(
        bool((common[:-1] > 0).all()), "a word that every passage holds counts against them: its logarithm is negative"
    )
    expect(rare[0] > common[0], "a word that one passage holds counts for no more than one that all of them hold")
    repeated = counts.clone()
    repeated[0, 1] = 2
    twice = ask(repeated, [1], b=0.0)
    expect(twice[0] > ask(counts, [1], b=0.0)[0], "a second occurrence of a word in a passage adds nothing")
    expect(
        twice[0] < 1.9 * ask(counts, [1], b=0.0)[0],
        "a second occurrence counts as much as the first; repetitions should count for less",
    )
    longer = counts.clone()
    longer[0, 0] += 40
    expect(
        bool((ask(longer, [1]) < rare - 1e-9)[0]),
        "a passage that grew long without the query's word scores as before; b says how much length is held against it",
    )
    both = ask(counts, [0, 2])
    expect_close(both, common + ask(counts, [2]), "the scores of two words do not add up")
    expect_close(ask(counts, [1, 1]), 2 * rare, "a word that the query holds twice does not count twice")
    close = dict(rtol=1e-5)  # a logarithm of a whole number's tensor is one in float32
    for query in ([1], [0, 2], list(range(words)), [3, 3, 0], [4], [words - 1, 5, 4, 5, 5]):
        for options in ((k1, b), (2.0, 0.0), (0.5, 0.4), (3.0, 0.9)):
            got = ask(counts, query, *options)
            expect_close(got, _scores(counts, query, *options), "the scores differ from the formula", **close)
    full = counts[:-1]  # b of 1 divides by a passage's length
    got = expect_tensor(learner(full, [0, 2, 5], k1, 1.0), (n - 1,), what="the scores")
    expect_close(got, _scores(full, [0, 2, 5], k1, 1.0), "with b of 1 the scores differ from the formula", **close)


@exercise_check(
    "real_systems.fuse",
    function="read_together",
    difficulty="medium",
    importance="useful",
    points=3,
    section="a-reader-of-several-passages",
)
def fuse(learner, rng):
    """Repair a reader that reads each passage by itself and averages."""
    p, s, t, dk, dv = primes(rng, 5)
    q, k, v = normal(rng, t, dk) * 2, normal(rng, p, s, dk), normal(rng, p, s, dv)
    lengths = torch.randint(1, s + 1, (p,), generator=rng)
    lengths[0], lengths[1], lengths[2] = s, 1, 2
    k[1, 0] = 0  # a passage of one word that fits no query especially

    got = expect_tensor(learner(q, k, v, lengths), (t, dv), what="what is read")
    alone = torch.stack([torch.softmax(q @ k[i, :n].T * dk**-0.5, dim=-1) @ v[i, :n] for i, n in enumerate(lengths)])
    expect(
        not torch.allclose(got, alone.mean(dim=0)),
        "each passage is read by itself and the readings are averaged: a useless passage counts as much as a good one",
    )
    by_length = (alone * lengths[:, None, None]).sum(dim=0) / lengths.sum()
    expect(not torch.allclose(got, by_length), "readings are weighted by the passages' lengths, not by what they hold")
    one_hot = torch.eye(p * s, dtype=torch.float64).view(p, s, p * s)
    weights = expect_tensor(learner(q, k, one_hot, lengths), (t, p * s), what="what is read of one-hot values")
    expect_rows_sum_to_one(weights)
    behind = torch.arange(s) >= lengths[:, None]
    padding = weights.view(t, p, s) * behind
    if padding.any():
        _, passage, word = place(padding > 0)
        raise Broken(f"word {word} of passage {passage} has weight, and that passage has {int(lengths[passage])} words")
    wanted = _fused(q, k, v, lengths)
    expect_close(got, wanted, "what is read is not attention over the words of all passages together")
    order = torch.randperm(p, generator=rng)
    expect_close(learner(q, k[order], v[order], lengths[order]), got, "what is read depends on the passages' order")
    for anything in (torch.nan, torch.inf, 1e30, -1e30):
        hidden = learner(q, *(x.masked_fill(behind[..., None], anything) for x in (k, v)), lengths)
        expect(isinstance(hidden, torch.Tensor), f"what is read is a {type(hidden).__name__}, expected a tensor")
        expect(not hidden.isnan().any(), f"the padding of a passage holds {anything}, and NaN came through")
        expect_close(hidden, wanted, f"what is read changes with the padding of a passage, here {anything}")
    for case, far_q, far_k in (
        ("with scores of about a thousand", q * 300, k),
        ("where all scores of a query are near 900, -900 or -2e9", *lifted(q, k, cycled(t, 900.0, -900.0, -2e9))),
    ):
        far = expect_tensor(learner(far_q, far_k, v, lengths), (t, dv), what=f"{case} what is read")
        expect_close(far, _fused(far_q, far_k, v, lengths), f"{case} what is read is wrong", rtol=1e-4, atol=1e-5)
    first, middle, last = (lengths.clone() for _ in range(3))
    first[0], middle[1], last[-1] = 0, 0, 0
    one = torch.zeros_like(lengths)
    one[integer(rng, 1, p)] = integer(rng, 2, s)
    for some in (first, middle, last, one):
        without = learner(q, k, v, some)
        expect(
            isinstance(without, torch.Tensor) and not without.isnan().any(),
            "a passage without words turns the result NaN",
        )
        expect_close(without, _fused(q, k, v, some), "a passage without words changes what is read of the others")


def _fused(q, k, v, lengths):
    """Return attention over all words of all passages, as one sequence."""
    keys, values = (torch.cat([part[:n] for part, n in zip(x, lengths, strict=True)]) for x in (k, v))
    return softmax_attention(q[None, None], keys[None, None], values[None, None])[0, 0]
