"""Checks of the unit `grouped_query`: the cache's bytes, shared heads, pooled projections, merged splits, a kernel."""

import torch

from attncourse.grouped_query import group_heads, grouped_query_attention

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import cycled, integer, lifted, normal, primes
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor
from ..picture import Picture

exercise_unit(
    "grouped_query",
    title="Sharing keys and values",
    chapter="grouped_query",
    minutes=80,
    prerequisites=("multi_head",),
)


@exercise_check(
    "grouped_query.cost",
    function="decode_cost",
    difficulty="easy",
    importance="core",
    points=2,
    section="what-is-saved-bytes",
)
def cost(learner, rng):
    """Predict the bytes of a cache, and the operations that each byte read is worth."""
    for itemsize, g, r in ((4, 5, 3), (2, 7, 4), (1, 4, 7), (2, 1, 6), (1, 6, 1), (4, 3, 8)):
        layers, d, s = (integer(rng, low, high) for low, high in ((9, 40), (41, 99), (200, 900)))
        h = g * r
        got = learner(layers, h, g, d, s, itemsize)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: bytes, then operations a byte")
        nbytes, intensity = (expect_number(x) for x in got)
        case = f"for layers={layers}, h={h}, g={g}, d={d}, s={s}, itemsize={itemsize}"
        one = s * d * itemsize * layers  # one head of keys, or of values
        expect(r == 1 or nbytes != 2 * h * one, f"{case}: the queries' heads are not cached, the shared heads are")
        expect(nbytes != g * one, f"{case}: that is a cache of keys or of values, and there are both")
        expect(nbytes * layers != 2 * g * one, f"{case}: every layer has a cache of its own")
        expect(itemsize == 1 or nbytes * itemsize != 2 * g * one, f"{case}: those are numbers, not bytes")
        expect(nbytes == 2 * g * one, f"{case}: the bytes of the cache are wrong")
        wanted = 2 * r / itemsize
        expect(abs(intensity - wanted / 2) > 1e-9, f"{case}: a multiplication and an addition are two operations")
        expect(
            r == 1 or abs(intensity - wanted / r) > 1e-9,
            f"{case}: a key that is read once meets every query of its group",
        )
        expect(abs(intensity - wanted) < 1e-9, f"{case}: the operations a byte are wrong")


