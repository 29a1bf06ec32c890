"""Checks of the unit `linear_attention`: the order of products, the state, chunks, decay, the delta rule, a kernel."""

import torch

from attncourse.linear_attention import delta_rule_attention, identity, linear_attention

from ..core import READY_MADE_ATTENTION, Broken, Picture, exercise_check, exercise_unit
from ..draw import normal, sizes
from ..expect import (
    expect,
    expect_blind_to_future,
    expect_close,
    expect_memory,
    expect_number,
    expect_same_in_pieces,
    expect_tensor,
    numbers_in,
    place,
)

exercise_unit(
    "linear_attention",
    title="Linear attention",
    chapter="linear_attention",
    minutes=110,
    prerequisites=("self_cross_causal",),
)


def _draw(rng, *, t, s, dk, dv):
    return normal(rng, t, dk), normal(rng, s, dk), normal(rng, s, dv)


def _one_head(q, k, v, **options):
    return linear_attention(q[None, None], k[None, None], v[None, None], **options)[0, 0]


@exercise_check("linear_attention.bytes", function="memory_bytes", points=1, section="a-memory-of-fixed-size")
def memory_bytes(learner, rng):
    """Predict the bytes of a cache of keys and values, and of the state that takes its place."""
    for _ in range(4):
        b, h, n, d = (torch.randint(2, 60, (4,), generator=rng) + torch.tensor([0, 0, 100, 6])).tolist()
        got = learner(b, h, n, d)
        expect(
            isinstance(got, tuple | list) and len(got) == 2, "return two numbers: the cache's bytes, then the state's"
        )
        cache, state = (expect_number(x) for x in got)
        shapes = f"b={b}, h={h}, n={n}, d={d}"
        expect(cache != 4 * b * h * n * d, f"for {shapes}: that is a cache of keys or of values, and there are both")
        expect(cache != 2 * b * h * n * d, f"for {shapes}: those are the cache's numbers; a float32 has four bytes")
        expect(cache == 8 * b * h * n * d, f"for {shapes}: the bytes of the cache are wrong")
        expect(state != 4 * b * h * d * d, f"for {shapes}: the state's matrix is counted, its normalizer is not")
        expect(state != 4 * b * h * n * d * (d + 1), f"for {shapes}: one state is kept, not one a token")
        expect(state != 4 * h * d * (d + 1), f"for {shapes}: each of the {b} sequences has a state of its own")
        expect(state == 4 * b * h * d * (d + 1), f"for {shapes}: the bytes of the state are wrong")


