"""Checks of the unit `multiplicative`: Luong's scores, his local window, and where a dot product is not enough."""

import torch

from attncourse.multiplicative import concat_scores, gaussian_weights, general_scores, local_window

from ..core import Broken, exercise_check, exercise_unit
from ..draw import normal
from ..expect import expect, expect_close, expect_tensor, place

exercise_unit(
    "multiplicative", title="Multiplicative attention", chapter="short_history", minutes=45, prerequisites=("additive",)
)


def _sizes(rng, count):
    """Sizes of which no two are equal: a swapped axis shows."""
    return (torch.randperm(7, generator=rng)[:count] + 2).tolist()


@exercise_check("multiplicative.general", function="general_score", points=2, section="multiplicative-attention")
def general(learner, rng):
    """Score queries against keys of another width by q W k."""
    t, s, dq, dk = _sizes(rng, 4)
    q, k, weight = normal(rng, t, dq), normal(rng, s, dk), normal(rng, dq, dk)
    got = expect_tensor(learner(q, k, weight), (t, s), what="the matrix of scores")
    expect(
        not (got.min() >= 0 and got.max() <= 1),
        "every score lies in [0, 1]: that is a softmax, and scores come before it",
    )
    expect_close(learner(q * 3, k, weight), got * 3, "three times the query does not give three times the scores")
    wanted = general_scores(q[None, None], k[None, None], weight)[0, 0]
    ratio = got / wanted
    if torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio)) and not torch.allclose(got, wanted):
        raise Broken(f"all scores are {ratio.flatten()[0]:.3f} times what they should be: Luong's score is not scaled")
    expect_close(got, wanted, "scores differ from q . W k")
    cotangent = normal(rng, t, s)
    (grad,) = learner.grad(q, k, weight, wrt=(2,), cotangent=cotangent)
    expect_close(grad, q.T @ cotangent @ k, "the gradient with respect to W is wrong though the scores are right")


@exercise_check("multiplicative.split", function="split_concat", points=2, section="multiplicative-attention")
def split(learner, rng):
    """Cut concat's one matrix in two, so that no pair is ever concatenated."""
    t, s, dq, dk, a = _sizes(rng, 5)
    weight = normal(rng, a, dq + dk)
    got = learner(weight, dq)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two matrices: W_q, then W_k")
    w_q, w_k = got
    expect_tensor(w_q, (a, dq), what="W_q")
    expect_tensor(w_k, (a, dk), what="W_k")
    q, k, w_score = normal(rng, t, dq), normal(rng, s, dk), normal(rng, a)
    wanted = concat_scores(q[None, None], k[None, None], weight, w_score)[0, 0]
    ours = torch.tanh((q @ w_q.T)[:, None] + (k @ w_k.T)[None]) @ w_score
    shapes = f"with a={a}, dq={dq}, dk={dk}"
    expect_close(
        w_q @ q[0],
        weight @ torch.cat([q[0], torch.zeros(dk).double()]),
        f"{shapes}: W [q; 0] is not W_q q: these are not the columns that meet the query",
    )
    expect_close(
        w_k @ k[0],
        weight @ torch.cat([torch.zeros(dq).double(), k[0]]),
        f"{shapes}: W [0; k] is not W_k k: these are not the columns that meet the key",
    )
    expect_close(ours, wanted, f"{shapes}: the additive score with your matrices is not the concat score")


@exercise_check("multiplicative.local", function="local_weights", points=3, section="looking-at-a-window")
def local(learner, rng):
    """Weights of local-p: softmax within the window, times a Gaussian about the predicted position."""
    t, s, radius = 5, 17, 3
    scores = normal(rng, t, s) * 2
    positions = torch.rand(t, generator=rng, dtype=torch.float64) * (s - 1)
    positions[0], positions[1] = 8.0, 0.0
    got = expect_tensor(learner(scores, positions, radius), (t, s), what="the weights")
    expect(bool((got >= 0).all()), f"a weight is negative, at {place(got < 0)}")
    window = local_window(positions[None, None], s, radius=radius)[0, 0] > 0
    outside = (got > 0) & ~window
    expect(
        not outside.any(),
        f"query {place(outside)[:1]} about position {positions[place(outside)[0]] if outside.any() else 0:.1f} reads key {place(outside)[1:]}, more than {radius} away",
    )
    blind = (got == 0) & window
    expect(
        not blind.any(),
        f"query {place(blind)[:1]} does not read key {place(blind)[1:]}, which is within {radius} of its position",
    )
    far = scores.clone()
    far[~window] += 10.0
    expect_close(
        learner(far, positions, radius),
        got,
        "scores outside the window change the weights inside: the softmax runs over all keys",
    )
    truncated = torch.softmax(scores.masked_fill(~window, -torch.inf), dim=-1)
    sums = got.sum(dim=-1)
    if torch.allclose(got, truncated):
        raise Broken("the weights are the softmax of the window alone: the Gaussian is missing")
    expect(
        not torch.allclose(sums, torch.ones_like(sums)),
        "rows sum to 1: local-p does not normalise again after the Gaussian",
    )
    bell = gaussian_weights(positions[None, None], s, radius=radius)[0, 0]
    mine = (got / truncated)[0, 8 - radius : 9]
    expect(abs(mine[-1].item() - 1) < 1e-6, f"at the predicted position itself the Gaussian is {mine[-1]:.3f}, not 1")
    width = (-(radius**2) / (2 * mine[0].clamp(1e-9, 1 - 1e-9).log())).sqrt().item()
    expect(abs(width - radius / 2) < 1e-3, f"the Gaussian's standard deviation is {width:.2f} for a radius of {radius}")
    expect_close(got, truncated * bell, "the weights are not the window's softmax times the Gaussian")


@exercise_check("multiplicative.break_dot", function="where_dot_fails", points=3, section="multiplicative-attention")
def break_dot(learner, rng):
    """Build queries and keys that no dot product can align, and a W with which the general score does."""
    n = int(torch.randint(3, 7, (), generator=rng))
    got = learner(n)
    expect(isinstance(got, tuple | list) and len(got) == 3, "return three tensors: q, k and W")
    q, k, weight = got
    for name, x in (("q", q), ("k", k), ("W", weight)):
        expect_tensor(x, (n, n), what=name)
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
