"""Checks of the unit `linear_attention`: the order of products, the state, chunks, decay, the delta rule, a kernel."""

import torch

from attncourse.linear_attention import identity, linear_attention, linear_attention_blocked

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import integer, normal, unlike_sizes
from ..expect import (
    expect,
    expect_blind_to_future,
    expect_close,
    expect_memory,
    expect_no_mistake,
    expect_number,
    expect_tensor,
    numbers_in,
    place,
    read_in_pieces,
)
from ..picture import Picture

exercise_unit(
    "linear_attention",
    title="Linear attention",
    chapter="linear_attention",
    minutes=110,
    prerequisites=("self_cross_causal",),
)


FLOAT32 = dict(rtol=1e-5, atol=5e-6)  # what was rounded to float32 on its way is right


def _draw(rng, *, t, s, spread=1.0):
    """Return queries, keys and values whose widths differ.
    With a spread most features are exp(x) near 0 or x + 1 far from it.
    """
    dk, dv = unlike_sizes(rng, 2, high=12)
    q, k = ((spread * normal(rng, n, dk)).clamp_min(-9.0) for n in (t, s))
    return q, k, normal(rng, s, dv)


def _one_head(q, k, v, **options):
    return linear_attention(q[None, None], k[None, None], v[None, None], **options)[0, 0]


@exercise_check(
    "linear_attention.bytes",
    function="memory_bytes",
    difficulty="easy",
    importance="core",
    points=1,
    section="the-recurrent-form-a-memory-of-fixed-size",
)
def memory_bytes(learner, rng):
    """Predict the bytes of a cache of keys and values, and of the state that takes its place."""
    for least in (150, 20, 2):
        b, h, d = (torch.randperm(58, generator=rng)[:3] + 2).tolist()
        n = least + integer(rng, 0, 10)
        got = learner(b, h, n, d)
        expect(
            isinstance(got, tuple | list) and len(got) == 2, "return two numbers: the cache's bytes, then the state's"
        )
        cache, state = (expect_number(x) for x in got)
        shapes = f"for b={b}, h={h}, n={n}, d={d}"
        mistakes = {
            f"{shapes}: that is a cache of keys or of values, and there are both": 4 * b * h * n * d,
            f"{shapes}: those are the cache's numbers; a float32 has four bytes": 2 * b * h * n * d,
        }
        expect_no_mistake(cache, 8 * b * h * n * d, mistakes)
        expect(cache == 8 * b * h * n * d, f"{shapes}: the bytes of the cache are wrong")
        wanted = 4 * b * h * d * (d + 1)
        mistakes = {
            f"{shapes}: the state's matrix is counted, its normalizer is not": 4 * b * h * d * d,
            f"{shapes}: one state is kept, not one a token": n * wanted,
            f"{shapes}: each of the {b} sequences has a state of its own": 4 * h * d * (d + 1),
        }
        expect_no_mistake(state, wanted, mistakes)
        expect(state == wanted, f"{shapes}: the bytes of the state are wrong")


