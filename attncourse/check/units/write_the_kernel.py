"""Checks of the unit `write_the_kernel`: four kernels to complete, four tests to write, one address to work out."""

import torch

from attncourse import device
from attncourse.softmax_attention import softmax_attention, softmax_attention_blocked

from ..core import exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import expect, expect_close, expect_number, expect_tensor
from ..replay import outcome

exercise_unit(
    "write_the_kernel",
    title="Write the kernel yourself",
    chapter="write_the_kernel",
    minutes=170,
    prerequisites=("sliding_window",),
)

INTERPRETED = "Neither runs your kernel compiled where there is no GPU: there Triton interprets it."
BLOCK = 16  # of every kernel here
BEHIND = 77.0  # what stands behind a tensor's end, to see whether it stays
SAME = dict(rtol=1e-3, atol=1e-3)  # float32, in another order


@exercise_check(
    "write_the_kernel.add",
    function="add_into",
    difficulty="easy",
    importance="core",
    points=1,
    section="a-program-and-its-tile",
    not_verified=INTERPRETED,
    may_change=(2,),
    kernel=True,
)
def add(learner, rng):
    """Complete a kernel that adds two vectors of any length, and touches nothing else."""
    ragged = [i * BLOCK + integer(rng, 2, BLOCK - 1) for i in range(4)]
    for n in (BLOCK, 1, 3 * BLOCK, BLOCK + 1, 2 * BLOCK - 1, *ragged):
        x, y = (normal(rng, n).float() for _ in range(2))
        out = torch.full((n + 2 * BLOCK,), torch.nan)
        out[n:] = BEHIND
        got = learner(x, y, out)
        expect(isinstance(got, torch.Tensor) and got.shape == out.shape, "return out, as long as it came")
        case = f"with {n} elements and blocks of {BLOCK}"
        expect((got[n:] == BEHIND).all(), f"{case}: something is written behind the last element")
        expect(not got[:BLOCK][:n].isnan().any(), f"{case}: of the first block not everything is written")
        expect(not got[:n].isnan().any(), f"{case}: some blocks are not written")
        expect(not torch.equal(got[:n], x), f"{case}: that is x alone")
        expect_close(got[: min(n, BLOCK)], (x + y)[:BLOCK], f"{case}: the first block is not the sum")
        expect_close(got[:n], x + y, f"{case}: the first block is right, others are not")


@exercise_check(
    "write_the_kernel.softmax",
    function="soften",
    difficulty="medium",
    importance="core",
    points=2,
    section="online-softmax-a-row-in-pieces",
    not_verified=INTERPRETED,
    kernel=True,
)
def softmax(learner, rng):
    """Complete a kernel that takes the softmax of rows in pieces, with a running maximum and sum."""
    ragged = [i * BLOCK + integer(rng, 2, BLOCK - 1) for i in (0, 2)]
    for n in (BLOCK, 3 * BLOCK, 2 * BLOCK + 1, *ragged):
        rows = integer(rng, 2, 6)
        x = normal(rng, rows, n).float() + torch.linspace(-4, 0, n)  # so that a later piece has the larger maximum
        x[-1] = x[-1].flip(0)  # and in one row the first
        got = expect_tensor(learner(x), (rows, n), what=f"with rows of {n}: the result")
        sums, case = got.sum(dim=-1), f"with rows of {n}, pieces of {BLOCK}"
        expect(
            n % BLOCK == 0 or bool((sums > 0.999).all()),
            f"{case}: the weights of a row sum to less than 1: what pads the last piece has a share",
        )
        expect(torch.allclose(sums, torch.ones(rows), atol=1e-3), f"{case}: the weights of a row do not sum to 1")
        expect_close(got, torch.softmax(x, dim=-1), f"{case}: this is not its softmax", **SAME)
    large = 1000 * normal(rng, 2, 3 * BLOCK - integer(rng, 1, BLOCK)).float()
    close_by = normal(rng, 2, 3 * BLOCK - integer(rng, 1, BLOCK)).float()
    scores = {
        "large": large,
        "rising": large.sort(dim=-1).values,
        "falling": large.sort(dim=-1).values.flip(-1),
        "very negative": -large.abs() - 500,
        "large and close": 800 + close_by,
        "very negative and close": -2e4 + 64 * close_by,
        "close to the most negative float32": -3e38 * (1 + close_by.abs() / 64),
    }
    for name, order in scores.items():
        got = learner(order)
        expect(isinstance(got, torch.Tensor) and not got.isnan().any(), f"with {name} scores there is NaN")
        expect_close(got, torch.softmax(order, dim=-1), f"with {name} scores this is not the softmax", **SAME)