@exercise_check(
    "linear_attention.reassociate",
    function="attend",
    points=2,
    section="multiply-in-the-other-order",
    forbids=READY_MADE_ATTENTION,
)
def reassociate(learner, rng):
    """Attend with elu + 1 in memory linear in the length: every query sees every key."""
    t, s, dk, dv = sizes(rng, 4)
    q, k, v = _draw(rng, t=t, s=s, dk=dk, dv=dv)
    got = expect_tensor(learner(q, k, v), (t, dv), what="the output")
    weights = expect_tensor(
        learner(q, k, torch.eye(s, dtype=torch.float64)), (t, s), what="the output for one-hot values"
    )
    expect(bool((weights >= 0).all()), f"a weight is negative, at {place(weights < 0)}: the features must be positive")
    sums = weights.sum(dim=-1)
    expect(
        torch.allclose(sums, torch.ones_like(sums)),
        f"the weights of query {place((sums - 1).abs() > 1e-6)} do not sum to 1: divide by the sum of its weights",
    )
    wanted = _one_head(q, k, v)
    softmax = torch.softmax(q @ k.T / dk**0.5, dim=-1) @ v
    expect(not torch.allclose(got, softmax), "this is softmax attention: its exponential does not come apart")
    expect_close(got, wanted, "the output is not that of the feature map elu(x) + 1")
    n = 4096
    q, k, v = (x.float() for x in _draw(rng, t=n, s=n, dk=16, dv=16))
    whole = 4 * n * n
    message = f"with {n} queries and keys in float32 the {whole / 1e6:.0f} MB of weights need not be formed"
    expect_memory(learner, [q, k, v], at_most=whole // 3, message=message)


@exercise_check(
    "linear_attention.stream",
    function="read_piece",
    points=2,
    section="a-memory-of-fixed-size",
    forbids=READY_MADE_ATTENTION,
)
def stream(learner, rng):
    """Causal linear attention to tokens that arrive piece by piece, with a state that does not grow."""
    s, dk, dv = 11, *sizes(rng, 2)
    q, k, v = _draw(rng, t=s, s=s, dk=dk, dv=dv)
    whole = _one_head(q, k, v, causal=True)
    for lengths in ((s,), (4, 7), (1, 2, 3, 5), (1,) * s):
        pieces = list(zip(*(x.split(lengths) for x in (q, k, v)), strict=True))
        states = expect_same_in_pieces(learner, pieces, whole[-lengths[-1] :], what="the last piece of attention")
        first, last = numbers_in(states[0]), numbers_in(states[-1])
        expect(first == last, f"the state grows with what was read: {first} numbers after a piece, {last} after all")


@exercise_check(
    "linear_attention.chunks",
    function="attend_in_chunks",
    points=3,
    section="chunks-both-at-once",
    forbids=READY_MADE_ATTENTION,
)
def chunks(learner, rng):
    """Causal linear attention chunk by chunk: linear memory, and few enough steps for a long text."""
    dk, dv = sizes(rng, 2)
    for n in (1, 7, 150):
        q, k, v = _draw(rng, t=n, s=n, dk=dk, dv=dv)
        got = expect_tensor(learner(q, k, v), (n, dv), what=f"with {n} tokens the output")
        wanted = _one_head(q, k, v, causal=True)
        every = _one_head(q, k, v)
        expect(
            n == 1 or not torch.allclose(got, every), f"with {n} tokens every query sees every key: nothing is causal"
        )
        if n == 7:
            expect_blind_to_future(learner, [q, k, v], moved=1, axis=0, rng=rng)
        expect_close(got, wanted, f"with {n} tokens the output is not causal linear attention")
    n = 8192
    q, k, v = (x.float() for x in _draw(rng, t=n, s=n, dk=16, dv=16))
    whole = 4 * n * n
    message = f"with {n} tokens in float32 the {whole / 1e6:.0f} MB of weights are too many to form"
    expect_memory(learner, [q, k, v], at_most=whole // 8, message=message)


@exercise_check("linear_attention.decay", function="left_between", points=2, section="forgetting")
def decay(learner, rng):
    """Repair the matrix of what is left between two steps, which divides 0 by 0 over long texts."""
    n = 12
    factors = 0.5 + 0.5 * torch.rand(n, generator=rng, dtype=torch.float64)
    got = expect_tensor(learner(factors), (n, n), what="the matrix")
    wanted = torch.eye(n, dtype=torch.float64)
    for i in range(n):
        for j in range(i):
            wanted[i, j] = factors[j + 1 : i + 1].prod()
    if (got.triu(1) != 0).any():
        row, col = place(got.triu(1) != 0)
        raise Broken(
            f"at step {row} something is left of step {col}, which is still to come",
            Picture(got, wanted, "step", "key"),
        )
    expect_close(
        got.diagonal(), wanted.diagonal(), "of a step's own key all is left: its factor fades what stood before"
    )
    expect_close(got, wanted, "what is left is not the product of the factors after the key, up to the step")
    steep = torch.full((400,), 0.3)
    far = expect_tensor(learner(steep), (400, 400), what="with 400 factors of 0.3 in float32 the matrix")
    expect(
        bool(far.isfinite().all()),
        f"with 400 factors of 0.3 in float32 the matrix is infinite at {place(~far.isfinite())}",
    )
    near = torch.tensor(0.3) ** torch.arange(400)
    expect_close(
        far[-1], near.flip(0), "with 400 factors of 0.3 in float32 the last row is wrong", rtol=1e-3, atol=1e-6
    )
    (grad,) = learner.grad(steep, wrt=(0,), cotangent=torch.ones(400, 400))
    expect(
        bool(grad.isfinite().all()),
        f"the matrix is right and its gradient is NaN or infinite at {place(~grad.isfinite())}",
    )


@exercise_check("linear_attention.delta", function="delta_step", points=2, section="the-delta-rule")
def delta(learner, rng):
    """One step of the delta rule: write only what the memory does not say already."""
    dk, dv = sizes(rng, 2)
    S, key, value = normal(rng, dk, dv), normal(rng, dk), normal(rng, dv)
    key = key / key.norm()
    replaced = expect_tensor(learner(S, key, value, 1.0), (dk, dv), what="the new memory")
    kept = expect_tensor(learner(S, key, value, 0.0), (dk, dv), what="the new memory")
    expect_close(kept, S, "with beta = 0 the memory changes")
    other = normal(rng, dk)
    other = other - (other @ key) * key
    expect_close(other @ replaced, other @ S, "what stands under a key at a right angle to the one written has changed")
    expect(
        not torch.allclose(key @ replaced, key @ S + value),
        "the memory answers its key with the old value plus the new",
    )
    expect_close(key @ replaced, value, "with beta = 1 the memory does not answer its key with the new value")
    beta = 0.25 + 0.5 * torch.rand((), generator=rng).item()
    half = expect_tensor(learner(S, key, value, beta), (dk, dv), what="the new memory")
    expect_close(
        key @ half, (1 - beta) * (key @ S) + beta * value, "between beta = 0 and 1 the answer is not in between"
    )
    n = 6
    keys, values, betas = normal(rng, n, dk), normal(rng, n, dv), torch.rand(n, generator=rng, dtype=torch.float64)
    memory = torch.zeros(dk, dv, dtype=torch.float64)
    for i in range(n):
        memory = learner(memory, keys[i], values[i], betas[i].item())
    shaped = (keys[None, None], keys[None, None], values[None, None], betas[None, None])
    expect_close(
        memory, delta_rule_attention(*shaped)[1][0, 0], "with keys that are not of length 1 the step is another"
    )


@exercise_check(
    "linear_attention.kernel",
    function="causal_scan",
    points=2,
    section="the-kernel",
    not_verified="Neither runs your kernel compiled where there is no GPU: there Triton interprets it.",
)
def kernel(learner, rng):
    """Complete a Triton kernel that takes a head through its chunks with the state in registers."""
    for n in (16, 32, 53):
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
        same = dict(rtol=1e-3, atol=1e-3)
        expect(
            not torch.allclose(got[:16].double(), every[:16], **same) or n > 16,
            f"{case}: within the first chunk a query sees keys after it",
        )
        expect(
            n == 16 or not torch.allclose(got.double(), within, **same),
            f"{case}: each chunk is right by itself, and sees nothing of those before it: read the state",
        )
        expect_close(got[:16], wanted[:16].float(), f"{case}: the first chunk is wrong", **same)
        expect_close(got, wanted.float(), f"{case}: the first chunk is right, later ones are not", **same)