@exercise_check(
    "linear_attention.reassociate",
    function="attend",
    difficulty="easy",
    importance="core",
    points=2,
    section="associativity-multiply-in-the-other-order",
    forbids=READY_MADE_ATTENTION,
)
def reassociate(learner, rng):
    """Attend with elu + 1 in memory linear in the length: every query sees every key."""
    few, many = integer(rng, 4, 8), integer(rng, 9, 14)
    for t, s, spread in ((few, many, 1.0), (many, few, 1.0), (many, few, 4.0), (1, many, 4.0), (many, 1, 1.0)):
        _expect_associated(learner, *_draw(rng, t=t, s=s, spread=spread))
    for t, s in (
        (integer(rng, 1050, 1200), integer(rng, 1250, 1400)),
        (integer(rng, 4000, 4200), integer(rng, 4300, 4500)),
    ):
        q, k, v = (normal(rng, n, 16).float() for n in (t, s, s))
        wanted = _linear(*(x.double() for x in (q, k, v))).float()
        whole = 4 * t * s
        message = f"with {t} queries and {s} keys in float32 the {whole / 1e6:.0f} MB of weights need not be formed"
        expect_memory(learner, [q, k, v], wanted, at_most=whole // 3, message=message)


def _linear(q, k, v):
    return linear_attention_blocked(q[None, None], k[None, None], v[None, None])[0, 0]


def _expect_associated(learner, q, k, v):
    (t, dk), (s, dv) = q.shape, v.shape
    got = expect_tensor(learner(q, k, v), (t, dv), what="the output")
    one_hot = torch.eye(s, dtype=torch.float64)
    weights = expect_tensor(learner(q, k, one_hot), (t, s), what="the output for one-hot values")
    expect(bool((weights >= 0).all()), f"a weight is negative, at {place(weights < 0)}: the features must be positive")
    sums = weights.sum(dim=-1)
    expect(
        torch.allclose(sums, torch.ones_like(sums)),
        f"the weights of query {place((sums - 1).abs() > 1e-6)} do not sum to 1: divide by the sum of its weights",
    )
    softmax = torch.softmax(q @ k.T / dk**0.5, dim=-1) @ v
    expect(s == 1 or not torch.allclose(got, softmax), "this is softmax attention: its exponential does not come apart")
    wanted = _one_head(q, k, v)
    expect_close(got, wanted, "the output is not that of the feature map elu(x) + 1")


@exercise_check(
    "linear_attention.stream",
    function="read_piece",
    difficulty="medium",
    importance="core",
    points=2,
    section="the-recurrent-form-a-memory-of-fixed-size",
    forbids=READY_MADE_ATTENTION,
    may_change=(0,),
)
def stream(learner, rng):
    """Attend by causal linear attention to tokens that arrive piece by piece, with a state that does not grow."""
    s, long = 11, integer(rng, 180, 220)
    for lengths in ((s,), (4, 7), (1, 2, 3, 5), (1,) * s, (3, 1, 60, 1, long - 65)):
        q, k, v = _draw(rng, t=sum(lengths), s=sum(lengths), spread=1.0 if len(lengths) < 3 else 3.0)
        pieces = list(zip(*(x.split(lengths) for x in (q, k, v)), strict=True))
        out, states = read_in_pieces(learner, pieces, v.shape[1])
        case = f"pieces of {', '.join(map(str, lengths))}"
        whole = _one_head(q, k, v, causal=True)
        expect_close(out, whole, f"the text read in {case} differs from the text read at once", **FLOAT32)
        first, last = numbers_in(states[0]), numbers_in(states[-1])
        expect(first == last, f"the state grows with what was read: {first} numbers after a piece, {last} after all")
        most = 2 * (q.shape[1] + 1) * (v.shape[1] + 1) + 16
        expect(
            sum(lengths) == s or last <= most,
            f"the state has room for a whole text: {last} numbers for keys of {q.shape[1]} and values of {v.shape[1]}",
        )


@exercise_check(
    "linear_attention.chunks",
    function="attend_in_chunks",
    difficulty="hard",
    importance="useful",
    points=3,
    section="the-chunked-form",
    forbids=READY_MADE_ATTENTION,
)
def chunks(learner, rng):
    """Attend by causal linear attention, chunk by chunk: linear memory, and few enough steps for a long text."""
    lengths = (1, 7, 150, 64, 65, 128, integer(rng, 20, 60), integer(rng, 200, 300))
    for n in lengths:
        q, k, v = _draw(rng, t=n, s=n, spread=1.0 if n < 100 else 3.0)
        got = expect_tensor(learner(q, k, v), (n, v.shape[1]), what=f"with {n} tokens the output")
        wanted = _one_head(q, k, v, causal=True)
        every = _one_head(q, k, v)
        expect(
            n == 1 or not torch.allclose(got, every), f"with {n} tokens every query sees every key: nothing is causal"
        )
        if n == 7:
            expect_blind_to_future(learner, [q, k, v], moved=1, axis=0, rng=rng)
        expect_close(got, wanted, f"with {n} tokens the output is not causal linear attention")
    for n in (integer(rng, 1050, 1200), integer(rng, 8100, 8300)):
        _expect_few_steps(learner, rng, n)


def _expect_few_steps(learner, rng, n):
    """Expect the right result for a long text, with neither all weights nor a state for each token,
    and without a step for each.
    """
    width = 48
    q, k, v = (normal(rng, n, width).float() for _ in range(3))
    heads = (x.double()[None, None] for x in (q, k, v))
    wanted = linear_attention_blocked(*heads, causal=True)[0, 0].float()
    got, steps = learner.operations(q, k, v)
    expect_close(got, wanted, f"with {n} tokens the output is not causal linear attention", rtol=1e-4, atol=1e-5)
    expect(
        steps <= 2 * n,
        f"with {n} tokens PyTorch carried out {steps} operations: take a few for a chunk, not for a token",
    )
    if n < 4096:
        return
    whole = 4 * n * n
    message = f"with {n} tokens neither the {whole / 1e6:.0f} MB of weights nor a state for each token may be formed"
    expect_memory(learner, [q, k, v], wanted, at_most=whole // 8, message=message)


@exercise_check(
    "linear_attention.decay",
    function="left_between",
    difficulty="medium",
    importance="useful",
    points=2,
    section="decay-retention-and-gates",
)
def decay(learner, rng):
    """Repair the matrix of what is left between two steps, which divides 0 by 0 over long texts."""
    n = integer(rng, 10, 15)
    whole = 0.5 + 0.5 * torch.rand(n, generator=rng, dtype=torch.float64)
    whole[integer(rng, 1, n)] = 1.0
    for factors in (whole, 10.0 ** -(8 * whole), whole[:1], torch.ones(4, dtype=torch.float64)):
        _expect_products(learner, factors)
        cotangent = normal(rng, len(factors), len(factors))
        (slope,) = learner.grad(factors, wrt=(0,), cotangent=cotangent)
        exact = _slopes(factors, cotangent)
        message = "the matrix is right and its gradient is wrong"
        expect_close(
            slope * factors, exact * factors, message
        )  # a factor near 0 has a large slope, with as large errors
    lengths = torch.full((400,), 0.3), 0.2 + 0.3 * torch.rand(integer(rng, 410, 450), generator=rng)
    for steep in lengths:
        _expect_right_over_a_long_text(learner, steep, rng)


def _products(factors):
    """Return what is left, by one step of decay after another."""
    rows, row = [], factors.new_zeros(len(factors))
    for factor, own in zip(factors, torch.eye(len(factors), dtype=factors.dtype), strict=True):
        row = row * factor + own
        rows.append(row)
    return torch.stack(rows)


def _slopes(factors, cotangent):
    leaf = factors.double().requires_grad_()
    return torch.autograd.grad(_products(leaf), leaf, cotangent.double())[0]


def _expect_products(learner, factors):
    n = len(factors)
    got, wanted = expect_tensor(learner(factors), (n, n), what="the matrix"), _products(factors)
    if (got.triu(1) != 0).any():
        row, col = place(got.triu(1) != 0)
        raise Broken(
            f"at step {row} something is left of step {col}, which is still to come",
            Picture(got, wanted, "step", "key"),
        )
    expect_close(
        got.diagonal(), wanted.diagonal(), "of a step's own key all is left: its factor fades what stood before"
    )
    expect_close(
        got, wanted, "what is left is not the product of the factors after the key, up to the step", atol=1e-200
    )


def _expect_right_over_a_long_text(learner, steep, rng):
    """Expect a right result in float32 over a long text; logarithms of up to 700 leave about four digits."""
    n = len(steep)
    case = f"with {n} factors of {'0.3' if steep[0] == steep[1] else '0.2 to 0.5'} in float32"
    far = expect_tensor(learner(steep), (n, n), what=f"{case} the matrix")
    expect(bool(far.isfinite().all()), f"{case} the matrix is infinite at {place(~far.isfinite())}")
    wanted = _products(steep.double())
    expect_close(far[-1].double(), wanted[-1], f"{case} the last row is wrong", rtol=3e-3, atol=1e-30)
    expect_close(far.double(), wanted, f"{case} the matrix is wrong", rtol=3e-3, atol=1e-30)
    cotangent = torch.rand(n, n, generator=rng)  # of one sign, so that nothing cancels
    (slope,) = learner.grad(steep, wrt=(0,), cotangent=cotangent)
    finite = slope.isfinite()
    expect(bool(finite.all()), f"{case} the matrix is right and its gradient is NaN or infinite at {place(~finite)}")
    exact = _slopes(steep, cotangent)
    expect_close(slope.double(), exact, f"{case} the matrix is right and its gradient is not", rtol=3e-3, atol=1e-3)


@exercise_check(
    "linear_attention.delta",
    function="delta_step",
    difficulty="medium",
    importance="useful",
    points=2,
    section="the-delta-rule",
)
def delta(learner, rng):
    """Take one step of the delta rule: write only what the memory does not say already."""
    for _ in range(2):
        dk, dv = unlike_sizes(rng, 2, high=12)
        S, key, value = normal(rng, dk, dv), normal(rng, dk), normal(rng, dv)
        _expect_replacement(learner, rng, S, key / key.norm(), value)
        for beta in (0.2 + 0.5 * torch.rand((), generator=rng).item(), 1.0, 1.5):
            got = expect_tensor(learner(S, key, value, beta), (dk, dv), what="the new memory")
            wanted = S + beta * torch.outer(key, value - S.T @ key)
            expect_close(got, wanted, "with keys that are not of length 1 the step is another", **FLOAT32)


def _expect_replacement(learner, rng, S, key, value):
    """Expect that a step with a key of length 1 replaces."""
    dk, dv = S.shape
    replaced = expect_tensor(learner(S, key, value, 1.0), (dk, dv), what="the new memory")
    kept = expect_tensor(learner(S, key, value, 0.0), (dk, dv), what="the new memory")
    expect_close(kept, S, "with beta = 0 the memory changes", **FLOAT32)
    other = normal(rng, dk)
    other = other - (other @ key) * key
    right_angle = "what stands under a key at a right angle to the one written has changed"
    expect_close(other @ replaced, other @ S, right_angle, **FLOAT32)
    expect(
        not torch.allclose(key @ replaced, key @ S + value),
        "the memory answers its key with the old value plus the new",
    )
    expect_close(
        key @ replaced, value, "with beta = 1 the memory does not answer its key with the new value", **FLOAT32
    )
    beta = 0.25 + 0.5 * torch.rand((), generator=rng).item()
    half = expect_tensor(learner(S, key, value, beta), (dk, dv), what="the new memory")
    between = (1 - beta) * (key @ S) + beta * value
    expect_close(key @ half, between, "between beta = 0 and 1 the answer is not in between", **FLOAT32)


@exercise_check(
    "linear_attention.kernel",
    function="causal_scan",
    difficulty="hard",
    importance="extra",
    points=2,
    section="the-kernel",
    not_verified="Neither runs your kernel compiled where there is no GPU: there Triton interprets it.",
    kernel=True,
)
def kernel(learner, rng):
    """Complete a Triton kernel that takes a head through its chunks with the state in registers."""
    for n in (16, 32, 53, integer(rng, 1, 15)):
        q, k, v = (normal(rng, n, 16).float() for _ in range(3))
        case = f"with {n} tokens, chunks of 16"
        got = expect_tensor(learner(q, k, v), (n, 16), what=f"{case}: the output")
        wanted = _one_head(*(x.double() for x in (q, k, v)), causal=True, feature_map=identity, normalize=False)
        every = _one_head(*(x.double() for x in (q, k, v)), feature_map=identity, normalize=False)
        within = torch.cat(
            [
                _one_head(*x, causal=True, feature_map=identity, normalize=False)
                for x in zip(*(y.double().split(16) for y in (q, k, v)), strict=True)
            ]
        )
        same = dict(rtol=3e-4, atol=3e-4)
        expect(
            n == 1 or n > 16 or not torch.allclose(got.double(), every, **same),
            f"{case}: within the first chunk a query sees keys after it",
        )
        expect(
            n <= 16 or not torch.allclose(got.double(), within, **same),
            f"{case}: each chunk is right by itself, and sees nothing of those before it: read the state",
        )
        expect_close(got[:16], wanted[:16].float(), f"{case}: the first chunk is wrong", **same)
        expect_close(got, wanted.float(), f"{case}: the first chunk is right, later ones are not", **same)
