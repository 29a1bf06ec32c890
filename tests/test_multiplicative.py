"""Luong's scores and windows against loops, PyTorch and their relatives; the kernels in the interpreter or on CUDA."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from attncourse.additive import additive_attention, additive_scores
from attncourse.multiplicative import (
    MultiplicativeAttention,
    concat_attention,
    concat_scores,
    dot_scores,
    gaussian_weights,
    general_scores,
    local_window,
    luong_local_attention,
    multiplicative_attention,
    multiplicative_attention_loop,
    predicted_positions,
)
from attncourse.testing import assert_within_budget, gradients, relative_error
from tests.every_layer import D_MODEL, TOKENS, Layer, beside

kernel = pytest.importorskip("attncourse.multiplicative.kernel", reason="Triton is on Linux alone")


def at_steps(layer, x, **options):
    """Local-m is told the queries' time steps."""
    t = x.shape[1] if isinstance(x, torch.Tensor) and x.ndim > 1 else TOKENS
    return layer(x, x, positions=torch.arange(t, device=getattr(x, "device", None)), **options)


# What `test_every_form` builds and calls.
LAYERS = {
    "multiplicative": Layer(lambda **o: MultiplicativeAttention(D_MODEL, D_MODEL, **o), call=beside),
    "multiplicative, dot": Layer(lambda **o: MultiplicativeAttention(D_MODEL, D_MODEL, score="dot", **o), call=beside),
    "multiplicative, concat": Layer(
        lambda **o: MultiplicativeAttention(D_MODEL, D_MODEL, score="concat", **o), call=beside
    ),
    "multiplicative, local-m": Layer(
        lambda **o: MultiplicativeAttention(D_MODEL, D_MODEL, locality="local_m", radius=2, **o), call=at_steps
    ),
    "multiplicative, local-p": Layer(
        lambda **o: MultiplicativeAttention(D_MODEL, D_MODEL, locality="local_p", radius=2, **o), call=beside
    ),
}


