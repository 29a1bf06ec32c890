"""Checks of the unit `sliding_window`: what a window costs, its mask, its edge, its blocks, and its ring buffer."""

import torch

from attncourse.sliding_window import local_mask, sliding_window_attention, sliding_window_attention_blocked

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import hard_scores, integer, normal, unlike_sizes
from ..expect import (
    expect,
    expect_close,
    expect_memory,
    expect_no_mistake,
    expect_number,
    expect_rows_sum_to_one,
    expect_tensor,
    numbers_in,
    place,
    read_in_pieces,
    weights_of,
)
from ..picture import Picture

exercise_unit(
    "sliding_window",
    title="Local attention",
    chapter="sliding_window",
    minutes=75,
    prerequisites=("self_cross_causal",),
)


def _draw(rng, t, s):
    """Return queries, keys and values whose widths differ."""
    dk, dv = unlike_sizes(rng, 2, high=12)
    return normal(rng, t, dk), normal(rng, s, dk), normal(rng, s, dv)


def _attend(q, k, v, window):
    return sliding_window_attention(*(x[None, None] for x in (q, k, v)), window=window)[0, 0]


def _in_blocks(q, k, v, window):
    return sliding_window_attention_blocked(*(x[None, None] for x in (q, k, v)), window=window)[0, 0]


def _expect_pattern(seen, wanted, case):
    """Raise Broken, with both patterns as a picture, at the first pair that is seen and should not be, or the reverse."""
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


@exercise_check(
    "sliding_window.cost",
    function="window_cost",
    difficulty="easy",
    importance="core",
    points=2,
    section="how-far-a-stack-of-layers-hears",
)
def cost(learner, rng):
    """Predict the pairs that a causal window leaves, and the positions that a stack of such layers hears."""
    for _ in range(3):
        window, dilation, layers = unlike_sizes(rng, 3, high=12)
        reach = (window - 1) * dilation
        for n, pattern in (
            (layers * reach + integer(rng, 2, 9), (window, dilation, layers)),
            (window - integer(rng, 1, window), (window, 1, layers)),
            (reach - integer(rng, 1, dilation), (window, dilation, layers)),
            (integer(rng, 1, dilation), (window, dilation, layers)),
            (layers * reach + 2, (window, 1, layers)),
            (layers * reach + 2, (1, dilation, layers)),
            (layers * reach + 2, (window, dilation, 1)),
        ):
            _expect_cost(learner, n, *pattern)


def _expect_cost(learner, n, window, dilation, layers):
    got = learner(n, window, dilation, layers)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: pairs, then positions heard")
    pairs, heard = (expect_number(x) for x in got)
    case = f"n={n}, window={window}, dilation={dilation}, layers={layers}"
    wanted = int(local_mask(n, n, window=window, dilation=dilation).sum())
    mistakes = {
        "the first queries of the text have fewer keys before them than a window": n * window,
        "those are the pairs without the dilation, with which more queries lack keys": int(
            local_mask(n, n, window=window).sum()
        ),
        "those are the pairs of causal attention without a window": n * (n + 1) // 2,
    }
    expect_no_mistake(pairs, wanted, {f"{case}: {mistake}": value for mistake, value in mistakes.items()})
    fits = n > (window - 1) * dilation
    expect(pairs == wanted or fits, f"{case}: the window is longer than the text; the pairs are wrong there")
    expect(pairs == wanted, f"{case}: the number of pairs of one layer is wrong")
    step = (window - 1) * dilation
    wanted = layers * step + 1
    if n < wanted and heard == n:
        return  # no further than there is text: the exercise asks for long ones
    mistakes = {
        "the position itself is heard too": layers * step,
        "every layer was given its own position once more; a window has one key fewer before it": layers
        * window
        * dilation,
        f"that is what one layer hears, and there are {layers}": step + 1,
    }
    expect_no_mistake(heard, wanted, {f"{case}: {mistake}": value for mistake, value in mistakes.items()})
    expect(
        heard == wanted,
        f"{case}: how far back the last position hears, both ends counted, is wrong (the text is long enough)",
    )


@exercise_check(
    "sliding_window.band",
    function="band_mask",
    difficulty="medium",
    importance="core",
    points=3,
    section="a-sliding-window-is-a-band-shaped-mask",
)
def band(learner, rng):
    """Build the mask of a window, dilated or with sinks, when the queries are the last of the positions."""
    for s, t, pattern, case in _patterns(rng):
        got = learner(t, s, pattern["window"], pattern["dilation"], pattern["sinks"])
        fits = isinstance(got, torch.Tensor) and tuple(got.shape) == (t, s)
        expect(fits, f"{case}: return a tensor of shape ({t}, {s}): a row for each query, a column for each key")
        expect(got.dtype == torch.bool, f"{case}: the mask is of {got.dtype}; True says visible, False not")
        _expect_pattern(got, _with_sinks(t, s, **pattern), case)


