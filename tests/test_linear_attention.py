"""Every form of linear attention against a loop over pairs, the recurrence, and each other; decay, state, the delta rule."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.linear_attention import (
    DeltaRule,
    LinearAttention,
    LinearState,
    delta_rule_attention,
    delta_rule_blocked,
    draw_random_features,
    elu_plus_one,
    identity,
    linear_attention,
    linear_attention_blocked,
    linear_attention_recurrent,
    linear_attention_step,
    retention_decay,
)
from attncourse.profile import median_seconds, peak_memory
from attncourse.softmax_attention import softmax_attention
from attncourse.testing import assert_causal, gradients, make_qkv, relative_error
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer

kernel = pytest.importorskip("attncourse.linear_attention.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {
    "linear_attention": Layer(lambda **o: LinearAttention(D_MODEL, 4, **o)),
    "linear_attention, retention": Layer(lambda **o: LinearAttention(D_MODEL, 4, causal=True, decay="retention", **o)),
    "linear_attention, gated": Layer(lambda **o: LinearAttention(D_MODEL, 4, causal=True, decay="gated", **o)),
    "delta rule": Layer(lambda **o: DeltaRule(D_MODEL, 4, **o)),
}

SIZES = [(7, 7), (3, 11), (11, 3), (1, 1), (1, 6), (17, 17)]
DECAYS = {
    "none": lambda b, g, s, f: None,
    "one": lambda b, g, s, f: torch.tensor(0.8, dtype=torch.float64),
    "head": lambda b, g, s, f: torch.linspace(0.5, 0.95, g, dtype=torch.float64)[:, None, None],
    "step": lambda b, g, s, f: uniform(b, g, s, 1),
    "feature": lambda b, g, s, f: uniform(b, g, s, f),
}


def uniform(*shape, low=0.2, seed=3):
    """Factors in [low, 1), from a generator of their own."""
    rng = torch.Generator().manual_seed(seed)
    return low + (1 - low) * torch.rand(shape, generator=rng, dtype=torch.float64)


def some_state(b, g, f, dv, *, like, seed=5):
    rng = torch.Generator().manual_seed(seed)
    S = torch.randn(b, g, f, dv, generator=rng, dtype=torch.float64)
    z = torch.rand(b, g, f, generator=rng, dtype=torch.float64) + 0.5
    return LinearState(S.to(like), z.to(like))


def pairs_by_hand(q, k, v, *, causal, phi, normalize, decay=None, key_lengths=None, state=None):
    """A loop over every pair in float64, written apart from the package: the oracle of the weights."""
    (b, h, t, _), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros(b, h, t, dv, dtype=torch.float64)
    for i in range(b):
        for j in range(h):
            kv = j * g // h
            for row in range(t):
                at, query = s - t + row, phi(q[i, j, row])
                total, mixed = torch.zeros((), dtype=torch.float64), torch.zeros(dv, dtype=torch.float64)
                left = torch.ones_like(query)
                last = at if causal else s - 1
                for col in range(last, -1, -1):
                    exists = key_lengths is None or col < int(key_lengths[i])
                    if exists:
                        weight = (query * left * phi(k[i, kv, col])).sum()
                        total, mixed = total + weight, mixed + weight * v[i, kv, col]
                        if decay is not None:
                            left = left * decay.double().expand(b, g, s, len(query))[i, kv, col]
                if state is not None:
                    total = total + (query * left) @ state.z[i, kv].double()
                    mixed = mixed + (query * left) @ state.S[i, kv].double()
                out[i, j, row] = mixed if not normalize else mixed / total if total != 0 else 0.0
    return out


FORMS = {
    "definition": partial(linear_attention, return_state=True),
    "chunks of 5": lambda *x, **o: linear_attention_blocked(*x, chunk=5, **o, return_state=True),
    "chunks of 64": partial(linear_attention_blocked, return_state=True),
    "recurrence": lambda *x, causal, **o: linear_attention_recurrent(*x, **o),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("t", "s"), SIZES)
def test_every_form_is_the_loop_over_pairs(form, decay, t, s):
    q, k, v = make_qkv(b=2, h=4, g=2, t=t, s=s, dk=5, dv=3)
    for phi, normalize in ((elu_plus_one, True), (elu_plus_one, False), (identity, False)):
        options = dict(decay=DECAYS[decay](2, 2, s, 5), normalize=normalize)
        out, _ = FORMS[form](q, k, v, causal=True, feature_map=phi, **options)
        torch.testing.assert_close(out, pairs_by_hand(q, k, v, causal=True, phi=phi, **options))


@pytest.mark.parametrize("form", ["definition", "chunks of 5"])
@pytest.mark.parametrize(("t", "s"), SIZES)
def test_without_causal_every_query_sees_every_key(form, t, s):
    q, k, v = make_qkv(b=2, h=4, g=2, t=t, s=s, dk=5, dv=3)
    state = some_state(2, 2, 5, 3, like=q)
    for before in (None, state):
        out, last = FORMS[form](q, k, v, causal=False, state=before)
        wanted = pairs_by_hand(q, k, v, causal=False, phi=elu_plus_one, normalize=True, state=before)
        torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(last.z, state.z + elu_plus_one(k).sum(dim=2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", ["none", "head", "feature"])
def test_padding_and_a_state_from_before(form, decay):
    q, k, v = make_qkv(b=3, h=2, g=1, t=6, s=9, dk=4, dv=3)
    lengths, state = torch.tensor([9, 0, 5]), some_state(3, 1, 4, 3, like=q)
    factors = DECAYS[decay](3, 1, 9, 4)
    options = dict(decay=factors, key_lengths=lengths, state=state)
    wanted = pairs_by_hand(q, k, v, causal=True, phi=elu_plus_one, normalize=True, **options)
    k[1], v[1], k[2, :, 5:], v[2, :, 5:] = (torch.nan,) * 4
    if decay == "feature":
        factors[1], factors[2, :, 5:] = torch.nan, torch.nan
    out, last = FORMS[form](q, k, v, causal=True, **options)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(last.S[1], state.S[1])  # nothing was read there
    short = FORMS[form](q[2:, :, :2], k[2:, :, :5], v[2:, :, :5], causal=True, state=LinearState(*(x[2:] for x in state)),
                        decay=factors if factors is None or factors.ndim < 4 else factors[2:, :, :5])[1]  # fmt: skip
    torch.testing.assert_close(last.S[2:], short.S)
    torch.testing.assert_close(last.z[2:], short.z)


@given(
    b=st.integers(1, 2), g=st.integers(1, 2), group=st.integers(1, 3), s=st.integers(1, 23), ahead=st.integers(0, 5),
    dk=st.integers(1, 7), dv=st.integers(1, 7), chunk=st.integers(1, 25), cuts=st.lists(st.integers(0, 23), max_size=4),
    decay=st.sampled_from(sorted(DECAYS)), normalize=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_any_split_with_the_state_passed_on_is_one_shot(
    b, g, group, s, ahead, dk, dv, chunk, cuts, decay, normalize, seed
):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=s, dk=dk, dv=dv, seed=seed)
    factors = DECAYS[decay](b, g, s, dk)
    wanted, last = linear_attention_recurrent(q, k, v, decay=factors, normalize=normalize)
    ends = sorted({min(cut, s) for cut in cuts} | {s})
    pieces, state, start = [], None, 0
    for end in ends:
        here = slice(start, end)
        per_step = factors is not None and factors.ndim == 4
        out, state = linear_attention_blocked(
            q[:, :, here], k[:, :, here], v[:, :, here], causal=True, state=state, chunk=chunk, normalize=normalize,
            decay=factors[:, :, here] if per_step else factors, return_state=True,
        )  # fmt: skip
        pieces.append(out)
        start = end
    torch.testing.assert_close(torch.cat(pieces, dim=2), wanted)
    torch.testing.assert_close(state.S, last.S)
    torch.testing.assert_close(state.z, last.z)


@pytest.mark.parametrize("decay", DECAYS)
def test_decoding_step_by_step_continues_a_prefill(decay):
    q, k, v = make_qkv(b=2, h=4, g=2, t=13, dk=5, dv=3)
    factors = DECAYS[decay](2, 2, 13, 5)
    per_step = factors is not None and factors.ndim == 4
    wanted = linear_attention(q, k, v, causal=True, decay=factors)
    prefix = factors[:, :, :6] if per_step else factors
    out, state = linear_attention_blocked(
        q[:, :, :6], k[:, :, :6], v[:, :, :6], causal=True, decay=prefix, return_state=True
    )
    rows = [out]
    for i in range(6, 13):
        now = factors[:, :, i] if per_step else factors if factors is None or factors.ndim == 0 else factors[:, 0]
        row, state = linear_attention_step(q[:, :, i], k[:, :, i], v[:, :, i], state=state, decay=now)
        rows.append(row[:, :, None])
    torch.testing.assert_close(torch.cat(rows, dim=2), wanted)


def test_a_decay_of_one_is_none_and_a_chunk_holds_steep_decay():
    q, k, v = make_qkv(t=19)
    plain, state = linear_attention_blocked(q, k, v, causal=True, return_state=True)
    for ones in (torch.ones(2, 1, 1), torch.ones(2, 2, 19, 8)):
        out, last = linear_attention_blocked(q, k, v, causal=True, decay=ones.double(), return_state=True)
        torch.testing.assert_close(out, plain)
        torch.testing.assert_close(last.S, state.S)
    q, k, v = (x.float() for x in make_qkv(b=1, h=1, t=100))
    for shape in ((1, 1, 1), (1, 1, 100, 8)):  # 2e-4 to the power of 64 is no float32
        steep = torch.full(shape, 2e-4)
        out = linear_attention_blocked(q, k, v, causal=True, decay=steep)
        exact, _ = linear_attention_recurrent(q.double(), k.double(), v.double(), decay=steep)
        assert relative_error(out, exact) < 1e-5
        assert relative_error(kernel.linear_attention_triton(q, k, v, causal=True, decay=steep), exact) < 1e-5
        for form in (linear_attention_blocked, kernel.linear_attention_triton):
            for gradient in gradients(lambda *x, d=steep, f=form: f(*x, causal=True, decay=d), q, k, v):
                assert gradient.isfinite().all()


def test_retention_halves_the_past_in_steps_that_double():
    decay = retention_decay(3, dtype=torch.float64)[:, 0, 0]
    assert decay.tolist() == [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128]
    assert [round(math.log(0.5) / math.log(d)) for d in decay.tolist()] == [22, 44, 88]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("t", "s"), [(9, 9), (4, 11), (11, 4)])
def test_gradients_of_chunks_are_the_definitions(decay, t, s):
    q, k, v = make_qkv(b=2, h=4, g=2, t=t, s=s, dk=5, dv=3)
    inputs = [q, k, v] + ([] if decay == "none" else [DECAYS[decay](2, 2, s, 5)])

    def through(form):
        def outputs(q, k, v, decay=None):
            out, state = form(q, k, v, causal=True, decay=decay)
            return torch.cat([out.flatten(), state.S.sin().flatten(), state.z.cos().flatten()])

        return gradients(outputs, *inputs)

    wanted = through(partial(linear_attention, return_state=True))
    for got, want in zip(through(FORMS["chunks of 5"]), wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("decay", ["none", "feature"])
def test_gradients_of_chunks_pass_gradcheck(decay):
    q, k, v = make_qkv(b=1, h=2, g=1, t=5, dk=3, dv=2, grad=True)
    S, z = (x.requires_grad_() for x in some_state(1, 1, 3, 2, like=q))
    factors = () if decay == "none" else (uniform(1, 1, 5, 3, low=0.4).requires_grad_(),)

    def outputs(q, k, v, S, z, decay=None):
        out, state = linear_attention_blocked(
            q, k, v, causal=True, decay=decay, state=LinearState(S, z), chunk=2, return_state=True
        )
        return out, *state

    assert torch.autograd.gradcheck(outputs, (q, k, v, S, z, *factors))


@pytest.mark.parametrize("form", [linear_attention, linear_attention_blocked, kernel.linear_attention_triton])
def test_no_form_sees_the_future(form, device):
    q, k, v = make_qkv(b=1, h=2, g=1, t=6, s=8, dtype=torch.float32, device=device)
    assert_causal(lambda *x: form(*x, causal=True), q, k, v)


@pytest.mark.parametrize("form", [linear_attention, linear_attention_blocked, kernel.linear_attention_triton])
@pytest.mark.parametrize("causal", [False, True])
def test_nan_in_padding_goes_nowhere_and_nothing_seen_is_zero(form, causal, device):
    q, k, v = make_qkv(b=2, t=5, s=7, dtype=torch.float32, device=device)
    lengths = torch.tensor([4, 0], device=device)
    clean = form(q[:1], k[:1], v[:1], causal=causal, key_lengths=lengths[:1])
    k[0, :, 4:], v[0, :, 4:], k[1], v[1] = (torch.nan,) * 4
    out = form(q, k, v, causal=causal, key_lengths=lengths)
    torch.testing.assert_close(out[:1], clean)
    assert not out[1].any()
    for gradient in gradients(lambda *x: form(*x, causal=causal, key_lengths=lengths), q, k, v):
        assert gradient.isfinite().all() and not gradient[1].any()


@pytest.mark.parametrize("form", [linear_attention, linear_attention_blocked, kernel.linear_attention_triton])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("empty", ["b", "t", "s"])
def test_length_zero_is_no_special_case(form, causal, empty, device):
    q, k, v = make_qkv(t=3, s=4, dtype=torch.float32, device=device)
    q, k, v = {"b": (q[:0], k[:0], v[:0]), "t": (q[:, :, :0], k, v), "s": (q, k[:, :, :0], v[:, :, :0])}[empty]
    out = form(q, k, v, causal=causal)
    assert out.shape == (*q.shape[:3], v.shape[-1])
    assert not out.any()


def test_half_precision_sums_in_float32():
    """In float16 a sum of more than 65504 is infinite, and in bfloat16 one of 256 no longer grows by 1."""
    n = 1200
    q, k = torch.full((2, 1, 1, n, 64), 2.0)
    v = torch.ones(1, 1, n, 1)
    for dtype in (torch.float16, torch.bfloat16):
        out = linear_attention_blocked(*(x.to(dtype) for x in (q, k, v)), causal=True, normalize=False, chunk=64)
        assert out.dtype == dtype
        out, state = linear_attention_blocked(*(x.to(dtype) for x in (q, k, v)), causal=True, return_state=True)
        assert state.S.dtype == torch.float32 and state.S.unique().tolist() == [3.0 * n]
        torch.testing.assert_close(out, torch.ones_like(out))


def test_chunks_take_time_and_memory_linear_in_the_length():
    def peak(form, n):
        q, k, v = make_qkv(b=1, h=1, t=n, dk=16, dtype=torch.float32, grad=True)
        return peak_memory(lambda: form(q, k, v, causal=True).sum().backward())

    assert peak(linear_attention, 2048) / peak(linear_attention, 512) > 12
    assert peak(linear_attention_blocked, 2048) / peak(linear_attention_blocked, 512) < 4.5
    inputs = {n: make_qkv(b=1, h=2, t=n, dk=32, dtype=torch.float32, grad=True) for n in (2048, 8192)}
    seconds = median_seconds(
        {n: lambda x=x: linear_attention_blocked(*x, causal=True).sum().backward() for n, x in inputs.items()}, rounds=5
    )
    assert seconds[8192] / seconds[2048] < 9  # four times the length; a square would be 16


# Feature maps


def test_random_features_are_unbiased_for_softmax_and_more_of_them_are_better():
    rng = torch.Generator().manual_seed(0)
    q, k, v = make_qkv(b=1, h=1, t=32, s=32, dk=8)
    q, k = q / 4, k / 4
    exact = softmax_attention(q, k, v)
    for orthogonal in (False, True):
        errors = []
        for n_features in (16, 256, 4096):
            drawn = [draw_random_features(8, n_features, orthogonal=orthogonal, rng=rng) for _ in range(12)]
            errors.append(
                sum(relative_error(linear_attention(q, k, v, feature_map=phi), exact) for phi in drawn) / len(drawn)
            )
        assert errors[0] > 2.5 * errors[1] > 6 * errors[2], errors  # sixteen times the features: a quarter of the error
    drawn = [draw_random_features(8, 512, rng=rng) for _ in range(400)]
    mean = sum(phi(q) @ phi(k).transpose(-1, -2) for phi in drawn) / len(drawn)
    torch.testing.assert_close(mean, (q @ k.transpose(-1, -2) * 8**-0.5).exp(), rtol=0.1, atol=0.02)


def test_orthogonal_features_are_orthogonal_in_blocks():
    rows = draw_random_features(6, 15, rng=torch.Generator().manual_seed(0)).projection
    assert rows.shape == (15, 6)
    for block in rows.split(6):
        gram = block @ block.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()))


# The delta rule


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


@given(
    b=st.integers(1, 2), g=st.integers(1, 2), group=st.integers(1, 2), s=st.integers(1, 21), less=st.integers(0, 20),
    dk=st.integers(1, 6), dv=st.integers(1, 6), chunk=st.integers(1, 22), cut=st.integers(0, 21), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_the_delta_rule_in_chunks_and_in_pieces_is_the_recurrence(b, g, group, s, less, dk, dv, chunk, cut, seed):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=s, dk=dk, dv=dv, seed=seed)
    k, beta, less, cut = unit(k), uniform(b, g, s, low=0.0, seed=seed), min(less, s), min(cut, s)
    wanted, memory = delta_rule_attention(q, k, v, beta)
    out, last = delta_rule_blocked(q[:, :, less:], k, v, beta, chunk=chunk)
    torch.testing.assert_close(out, wanted[:, :, less:])
    torch.testing.assert_close(last, memory)
    first, state = delta_rule_blocked(*(x[:, :, :cut] for x in (q, k, v, beta)), chunk=chunk)
    second, state = delta_rule_blocked(*(x[:, :, cut:] for x in (q, k, v, beta)), state=state, chunk=chunk)
    torch.testing.assert_close(torch.cat([first, second], dim=2), wanted)
    torch.testing.assert_close(state, memory)


def test_the_delta_rule_is_a_step_of_gradient_descent_on_the_answer():
    """Independently of its formula: S - beta grad of |S^T k - v|^2 / 2."""
    q, k, v = make_qkv(b=1, h=1, t=6, dk=4, dv=3)
    beta = uniform(1, 1, 6)
    S = torch.zeros(4, 3, dtype=torch.float64)
    for i in range(6):
        memory = S.clone().requires_grad_()
        loss = (memory.T @ k[0, 0, i] - v[0, 0, i]).square().sum() / 2
        S = S - beta[0, 0, i] * torch.autograd.grad(loss, memory)[0]
        torch.testing.assert_close(delta_rule_attention(q[:, :, : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], beta[:, :, : i + 1])[0][0, 0, i], S.T @ q[0, 0, i])  # fmt: skip


def test_the_delta_rule_replaces_and_a_sum_adds():
    keys, rng = torch.eye(4, dtype=torch.float64), torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    k, v = torch.cat([keys, keys])[None, None], torch.cat([old, new])[None, None]
    q, beta = keys[None, None], torch.ones(1, 1, 8, dtype=torch.float64)
    replaced, _ = delta_rule_attention(k, k, v, beta)
    torch.testing.assert_close(replaced[0, 0], torch.cat([old, new]))  # each key answers with what it was just given
    memory = delta_rule_attention(k, k, v, beta)[1]
    torch.testing.assert_close((q @ memory)[0, 0], new)
    _, state = linear_attention(k, k, v, causal=True, feature_map=identity, normalize=False, return_state=True)
    torch.testing.assert_close((q @ state.S)[0, 0], old + new)


def test_gradients_of_the_delta_rule_in_chunks():
    q, k, v = make_qkv(b=1, h=2, g=1, t=7, dk=3, dv=2)
    inputs = (q, unit(k), v, uniform(1, 1, 7))
    wanted = gradients(lambda *x: delta_rule_attention(*x)[0], *inputs)
    for got, want in zip(gradients(lambda *x: delta_rule_blocked(*x, chunk=3)[0], *inputs), wanted, strict=True):
        torch.testing.assert_close(got, want)


# The kernels


def check_kernel(sizes, dtype, device, *, decay="none", state=False, **options):
    """Output, state and gradients against float64, with twice the error of plain PyTorch in this dtype as budget.

    Queries and keys are given as features, so that the gradients are those that the kernel computes.
    """
    q, k, v = make_qkv(dtype=dtype, device=device, **sizes)
    (b, _, _, dk), (g, s), dv = q.shape, k.shape[1:3], v.shape[-1]
    inputs = {"q": elu_plus_one(q), "k": elu_plus_one(k), "v": v}
    if decay != "none":
        inputs["decay"] = DECAYS[decay](b, g, s, dk).to(q)
    if state:
        inputs |= some_state(b, g, dk, dv, like=q.float())._asdict()

    def through(form, inputs, differentiate):
        def outputs(*values):
            x = dict(zip(inputs, values, strict=True))
            before = LinearState(x["S"], x["z"]) if state else None
            out, last = form(
                x["q"], x["k"], x["v"], causal=True, feature_map=identity, decay=x.get("decay"), state=before, **options
            )
            parts = dict(out=out, S=last.S, z=last.z)
            return torch.cat([y.flatten().to(last.S) for y in parts.values()]) if differentiate else parts

        if not differentiate:
            return outputs(*inputs.values())
        return dict(zip(inputs, gradients(outputs, *inputs.values()), strict=True))

    exact_inputs = {name: x.double() for name, x in inputs.items()}
    for differentiate in (False, True):
        exact = through(partial(linear_attention, return_state=True), exact_inputs, differentiate)
        plain = through(partial(linear_attention, return_state=True), inputs, differentiate)
        got = through(partial(kernel.linear_attention_triton, return_state=True), inputs, differentiate)
        for name, truth in exact.items():
            floor = 8 * torch.finfo(got[name].dtype).eps
            if differentiate and name == "decay":
                floor = max(floor, rounding_of_decay(exact_inputs, exact))
            error, budget = relative_error(got[name], truth), max(2 * relative_error(plain[name], truth), floor)
            assert got[name].dtype == plain[name].dtype
            assert error <= budget, f"{name}, differentiate={differentiate}: {error:.1e} > {budget:.1e}"


def rounding_of_decay(inputs, grads):
    """What float32 makes of the decay's gradient: it is a difference of q dq and k dk, summed over all later steps.

    Each is rounded in proportion to itself, and the difference may be much smaller.
    """
    by_query = (inputs["q"] * grads["q"]).abs().unflatten(1, (inputs["k"].shape[1], -1)).sum(dim=2)
    by_key = (inputs["k"] * grads["k"]).abs()
    terms = by_key + torch.nn.functional.pad(by_query, (0, 0, by_key.shape[2] - by_query.shape[2], 0))
    later = terms.flip(2).cumsum(dim=2).flip(2) / inputs["decay"]
    summed = later.sum_to_size(grads["decay"].shape) if grads["decay"].ndim else later.sum()
    return (torch.finfo(torch.float32).eps * summed.norm() / grads["decay"].norm()).item()


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("state", [False, True])
def test_the_kernel_keeps_its_budget_with_every_decay(decay, state, device):
    check_kernel(dict(b=2, h=4, g=2, t=37, dk=17, dv=24), torch.float32, device, decay=decay, state=state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dk", "dv"), [(16, 16), (40, 80), (1, 3), (256, 130)])
def test_the_kernel_keeps_its_budget_at_every_width(dtype, dk, dv, device):
    check_kernel(dict(b=1, h=2, g=1, t=19, dk=dk, dv=dv), dtype, device)


@pytest.mark.dry
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 35), (5, 33), (33, 33), (48, 48)])
def test_the_kernel_keeps_its_budget_off_the_block_edges(t, s, device):
    for decay in ("step", "feature"):
        check_kernel(
            dict(b=1, h=2, t=t, s=s, dk=8, dv=8), torch.float32, device, decay=decay, normalize=False, state=True
        )


def test_the_kernel_takes_any_strides_and_queries_without_keys(device):
    q, k, v = (
        x.transpose(1, 2).contiguous().transpose(1, 2) for x in make_qkv(t=9, dtype=torch.float32, device=device)
    )
    assert not q.is_contiguous()
    for a, b in ((q, k), (q, k[:, :, :4]), (q[:, :, :4], k)):
        x = (a, b, v[:, :, : b.shape[2]])
        torch.testing.assert_close(kernel.linear_attention_triton(*x, causal=True), linear_attention(*x, causal=True))


@pytest.mark.dry
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("normalize", [False, True])
def test_the_kernels_step_is_the_definitions(decay, normalize, device):
    q, k, v = make_qkv(b=2, h=6, g=2, t=1, dk=5, dv=70, dtype=torch.float32, device=device)
    factors = DECAYS[decay](2, 2, 1, 5)
    factors = factors if factors is None or factors.ndim == 0 else factors.expand(2, 2, 1, -1)[:, :, 0].to(q)
    for state in (None, some_state(2, 2, 5, 70, like=q)):
        inputs = [x[:, :, 0] for x in (q, k, v)]
        options = dict(state=state, decay=factors, normalize=normalize)
        out, last = kernel.linear_attention_step_triton(*inputs, **options)
        wanted, wanted_last = linear_attention_step(*inputs, **options)
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(last, wanted_last)


def test_the_kernels_write_every_element(device):
    """In this mode PyTorch fills fresh memory with NaN, and what no program writes stays so."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=device).isnan().all()
        q, k, v = make_qkv(t=33, dk=24, dv=40, dtype=torch.float32, device=device)
        out, state = kernel.linear_attention_triton(q, k, v, causal=True, return_state=True)
        step, last = kernel.linear_attention_step_triton(q[:, :, 0], k[:, :, 0], v[:, :, 0], state=state)
        assert all(x.isfinite().all() for x in (out, *state, step, *last))
        for gradient in gradients(lambda *x: kernel.linear_attention_triton(*x, causal=True), q, k, v):
            assert gradient.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("linear_attention", capability)
    assert len(compiled) >= 14
    tensor_cores = {75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        if capability >= 80 and "16 bits" in c.case:
            assert c.spills == 0 and c.matrix == tensor_cores, c


# The modules


@pytest.mark.parametrize("impl", ["reference", "blocked", "triton"])
@pytest.mark.parametrize("decay", [None, "retention", "gated"])
def test_every_impl_of_the_module_is_one_function_whole_or_in_pieces(impl, decay, device):
    torch.manual_seed(0)
    layer = LinearAttention(12, 2, head_dim=5, v_head_dim=4, causal=True, decay=decay, impl=impl).to(device)
    x = torch.randn(2, 9, 12, device=device)
    q, k, v = (p(x).double().unflatten(-1, (2, -1)).transpose(1, 2).cpu() for p in (layer.w_q, layer.w_k, layer.w_v))
    factors = None
    if decay == "retention":
        factors = torch.tensor([31 / 32, 63 / 64], dtype=torch.float64)[:, None, None]
    if decay == "gated":
        factors = torch.sigmoid(layer.w_gate(x).double()).pow(1 / 16).unflatten(-1, (2, 5)).transpose(1, 2).cpu()
    heads = pairs_by_hand(q, k, v, causal=True, phi=elu_plus_one, normalize=True, decay=factors)
    wanted = heads.transpose(1, 2).flatten(2).float().to(device) @ layer.w_o.weight.T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
    first, state = layer(x[:, :4], need_state=True)
    second, _ = layer(x[:, 4:], state=state, need_state=True)
    torch.testing.assert_close(torch.cat([first, second], dim=1), layer(x), rtol=1e-4, atol=1e-5)


def test_the_module_reads_another_sequence():
    layer = LinearAttention(6, d_context=4, feature_map=lambda x: x.exp()).double()
    x, context = make_qkv(b=2, h=1, t=3, dk=6)[0][:, 0], make_qkv(b=2, h=1, t=5, dk=4)[0][:, 0]
    wanted = pairs_by_hand(
        *(p(y)[:, None].detach() for p, y in ((layer.w_q, x), (layer.w_k, context), (layer.w_v, context))),
        causal=False, phi=torch.exp, normalize=True, key_lengths=torch.tensor([5, 2]),
    )[:, 0] @ layer.w_o.weight.T  # fmt: skip
    torch.testing.assert_close(layer(x, context, key_lengths=torch.tensor([5, 2])), wanted)


@pytest.mark.parametrize("impl", ["reference", "blocked"])
def test_the_delta_module_in_pieces_and_padded(impl):
    torch.manual_seed(0)
    layer = DeltaRule(8, 2, impl=impl).double()
    x = make_qkv(b=2, h=1, t=7, dk=8)[0][:, 0]
    whole, memory = layer(x, need_state=True)
    first, state = layer(x[:, :3], need_state=True)
    second, last = layer(x[:, 3:], state=state, need_state=True)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, memory)
    _, short = layer(x[:, :5], need_state=True)
    padded = layer(x, key_lengths=torch.tensor([5, 5]), need_state=True)[1]
    torch.testing.assert_close(padded, short)


