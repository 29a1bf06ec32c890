"""Checks of the unit `multiplicative`: Luong's scores, his local window, and where a dot product is not enough."""

import torch

from attncourse._shared import masks
from attncourse.multiplicative import concat_scores, gaussian_weights, general_scores, local_window

from ..core import Broken, exercise_check, exercise_unit
from ..draw import SHIFTS, integer, normal, unlike_sizes
from ..expect import expect, expect_close, expect_close_far, expect_gradients, expect_tensor, place

exercise_unit(
    "multiplicative", title="Multiplicative attention", chapter="short_history", minutes=45, prerequisites=("additive",)
)


def _general(q, k, weight):
    return general_scores(q[None, None], k[None, None], weight)[0, 0]


@exercise_check(
    "multiplicative.general",
    function="general_score",
    difficulty="easy",
    importance="core",
    points=2,
    section="multiplicative-attention",
)
def general(learner, rng):
    """Score queries against keys of another width by q W k."""
    t, s, dq, dk = unlike_sizes(rng, 4)
    q, k, weight = normal(rng, t, dq), normal(rng, s, dk), normal(rng, dq, dk)
    got = expect_tensor(learner(q, k, weight), (t, s), what="the matrix of scores")
    expect(
        not (got.min() >= 0 and got.max() <= 1),
        "every score lies in [0, 1]: that is a softmax, and scores come before it",
    )
    expect_close(learner(q * 3, k, weight), got * 3, "three times the query does not give three times the scores")
    wanted = _general(q, k, weight)
    ratio = got / wanted
    if torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio)) and not torch.allclose(got, wanted):
        raise Broken(f"all scores are {ratio.flatten()[0]:.3f} times what they should be: Luong's score is not scaled")
    expect_close(got, wanted, "scores differ from q . W k")
    for queries, keys, size in ((s, t, 1.0), (1, s, 1.0), (t, 1, 1.0), (t, s, 1e3), (t, s, 1e-3)):
        inputs = normal(rng, queries, dk) * size, normal(rng, keys, dq) * size, normal(rng, dk, dq)
        case = f"with {queries} queries of width {dk} and {keys} keys of width {dq}, of numbers about {size:g},"
        expect_close(learner(*inputs), _general(*inputs), f"{case} the scores are wrong", atol=1e-12)
    expect_gradients(learner, [q, k, weight], _general, wrt=dict(enumerate(("q", "k", "W"))), rng=rng)


@exercise_check(
    "multiplicative.split",
    function="split_concat",
    difficulty="medium",
    importance="useful",
    points=2,
    section="multiplicative-attention",
)
def split(learner, rng):
    """Cut concat's one matrix in two, so that no pair is ever concatenated."""
    t, s, a = unlike_sizes(rng, 3, low=10, high=24)
    less = integer(rng, 2, 4)
    more = less + integer(rng, 3, 6)  # far apart: halves are no answer
    for dq, dk in ((less, more), (more, less), (1, more), (more, 1)):
        weight = normal(rng, a, dq + dk)
        got = learner(weight, dq)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two matrices: W_q, then W_k")
        w_q, w_k = got
        shapes = f"with a={a}, dq={dq}, dk={dk}"
        expect_tensor(w_q, (a, dq), what=f"{shapes}: W_q")
        expect_tensor(w_k, (a, dk), what=f"{shapes}: W_k")
        q, k, w_score = normal(rng, t, dq), normal(rng, s, dk), normal(rng, a)
        wanted = concat_scores(q[None, None], k[None, None], weight, w_score)[0, 0]
        ours = torch.tanh((q @ w_q.T)[:, None] + (k @ w_k.T)[None]) @ w_score
        expect_close(
            w_q @ q[0],
            weight @ torch.cat([q[0], q.new_zeros(dk)]),
            f"{shapes}: W [q; 0] is not W_q q: these are not the columns that meet the query",
        )
        expect_close(
            w_k @ k[0],
            weight @ torch.cat([k.new_zeros(dq), k[0]]),
            f"{shapes}: W [0; k] is not W_k k: these are not the columns that meet the key",
        )
        expect_close(ours, wanted, f"{shapes}: the additive score with your matrices is not the concat score")


def _local(scores, positions, radius):
    """Return softmax within the window, times the Gaussian; the window, and the softmax alone."""
    positions, s = positions[None, None], scores.shape[-1]
    window = local_window(positions, s, radius=radius)[0, 0] > 0
    truncated = masks.masked_softmax(masks.apply_mask(scores, window))
    return truncated * gaussian_weights(positions, s, radius=radius)[0, 0], window, truncated


