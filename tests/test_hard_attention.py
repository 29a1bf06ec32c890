"""Hard attention against loops, counts and enumeration; its estimators against exact gradients; its kernel's draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from attncourse.hard_attention import (
    Choice,
    HardAttention,
    best_baseline,
    chi_square_test,
    exact_gradient,
    expected_cost,
    gumbel_noise,
    gumbel_softmax,
    hard_attention,
    hard_attention_loop,
    log_probability,
    moving_baseline,
    quality,
    relaxed_attention,
    relaxed_gradients,
    sampled_attention,
    score_function_gradients,
    score_function_loss,
    score_function_variance,
    select,
    soft_gradient,
    straight_through,
    straight_through_attention,
    straight_through_gradients,
    take_rows,
)
from attncourse.profile import peak_memory
from attncourse.softmax_attention import attention_weights, softmax_attention
from attncourse.testing import assert_causal, gradients, make_qkv
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer
from tests.test_softmax_attention import MASKINGS, dense_by_hand, masking_for

kernel = pytest.importorskip("attncourse.hard_attention.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {"hard_attention": Layer(lambda **o: HardAttention(D_MODEL, estimator="argmax", **o), masks=True)}

triton, tl = kernel.triton, kernel.tl

# Each test of frequencies raises a false alarm once in a million seeds.
LEVEL = 1e-6


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def weights_by_hand(q, k, masking):
    """Softmax's weights by the loop over pairs of softmax attention's tests: with the identity as values, its output."""
    eye = torch.eye(k.shape[2], dtype=torch.float64).expand(*k.shape[:3], -1)
    return dense_by_hand(q.cpu(), k.cpu(), eye, **masking)


def read_by_hand(q, k, v, noise, masking):
    """Out, index and log-probability, row by row in float64, from the loop's weights."""
    weights = weights_by_hand(q, k, masking)
    b, h, t, s = weights.shape
    out, index = torch.zeros(b, h, t, v.shape[-1], dtype=torch.float64), torch.full((b, h, t), -1)
    log_prob = torch.zeros(b, h, t, dtype=torch.float64)
    for i, j, row in torch.cartesian_prod(torch.arange(b), torch.arange(h), torch.arange(t)).tolist():
        best = -math.inf
        for col in range(s):
            weight = float(weights[i, j, row, col])
            if weight > 0 and math.log(weight) + float(noise[i, j, row, col]) > best:
                best = math.log(weight) + float(noise[i, j, row, col])
                index[i, j, row], log_prob[i, j, row] = col, math.log(weight)
                out[i, j, row] = v[i, j * v.shape[1] // h, col]
    return out, index, log_prob


# The definition


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize(("t", "s"), [(7, 7), (3, 11), (11, 3), (1, 1)])
def test_the_definition_is_the_loop_under_every_mask(name, t, s):
    q, k, v = make_qkv(b=3, h=4, g=2, t=t, s=s, dk=5, dv=3)
    masking = masking_for(name, q, k)
    noise = gumbel_noise(3, 4, t, s, generator=rng(), dtype=torch.float64)
    for got, want in zip(
        hard_attention(q, k, v, noise=noise, **masking), read_by_hand(q, k, v, noise, masking), strict=True
    ):
        torch.testing.assert_close(got, want)
    best = hard_attention(q, k, v, **masking)
    for got, want in zip(best, read_by_hand(q, k, v, torch.zeros_like(noise), masking), strict=True):
        torch.testing.assert_close(got, want)


@given(
    b=st.integers(1, 2), g=st.integers(1, 2), group=st.integers(1, 3), t=st.integers(1, 9), s=st.integers(1, 9),
    causal=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_the_readable_loop_is_the_definition_at_every_size(b, g, group, t, s, causal, seed):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=t, s=s, dk=3, dv=2, seed=seed)
    noise = gumbel_noise(b, g * group, t, s, generator=rng(seed), dtype=torch.float64)
    whole = hard_attention(q, k, v, noise=noise, causal=causal)
    for i, j in torch.cartesian_prod(torch.arange(b), torch.arange(g * group)).tolist():
        one = hard_attention_loop(q[i, j], k[i, j // group], v[i, j // group], noise[i, j], causal=causal)
        for got, want in zip((part[i, j] for part in whole), one, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("s", [2, 7, 31])
def test_gumbel_max_draws_from_softmax(s):
    q, k, v = make_qkv(b=1, h=1, t=1, s=s, dk=4)
    index = sampled_attention(q.expand(1, 1, 20_000, 4) * 2, k, v, generator=rng(1)).index.flatten()
    assert chi_square_test(index.bincount(minlength=s), attention_weights(q * 2, k).flatten()) > LEVEL
    # The same counts refuse scores that are a tenth too large, and noise with its logarithms missing.
    assert chi_square_test(index.bincount(minlength=s), attention_weights(q * 2.2, k).flatten()) < LEVEL
    uniform = torch.rand(20_000, s, generator=rng(2), dtype=torch.float64)
    wrong = (attention_weights(q * 2, k).log()[0, 0] + uniform).argmax(dim=-1)
    assert chi_square_test(wrong.bincount(minlength=s), attention_weights(q * 2, k).flatten()) < LEVEL


def test_noise_is_finite_and_the_generators_own():
    noise = gumbel_noise(300, 300, generator=rng(5))
    assert noise.dtype == torch.float32 and noise.isfinite().all()
    assert torch.equal(noise, gumbel_noise(300, 300, generator=rng(5)))
    assert not torch.equal(noise, gumbel_noise(300, 300, generator=rng(6)))
    # Gumbel's mean is Euler's constant and its variance pi^2 / 6.
    assert abs(float(noise.mean()) - 0.5772157) < 5 * (math.pi**2 / 6 / noise.numel()) ** 0.5
    state = torch.get_rng_state()
    gumbel_noise(3, generator=rng())
    assert torch.equal(state, torch.get_rng_state())


def test_nan_in_padding_goes_nowhere_and_no_key_is_no_choice(device):
    q, k, v = make_qkv(b=2, t=5, s=7, dtype=torch.float32, device=device)
    lengths = torch.tensor([4, 0], device=device)
    k[0, :, 4:], v[0, :, 4:], k[1], v[1] = (torch.nan,) * 4
    noise = gumbel_noise(2, 2, 5, 7, generator=rng()).to(device)
    forms = {
        "definition": lambda *x: hard_attention(*x, noise=noise, key_lengths=lengths),
        "straight through": lambda *x: straight_through_attention(
            *x, noise=noise, temperature=0.5, key_lengths=lengths
        ),
        "kernel": lambda *x: kernel.hard_attention_triton(*x, seed=3, key_lengths=lengths),
    }
    for name, attend in forms.items():
        read = attend(q, k, v)
        assert read.out.isfinite().all() and read.log_prob.isfinite().all(), name
        assert read.index[0].max() < 4 and (read.index[1] == -1).all(), name
        assert not read.out[1].any() and not read.log_prob[1].any(), name
        for gradient in gradients(lambda *x: attend(*x).out.sum(dim=-1) + attend(*x).log_prob, q, k, v):  # noqa: B023
            assert gradient.isfinite().all() and not gradient[1].any(), name


@pytest.mark.parametrize("empty", ["b", "t", "s"])
def test_length_zero_is_no_special_case(empty, device):
    q, k, v = make_qkv(t=3, s=4, dtype=torch.float32, device=device)
    q, k, v = {
        "b": (q[:0], k[:0], v[:0]),
        "t": (q[:, :, :0], k, v),
        "s": (q, k[:, :, :0], v[:, :, :0]),
    }[empty]
    for read in (hard_attention(q, k, v), kernel.hard_attention_triton(q, k, v, seed=0)):
        assert read.out.shape == (*q.shape[:3], 8) and read.index.shape == read.log_prob.shape == q.shape[:3]
        assert not read.out.any() and not read.log_prob.any() and (read.index == -1).all()


def test_no_form_sees_the_future(device):
    q, k, v = make_qkv(b=1, h=2, g=1, t=6, s=8, dtype=torch.float32, device=device)

    def log_prob(attend):  # every visible key is in it, also those that are not read
        return lambda *x: attend(*x).log_prob[..., None]

    assert_causal(log_prob(lambda *x: hard_attention(*x, causal=True)), q, k, v)
    assert_causal(log_prob(lambda *x: kernel.hard_attention_triton(*x, seed=None, causal=True)), q, k, v)
    drawn = kernel.hard_attention_triton(*make_qkv(t=60, s=60, dtype=torch.float32, device=device), seed=1, causal=True)
    assert (drawn.index <= torch.arange(60, device=device)).all()


# The relaxations


def test_the_gumbel_softmax_is_pytorchs():
    scores = torch.randn(2, 3, 4, 5, generator=rng(), dtype=torch.float64)
    for temperature in (0.3, 1.0, 4.0):
        torch.manual_seed(0)
        theirs = functional.gumbel_softmax(scores, tau=temperature)
        torch.manual_seed(0)
        theirs_hard = functional.gumbel_softmax(scores, tau=temperature, hard=True)
        torch.manual_seed(0)
        noise = -torch.empty_like(scores).exponential_().log()
        soft = gumbel_softmax(scores, noise, temperature=temperature)
        torch.testing.assert_close(soft, theirs)
        torch.testing.assert_close(straight_through(soft, select(scores, noise)), theirs_hard)


def test_temperature_goes_from_one_hot_to_uniform():
    scores = torch.randn(1, 1, 6, 5, generator=rng(), dtype=torch.float64)
    noise = gumbel_noise(1, 1, 6, 5, generator=rng(1), dtype=torch.float64)
    hard = functional.one_hot(select(scores, noise), 5).double()
    torch.testing.assert_close(gumbel_softmax(scores, noise, temperature=1e-4), hard)
    torch.testing.assert_close(gumbel_softmax(scores, noise, temperature=1e9), torch.full_like(hard, 0.2))


@pytest.mark.parametrize("name", ["plain", "causal", "lengths", "boolean mask"])
def test_straight_through_reads_hard_and_learns_soft(name):
    q, k, v = make_qkv(b=3, h=4, g=2, t=4, s=6, dk=3)
    masking = masking_for(name, q, k)
    noise = gumbel_noise(3, 4, 4, 6, generator=rng(), dtype=torch.float64)
    read = straight_through_attention(q, k, v, noise=noise, temperature=0.7, **masking)
    for got, want in zip(read, hard_attention(q, k, v, noise=noise, **masking), strict=True):
        assert torch.equal(got, want)  # to the last bit: the soft half cancels

    def straight(*x):
        return straight_through_attention(*x, noise=noise, temperature=0.7, **masking).out

    def relaxed(*x):
        return relaxed_attention(*x, noise=noise, temperature=0.7, **masking)

    got, soft = gradients(straight, q, k, v), gradients(relaxed, q, k, v)
    torch.testing.assert_close(got[:2], soft[:2])  # the output is linear in the weights: the slopes are the soft ones
    hard = gradients(lambda v: hard_attention(q, k, v, noise=noise, **masking).out, v)
    torch.testing.assert_close(got[2:], hard)  # values are moved by the one that was read alone


def test_relaxed_forms_have_the_gradients_they_claim():
    q, k, v = make_qkv(b=1, h=2, g=1, t=3, s=4, dk=3, grad=True)
    noise = gumbel_noise(1, 2, 3, 4, generator=rng(), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *x: relaxed_attention(*x, noise=noise, temperature=0.5, causal=True), (q, k, v)
    )
    assert torch.autograd.gradcheck(lambda *x: hard_attention(*x, noise=noise, causal=True).log_prob, (q, k, v))
    assert torch.autograd.gradcheck(lambda *x: expected_cost(*x, lambda r: r.square().sum(-1)), (q, k, v))


# The score function


def test_the_expected_cost_is_the_mean_over_draws_and_soft_for_a_linear_cost():
    q, k, v = make_qkv(b=2, h=4, g=2, t=3, s=5, dk=3)
    lengths = torch.tensor([5, 2])
    linear = expected_cost(q, k, v, lambda r: r.sum(dim=-1), key_lengths=lengths)
    torch.testing.assert_close(linear, softmax_attention(q, k, v, key_lengths=lengths).sum(dim=-1))
    v[1, :, 2:] = torch.nan
    squared = expected_cost(q, k, v, lambda r: r.square().sum(dim=-1), key_lengths=lengths)
    weights = attention_weights(q, k, key_lengths=lengths)
    for i, j, row in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(3)).tolist():
        keys = range(int(lengths[i]))
        by_hand = sum(float(weights[i, j, row, col]) * float(v[i, j // 2, col] @ v[i, j // 2, col]) for col in keys)
        assert float(squared[i, j, row]) == pytest.approx(by_hand)


@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_the_score_function_is_unbiased_choice_by_choice(baseline):
    """The estimate for each choice, weighted by its probability, sums to the exact gradient: no statistics needed."""
    q, k, v = make_qkv(b=1, h=1, t=1, s=6, dk=3, grad=True)

    def cost(read):
        return (read - 0.5).square().sum(dim=-1)

    exact = torch.autograd.grad(expected_cost(q, k, v, cost).sum(), (q, k, v))
    total = [torch.zeros_like(x) for x in (q, k, v)]
    for j in range(6):
        noise = torch.zeros(1, 1, 1, 6, dtype=torch.float64)
        noise[..., j] = 100.0  # choose j
        read = hard_attention(q, k, v, noise=noise)
        loss = score_function_loss(cost(read.out), read.log_prob, baseline=baseline)
        torch.testing.assert_close(loss, cost(v[0, 0, j]))  # its value is the cost itself
        estimate = torch.autograd.grad(loss, (q, k, v), retain_graph=True)
        for sum_, part in zip(total, estimate, strict=True):
            sum_ += read.log_prob.exp().detach().item() * part
    for got, want in zip(total, exact, strict=True):
        torch.testing.assert_close(got, want)


def test_a_baseline_that_would_learn_does_not():
    log_prob, baseline = torch.randn(4, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    loss = score_function_loss(torch.randn(4), log_prob, baseline=baseline)
    assert torch.autograd.grad(loss, baseline, allow_unused=True) == (None,)


def test_a_moving_baseline_forgets_by_its_decay():
    value = 0.0
    for cost in (1.0, 2.0, 4.0):
        value = moving_baseline(value, torch.tensor([cost - 1, cost + 1]), decay=0.9)
    assert value == pytest.approx(0.1 * (0.81 * 1 + 0.9 * 2 + 4), rel=1e-6)


# The estimators, against enumeration


def squared_distance(read):
    return (read - 0.5).square().sum(dim=-1)


def make_choice(cost=squared_distance, s=6, seed=0):
    draw = rng(seed)
    scores, values = torch.randn(s, generator=draw).double(), torch.randn(s, 3, generator=draw).double()
    return Choice(scores, values, cost)


def test_exact_gradients_are_autograds():
    choice = make_choice()
    scores = choice.scores.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(scores.softmax(-1) @ choice.costs, scores)
    torch.testing.assert_close(exact_gradient(choice), wanted)
    (wanted,) = torch.autograd.grad(choice.cost(scores.softmax(-1) @ choice.values), scores)
    torch.testing.assert_close(soft_gradient(choice), wanted)
    linear = make_choice(cost=lambda read: read.sum(dim=-1))
    torch.testing.assert_close(soft_gradient(linear), exact_gradient(linear))  # no other cost gives both the same
    assert (soft_gradient(choice) - exact_gradient(choice)).norm() > 0.1 * exact_gradient(choice).norm()


@pytest.mark.parametrize("which", ["none", "mean", "best"])
def test_the_score_function_has_the_mean_and_the_variance_of_the_enumeration(which):
    choice, n = make_choice(), 40_000
    mean = float(choice.probabilities @ choice.costs)
    baseline = {"none": 0.0, "mean": mean, "best": best_baseline(choice)}[which]
    noise = gumbel_noise(n, 6, generator=rng(1), dtype=torch.float64)
    drawn = score_function_gradients(choice, noise, baseline=baseline)
    variance = score_function_variance(choice, baseline=baseline)
    # A mean of n draws has the standard error (variance / n)^(1/2); beyond five of them, once in 10^6.
    assert ((drawn.mean(dim=0) - exact_gradient(choice)).abs() < 5 * (variance / n).sqrt()).all()
    # That of a variance follows from the fourth moment, which the sample gives.
    fourth = (drawn - drawn.mean(dim=0)).pow(4).mean(dim=0)
    assert ((drawn.var(dim=0) - variance).abs() < 5 * ((fourth - variance.square()) / n).sqrt()).all()


def test_the_best_baseline_has_the_least_variance_and_no_baseline_more():
    for seed in range(5):
        choice = make_choice(seed=seed)
        best = best_baseline(choice)
        at = {b: float(score_function_variance(choice, baseline=b).sum()) for b in (0.0, best - 0.1, best, best + 0.1)}
        assert min(at, key=at.get) == best
        assert at[0.0] > 1.5 * at[best]


def test_straight_through_is_biased_and_the_score_function_is_not():
    choice = make_choice()
    noise = gumbel_noise(20_000, 6, generator=rng(2), dtype=torch.float64)
    exact = exact_gradient(choice)
    honest = quality(score_function_gradients(choice, noise, baseline=best_baseline(choice)), exact)
    biased = quality(straight_through_gradients(choice, noise, temperature=1.0), exact)
    # The mean of the squared error is standard_error^2, and squares beyond 5^2 times their mean are rare (Markov: the
    # fourth moment of a mean of 20000 draws is near a normal's).
    assert honest.bias < 5 * honest.standard_error
    assert biased.bias > 20 * biased.standard_error


def test_a_colder_relaxation_trades_bias_for_variance():
    choice = make_choice()
    noise = gumbel_noise(40_000, 6, generator=rng(3), dtype=torch.float64)
    found = [quality(relaxed_gradients(choice, noise, temperature=x), exact_gradient(choice)) for x in (4.0, 1.0, 0.25)]
    assert found[0].bias > 1.5 * found[1].bias > 2 * found[2].bias
    assert 4 * found[0].variance < 2 * found[1].variance < found[2].variance


# Pearson's test


@pytest.mark.parametrize(
    ("freedom", "tail"), [(1, lambda x: math.erfc((x / 2) ** 0.5)), (2, lambda x: math.exp(-x / 2))]
)
def test_the_tail_of_chi_square_is_the_closed_form(freedom, tail):
    counts = torch.tensor([130, 90, 80][: freedom + 1])
    expected = counts.double().mean()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    uniform = torch.full((freedom + 1,), 1 / (freedom + 1), dtype=torch.float64)
    assert chi_square_test(counts, uniform) == pytest.approx(tail(statistic))


def test_honest_draws_give_uniform_p_values():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.049, 0.0007, 0.0003], dtype=torch.float64)
    draw = rng(4)
    found = []
    for _ in range(1000):
        drawn = torch.multinomial(probabilities, 3000, replacement=True, generator=draw)
        found.append(chi_square_test(drawn.bincount(minlength=6), probabilities))
    found = torch.tensor(found)
    for level in (0.05, 0.5, 0.95):
        share = float((found < level).float().mean())
        assert abs(share - level) < 5 * (level * (1 - level) / 1000) ** 0.5


def test_what_cannot_happen_must_not():
    assert chi_square_test(torch.tensor([50, 49, 1]), torch.tensor([0.5, 0.5, 0.0])) == 0.0
    assert chi_square_test(torch.tensor([50, 50, 0]), torch.tensor([0.5, 0.5, 0.0])) == 1.0


# The kernel


def draws(q, k, n, *, seed=11, **masking):
    """n draws of the kernel for one query: its copies stand at n rows, and each row has noise of its own."""
    v = k[..., :1]
    return kernel.hard_attention_triton(q.expand(-1, -1, n, -1), k, v, seed=seed, **masking).index


@pytest.mark.parametrize("s", [1, 5, 63, 130])
def test_the_kernel_draws_from_softmax(s, device):
    q, k, _ = make_qkv(b=1, h=1, t=1, s=s, dk=8, dtype=torch.float32, device=device)
    index = draws(q * 2, k, 10_000).flatten().cpu()
    if s == 1:
        assert not index.any()
        return
    assert chi_square_test(index.bincount(minlength=s), attention_weights(q * 2, k).cpu().flatten()) > LEVEL


@pytest.mark.parametrize("name", ["lengths", "boolean mask", "mask a head", "added mask", "scale"])
def test_the_kernel_draws_from_softmax_under_masks(name, device):
    q, k, _ = make_qkv(b=3, h=4, g=2, t=1, s=19, dk=8, dtype=torch.float32, device=device)
    masking = masking_for(name, q, k)
    weights = attention_weights(q, k, **masking)
    if name == "boolean mask":
        masking["mask"] = masking["mask"].expand(2000, 19)
    index = draws(q, k, 2000, **masking).cpu()
    for b, h in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        seen = weights[b, h, 0].cpu()
        if not seen.any():
            assert (index[b, h] == -1).all()
        elif (seen > 0).sum() > 1:
            assert chi_square_test(index[b, h].bincount(minlength=19), seen) > LEVEL


def test_the_kernel_draws_from_softmax_under_a_causal_mask(device):
    """Each row sees another number of keys, so each is drawn by 200 heads."""
    q, k, v = make_qkv(b=1, h=1, t=9, s=61, dk=4, dtype=torch.float32, device=device)
    many = (x.expand(10, 20, -1, -1) for x in (q, k, v))
    index = kernel.hard_attention_triton(*many, seed=2, causal=True).index.cpu()
    weights = attention_weights(q, k, causal=True)[0, 0].cpu()
    for row in range(9):
        drawn = index[:, :, row].flatten()
        assert drawn.max() <= 52 + row
        assert chi_square_test(drawn.bincount(minlength=61), weights[row]) > LEVEL


def test_a_seed_is_a_choice(device):
    q, k, v = make_qkv(b=2, h=2, t=50, s=40, dtype=torch.float32, device=device)
    first = kernel.hard_attention_triton(q, k, v, seed=7)
    for got, want in zip(kernel.hard_attention_triton(q, k, v, seed=7), first, strict=True):
        assert torch.equal(got, want)
    for other in (0, 8, 7 + 2**32, 2**63 - 1):
        assert (kernel.hard_attention_triton(q, k, v, seed=other).index != first.index).float().mean() > 0.5
    chosen = log_probability(attention_weights(q, k).log(), first.index)
    torch.testing.assert_close(first.log_prob, chosen, rtol=1e-5, atol=1e-5)
    assert torch.equal(first.out, take_rows(v, first.index))


@pytest.mark.parametrize("between", ["rows", "heads", "batches", "seeds", "query heads of one key head"])
def test_streams_are_independent(between, device):
    """Pairs of neighbouring draws: all 16 combinations as often as the product of their probabilities says."""
    b, h = {"batches": (2, 1), "rows": (1, 1), "seeds": (1, 1)}.get(between, (1, 2))
    q, k, _ = make_qkv(b=1, h=1, t=1, s=4, dk=4, dtype=torch.float32, device=device)
    weights = attention_weights(q, k).cpu().flatten()
    g = 1 if between == "query heads of one key head" else h
    q, k = q.expand(b, h, -1, -1), k.expand(b, g, -1, -1)
    index = draws(q, k, 4000).cpu()
    if between == "rows":
        left, right = index[0, 0, 0::2], index[0, 0, 1::2]
    else:
        other = draws(q, k, 4000, seed=12).cpu() if between == "seeds" else index
        left, right = index[0, 0], other[-1, -1]
    pairs = (4 * left + right).bincount(minlength=16)
    assert chi_square_test(pairs, torch.outer(weights, weights).flatten()) > LEVEL


def philox_by_hand(seed: int, counter: tuple[int, int, int, int]) -> int:
    """First word of Philox4x32-10 (Salmon et al. 2011), in whole numbers."""
    low = 2**32 - 1
    c, key = list(counter), [seed & low, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ key[0], b & low, a >> 32 ^ c[3] ^ key[1], a & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return c[0]


def noise_by_hand(seed, b, h, t, s):
    """What the kernel's documentation says its noise is, in float64 and from whole numbers."""
    noise = torch.empty(b * h, t, s, dtype=torch.float64)
    for head in range(b * h):
        for row in range(t):
            for col in range(s):
                bits = philox_by_hand(seed, (col, row, head, 0))
                u = (bits if bits < 2**31 else 2**32 - 1 - bits) * 4.6566127342e-10
                noise[head, row, col] = -math.log(-math.log1p(-max(u, 2.0**-32)))
    return noise.view(b, h, t, s)


@pytest.mark.parametrize("seed", [1, 2**40 + 3])
def test_the_kernels_noise_is_philox_of_key_query_and_head(seed, device):
    q, k, v = make_qkv(b=2, h=2, g=1, t=9, s=67, dk=8, dtype=torch.float32, device=device)
    got = kernel.hard_attention_triton(q, k, v, seed=seed, causal=True)
    noise = noise_by_hand(seed, 2, 2, 9, 67)
    wanted = hard_attention(*(x.double().cpu() for x in (q, k, v)), noise=noise, causal=True)
    assert torch.equal(got.index.cpu(), wanted.index)
    torch.testing.assert_close(got.log_prob.cpu().double(), wanted.log_prob, rtol=1e-5, atol=1e-5)


@triton.jit
def _store_noise_kernel(out_ptr, seed, T: tl.constexpr, S: tl.constexpr):
    rows, cols = tl.arange(0, T), tl.arange(0, S)
    noise = kernel._gumbel(seed, tl.program_id(0), rows, cols)
    tl.store(out_ptr + rows[:, None] * S + cols[None, :], noise)


def test_the_kernels_largest_noise_is_not_rounded(device):
    """Large noise decides. From log(1 - u) in float32 the largest here would be off by more than 1e-4."""
    out = torch.empty(256, 64, device=device)
    _store_noise_kernel[(1,)](out, 6, T=256, S=64)
    exact = noise_by_hand(6, 1, 1, 256, 64)[0, 0]
    assert float(exact.max()) > 8
    wins = exact > -1  # less is beaten by any other visible key
    torch.testing.assert_close(out.cpu().double()[wins], exact[wins], rtol=0, atol=2e-5)


def test_tiles_do_not_change_what_is_drawn(device, monkeypatch):
    q, k, v = make_qkv(b=1, h=2, g=1, t=40, s=90, dtype=torch.float32, device=device)
    wanted = kernel.hard_attention_triton(q, k, v, seed=4, window=37)
    small = dict(BLOCK_T=16, BLOCK_S=16, num_warps=4, num_stages=1, enable_fp_fusion=True)
    monkeypatch.setattr(kernel, "launch_config", lambda **_: small)
    got = kernel.hard_attention_triton(q, k, v, seed=4, window=37)
    assert torch.equal(got.index, wanted.index) and torch.equal(got.out, wanted.out)


def in_float64(masking):
    return {n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for n, x in masking.items()}


def check_best(sizes, dtype, device, **masking):
    """Without noise: the key read scores the most, its row is copied, its log-probability is as near as PyTorch's."""
    q, k, v = make_qkv(dtype=dtype, device=device, **sizes)
    exact_inputs, exact_masking = [x.double() for x in (q, k, v)], in_float64(masking)
    read, exact = (
        kernel.hard_attention_triton(q, k, v, seed=None, **masking),
        hard_attention(*exact_inputs, **exact_masking),
    )
    plain = hard_attention(q, k, v, **masking)
    assert read.out.dtype == dtype and torch.equal(read.out, take_rows(v, read.index))
    nothing = exact.index < 0
    assert torch.equal(read.index < 0, nothing)
    log_weights = attention_weights(*exact_inputs[:2], **exact_masking).log()
    mine, theirs = log_probability(log_weights, read.index), log_probability(log_weights, plain.index)
    eps = torch.finfo(dtype).eps
    # Products of inputs of this dtype are exact in float32; only nearly equal scores may be taken for each other.
    size = float((exact_inputs[0].norm(dim=-1).max() * exact_inputs[1].norm(dim=-1).max()) * sizes["dk"] ** -0.5)
    near = max(2 * float((exact.log_prob - theirs).max()), 4 * torch.finfo(torch.float32).eps * size)
    assert float((exact.log_prob - mine).max()) <= near
    off = (read.log_prob.double() - mine).abs().max()
    assert float(off) <= max(2 * float((plain.log_prob.double() - theirs).abs().max()), 4 * min(eps, 1e-6) * size)


@pytest.mark.parametrize("name", MASKINGS)
def test_the_kernel_reads_the_best_key_under_every_mask(name, device):
    sizes = dict(b=3, h=4, g=2, t=37, s=53, dk=17, dv=24)
    masking = masking_for(name, *make_qkv(dtype=torch.float32, device=device, **sizes)[:2])
    check_best(sizes, torch.float32, device, **masking)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dk", "dv"), [(16, 16), (40, 80), (96, 128), (160, 256), (1, 3)])
def test_the_kernel_reads_the_best_key_at_every_width(dtype, dk, dv, device):
    check_best(dict(b=1, h=2, g=1, t=19, s=35, dk=dk, dv=dv), dtype, device, causal=True)


@pytest.mark.dry
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 67), (67, 1), (257, 65), (70, 31)])
@pytest.mark.parametrize("masking", [{}, dict(causal=True), dict(window=4)], ids=str)
def test_the_kernel_reads_the_best_key_off_the_block_edges(masking, t, s, device):
    check_best(dict(b=1, h=2, g=2, t=t, s=s, dk=8, dv=8), torch.float32, device, **masking)


def test_the_kernel_takes_any_strides_and_the_largest_masks(device):
    q, k, v = make_qkv(b=3, h=3, t=9, s=9, dtype=torch.float32, device=device)
    strided = [q.transpose(1, 2).contiguous().transpose(1, 2), k, v.repeat_interleave(2, dim=-1)[..., ::2]]
    lengths = torch.tensor([9, 1, 4, 1, 5, 1], device=device)[::2]
    got = kernel.hard_attention_triton(*strided, seed=None, key_lengths=lengths)
    assert torch.equal(got.out, hard_attention(q, k, v, key_lengths=lengths).out)
    mask = torch.empty_strided((9, 9), (2**29, 1), dtype=torch.bool, device=device)  # pages not written to cost nothing
    mask.copy_(torch.arange(81).reshape(9, 9) % 3 > 0)
    got = kernel.hard_attention_triton(q, k, v, seed=None, mask=mask)
    assert torch.equal(got.index, hard_attention(q, k, v, mask=mask.contiguous()).index)


def test_the_kernel_writes_every_element(device):
    """In this mode PyTorch fills fresh memory with NaN, or with the largest integer, and what is not written stays so."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=device).isnan().all()
        q, k, v = make_qkv(t=33, s=49, dk=24, dtype=torch.float32, device=device)
        read = kernel.hard_attention_triton(q, k, v, seed=1, causal=True)
        assert read.out.isfinite().all() and read.log_prob.isfinite().all()
        assert read.index.min() >= 0 and read.index.max() < 49
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", MASKINGS)
def test_the_kernels_choice_has_the_definitions_gradients(name, device):
    q, k, v = make_qkv(b=3, h=4, g=2, t=19, s=23, dk=8, dv=5, dtype=torch.float32, device=device)
    masking = masking_for(name, q, k)
    plain = kernel.hard_attention_triton(q, k, v, seed=9, **masking)
    tracked = kernel.hard_attention_triton(*(x.clone().requires_grad_() for x in (q, k, v)), seed=9, **masking)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(tracked, plain, strict=True))
    noise = 100.0 * functional.one_hot(plain.index.clamp_min(0), 23).double()  # makes the definition choose the same

    def both(read):
        return read.out.sum(dim=-1) * 0.3 + read.log_prob.to(read.out.dtype)

    got = gradients(lambda *x: both(kernel.hard_attention_triton(*x, seed=9, **masking)), q, k, v)
    wanted = gradients(
        lambda *x: both(hard_attention(*x, noise=noise, **in_float64(masking))), *(x.double() for x in (q, k, v))
    )
    for mine, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-4, atol=1e-5)


def test_the_definition_holds_every_pair_and_the_kernel_none(device):
    """Bytes of tensors: on a CPU those that PyTorch allocates, so of the kernel its outputs and no more."""

    def bytes_at(attend, n):
        q, k, v = make_qkv(b=1, h=1, t=n, s=n, dk=16, dtype=torch.float32, device=device)
        return peak_memory(lambda: attend(q, k, v))

    forms = {
        "definition": lambda *x: sampled_attention(*x, generator=rng()),
        "kernel": lambda *x: kernel.hard_attention_triton(*x, seed=0),
    }
    short, long = ({name: bytes_at(f, n) for name, f in forms.items()} for n in (256, 1024))
    assert long["definition"] > 12 * short["definition"]  # four times the length, sixteen times the pairs
    assert long["definition"] > 4 * 1024 * 1024
    outputs = 1024 * (4 * 16 + 8 + 4)
    assert outputs <= long["kernel"] < 1.5 * outputs
    assert long["kernel"] < 5 * short["kernel"]


# The module


def make_layer(device="cpu", **options):
    torch.manual_seed(0)
    return HardAttention(12, d_context=10, head_dim=8, v_head_dim=6, **options).to(device)


def projected(layer, x, context):
    return [p(y)[:, None] for p, y in ((layer.w_q, x), (layer.w_k, context), (layer.w_v, context))]


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_in_evaluation_every_impl_reads_the_best_key(impl, device):
    layer = make_layer(device, causal=True, impl=impl).eval()
    x, context = torch.randn(2, 5, 12, device=device), torch.randn(2, 7, 10, device=device)
    lengths = torch.tensor([7, 6], device=device)
    out, index, log_prob = layer(x, context, key_lengths=lengths, need_choice=True)
    q, k, v = (y.detach().cpu().double() for y in projected(layer, x, context))
    read, chosen, chances = read_by_hand(q, k, v, torch.zeros(2, 1, 5, 7), dict(causal=True, key_lengths=lengths.cpu()))
    torch.testing.assert_close(out.cpu(), (read[:, 0].float() @ layer.w_o.weight.cpu().T), rtol=1e-4, atol=1e-5)
    assert torch.equal(index.cpu(), chosen[:, 0])
    torch.testing.assert_close(log_prob.cpu().double(), chances[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x, context, key_lengths=lengths), out)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_in_training_it_samples_from_its_generator(impl, device):
    layer = make_layer(device, impl=impl)
    x, context = torch.randn(1, 1, 12, device=device).expand(2, 1000, 12), torch.randn(1, 7, 10, device=device)
    context = context.expand(2, 7, 10)
    draw = rng(3)
    first, second = (layer(x, context, generator=draw, need_choice=True)[1] for _ in range(2))
    assert torch.equal(first, layer(x, context, generator=rng(3), need_choice=True)[1])
    assert not torch.equal(first, second)
    q, k, _ = projected(layer, x[:1, :1], context[:1])
    counts = torch.cat([first, second]).flatten().cpu().bincount(minlength=7)
    assert chi_square_test(counts, attention_weights(q, k).flatten().detach().cpu()) > LEVEL


@pytest.mark.parametrize(
    ("estimator", "impl"),
    [("argmax", "reference"), ("score_function", "reference"), ("score_function", "triton"), ("straight_through", "reference")],
)  # fmt: skip
def test_each_estimator_sends_its_gradient_to_queries_and_keys(estimator, impl, device):
    layer = make_layer(device, estimator=estimator, impl=impl)
    x, context = torch.randn(2, 5, 12, device=device), torch.randn(2, 7, 10, device=device)
    out, _, log_prob = layer(x, context, generator=rng(), need_choice=True)
    cost = out.square().mean(dim=(1, 2))
    through_out = torch.autograd.grad(
        cost.mean(), [layer.w_q.weight, layer.w_k.weight], allow_unused=True, retain_graph=True
    )
    assert all((g is not None and g.abs().max() > 0) == (estimator == "straight_through") for g in through_out)
    loss = score_function_loss(cost, log_prob.sum(dim=1), baseline=1.0)
    through_log_prob = torch.autograd.grad(loss, [layer.w_q.weight, layer.w_v.weight])
    assert all(g.abs().max() > 0 for g in through_log_prob)


# Bad input

Q, K, V = make_qkv(b=2, h=4, g=2, t=3, s=5, dk=8, dv=6)
BAD = {
    "three axes": (dict(q=Q[0]), "must be \\(batch, heads, length, width\\), got shape \\(4, 3, 8\\)"),
    "lengths differ": (dict(v=V[:, :, :4]), "must share heads and length"),
    "g does not divide h": (dict(q=Q[:, :3]), "the 2 key/value heads must divide the 3 query heads"),
    "mask of another shape": (dict(mask=torch.ones(3, 4) > 0), "mask must broadcast to \\(b, h, t, s\\) = \\(2, 4, 3, 5\\)"),
    "lengths past the end": (dict(key_lengths=torch.tensor([1, 6])), "must lie in 0..5, got 1..6"),
    "no window": (dict(window=0), "window must be at least 1 .*, got 0"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["hard", "sampled", "straight through", "relaxed", "expected", "triton"])
def test_bad_input_is_named(case, form):
    changed, message = BAD[case]
    arguments = {n: x.float() for n, x in dict(q=Q, k=K, v=V).items()} | {
        n: x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x for n, x in changed.items()
    }
    noise = torch.zeros(*arguments["q"].shape[-4:-1], 5)
    attend, extra = {
        "hard": (hard_attention, {}),
        "sampled": (sampled_attention, dict(generator=rng())),
        "straight through": (straight_through_attention, dict(noise=noise, temperature=1.0)),
        "relaxed": (relaxed_attention, dict(noise=noise, temperature=1.0)),
        "expected": (expected_cost, dict(cost=lambda r: r.sum(dim=-1))),
        "triton": (kernel.hard_attention_triton, dict(seed=0)),
    }[form]
    with pytest.raises(ValueError, match=message):
        attend(**arguments, **extra)


@pytest.mark.bad_input
def test_bad_noise_temperature_and_decay_are_named():
    noise = torch.zeros(2, 4, 3, 5, dtype=torch.float64)
    for attend in (relaxed_attention, straight_through_attention):
        for temperature in (0.0, -1.0):
            with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
                attend(Q, K, V, noise=noise, temperature=temperature)
        with pytest.raises(ValueError, match="noise must be \\(b, h, t, s\\) = \\(2, 4, 3, 5\\), got \\(5,\\)"):
            attend(Q, K, V, noise=noise[0, 0, 0], temperature=1.0)
    with pytest.raises(ValueError, match="noise must be"):
        hard_attention(Q, K, V, noise=noise[:, :1])
    with pytest.raises(ValueError, match="decay must lie in \\[0, 1\\), got 1.0"):
        moving_baseline(0.0, torch.ones(3), decay=1.0)
    with pytest.raises(ValueError, match="at least two estimates, got 1"):
        quality(torch.ones(1, 3), torch.ones(3))
    with pytest.raises(ValueError, match="vectors of one length, got \\(2,\\), \\(3,\\)"):
        chi_square_test(torch.tensor([1, 2]), torch.ones(3) / 3)
    with pytest.raises(ValueError, match="3 draws are too few"):
        chi_square_test(torch.tensor([1, 2]), torch.ones(2) / 2)


@pytest.mark.bad_input
def test_what_an_impl_cannot_do_it_says():
    with pytest.raises(ValueError, match="estimator must be one of argmax, score_function, straight_through, got 'x'"):
        HardAttention(4, estimator="x")
    with pytest.raises(ValueError, match="impl must be one of reference, triton, got 'blocked'"):
        HardAttention(4, impl="blocked")
    with pytest.raises(ValueError, match="never forms the weights that straight_through differentiates"):
        HardAttention(4, estimator="straight_through", impl="triton")
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        HardAttention(4, temperature=0)
    with pytest.raises(ValueError, match="estimator='score_function' samples in training: give it a generator"):
        HardAttention(4)(torch.ones(1, 3, 4))
    q, k, v = (x.float() for x in (Q, K, V))
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed must lie in 0..2\\^63 - 1, got {seed}"):
            kernel.hard_attention_triton(q, k, v, seed=seed)
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.hard_attention_triton(Q, K, V, seed=0)
    with pytest.raises(ValueError, match="hard_attention_triton takes widths to 256, got 300: use impl='reference'"):
        kernel.hard_attention_triton(*make_qkv(dk=300, dtype=torch.float32), seed=0)
    with pytest.raises(ValueError, match="no gradient to an added mask"):
        kernel.hard_attention_triton(q, k, v, seed=0, mask=torch.zeros(3, 5, requires_grad=True))


# The compiler


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernel_compiles_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("hard_attention", capability)
    assert len(compiled) >= 5
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        assert c.spills == 0, c
    expected = {75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]
    assert {c.matrix for c in compiled if "fp32" not in c.case} == {expected}