# Bad input

Q, K, V = make_qkv(b=2, h=4, g=2, t=3, s=5, dk=8, dv=6)
BAD = {
    "widths differ": (dict(q=Q[..., :7]), "must share the width dk"),
    "lengths past the end": (dict(key_lengths=torch.tensor([1, 6])), "must lie in 0..5, got 1..6"),
    "decay of zero": (dict(decay=torch.tensor(0.0).double()), "decay must lie in \\(0, 1\\], got 0..0"),
    "decay above one": (dict(decay=torch.full((2, 1, 1), 1.5).double()), "decay must lie in \\(0, 1\\], got 1.5..1.5"),
    "decay of integers": (dict(decay=torch.tensor(1)), "decay must be a floating-point tensor"),
    "decay of another shape": (dict(decay=torch.ones(3, 1, 1).double()), "must broadcast to \\(b, g, s, f\\) = \\(2, 2, 5, features\\)"),
    "decay without order": (dict(decay=torch.tensor(0.5).double(), causal=False), "it needs causal=True"),
    "a state of another shape": (dict(state=some_state(2, 2, 8, 5, like=Q)), "S must have shape \\(2, 2, 8, 6\\)"),
    "a state in half": (dict(state=some_state(2, 2, 8, 6, like=Q.half())), "S must be torch.float(32|64) on cpu"),
    "queries before the state": (dict(q=torch.cat([Q, Q], dim=2), state=some_state(2, 2, 8, 6, like=Q)), "got t=6, s=5"),
    "a feature map that mixes": (dict(feature_map=lambda x: x[:, :, :1]), "changes the last axis alone"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attend", [linear_attention, linear_attention_blocked, kernel.linear_attention_triton])
def test_bad_input_is_named(case, attend):
    changed, message = BAD[case]
    arguments = dict(q=Q, k=K, v=V, causal=True) | changed
    with pytest.raises(ValueError, match=message):
        attend(**arguments)


@pytest.mark.bad_input
def test_what_a_form_cannot_do_it_says():
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        linear_attention_blocked(Q, K, V, chunk=0)
    with pytest.raises(ValueError, match="must be at least 0.0001, got 1e-05"):
        linear_attention_blocked(Q, K, V, causal=True, decay=torch.full((5, 8), 1e-5).double())
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.linear_attention_triton(Q, K, V)
    q, k, v = (x.float() for x in (Q, K, V))
    with pytest.raises(ValueError, match="must be at least 0.0001, got 1e-05"):
        kernel.linear_attention_triton(q, k, v, causal=True, decay=torch.full((5, 8), 1e-5))
    with pytest.raises(ValueError, match="takes widths to 256, got 300"):
        kernel.linear_attention_triton(*make_qkv(dk=300, dtype=torch.float32))
    with pytest.raises(ValueError, match="is for decoding and has no gradient"):
        kernel.linear_attention_step_triton(q[:, :, 0].requires_grad_(), k[:, :, 0], v[:, :, 0])
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, triton, got 'cuda'"):
        LinearAttention(4, impl="cuda")
    with pytest.raises(ValueError, match="needs causal=True"):
        LinearAttention(4, decay="retention")
    with pytest.raises(ValueError, match="feature_map must be a function or one of elu, identity, got 'cosine'"):
        LinearAttention(4, feature_map="cosine")
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, got 'triton'"):
        DeltaRule(4, impl="triton")
    with pytest.raises(ValueError, match="beta must have shape \\(b, g, s\\) = \\(2, 2, 5\\)"):
        delta_rule_attention(Q, K, V, torch.ones(2, 5).double())
    with pytest.raises(ValueError, match="got t=5, s=3"):
        delta_rule_blocked(Q[:, :, [0, 0, 1, 1, 2]], K[:, :, :3], V[:, :, :3], torch.ones(2, 2, 3).double())


def test_elu_plus_one_is_exact_where_one_would_drown_it():
    x = torch.tensor([-80.0, -20.0, -16.0, -1.0, -1e-6, 0.0, 1e-6, 3.0], requires_grad=True)
    torch.testing.assert_close(elu_plus_one(x), torch.where(x > 0, x + 1, x.double().exp().float()), rtol=1e-6, atol=0)
    elu_plus_one(x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().clamp_max(0).exp(), rtol=1e-6, atol=0)
    assert x.grad[x == 0].item() == 1  # from PyTorch 2.14 on, through a clamp at its bound goes no gradient
    k, v = torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 4)
    q = torch.randn(1, 1, 5, 4) - 20
    for form in (linear_attention, linear_attention_blocked, kernel.linear_attention_triton):
        assert relative_error(form(q, k, v), linear_attention(q.double(), k.double(), v.double())) < 1e-5


def test_a_layer_saves_and_loads_its_random_features():
    """A layer that was drawn apart gives the same once it has loaded the state: the projection is part of it."""
    layers = [
        LinearAttention(8, 2, feature_map=draw_random_features(4, 6, rng=torch.Generator().manual_seed(seed)))
        for seed in (0, 1)
    ]
    x = torch.randn(1, 5, 8)
    assert relative_error(layers[1](x), layers[0](x)) > 0.01
    layers[1].load_state_dict(layers[0].state_dict())
    assert torch.equal(layers[1](x), layers[0](x))