@exercise_check(
    "write_the_kernel.product",
    function="multiply",
    difficulty="medium",
    importance="useful",
    points=2,
    section="a-matrix-product-by-tiles",
    not_verified=INTERPRETED,
    kernel=True,
)
def product(learner, rng):
    """Complete a kernel that multiplies matrices by tiles, with sums in float32."""
    ragged = [BLOCK + integer(rng, 1, BLOCK) for _ in range(3)]
    small = [integer(rng, 1, BLOCK) for _ in range(3)]
    regular = [(BLOCK, BLOCK, BLOCK), (2 * BLOCK, BLOCK, BLOCK), (BLOCK, 3 * BLOCK, 2 * BLOCK)]
    for m, inner, n in (*regular, ragged, small, (1, 2 * BLOCK + 1, 3), (2 * BLOCK + 1, 1, BLOCK + 1)):
        a, b = normal(rng, m, inner).float(), normal(rng, inner, n).float()
        got, case = learner(a, b), f"({m}, {inner}) times ({inner}, {n}), tiles of {BLOCK}"
        got, wanted = expect_tensor(got, (m, n), what=f"{case}: the product"), a @ b
        if inner > BLOCK:
            strips = [x @ y for x, y in zip(a.split(BLOCK, dim=1), b.split(BLOCK), strict=True)]
            alone = any(torch.allclose(got, strip, **SAME) for strip in (strips[0], strips[-1]))
            expect(not alone, f"{case}: of the strips along the inner axis one alone is there; add them up")
        expect_close(got[:BLOCK, :BLOCK], wanted[:BLOCK, :BLOCK], f"{case}: the first tile is wrong", **SAME)
        expect_close(got, wanted, f"{case}: the first tile is right, others are not", **SAME)
    # Strips of 16 sum to 8.25, of which float16 keeps 8 from 1024 on; the sum of all is 2112, which it has.
    x = torch.full((1, 4096), 33 / 64, dtype=torch.float16)
    total = expect_tensor(learner(x, torch.ones_like(x).T.contiguous()), (1, 1), what="the product of float16 vectors")
    expect(total.item() == 2112, "a long sum in float16 loses the last digits of every strip: add up in float32")
    a, b = normal(rng, 20, 37).half(), normal(rng, 37, 18).half()
    halves = expect_tensor(learner(a, b), (20, 18), what="the product of float16 matrices")
    expect_close(halves, a.float() @ b.float(), "the product of float16 matrices is wrong", rtol=1e-2, atol=1e-2)


def _heads(*tensors):
    return (x[None, None] for x in tensors)


@exercise_check(
    "write_the_kernel.flash",
    function="flash",
    difficulty="hard",
    importance="core",
    points=3,
    section="flashattention-online-softmax-over-tiles",
    not_verified=INTERPRETED,
    seconds=60.0,
    kernel=True,
)
def flash(learner, rng):
    """Complete the inner loop of FlashAttention: causal, tile by tile, for any lengths."""
    ragged = 2 * BLOCK + integer(rng, 1, BLOCK)
    for t, s in ((BLOCK, BLOCK), (ragged, ragged), (5, 37), (20, 7), (1, ragged), (ragged, 1), (2 * BLOCK + 1, 41)):
        q, k, v = (normal(rng, n, 16).float() for n in (t, s, s))
        case = f"with {t} queries and {s} keys"
        got = learner(q, k, v)
        expect(isinstance(got, torch.Tensor) and got.shape == (t, 16), f"{case}: the output has another shape")
        expect(
            not got.isnan().any(),
            f"{case}: there is NaN" + " where a query sees no key: -inf minus -inf, or a sum of 0" * (t > s),
        )
        wanted, every, unscaled = (
            softmax_attention(*_heads(q, k, v), **options)[0, 0]
            for options in (dict(causal=True), {}, dict(causal=True, scale=1.0))
        )
        mistakes = {"every query sees every key": every, "the scores are not scaled": unscaled}
        for says, mistake in mistakes.items():
            told = not torch.allclose(wanted, mistake, **SAME)  # with one query, or one key, it is none
            expect(not (told and torch.allclose(got, mistake, **SAME)), f"{case}: {says}")
        if t == BLOCK:
            expect_close(got, wanted, f"{case}, a single tile: this is not causal attention", **SAME)
            continue
        ones = learner(q, k, torch.ones_like(v))
        seen = wanted.abs().sum(dim=-1) > 0
        expect_close(
            ones[seen],
            torch.ones(int(seen.sum()), 16),
            f"{case}: a single tile is right; over several the weights do not sum to 1, so the sum and the accumulator are "
            "rescaled differently",
            **SAME,
        )
        start = softmax_attention(*_heads(q, k, v), mask=torch.arange(s) <= torch.arange(t)[:, None])[0, 0]
        expect(
            t >= s or not torch.allclose(got, start, **SAME),
            f"{case}: the mask is aligned to the start, and the last query is to see the last key",
        )
        expect_close(got, wanted, f"{case}: a single tile is right, and over several the output is not", **SAME)
    for around in (900.0, -900.0):
        q, k, v = (normal(rng, n, 16).float() for n in (5, ragged, ragged))
        q[:, 0], k[:, 0] = 1.0, 4 * around
        got, case = learner(q, k, v), f"with scores of about {around:.0f}"
        expect(bool(got.isfinite().all()), f"{case} there is NaN or infinity: subtract the maximum before exp")
        wanted = softmax_attention(*_heads(*(x.double() for x in (q, k, v))), causal=True)[0, 0]
        expect_close(got, wanted, f"{case} the output is another", rtol=1e-2, atol=1e-2)


