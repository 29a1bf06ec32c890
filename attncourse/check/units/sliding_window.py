"""Checks of the unit `sliding_window`: what a window costs, its mask, its edge, its blocks, and its ring buffer."""

import torch

from attncourse.sliding_window import local_mask, sliding_window_attention

from ..core import READY_MADE_ATTENTION, Broken, Picture, exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import (
    expect,
    expect_close,
    expect_memory,
    expect_number,
    expect_rows_sum_to_one,
    expect_same_in_pieces,
    expect_tensor,
    numbers_in,
    place,
    weights_of,
)

exercise_unit(
    "sliding_window",
    title="Local attention",
    chapter="local_attention",
    minutes=75,
    prerequisites=("self_cross_causal",),
)


def _draw(rng, t, s, dk=5, dv=3):
    return normal(rng, t, dk), normal(rng, s, dk), normal(rng, s, dv)


def _attend(q, k, v, window):
    return sliding_window_attention(*(x[None, None] for x in (q, k, v)), window=window)[0, 0]


def _expect_pattern(seen, wanted, case):
    """Broken, with both patterns as a picture, at the first pair that is seen and should not be, or the reverse."""
    t, s = wanted.shape
    own = torch.arange(s - t, s)[:, None]
    future = torch.arange(s) > own
    for flags, what in (
        (seen & future, "sees key {j}, its future"),
        (seen & ~wanted, "sees key {j}, and should not"),
        (wanted & ~seen & (torch.arange(s) == own), "does not see its own key"),
        (wanted & ~seen, "does not see key {j}, and should"),
    ):
        if flags.any():
            i, j = place(flags)
            message = f"{case}: the query at position {int(own[i])} {what.format(j=j)}"
            raise Broken(message, Picture(seen, wanted))


@exercise_check("sliding_window.cost", function="window_cost", points=2, section="block-by-block")
def cost(learner, rng):
    """Predict the pairs that a causal window leaves, and the positions that a stack of such layers hears."""
    for case in range(5):
        window, dilation, layers = (integer(rng, 3, 9) for _ in range(3))
        n = window * dilation * 9 + integer(rng, 1, 9)
        if case == 4:
            n, dilation = window - 2, 1
        got = learner(n, window, dilation, layers)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: pairs, then positions heard")
        pairs, heard = (expect_number(x) for x in got)
        sizes = f"n={n}, window={window}, dilation={dilation}, layers={layers}"
        expect(pairs != n * window, f"{sizes}: the first queries of the text have fewer keys before them than a window")
        undilated = int(local_mask(n, n, window=window).sum())
        wanted = int(local_mask(n, n, window=window, dilation=dilation).sum())
        expect(
            pairs != undilated or undilated == wanted,
            f"{sizes}: those are the pairs without the dilation, with which more queries lack keys",
        )
        causal = n * (n + 1) // 2
        expect(
            pairs != causal or wanted == causal, f"{sizes}: those are the pairs of causal attention without a window"
        )
        expect(
            pairs == wanted or n >= window, f"{sizes}: the window is longer than the text; the pairs are wrong there"
        )
        expect(pairs == wanted, f"{sizes}: the number of pairs of one layer is wrong")
        step = (window - 1) * dilation
        expect(heard != layers * step, f"{sizes}: the position itself is heard too")
        expect(
            heard != layers * window * dilation,
            f"{sizes}: every layer was given its own position once more; a window has one key fewer before it",
        )
        expect(heard != step + 1 or layers == 1, f"{sizes}: that is what one layer hears, and there are {layers}")
        expect(
            heard == layers * step + 1,
            f"{sizes}: how far back the last position hears, both ends counted, is wrong (the text is long enough)",
        )


@exercise_check("sliding_window.band", function="band_mask", points=3, section="a-neighbourhood-instead-of-everything")
def band(learner, rng):
    """Build the mask of a window, dilated or with sinks, when the queries are the last of the positions."""
    s = integer(rng, 13, 18)
    plain = dict(window=3, dilation=1, sinks=0)
    cases = [
        (s, plain, "a plain window"),
        (s - 6, plain, f"{s - 6} queries at the end of {s} positions"),
        (s, plain | dict(dilation=integer(rng, 2, 4)), "with a dilation"),
        (s, plain | dict(sinks=integer(rng, 2, 4)), "with sinks"),
        (s, plain | dict(window=s + 3), "a window longer than the text"),
    ]
    for t, pattern, case in cases:
        got = learner(t, s, pattern["window"], pattern["dilation"], pattern["sinks"])
        fits = isinstance(got, torch.Tensor) and tuple(got.shape) == (t, s)
        expect(fits, f"{case}: return a tensor of shape ({t}, {s}): a row for each query, a column for each key")
        expect(got.dtype == torch.bool, f"{case}: the mask is of {got.dtype}; True says visible, False not")
        _expect_pattern(got, local_mask(t, s, **pattern), case)