def _with_sinks(t, s, *, sinks, **pattern):
    """Return the mask of a window, dilated or not, and of the first keys for all queries that do not stand before them."""
    return local_mask(t, s, **pattern) | local_mask(t, s, window=s) & (torch.arange(s) < sinks)


def _patterns(rng):
    """Return (s, t, options, case): each option alone with a window of 3, then all of them together."""
    s = integer(rng, 13, 18)
    plain = dict(window=3, dilation=1, sinks=0)
    yield s, s, plain, "a plain window"
    yield s, s - 6, plain, f"{s - 6} queries at the end of {s} positions"
    yield s, s, plain | dict(dilation=integer(rng, 2, 4)), "with a dilation"
    yield s, s, plain | dict(sinks=integer(rng, 2, 4)), "with sinks"
    yield s, s, plain | dict(window=s + 3), "a window longer than the text"
    for _ in range(2):
        s = integer(rng, 19, 26)
        window, dilation, sinks = (torch.randperm(4, generator=rng)[:3] + 2).tolist()
        few = integer(rng, 3, s - 8)
        few -= (s - few) % dilation == 0  # else a dilation counted by row looks right
        for t in (s, few, 1):
            for width in (1, window, s + 1):
                for sunk in (0, sinks, s + 2):
                    pattern = dict(window=width, dilation=dilation, sinks=sunk)
                    case = ", ".join(f"{name} {value}" for name, value in pattern.items())
                    yield s, t, pattern, f"{t} queries at the end of {s} positions, {case}"


@exercise_check(
    "sliding_window.repair",
    function="window_attend",
    difficulty="easy",
    importance="useful",
    points=2,
    section="a-sliding-window-is-a-band-shaped-mask",
    forbids=READY_MADE_ATTENTION,
)
def repair(learner, rng):
    """Repair a window that keeps one key too many, and counts from the wrong end."""
    s = integer(rng, 11, 15)
    cases = [(t, s, width) for t in (s, s - 5) for width in (3, 1)]
    cases += [(integer(rng, 2, s), s + 5, integer(rng, 4, 9)), (1, s, 2), (s - 3, s, s + 2)]
    for t, s, width in cases:
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
    _expect_exact_for_hard_scores(learner, rng, integer(rng, 8, 11), s, 3)


def _expect_exact_for_hard_scores(learner, rng, t, s, window):
    """Expect exact local attention of scores that overflow, vanish or stand below a finite fill."""
    dk, dv = unlike_sizes(rng, 2, high=12)
    v = normal(rng, s, dv)
    for case, q, k in hard_scores(rng, t, s, dk):
        got = expect_tensor(learner(q, k, v, window), (t, dv), what=f"{case}, the output")
        message = (
            f"{case}, the output is not local attention: hide keys before the softmax, and let it subtract a maximum"
        )
        expect_close(got, _attend(q, k, v, window), message, rtol=1e-4, atol=1e-6)


@exercise_check(
    "sliding_window.blocks",
    function="attend_in_blocks",
    difficulty="hard",
    importance="useful",
    points=4,
    section="blocks-of-queries-time-linear-in-the-length",
    forbids=READY_MADE_ATTENTION,
    not_verified="how many pairs you compute: memory is measured, work is not",
)
def blocks(learner, rng):
    """Attend by causal local attention in blocks of queries, in memory linear in the length."""
    cases = [(12, 4), (1, 3), (29, 5), (7, 20), (70, 1), (131, 17), (128, 64)]
    cases += [(integer(rng, 40, 60), integer(rng, 6, 30)), (integer(rng, 260, 300), integer(rng, 70, 120))]
    for n, window in cases:
        q, k, v = _draw(rng, n, n)
        case = f"{n} tokens, window {window}"
        weights = expect_tensor(_windowed(learner, q, k, window), (n, n), what="the output for one-hot values")
        _expect_pattern(weights > 0, local_mask(n, n, window=window), case)
        got = expect_tensor(learner(q, k, v, window), (n, v.shape[1]), what="the output")
        expect_close(got, _attend(q, k, v, window), f"{case}: the output is not local attention")
    for n, window in ((integer(rng, 13, 20), 4), (integer(rng, 150, 170), integer(rng, 5, 60))):
        _expect_exact_for_hard_scores(learner, rng, n, n, window)
    for n, window in ((23, 6), (integer(rng, 140, 160), integer(rng, 20, 80))):
        _expect_gradients(learner, rng, n, window)
    n, window = integer(rng, 1050, 1500), integer(rng, 20, 40)
    q, k, v = _draw(rng, n, n)
    expect_close(
        learner(q, k, v, window), _in_blocks(q, k, v, window), f"{n} tokens: the output is not local attention"
    )
    _expect_long(learner, rng, integer(rng, 8100, 8300), window=window)