# Tests that learners write. Each gets attentions of one head, right ones and broken ones, and must tell them apart.


def _one_head(attention, **settings):
    """Return an attention of (b, h, n, 16) as one of (n, 16), for a learner's test to call."""

    def call(q, k, v):
        shapes = [tuple(getattr(x, "shape", ())) for x in (q, k, v)]
        fits = all(len(shape) == 2 and 1 <= shape[0] <= 64 and shape[1] == 16 for shape in shapes)
        expect(fits and shapes[1] == shapes[2], f"call the attention with (n, 16), 64 rows at most, not with {shapes}")
        out = attention(*(x.float()[None, None].contiguous() for x in (q, k, v)), **settings)
        return out[0, 0].float()

    return call


def _where_kernels_run(attention):
    """Return the same, with its inputs moved to the GPU where there is one, and its output back."""
    return lambda *qkv, **settings: attention(*(x.to(device()) for x in qkv), **settings).cpu()


def _exhibit(name):
    """Return a broken attention of the museum."""
    # It needs Triton, which is there on Linux alone.
    from attncourse.lessons.write_the_kernel.museum import EXHIBITS

    return _where_kernels_run(next(exhibit.attend() for exhibit in EXHIBITS if exhibit.name == name))


def _kernel():
    from attncourse.lessons.write_the_kernel.kernel import flash_attention

    return _where_kernels_run(flash_attention)


def _expect_told_apart(learner, right, broken, *more):
    """Expect that the test holds of every right attention, and of no broken one."""
    for name, attention in right.items():
        expect(outcome(learner, attention, *more), f"your test fails {name}, which is right")
    for name, attention in broken.items():
        expect(not outcome(learner, attention, *more), f"your test passes an attention that is broken: {name}")


def _in_part(right, wrong, part):
    """Return an attention that is right, except for a part of its output, which is another's: `part(t)` of its t rows."""

    def attend(q, k, v):
        out, at = right(q, k, v).clone(), (..., *part(q.shape[2]))
        out[at] = wrong(q, k, v)[at]
        return out

    return attend