def make_inputs(*, b=2, h=1, t=5, s=7, dq=4, dk=3, dv=6, dtype=torch.float64, device="cpu", seed=0):
    """q, k, v and the general score's weight."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(b, h, t, dq), (b, h, s, dk), (b, h, s, dv), (dq, dk)]
    return [torch.randn(shape, generator=rng, dtype=torch.float64).to(device, dtype) for shape in shapes]


def local_by_hand(q, k, v, positions, weight, *, radius, gaussian, length):
    """One sequence, one head, key by key."""
    out = torch.zeros(len(q), v.shape[-1], dtype=torch.float64)
    for i, centre in enumerate(positions.tolist()):
        window = [j for j in range(length) if abs(j - centre) <= radius]
        if not window:
            continue
        weights = torch.softmax(torch.stack([q[i] @ weight @ k[j] for j in window]), dim=0)
        for w, j in zip(weights, window, strict=True):
            bell = math.exp(-((j - centre) ** 2) / (2 * (radius / 2) ** 2)) if gaussian else 1.0
            out[i] += w * bell * v[j]
    return out


@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 7), (7, 2)])
def test_general_is_the_loop_and_dot_is_general_with_the_identity(t, s):
    q, k, v, weight = make_inputs(b=1, t=t, s=s)
    loop = multiplicative_attention_loop(q[0, 0], k[0, 0], v[0, 0], weight)
    torch.testing.assert_close(multiplicative_attention(q, k, v, weight)[0, 0], loop)
    eye = torch.eye(4, dtype=torch.float64)
    wide = make_inputs(b=1, t=t, s=s, dk=4)
    loop = multiplicative_attention_loop(*(x[0, 0] for x in wide[:3]), eye)
    torch.testing.assert_close(multiplicative_attention(*wide[:3])[0, 0], loop)


def test_scores_of_one_pair_by_hand():
    q, k, _, weight = make_inputs()
    torch.testing.assert_close(general_scores(q, k, weight)[1, 0, 2, 3], q[1, 0, 2] @ (weight @ k[1, 0, 3]))
    torch.testing.assert_close(dot_scores(q, q)[1, 0, 2, 3], q[1, 0, 2] @ q[1, 0, 3])
    matrix, w_score = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    by_hand = w_score @ torch.tanh(matrix @ torch.cat([q[1, 0, 2], k[1, 0, 3]]))
    torch.testing.assert_close(concat_scores(q, k, matrix, w_score)[1, 0, 2, 3], by_hand)


def test_dot_is_pytorchs_attention_without_scale():
    q, k, v, weight = make_inputs()
    wanted = scaled_dot_product_attention(q @ weight, k, v, scale=1.0)
    torch.testing.assert_close(multiplicative_attention(q, k, v, weight), wanted)
    torch.testing.assert_close(multiplicative_attention(q @ weight, k, v), wanted)


def test_concat_is_additive_with_its_matrix_cut_in_two():
    q, k, v, _ = make_inputs()
    matrix, w_score = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    w_q, w_k = matrix[:, :4], matrix[:, 4:]
    torch.testing.assert_close(concat_scores(q, k, matrix, w_score), additive_scores(q, k, w_q, w_k, w_score))
    lengths = torch.tensor([2, 7])
    torch.testing.assert_close(
        concat_attention(q, k, v, matrix, w_score, key_lengths=lengths),
        additive_attention(q, k, v, w_q, w_k, w_score, key_lengths=lengths),
    )


@pytest.mark.parametrize("length", [0, 1, 4])
def test_padding_is_as_if_it_were_cut_off(length):
    q, k, v, weight = make_inputs(b=1)
    wanted = torch.zeros(5, 6, dtype=torch.float64)
    if length:
        wanted = multiplicative_attention_loop(q[0, 0], k[0, 0, :length], v[0, 0, :length], weight)
    k[:, :, length:], v[:, :, length:] = torch.nan, torch.nan
    lengths = torch.tensor([length])
    torch.testing.assert_close(multiplicative_attention(q, k, v, weight, key_lengths=lengths)[0, 0], wanted)
    got = gradients(lambda *x: multiplicative_attention(*x, key_lengths=lengths), q, k, v, weight)
    assert all(x.isfinite().all() for x in got)


@given(t=st.integers(1, 6), s=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_the_order_of_keys_does_not_matter(t, s, seed):
    q, k, v, weight = make_inputs(t=t, s=s, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(s, generator=rng)
    matrix, w_score = (torch.randn(x, generator=rng, dtype=torch.float64) for x in ((5, 7), (5,)))
    for attend in (
        lambda k, v: multiplicative_attention(q, k, v, weight),
        lambda k, v: multiplicative_attention(q @ weight, k, v),
        lambda k, v: concat_attention(q, k, v, matrix, w_score),
    ):
        torch.testing.assert_close(attend(k[:, :, order], v[:, :, order]), attend(k, v))


@given(radius=st.integers(1, 5), position=st.integers(0, 30), s=st.integers(1, 31))
def test_a_window_keeps_twice_the_radius_and_one_keys_but_for_the_ends(radius, position, s):
    kept = local_window(torch.tensor([[[float(position)]]]), s, radius=radius)[0, 0, 0].nonzero().flatten().tolist()
    assert kept == [j for j in range(position - radius, position + radius + 1) if 0 <= j < s]


def test_a_window_about_a_whole_position_keeps_both_sides_and_the_middle():
    window = local_window(torch.tensor([[[5.0, 0.0, 4.5]]]), 11, radius=2)
    assert window[0, 0].sum(dim=-1).tolist() == [5, 3, 4]
    assert window[0, 0, 0].nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


def test_the_gaussian_is_one_in_the_middle_and_falls_to_e_to_the_minus_two_at_the_edge():
    bell = gaussian_weights(torch.tensor([[[5.0]]], dtype=torch.float64), 11, radius=4)[0, 0, 0]
    assert bell[5] == 1
    assert bell[1].item() == pytest.approx(math.exp(-2))  # two standard deviations out
    torch.testing.assert_close(bell[:5], bell.flip(0)[:5])


def test_predicted_positions_lie_within_the_source():
    q = make_inputs(t=50)[0] * 10
    w, v = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64) * 10
    positions = predicted_positions(q, w, v, torch.tensor([7, 1]))
    assert positions.min() >= 0 and positions[0].max() <= 6 and not positions[1].any()
    assert positions[0].max() - positions[0].min() > 4  # it depends on the query
    fraction = torch.sigmoid(v @ torch.tanh(w @ q[0, 0, 0]))
    torch.testing.assert_close(positions[0, 0, 0], 6 * fraction)


@pytest.mark.parametrize("gaussian", [False, True])
def test_local_attention_is_the_loop(gaussian):
    q, k, v, weight = make_inputs(s=11)
    positions = torch.rand(2, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    lengths = torch.tensor([11, 3])
    bell = gaussian_weights(positions, 11, radius=2) if gaussian else None
    got = luong_local_attention(q, k, v, positions, weight, radius=2, gaussian=bell, key_lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        by_hand = local_by_hand(
            q[i, 0], k[i, 0], v[i, 0], positions[i, 0], weight, radius=2, gaussian=gaussian, length=length
        )
        torch.testing.assert_close(got[i, 0], by_hand)


# The kernels, through those of the relatives


def assert_same_function(kernel_form, reference_form, inputs, device):
    mine = [x.float().to(device) for x in inputs]
    assert relative_error(kernel_form(*mine), reference_form(*inputs)) < 1e-5
    for got, wanted in zip(gradients(kernel_form, *mine), gradients(reference_form, *inputs), strict=True):
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.dry
def test_dot_and_general_by_the_softmax_kernel(device):
    q, k, v, weight = make_inputs(t=18, s=21)
    lengths = torch.tensor([21, 4])
    here = lengths.to(device)
    assert_same_function(
        lambda *x: kernel.multiplicative_attention_triton(*x, key_lengths=here),
        lambda *x: multiplicative_attention(*x, key_lengths=lengths),
        (q, k, v, weight), device,
    )  # fmt: skip
    assert_same_function(kernel.multiplicative_attention_triton, multiplicative_attention, (q @ weight, k, v), device)


def test_concat_by_the_additive_kernel(device):
    q, k, v, _ = make_inputs(t=18, s=21)
    matrix, w_score = make_concat_weights()
    assert_same_function(kernel.concat_attention_triton, concat_attention, (q, k, v, matrix, w_score), device)


def make_concat_weights():
    rng = torch.Generator().manual_seed(3)
    return (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((9, 7), (9,)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("which", ["general", "concat", "local_p"])
def test_the_kernels_keep_their_budget_in_half_precision(which, dtype, device):
    q, k, v, weight = (x.to(dtype) for x in make_inputs(t=9, s=21))
    positions = torch.linspace(0, 20, 18).reshape(2, 1, 9)
    forms = {
        "general": (kernel.multiplicative_attention_triton, multiplicative_attention, (weight,), {}),
        "concat": (
            kernel.concat_attention_triton, concat_attention, [x.to(dtype) for x in make_concat_weights()], {},
        ),
        "local_p": (
            kernel.luong_local_attention_triton, luong_local_attention, (positions, weight),
            dict(radius=3, gaussian=gaussian_weights(positions, 21, radius=3)),
        ),
    }  # fmt: skip
    by_kernel, definition, parameters, options = forms[which]
    inputs = (q, k, v, *parameters)
    there = {n: x.to(device) if torch.is_tensor(x) else x for n, x in options.items()}
    got = by_kernel(*(x.to(device) for x in inputs), **there).cpu()
    assert got.dtype == dtype
    assert_within_budget(
        got, plain=definition(*inputs, **options), exact=definition(*(x.double() for x in inputs), **options)
    )


@pytest.mark.parametrize("gaussian", [False, True])
def test_local_by_the_softmax_kernel_with_two_log_sum_exps(gaussian, device):
    q, k, v, weight = make_inputs(t=9, s=21)
    positions = torch.rand(2, 1, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20
    positions[0, 0, 4] = 50.0  # sees no key, and must not poison the gradients of those that others see
    bell = gaussian_weights(positions, 21, radius=3) if gaussian else None
    lengths = torch.tensor([21, 8])
    there = dict(radius=3, gaussian=bell, key_lengths=lengths)
    here = dict(radius=3, gaussian=None if bell is None else bell.float().to(device), key_lengths=lengths.to(device))
    assert_same_function(
        lambda q, k, v, w: kernel.luong_local_attention_triton(q, k, v, positions.float().to(device), w, **here),
        lambda q, k, v, w: luong_local_attention(q, k, v, positions, w, **there),
        (q, k, v, weight), device,
    )  # fmt: skip


@pytest.mark.bad_input
def test_the_gaussian_gets_no_gradient_from_the_kernel_and_says_so():
    q, k, v, weight = (x.float() for x in make_inputs())
    positions = torch.full((2, 1, 5), 3.0, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient to an added mask"):
        kernel.luong_local_attention_triton(
            q, k, v, positions, weight, radius=2, gaussian=gaussian_weights(positions, 7, radius=2)
        )


# The module


SHAPES = [("dot", "global"), ("general", "global"), ("concat", "global"), ("dot", "local_m"), ("general", "local_p")]


@pytest.mark.parametrize(("score", "locality"), SHAPES)
def test_the_modules_two_impls_and_its_weights_agree(score, locality, device):
    torch.manual_seed(0)
    layer = MultiplicativeAttention(6, 6, score=score, locality=locality, radius=2).to(device)
    query, memory = torch.randn(2, 9, 6, device=device), torch.randn(2, 13, 6, device=device)
    options = dict(key_lengths=torch.tensor([13, 4], device=device), positions=torch.arange(9, device=device))
    context, weights = layer(query, memory, need_weights=True, **options)
    torch.testing.assert_close(weights @ memory, context)
    assert not weights[1, :, 4:].any()
    sums = weights.sum(dim=-1)
    if locality == "global":
        torch.testing.assert_close(sums, torch.ones_like(sums))
    if locality == "local_p":
        assert sums.max() <= 1 + 1e-6 and sums.min() < 0.999
    layer.impl = "triton"
    with torch.no_grad():
        torch.testing.assert_close(layer(query, memory, **options), context, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_time_steps_keep_their_windows_in_every_dtype(dtype):
    """bfloat16 would round step 257 to 256."""
    layer = MultiplicativeAttention(6, 6, score="dot", locality="local_m", radius=2).to(dtype)
    steps = torch.tensor([257, 259, 301])
    _, weights = layer(*(torch.ones(1, n, 6, dtype=dtype) for n in (3, 400)), positions=steps, need_weights=True)
    read = [row.nonzero().flatten().tolist() for row in weights[0]]
    assert read == [list(range(step - 2, step + 3)) for step in steps.tolist()]


def test_predicted_positions_are_no_coarser_than_float32():
    q, w, v = torch.randn(1, 1, 3, 4).bfloat16(), torch.randn(5, 4).bfloat16(), torch.randn(5).bfloat16()
    assert predicted_positions(q, w, v, torch.tensor([400])).dtype == torch.float32


def test_a_window_of_the_concat_score_is_additive_attention_under_a_mask():
    torch.manual_seed(0)
    layer = MultiplicativeAttention(4, 3, score="concat", hidden_dim=5, locality="local_m", radius=2).double()
    q, k, _, _ = make_inputs(s=11)
    window = (torch.arange(11) - torch.arange(5)[:, None]).abs() <= 2
    wanted = additive_attention(q, k, k, layer.weight[:, :4], layer.weight[:, 4:], layer.w_score, mask=window)
    torch.testing.assert_close(layer(q[:, 0], k[:, 0], positions=torch.arange(5)), wanted[:, 0])


def test_the_module_uses_the_definitions():
    torch.manual_seed(0)
    layer = MultiplicativeAttention(4, 3, score="general", locality="local_p", radius=2).double()
    q, k, _, _ = make_inputs(s=11)
    lengths = torch.tensor([11, 6])
    centres = predicted_positions(q, layer.w_position, layer.v_position, lengths)
    bell = gaussian_weights(centres, 11, radius=2)
    wanted = luong_local_attention(q, k, k, centres, layer.weight, radius=2, gaussian=bell, key_lengths=lengths)
    torch.testing.assert_close(layer(q[:, 0], k[:, 0], key_lengths=lengths), wanted[:, 0])
    assert all(x.grad is None for x in layer.parameters())
    layer(q[:, 0], k[:, 0], key_lengths=lengths).sum().backward()
    assert all(x.grad.abs().max() > 0 for x in layer.parameters())


# Bad input

Q, K, V, WEIGHT = make_inputs()
BAD = {
    "widths differ without a weight": (dict(weight=None), "a dot product needs equal widths, got dq=4, dk=3"),
    "weight transposed": (dict(weight=WEIGHT.T), "weight must be \\(dq, dk\\) = \\(4, 3\\), got \\(3, 4\\)"),
    "three axes": (dict(q=Q[0]), "q must be \\(batch, heads, length, width\\)"),
    "values of another length": (dict(v=V[:, :, :3]), "v must be \\(b, h, s, dv\\) = \\(2, 1, 7, dv\\)"),
    "integers": (dict(k=K.long()), "k must be floating point"),
    "dtypes differ": (dict(weight=WEIGHT.half()), "must share one dtype"),
    "mask of another shape": (dict(mask=torch.ones(5, 6) > 0), "mask must broadcast"),
    "lengths past the end": (dict(key_lengths=torch.tensor([8, 1])), "must lie in 0..7, got 1..8"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attend", [multiplicative_attention, kernel.multiplicative_attention_triton])
def test_bad_input_is_named(case, attend):
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        attend(**(dict(q=Q, k=K, v=V, weight=WEIGHT) | changed))


@pytest.mark.bad_input
def test_what_the_module_cannot_do_it_says():
    with pytest.raises(ValueError, match="score must be one of dot, general, concat, got 'sum'"):
        MultiplicativeAttention(4, 4, score="sum")
    with pytest.raises(ValueError, match="score='dot' needs equal widths, got query_dim=4, memory_dim=3"):
        MultiplicativeAttention(4, 3, score="dot")
    with pytest.raises(ValueError, match="radius must be an integer of at least 1, got None"):
        MultiplicativeAttention(4, 4, locality="local_p")
    with pytest.raises(ValueError, match="has no window for score='concat': use impl='reference'"):
        layer = MultiplicativeAttention(4, 4, score="concat", locality="local_m", radius=2, impl="triton")
        layer(torch.ones(1, 2, 4), torch.ones(1, 3, 4), positions=torch.arange(2))
    with pytest.raises(ValueError, match="hidden_dim must be an integer of at least 1, got 0"):
        MultiplicativeAttention(4, 4, score="concat", hidden_dim=0)
    with pytest.raises(ValueError, match="'local_m' needs positions"):
        MultiplicativeAttention(4, 4, locality="local_m", radius=2)(torch.ones(1, 2, 4), torch.ones(1, 3, 4))
    with pytest.raises(ValueError, match="never forms weights"):
        MultiplicativeAttention(4, 4, impl="triton")(torch.ones(1, 2, 4), torch.ones(1, 3, 4), need_weights=True)
    layer = MultiplicativeAttention(4, 4, locality="local_m", radius=2)
    query, memory = torch.ones(1, 2, 4), torch.ones(1, 3, 4)
    with pytest.raises(ValueError, match="positions must have shape \\(2,\\), got \\(3,\\)"):
        layer(query, memory, positions=torch.arange(3))
    with pytest.raises(ValueError, match="key_lengths must lie in 0..3, got 4..4"):
        layer(query, memory, positions=torch.arange(2), key_lengths=torch.tensor([4]))
    with pytest.raises(ValueError, match="query must be \\(b, t, 4\\) and memory \\(b, s, 4\\), got \\(2, 4\\)"):
        layer(query[0], memory)


@pytest.mark.bad_input
@pytest.mark.parametrize("attend", [luong_local_attention, kernel.luong_local_attention_triton])
def test_bad_windows_are_named(attend):
    q, k, v, weight = (x.float() for x in (Q, K, V, WEIGHT))
    positions = torch.full((2, 1, 5), 3.0)
    for wrong, message in [
        (dict(positions=positions[..., :1]), "positions must be \\(b, h, t\\) = \\(2, 1, 5\\), got \\(2, 1, 1\\)"),
        (dict(positions=positions.long()), "positions must be floating point, got torch.int64"),
        (dict(gaussian=torch.ones(2, 1, 5, 6)), "gaussian must be \\(b, h, t, s\\) = \\(2, 1, 5, 7\\)"),
        (dict(radius=0), "radius must be an integer of at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            attend(**(dict(q=q, k=k, v=v, positions=positions, weight=weight, radius=2) | wrong))


@pytest.mark.bad_input
def test_bad_weights_are_named():
    lengths = torch.tensor([7, 7])
    with pytest.raises(ValueError, match="w_position must be \\(a, dq\\) with dq=4 and v_position \\(a,\\)"):
        predicted_positions(Q, torch.ones(3, 5).double(), torch.ones(3).double(), lengths)
    with pytest.raises(ValueError, match="source_lengths must have shape \\(2,\\), got \\(1,\\)"):
        predicted_positions(Q, torch.ones(3, 4).double(), torch.ones(3).double(), lengths[:1])
    with pytest.raises(ValueError, match="weight must be \\(a, dq \\+ dk\\) = \\(5, 7\\)"):
        concat_scores(Q, K, torch.ones(5, 8).double(), torch.ones(5).double())