@exercise_check(
    "sliding_window.repair",
    function="window_attend",
    points=2,
    section="a-neighbourhood-instead-of-everything",
    forbids=READY_MADE_ATTENTION,
)
def repair(learner, rng):
    """Repair a window that keeps one key too many, and counts from the wrong end."""
    s = integer(rng, 11, 15)
    for t in (s, s - 5):
        for width in (3, 1):
            q, k, v = _draw(rng, t, s)
            weights = learner(q, k, torch.eye(s, dtype=torch.float64), width)
            expect(
                isinstance(weights, torch.Tensor) and not weights.isnan().any(),
                f"window {width}: a query's output is NaN: it sees no key at all",
            )
            case = f"window {width}, {t} queries at the end of {s} positions"
            weights = expect_tensor(weights, (t, s), what="the output for one-hot values")
            _expect_pattern(weights > 0, local_mask(t, s, window=width), case)
            expect_rows_sum_to_one(weights)
            expect_close(learner(q, k, v, width), _attend(q, k, v, width), f"{case}: the output is not local attention")


@exercise_check(
    "sliding_window.blocks",
    function="attend_in_blocks",
    points=4,
    section="block-by-block",
    forbids=READY_MADE_ATTENTION,
    not_verified="how many pairs you compute: memory is measured, work is not",
)
def blocks(learner, rng):
    """Causal local attention in blocks of queries, in memory linear in the length."""
    for n, window in ((12, 4), (1, 3), (29, 5), (7, 20), (70, 1), (131, 17)):
        q, k, v = _draw(rng, n, n)
        case = f"{n} tokens, window {window}"
        weights = expect_tensor(_windowed(learner, q, k, window), (n, n), what="the output for one-hot values")
        _expect_pattern(weights > 0, local_mask(n, n, window=window), case)
        got = expect_tensor(learner(q, k, v, window), (n, 3), what="the output")
        expect_close(got, _attend(q, k, v, window), f"{case}: the output is not local attention")
    q, k, v = _draw(rng, 23, 23)
    cotangent = normal(rng, 23, 3)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    truth = torch.autograd.grad(_attend(*leaves, 6), leaves, cotangent)
    for name, mine, theirs in zip(
        "qkv", learner.grad(q, k, v, 6, wrt=(0, 1, 2), cotangent=cotangent), truth, strict=True
    ):
        expect_close(mine, theirs, f"the gradient with respect to {name} is wrong though the output is right")
    n = 8192
    q, k, v = (x.float() for x in _draw(rng, n, n, dk=8, dv=8))
    whole = 4 * n * n
    message = f"with {n} tokens the matrix of scores, {whole / 1e6:.0f} MB in float32, is too large to form"
    expect_memory(learner, [q, k, v, 32], at_most=whole // 4, message=message)


def _windowed(learner, q, k, window):
    return weights_of(lambda q, k, v: learner(q, k, v, window), q, k)


@exercise_check(
    "sliding_window.ring",
    function="ring_step",
    points=3,
    section="a-text-without-end",
    forbids=READY_MADE_ATTENTION,
)
def ring(learner, rng):
    """Stream a text through a buffer of as many keys as the window has."""
    n, dk = 13, 4
    for window in (3, 1, 20):
        for sizes in ((n,), (1,) * n, (4, 1, 1, 5, 2), (2, 7, 4)):
            q, k, v = _draw(rng, n, n, dk, 3)
            seen, states = _read_in_pieces(learner, q, k, torch.eye(n, dtype=torch.float64), window, sizes)
            case = f"window {window}, pieces of {', '.join(map(str, sizes))}"
            _expect_pattern(seen > 0, local_mask(n, n, window=window), case)
            most = max(map(numbers_in, states))
            expect(
                most <= window * (dk + n + 1) + 4,
                f"{case}: the state grows beyond {window} keys and values; the others no later query can see",
            )
            pieces = [(window, *piece) for piece in zip(*(x.split(sizes) for x in (q, k, v)), strict=True)]
            wanted = _attend(q, k, v, window)[-sizes[-1] :]
            expect_same_in_pieces(learner, pieces, wanted, what=f"window {window}: the last piece of a text")


def _read_in_pieces(learner, q, k, v, window, sizes):
    """The outputs of all pieces below each other, and the state after each."""
    outs, states = [], [None]
    for piece in zip(*(x.split(sizes) for x in (q, k, v)), strict=True):
        got = learner(states[-1], window, *piece)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two things: the piece's output, then the state")
        outs.append(expect_tensor(got[0], (len(piece[0]), v.shape[1]), what="the output of a piece"))
        states.append(got[1])
    return torch.cat(outs), states[1:]