# Where an attention is wrong, and nowhere else, by the number of its rows.
PARTS = {
    "in the first row": lambda t: (0, slice(None)),
    "in the row in the middle": lambda t: (t // 2, slice(None)),
    "in the last row": lambda t: (t - 1, slice(None)),
    "in the first column": lambda t: (slice(None), 0),
    "in a column in the middle": lambda t: (slice(None), 7),
    "in the last column": lambda t: (slice(None), -1),
}


def _in_parts(right, wrong, what, parts=tuple(PARTS)):
    """Return by what is broken of them attentions that are wrong in a single row or column."""
    return {f"{what}, {part} alone": _in_part(right, wrong, PARTS[part]) for part in parts}


def _weighted(q, k, v, weigh):
    """Return attention whose weights are weigh(scores)."""
    return weigh(q @ k.mT * q.shape[-1] ** -0.5) @ v


@exercise_check(
    "write_the_kernel.formula_test",
    function="formula_test",
    difficulty="easy",
    importance="useful",
    points=2,
    section="tests-that-catch-them",
)
def formula_test(learner, rng):
    """Write the test that an attention is softmax of the scaled scores, times the values."""

    def drops_the_rest(q, k, v):
        whole = max(k.shape[2] // BLOCK * BLOCK, 1)
        return softmax_attention(q, k[:, :, :whole], v[:, :, :whole])

    right = {"the kernel": _kernel(), "the definition": softmax_attention}
    broken = {
        "its scores are not scaled": lambda *qkv: softmax_attention(*qkv, scale=1.0),
        "its weights are scores without softmax": lambda *qkv: _weighted(*qkv, lambda x: x / x.sum(-1, keepdim=True)),
        "it forgets to rescale where a later tile has the larger maximum": _exhibit("forgotten rescale"),
        f"it drops the keys behind the last full tile of {BLOCK}": drops_the_rest,
        "it does not subtract the maximum": lambda *qkv: _weighted(
            *qkv, lambda x: x.exp() / x.exp().sum(-1, keepdim=True)
        ),
    }
    broken |= _in_parts(softmax_attention, lambda q, k, v: -softmax_attention(q, k, v), "it has the wrong sign")
    one_head = [{name: _one_head(f) for name, f in group.items()} for group in (right, broken)]
    _expect_told_apart(learner, *one_head)


@exercise_check(
    "write_the_kernel.future_test",
    function="future_test",
    difficulty="medium",
    importance="useful",
    points=2,
    section="tests-that-catch-them",
)
def future_test(learner, rng):
    """Write the test that a causal attention never reads the future."""

    def masked(allowed):
        def attend(q, k, v):
            t, s = q.shape[2], k.shape[2]
            return softmax_attention(q, k, v, mask=allowed(torch.arange(t)[:, None], torch.arange(s)))

        return attend

    def masks_after(q, k, v):
        return _weighted(q, k, v, lambda x: torch.softmax(x, dim=-1).tril())

    def adds_the_mean(q, k, v):
        return softmax_attention(q, k, v, causal=True) + 1e-3 * v.mean(dim=2, keepdim=True)

    causal = dict(causal=True)
    right = {
        "the kernel": _one_head(_kernel(), **causal, block_s=32),
        "the definition": _one_head(softmax_attention, **causal),
    }
    broken = {
        "it sees everything": _one_head(softmax_attention),
        "each query sees one key of its future": _one_head(masked(lambda i, j: j <= i + 1)),
        "it masks after the softmax, so that keys of the future change the weights": _one_head(masks_after),
        "a thousandth of every value, future ones too, reaches the output": _one_head(adds_the_mean),
        "with key tiles of 32 and query tiles of 16 it tests the wrong tiles": _one_head(
            _exhibit("block sizes that break causality"), **causal, block_s=32
        ),
    }
    # row 0 sees one key, and the last row has no future
    leaks = _in_parts(masked(lambda i, j: j <= i), softmax_attention, "it sees its future", [*PARTS][:2] + [*PARTS][3:])
    _expect_told_apart(learner, right, broken | {name: _one_head(f) for name, f in leaks.items()})


@exercise_check(
    "write_the_kernel.window_test",
    function="window_test",
    difficulty="medium",
    importance="useful",
    points=2,
    section="tests-that-catch-them",
)
def window_test(learner, rng):
    """Write the test that under a window of w each query sees its own key and the w - 1 before it."""
    window = integer(rng, 3, 7)

    def banded(first, last):
        def attend(q, k, v):
            distance = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])
            return softmax_attention(q, k, v, mask=(distance >= first) & (distance <= last))

        return attend

    right = {"the kernel": _kernel(), "the definition": softmax_attention}
    exhibits = {
        "it sees one key too many": _exhibit("window off by one"),
        "it gives NaN where a tile holds no key that a query may see": _exhibit("-inf minus -inf"),
    }
    broken = {
        "it sees one key too few": banded(0, window - 2),
        "it does not see its own key": banded(1, window),
        "it sees as far ahead as it sees back": banded(1 - window, window - 1),
        "it sees everything before it": banded(0, 1000),
    }
    broken |= _in_parts(banded(0, window - 1), banded(0, 1000), "it sees everything before it", [*PARTS][1:])
    options = dict(window=window)
    _expect_told_apart(
        learner,
        {name: _one_head(f, **options) for name, f in right.items()},
        {name: _one_head(f) for name, f in broken.items()} | {n: _one_head(f, **options) for n, f in exhibits.items()},
        window,
    )


def _with_gradients(attention, change=lambda grads, dout, leaves: grads):
    """Return a causal attention that also gives the gradients of (out * dout).sum(), after a change."""

    def call(q, k, v, dout):
        shapes = [tuple(getattr(x, "shape", ())) for x in (q, k, v, dout)]
        fits = len({*shapes}) == 1 and len(shapes[0]) == 2 and 1 <= shapes[0][0] <= 64
        expect(fits, f"call the attention with four tensors of one shape (n, d), 64 rows at most, not with {shapes}")
        leaves = [x.double()[None, None].requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, causal=True)
        grads = torch.autograd.grad(out, leaves, dout.double()[None, None])
        return [x[0, 0].detach() for x in (out, *change(grads, dout, leaves))]

    return call