def _expect_gradients(learner, rng, n, window):
    qkv = _draw(rng, n, n)
    cotangent = normal(rng, *qkv[2].shape)
    leaves = [x.clone().requires_grad_() for x in qkv]
    truth = torch.autograd.grad(_attend(*leaves, window), leaves, cotangent)
    mine = learner.grad(*qkv, window, wrt=(0, 1, 2), cotangent=cotangent)
    for name, ours, theirs in zip("qkv", mine, truth, strict=True):
        expect_close(ours, theirs, f"the gradient with respect to {name} is wrong though the output is right")


def _expect_long(learner, rng, n, *, window):
    """Expect the right result for a long text, and no matrix of its scores."""
    q, k, v = (normal(rng, n, 8).float() for _ in range(3))
    whole = 4 * n * n
    message = f"with {n} tokens the matrix of scores, {whole / 1e6:.0f} MB in float32, is too large to form"
    wanted = _in_blocks(q.double(), k.double(), v.double(), window).float()
    expect_memory(learner, [q, k, v, window], wanted, at_most=whole // 4, message=message)


def _windowed(learner, q, k, window):
    return weights_of(lambda q, k, v: learner(q, k, v, window), q, k)


@exercise_check(
    "sliding_window.ring",
    function="ring_step",
    difficulty="hard",
    importance="useful",
    points=3,
    section="a-text-without-end-the-ring-buffer",
    forbids=READY_MADE_ATTENTION,
    may_change=(0,),
)
def ring(learner, rng):
    """Stream a text through a buffer of as many keys as the window has."""
    n = 13
    for window in (3, 1, 20, integer(rng, 4, 9)):
        for lengths in ((n,), (1,) * n, (4, 1, 1, 5, 2), (2, 7, 4)):
            q, k, v = _draw(rng, n, n)
            case = f"window {window}, pieces of {', '.join(map(str, lengths))}"
            one_hot = torch.eye(n, dtype=torch.float64)
            both, states = _read(learner, (q, k, torch.cat([one_hot, v], dim=1)), window, lengths)
            seen, out = both.split([n, v.shape[1]], dim=1)
            _expect_pattern(seen > 0, local_mask(n, n, window=window), case)
            _expect_no_more_than_a_window(states, k, both, window, case)
            expect_close(out, _attend(q, k, v, window), f"{case}: the output is not local attention")
    for window in (integer(rng, 2, 5), integer(rng, 6, 11)):
        lengths = [integer(rng, 1, 2 * window) for _ in range(9)] + [60, 1, 1, 2, 60, 1]
        n, widths = sum(lengths), (torch.randperm(8, generator=rng)[:2] + 15).tolist()
        q, k, v = normal(rng, n, widths[0]), normal(rng, n, widths[0]), normal(rng, n, widths[1])
        case = f"window {window}, a text of {n} tokens"
        out, states = _read(learner, (q, k, v), window, lengths)
        _expect_no_more_than_a_window(states, k, v, window, case)
        expect_close(out, _attend(q, k, v, window), f"{case}: the output is not local attention")
    lengths = (5, 1, 1, 9, 1, 3)
    _expect_exact_for_hard_scores(
        lambda q, k, v, window: _read(learner, (q, k, v), window, lengths)[0], rng, sum(lengths), sum(lengths), 3
    )


def _read(learner, qkv, window, lengths):
    """Return the outputs of a text read in pieces of these lengths, and the state after each."""
    pieces = zip(*(x.split(lengths) for x in qkv), strict=True)
    return read_in_pieces(learner, [(window, *piece) for piece in pieces], qkv[2].shape[1])


def _expect_no_more_than_a_window(states, k, v, window, case):
    """Expect as many keys and values as the window has, with two numbers beside each, and a few more."""
    expect(
        max(map(numbers_in, states)) <= window * (k.shape[1] + v.shape[1] + 2) + 8,
        f"{case}: the state grows beyond {window} keys and values; the others no later query can see",
    )