def _draw_positions(rng, t, s):
    """Return positions in any order: the middle, both ends, a point between two keys,
    and others, all of them far from halves.
    """
    wanted = (
        torch.randint(0, s - 1, (t,), generator=rng) + 0.1 + 0.3 * torch.rand(t, generator=rng, dtype=torch.float64)
    )
    wanted[::2] += 0.5
    wanted[:3] = torch.tensor([s // 2, 0, s - 1])
    return wanted[torch.randperm(t, generator=rng)]


@exercise_check(
    "multiplicative.local",
    function="local_weights",
    difficulty="medium",
    importance="extra",
    points=3,
    section="local-attention-looking-at-a-window",
)
def local(learner, rng):
    """Weigh by local-p: softmax within the window, times a Gaussian about the predicted position."""
    t = integer(rng, 6, 10)
    for radius in (3, 2, 1, integer(rng, 4, 7), integer(rng, 7, 10)):
        _judge_local(learner, rng, t, 2 * radius + integer(rng, 6, 12), radius)
    for s in (t - 3, t + 3):  # the window reaches beyond both ends
        scores, positions = normal(rng, t, s) * 2, _draw_positions(rng, t, s)
        one = scores[:1], positions[:1], 2
        expect_close(learner(*one), _local(*one)[0], "for one query the weights are wrong")
        case = f"with {s} keys and a radius of {s + 1}"
        expect_close(
            learner(scores, positions, s + 1), _local(scores, positions, s + 1)[0], f"{case} the weights are wrong"
        )


def _judge_local(learner, rng, t, s, radius):
    scores = normal(rng, t, s) * 2
    positions = _draw_positions(rng, t, s)
    wanted, window, truncated = _local(scores, positions, radius)
    got = expect_tensor(learner(scores, positions, radius), (t, s), what="the weights")
    expect(bool((got >= 0).all()), f"a weight is negative, at {place(got < 0)}")
    if (outside := (got > 0) & ~window).any():
        i, j = place(outside)
        raise Broken(f"query {i} about position {positions[i]:.1f} reads key {j}, more than {radius} away")
    if (blind := (got == 0) & window).any():
        i, j = place(blind)
        raise Broken(f"query {i} does not read key {j}, which is within {radius} of its position {positions[i]:.1f}")
    far = scores + 10.0 * ~window
    expect_close(
        learner(far, positions, radius),
        got,
        "scores outside the window change the weights inside: the softmax runs over all keys",
    )
    sums = got.sum(dim=-1)
    if torch.allclose(got, truncated):
        raise Broken("the weights are the softmax of the window alone: the Gaussian is missing")
    expect(
        not torch.allclose(sums, torch.ones_like(sums)),
        "rows sum to 1: local-p does not normalise again after the Gaussian",
    )
    middle = int((positions == s // 2).nonzero()[0])
    mine = (got / truncated)[middle, s // 2 - radius : s // 2 + 1]
    expect(abs(mine[-1].item() - 1) < 1e-6, f"at the predicted position itself the Gaussian is {mine[-1]:.3f}, not 1")
    width = (-(radius**2) / (2 * mine[0].clamp(1e-9, 1 - 1e-9).log())).sqrt().item()
    expect(abs(width - radius / 2) < 1e-3, f"the Gaussian's standard deviation is {width:.2f} for a radius of {radius}")
    expect_close(got, wanted, "the weights are not the window's softmax times the Gaussian")
    for level in SHIFTS:
        expect_close_far(learner(scores + level, positions, radius), wanted, f"scores of about {level:,.0f}")
    rows = torch.tensor(SHIFTS, dtype=torch.float64).repeat(t)[:t, None]
    got = learner(scores + rows, positions, radius)
    expect_close_far(got, wanted, "rows of scores that lie far from one another")
    got = learner(scores + 5000.0 * ~window, positions, radius)
    expect_close_far(got, wanted, "scores outside the window thousands above all others")


@exercise_check(
    "multiplicative.break_dot",
    function="where_dot_fails",
    difficulty="hard",
    importance="extra",
    points=3,
    section="multiplicative-attention",
)
def break_dot(learner, rng):
    """Build queries and keys that no dot product can align, and a W with which the general score does."""
    for n in (6, 3, 5, 4):
        _judge_break_dot(learner(n), n)


def _judge_break_dot(got, n):
    expect(isinstance(got, tuple | list) and len(got) == 3, "return three tensors: q, k and W")
    q, k, weight = got
    for name, x in (("q", q), ("k", k), ("W", weight)):
        expect(isinstance(x, torch.Tensor), f"{name} is a {type(x).__name__}, expected a tensor of shape {(n, n)}")
        expect_tensor(x.double(), (n, n), what=name)
        expect(bool(x.abs().max() <= 100), f"{name} holds {x.abs().max().item():.0f}; keep entries within 100")
    q, k, weight = q.double(), k.double(), weight.double()
    general = q @ weight @ k.T
    dot = q @ k.T
    right = torch.arange(n)
    lost = general.argmax(dim=-1) != right
    expect(
        not lost.any(),
        f"with W, query {place(lost)} prefers key {general.argmax(dim=-1)[place(lost)].item() if lost.any() else 0}, not its own",
    )
    weights = torch.softmax(general, dim=-1).diagonal()
    expect(
        bool((weights > 0.9).all()),
        f"with W, query {place(weights <= 0.9)} gives its own key only {weights.min().item():.2f}; more than 0.9 is asked",
    )
    found = dot.argmax(dim=-1) == right
    expect(
        not found.any(),
        f"without W, query {place(found)} finds its own key all the same: the dot product does not fail there",
    )
    tie = torch.softmax(dot, dim=-1).diagonal()
    expect(
        bool((tie < 0.1).all()),
        f"without W, query {place(tie >= 0.1)} still gives its own key {tie.max().item():.2f}; less than 0.1 is asked",
    )