@exercise_check(
    "write_the_kernel.gradient_test",
    function="gradient_test",
    difficulty="medium",
    importance="useful",
    points=2,
    section="tests-that-catch-them",
)
def gradient_test(learner, rng):
    """Write the test that a causal attention's gradients are right."""

    def blocked(q, k, v, causal):
        return softmax_attention_blocked(q, k, v, causal=causal, block=BLOCK)

    def not_scaled(grads, dout, leaves):
        return grads[0] * leaves[0].shape[-1] ** 0.5, *grads[1:]

    def drops_the_rest(grads, dout, leaves):
        dk = grads[1].clone()
        dk[:, :, max(dk.shape[2] // BLOCK * BLOCK, 1) :] = 0.0
        return grads[0], dk, grads[2]

    def of_the_sum(grads, dout, leaves):
        return torch.autograd.grad(softmax_attention(*leaves, causal=True).sum(), leaves)

    def turned(which, along, shift):
        """Return one gradient with its rows or its columns moved on: what is summed over that axis stays."""
        return lambda grads, *_: [g.roll(shift, along) if i == which else g for i, g in enumerate(grads)]

    def without(which, part):
        def change(grads, *_):
            changed = [g.clone() for g in grads]
            changed[which][(..., *part)] = 0.0
            return changed

        return change

    right = {"the blocked form": _with_gradients(blocked), "the definition": _with_gradients(softmax_attention)}
    broken = {
        "the gradient of q is not scaled": _with_gradients(softmax_attention, not_scaled),
        f"keys behind the last full tile of {BLOCK} get no gradient": _with_gradients(
            softmax_attention, drops_the_rest
        ),
        "dout is ignored, and these are the gradients of out.sum()": _with_gradients(softmax_attention, of_the_sum),
        "its backward pass forgets the causal test": _with_gradients(_exhibit("missing causal test in the backward")),
    }
    for which, name in enumerate("qkv"):
        changes = {
            f"the columns of the gradient of {name} are out of order": turned(which, -1, 1),
            f"the rows of the gradient of {name} are out of order": turned(which, -2, 1),
            f"the gradient of {name} lacks a column": without(which, (slice(None), -1)),
            # the first query sees one key: nothing it asks for changes its output
            f"the gradient of {name} lacks a row": without(which, (-1 if name == "q" else 0, slice(None))),
        }
        broken |= {what: _with_gradients(softmax_attention, change) for what, change in changes.items()}
    _expect_told_apart(learner, right, broken)


@exercise_check(
    "write_the_kernel.overflow",
    function="first_lost_head",
    difficulty="medium",
    importance="extra",
    points=1,
    section="a-museum-of-broken-kernels",
)
def overflow(learner, rng):
    """Work out from which head on an address in 32 bits is wrong, and where it points."""
    shapes = [(2 ** integer(rng, 6, 13), 2 ** integer(rng, 4, 8)) for _ in range(2)]
    shapes += [(integer(rng, 1000, 90_000), integer(rng, 17, 250)) for _ in range(3)]
    for t, d in shapes:
        got = learner(t, d)
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            "return two numbers: the head, and where its address points",
        )
        head, points_at = (int(expect_number(x)) for x in got)
        stride, case = t * d, f"for heads of {t} rows of width {d}"
        wanted = (2**31 - 1) // stride + 1
        expect(head != (2**32 - 1) // stride + 1, f"{case}: one of the 32 bits is the sign")
        expect(head != (2**31 - 1) // (2 * stride) + 1, f"{case}: a kernel counts elements, not bytes")
        expect(head != wanted - 1, f"{case}: that head still begins at an address that fits")
        expect(head == wanted, f"{case}: that is not the first head whose address is wrong")
        # what 32 bits make of it, by PyTorch's own
        wrapped = int(torch.tensor(head, dtype=torch.int32) * torch.tensor(stride, dtype=torch.int32))
        expect(points_at != head * stride, f"{case}: the head is right, and its address is not what 32 bits hold")
        expect(points_at >= -(2**31), f"{case}: no number of 32 bits is as small as that")
        expect(points_at < 0, f"{case}: the head is right, and with a sign its address is negative")
        expect(points_at == wrapped, f"{case}: the head is right, and its address is another")