@exercise_check(
    "grouped_query.share",
    function="attend_shared",
    difficulty="medium",
    importance="core",
    points=3,
    section="multi-query-and-grouped-query-attention",
    forbids=READY_MADE_ATTENTION,
)
def share(learner, rng):
    """Attend with h query heads that share g heads of keys and values, without copying these."""
    for g, r in ((1, 4), (4, 1), (3, 2), (2, 3)):
        t, s, dk, dv = primes(rng, 4)
        if (t < s) != (r < 3):  # fewer queries than keys, and fewer keys than queries
            t, s = s, t
        q, k, v = normal(rng, g * r, t, dk), normal(rng, g, s, dk), normal(rng, g, s, dv)
        case = f"with {g * r} query heads and {g} shared heads"
        got = expect_tensor(learner(q, k, v), (g * r, t, dv), what=f"{case}: the output")
        names = torch.arange(g, dtype=torch.float64) + 1  # each head's values are all its own number
        read = learner(q, k, names[:, None, None].expand(g, s, 1))
        read = expect_tensor(read, (g * r, t, 1), what=f"{case}: the output for constant values")
        reads = torch.isclose(read.mean(dim=(1, 2))[:, None], names)
        allowed = torch.arange(g * r)[:, None] // r == torch.arange(g)
        picture = Picture(reads, allowed, rows="query head", columns="shared head")
        if not torch.equal(reads, allowed):
            broken = int((reads != allowed).any(dim=1).nonzero()[0])
            raise Broken(
                f"{case}: query head {broken} does not read its group's values; neighbours form a group", picture
            )
        wanted = grouped_query_attention(q[None], k[None], v[None])[0]
        unscaled = grouped_query_attention(q[None], k[None], v[None], scale=1.0)[0]
        expect(not torch.allclose(got, unscaled), f"{case}: scores are not scaled by the square root of dk")
        expect_close(got, wanted, f"{case}: values come from the right head, and the weights on them are wrong")
        q, k = lifted(q, k, cycled(t, -900.0, 900.0))
        case = f"{case}, and scores near 900 or near -900: the output"
        got = expect_tensor(learner(q, k, v), (g * r, t, dv), what=case)
        expect_close(got, grouped_query_attention(q[None], k[None], v[None])[0], f"{case} is wrong")
    for h, g, t, s in ((6, 2, 1, 401), (4, 2, 301, 17)):
        q, k, v = normal(rng, h, t, 8), normal(rng, g, s, 8), normal(rng, g, s, 11)
        wanted = grouped_query_attention(q[None], k[None], v[None])[0]
        expect_close(learner(q, k, v), wanted, f"with {t} queries and {s} keys the output is wrong")
    h, s, d = 32, 4096, 64
    q, k, v = normal(rng, h, 1, d).float(), normal(rng, 1, s, d).float(), normal(rng, 1, s, d).float()
    copies = h * s * d * 4
    message = f"one shared head copied for {h} query heads takes {copies / 1e6:.0f} MB; read it where it lies"
    wanted = grouped_query_attention(q[None], k[None], v[None])[0]
    expect_memory(learner, [q, k, v], wanted, at_most=copies // 3, message=message)


@exercise_check(
    "grouped_query.pool",
    function="pool_heads",
    difficulty="easy",
    importance="useful",
    points=2,
    section="uptraining-from-a-trained-model-to-fewer-heads",
)
def pool(learner, rng):
    """Turn a projection to many heads into one to fewer: the mean of each group."""
    for g, r in ((1, 3), (2, 3), (3, 2), (4, 1)):
        width, d = primes(rng, 2)
        weight = normal(rng, g * r * width, d)
        case = f"with {g * r} heads of width {width} and {g} shared heads"
        got = expect_tensor(learner(weight, g * r, g), (g * width, d), what=f"{case}: the projection")
        wanted = group_heads(weight, n_heads=g * r, n_kv_heads=g)
        first = group_heads(weight, n_heads=g * r, n_kv_heads=g, by="first")
        expect(r == 1 or not torch.allclose(got, first), f"{case}: that is each group's first head, not its mean")
        expect(r == 1 or not torch.allclose(got, r * wanted), f"{case}: that is each group's sum, not its mean")
        strided = weight.unflatten(0, (r, g, width)).mean(dim=0).flatten(0, 1)
        same = torch.allclose(strided, wanted)
        expect(
            same or not torch.allclose(got, strided), f"{case}: heads that are g apart were merged; neighbours share"
        )
        rows = weight.unflatten(0, (g * width, r)).mean(dim=1)
        expect(r == 1 or not torch.allclose(got, rows), f"{case}: neighbouring rows were merged, not heads")
        expect_close(got, wanted, f"{case}: the projection is not the mean of each group's heads")


@exercise_check(
    "grouped_query.split",
    function="merge_splits",
    difficulty="medium",
    importance="useful",
    points=3,
    section="what-is-saved-time",
)
def split(learner, rng):
    """Merge the outputs of any number of splits by their log-sum-exps."""
    r, dk, dv = primes(rng, 3, most=11)
    s = integer(rng, 13, 18)
    q, k, v = normal(rng, r, dk) * 3, normal(rng, s, dk), normal(rng, s, dv)
    scores = q @ k.T
    for lengths in ([s], [2, s - 2], [1, 5, 3, s - 9], [1] * s):
        outs, lses = _parts(scores, v, lengths)
        _judge_merge(_merged(learner, outs, lses), outs, lses, f"with {len(lengths)} splits")
    # Each query's scores lie around a level of its own; then the splits' lie far from one another.
    levels = cycled(r, 2000.0, -2000.0, -2e9)[:, None]
    apart = torch.cat([torch.full((s - 7,), -1500.0), torch.zeros(3), torch.full((4,), -3000.0)]).double()
    for case, far in (("of thousands", scores + levels), ("that are thousands apart", scores + apart)):
        case = f"with log-sum-exps {case}"
        outs, lses = _parts(far, v, [2, s - 9, 3, 4])
        out, lse = _merged(learner, outs, lses, case=f"{case} ")
        whole = torch.softmax(far, dim=-1) @ v, far.logsumexp(dim=-1)
        expect_close(
            out, whole[0], f"{case} the output is wrong: subtract the largest before exp", rtol=1e-4, atol=1e-5
        )
        expect_close(lse, whole[1], f"{case} the log-sum-exp is wrong: subtract the largest before exp")
    _judge_empty_splits(learner, scores + levels, v)


def _parts(scores, v, lengths):
    """Return each split's outputs, (n, r, dv), and log-sum-exps, (n, r); a split of length 0 has no key."""
    parts = list(zip(scores.split(lengths, 1), v.split(lengths), strict=True))
    return (torch.stack(x) for x in ([torch.softmax(x, -1) @ y for x, y in parts], [x.logsumexp(-1) for x, _ in parts]))


def _merged(learner, outs, lses, case=""):
    got = learner(outs, lses)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: the output, then its log-sum-exp")
    _, r, dv = outs.shape
    out = expect_tensor(got[0], (r, dv), what=f"{case}the output")
    return out, expect_tensor(got[1], (r,), what=f"{case}the log-sum-exp")


def _judge_merge(got, outs, lses, case):
    out, lse = got
    many = len(outs) > 1
    expect(not (many and torch.allclose(out, outs.mean(dim=0))), f"{case}: they are averaged as if all counted alike")
    by_rows = (torch.softmax(lses, dim=1)[..., None] * outs).sum(dim=0)
    expect(
        not torch.allclose(out, by_rows),
        f"{case}: the weights of a row's splits do not sum to 1; those of a split's rows do",
    )
    sums = (lses[..., None] * outs).sum(dim=0) / lses.sum(dim=0)[:, None]
    expect(
        not (many and torch.allclose(out, sums)),
        f"{case}: log-sum-exps are logarithms; the weights are their exponentials",
    )
    wanted = (torch.softmax(lses, dim=0)[..., None] * outs).sum(dim=0)
    expect_close(out, wanted, f"{case}: the output is not that of all keys at once", rtol=1e-9)
    expect_close(lse, lses.logsumexp(dim=0), f"{case}: the output is right, its log-sum-exp is not that of all scores")


def _judge_empty_splits(learner, scores, v):
    """Judge splits without a key, before, between and behind others, and nothing but such splits."""
    r, s = scores.shape
    whole, whole_lse = torch.softmax(scores, dim=-1) @ v, scores.logsumexp(dim=-1)
    for lengths in ([3, s - 3, 0], [0, 5, s - 5], [4, 0, 0, s - 4]):
        outs, lses = _parts(scores, v, lengths)
        case = "beside a split without keys (log-sum-exp -inf) "
        out, lse = _merged(learner, outs, lses, case)
        expect_close(out, whole, "a split without keys changes the output", rtol=1e-4, atol=1e-5)
        expect_close(lse, whole_lse, "a split without keys changes the log-sum-exp")
    for n in (1, 4):
        case = "where no split has a key "
        outs, lses = _parts(scores[:, :0], v[:0], [0] * n)
        got = learner(outs, lses)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two tensors: the output, then its log-sum-exp")
        out, lse = got
        expect(not out.isnan().any(), f"{case}the output is NaN; it is zeros")
        expect(not expect_tensor(out, (r, v.shape[1])).any(), f"{case}the output is not zeros")
        expect(not lse.isnan().any(), f"{case}the log-sum-exp is NaN; the sum of no exponentials is 0")
        none = expect_tensor(lse, (r,), what="the log-sum-exp") == -torch.inf
        expect(bool(none.all()), f"{case}the log-sum-exp is not the logarithm of 0")


@exercise_check(
    "grouped_query.kernel",
    function="decode",
    difficulty="hard",
    importance="extra",
    points=3,
    section="what-is-saved-time",
    not_verified="Neither runs your kernel compiled where there is no GPU: there Triton interprets it.",
    kernel="merged",
)
def kernel(learner, rng):
    """Complete a Triton kernel that takes a group's queries through one split of the keys."""
    same = dict(rtol=1e-4, atol=1e-4)
    # Scores rise towards the end, so that every tile brings a larger maximum; then they fall, and then they do neither.
    cases = [(16, 1), (48, 1), (37, 1), (96, 3), (75, 2), (integer(rng, 17, 32), 1), (1, 1)]
    for i, (length, splits) in enumerate(cases):
        q, k = normal(rng, 16, 16).float(), normal(rng, length, 16).float()
        v = normal(rng, length, 16).float()
        if i < 5:
            k = k[(q @ k.T).sum(dim=0).argsort(descending=i == 4)]
        tiles = f"{length} keys in {splits} split{'s' * (splits > 1)}, tiles of 16"
        got = expect_tensor(learner(q, k, v, splits), (16, 16), what=f"{tiles}: the output")
        ones = learner(q, k, torch.ones_like(v), splits)
        more, less = bool((ones > 1 + 1e-3).any()), bool((ones < 1 - 1e-3).any())
        expect(not more, f"{tiles}: weights sum to more than 1; what stands so far is relative to the old maximum")
        expect(not less, f"{tiles}: weights sum to less than 1")
        scores = q.double() @ k.double().T / 4
        wanted = (torch.softmax(scores, dim=-1) @ v.double()).float()
        unscaled = (torch.softmax(4 * scores, dim=-1) @ v.double()).float()
        expect(length == 1 or not torch.allclose(got, unscaled, **same), f"{tiles}: scores are not scaled")
        last = scores[:, -16:] if length % 16 == 0 else scores[:, length // 16 * 16 :]
        alone = (torch.softmax(last, dim=-1) @ v[-last.shape[1] :].double()).float()
        expect(length <= 16 or not torch.allclose(got, alone, **same), f"{tiles}: only the last tile counts")
        expect_close(got, wanted, f"{tiles}: the output is not that of all keys", **same)
    _judge_levels(learner, rng, same)


def _judge_levels(learner, rng, same):
    """Judge scores in steps of 1/16 around 0, 512 and -32768, and of 256 around -2**31:
    all as float32 holds them exactly.
    """
    near, far = cycled(16, 512.0, -32768.0, 0.0), cycled(16, -(2.0**31))
    for length, step, levels in ((48, 0.25, near), (39, 0.25, near), (39, 1024, far)):
        q, k = normal(rng, 16, 16).round(), (4 * normal(rng, length, 16)).round() * step
        q, k, v = (x.float() for x in (*lifted(q, k, levels), normal(rng, length, 16)))
        where = "-2e9" if levels is far else "512 or near -32768"
        case = f"{length} keys in 1 split, scores of a row all near {where}: the output"
        got = expect_tensor(learner(q, k, v, 1), (16, 16), what=case)
        wanted = torch.softmax(q.double() @ k.double().T / 4, dim=-1) @ v.double()
        expect_close(got, wanted, f"{case} is wrong: subtract the running maximum before exp", **same)
