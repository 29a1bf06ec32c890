"""Every form of additive attention against the loop and each other; the kernels in the interpreter or on CUDA."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.additive import (
    AdditiveAttention,
    additive_attention,
    additive_attention_blocked,
    additive_attention_loop,
    additive_scores,
    additive_weights,
    peak_bytes,
)
from attncourse.profile import peak_memory
from attncourse.testing import assert_gradients_within_budget, assert_within_budget, gradients
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer, beside

kernel = pytest.importorskip("attncourse.additive.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {"additive": Layer(lambda **o: AdditiveAttention(D_MODEL, D_MODEL, hidden_dim=6, **o), call=beside)}


def make_inputs(*, b=2, h=1, t=5, s=7, dq=4, dk=3, dv=6, a=5, dtype=torch.float64, device="cpu", seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(b, h, t, dq), (b, h, s, dk), (b, h, s, dv), (a, dq), (a, dk), (a,)]
    return [torch.randn(shape, generator=rng, dtype=torch.float64).to(device, dtype) for shape in shapes]


def a_row_without_keys(t, s):
    return torch.zeros(t, s).index_fill(0, torch.tensor([t // 2]), -torch.inf)


MASKINGS = {
    "plain": lambda h, t, s: {},
    "lengths": lambda h, t, s: dict(key_lengths=torch.tensor([s, s // 2])),
    "no keys": lambda h, t, s: dict(key_lengths=torch.tensor([0, s])),
    "boolean mask": lambda h, t, s: dict(mask=torch.arange(t * s).reshape(t, s) % 3 > 0),
    "added mask": lambda h, t, s: dict(mask=torch.linspace(-2, 2, s)),
    "a row without keys": lambda h, t, s: dict(mask=a_row_without_keys(t, s)),
    "a mask a head, transposed": lambda h, t, s: dict(
        mask=torch.linspace(-2, 2, 2 * h * t * s).sin().reshape(2, h, s, t).transpose(-1, -2) > -0.5
    ),
}


def masking_for(name, q, k):
    masking = MASKINGS[name](q.shape[1], q.shape[2], k.shape[2])
    return {n: x.to(q.device).to(q.dtype) if x.is_floating_point() else x.to(q.device) for n, x in masking.items()}


def test_the_score_is_the_network_of_a_pair():
    q, k, _, w_q, w_k, w_score = make_inputs(h=2)
    scores = additive_scores(q, k, w_q, w_k, w_score)
    by_hand = w_score @ torch.tanh(w_q @ q[1, 0, 3] + w_k @ k[1, 0, 2])
    torch.testing.assert_close(scores[1, 0, 3, 2], by_hand)
    assert scores.shape == (2, 2, 5, 7)


@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 7), (7, 2)])
def test_definition_and_blocked_are_the_loop(t, s):
    inputs = make_inputs(b=1, t=t, s=s)
    loop = additive_attention_loop(*(x[0, 0] for x in inputs[:3]), *inputs[3:])
    torch.testing.assert_close(additive_attention(*inputs)[0, 0], loop)
    torch.testing.assert_close(additive_attention_blocked(*inputs, block=2)[0, 0], loop)


@pytest.mark.parametrize("length", [1, 3])
def test_padding_is_as_if_it_were_cut_off(length):
    inputs = make_inputs(b=1)
    q, k, v, *parameters = inputs
    wanted = additive_attention_loop(q[0, 0], k[0, 0, :length], v[0, 0, :length], *parameters)
    k[:, :, length:], v[:, :, length:] = torch.nan, torch.nan
    lengths = torch.tensor([length])
    for attend in (additive_attention, additive_attention_blocked):
        torch.testing.assert_close(attend(*inputs, key_lengths=lengths)[0, 0], wanted)
        assert all(x.isfinite().all() for x in gradients(lambda *x, f=attend: f(*x, key_lengths=lengths), *inputs))
    weights = additive_weights(q, k, *parameters, key_lengths=lengths)
    assert not weights[..., length:].any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 1, 5, dtype=torch.float64))


def test_a_batch_row_without_keys_reads_zeros():
    inputs = make_inputs()
    out = additive_attention(*inputs, key_lengths=torch.tensor([0, 7]))
    assert not out[0].any() and out[1].any()


@given(t=st.integers(0, 9), s=st.integers(0, 9), a=st.integers(1, 9), block=st.integers(1, 10), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_blocked_is_the_definition_at_every_size(t, s, a, block, seed):
    inputs = make_inputs(t=t, s=s, a=a, seed=seed)
    torch.testing.assert_close(additive_attention_blocked(*inputs, block=block), additive_attention(*inputs))


def test_the_order_of_keys_does_not_matter():
    q, k, v, *parameters = make_inputs()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = additive_attention(q, k[:, :, order], v[:, :, order], *parameters)
    torch.testing.assert_close(shuffled, additive_attention(q, k, v, *parameters))


@pytest.mark.parametrize("name", MASKINGS)
def test_gradients_of_blocked_are_the_definitions(name):
    inputs = make_inputs()
    masking = masking_for(name, *inputs[:2])
    got = gradients(lambda *x: additive_attention_blocked(*x, block=2, **masking), *inputs)
    wanted = gradients(lambda *x: additive_attention(*x, **masking), *inputs)
    for mine, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, truth)


def test_gradients_of_the_definition_are_right():
    inputs = [x.requires_grad_() for x in make_inputs(b=1, t=2, s=3)]
    assert torch.autograd.gradcheck(additive_attention, inputs)


@pytest.mark.parametrize("form", ["reference", "blocked", "triton"])
def test_the_memory_of_every_form_is_the_formulas(form, device):
    """The formula for the kernel has no term in t times s: a launcher that stored as much as one score a pair fails."""
    attend = dict(
        reference=additive_attention, blocked=additive_attention_blocked, triton=kernel.additive_attention_triton
    )[form]
    sizes = dict(t=48, s=80, a=48, dv=16)
    inputs = make_inputs(b=1, h=2, dq=16, dk=16, dtype=torch.float32, device=device, **sizes)

    def forward():
        with torch.no_grad():
            attend(*inputs)

    def train():
        torch.autograd.grad(attend(*leaves).sum(), leaves)

    leaves = [x.clone().requires_grad_() for x in inputs]
    train()  # what libraries allocate once, they allocate here
    assert peak_memory(forward) == pytest.approx(peak_bytes(form, rows=2, **sizes), rel=0.05)
    assert peak_memory(train) == pytest.approx(peak_bytes(form, rows=2, training=True, **sizes), rel=0.15)


def test_fusing_saves_what_grows_with_the_square():
    def saved(n):
        return peak_bytes("reference", t=n, s=n, a=64, dv=64) / peak_bytes("triton", t=n, s=n, a=64, dv=64)

    assert saved(2048) == pytest.approx(2 * saved(1024), rel=0.01)
    assert peak_bytes("blocked", t=7, s=9, a=5, dv=3) == peak_bytes("reference", t=7, s=9, a=5, dv=3)


# The kernels


@pytest.mark.parametrize("name", MASKINGS)
def test_the_kernel_keeps_its_budget_under_every_mask(name, device):
    check_kernel(name, dict(h=2, t=19, s=23, a=21, dv=10), torch.float32, device)


@pytest.mark.dry
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", [dict(t=1, s=1, a=1, dv=1), dict(t=17, s=33, a=16, dv=48)], ids=str)
def test_the_kernel_keeps_its_budget_in_every_dtype(dtype, sizes, device):
    check_kernel("plain", sizes, dtype, device)


def check_kernel(name, sizes, dtype, device):
    """Output and gradients against float64, with twice the error of plain PyTorch in this dtype as budget."""
    inputs = make_inputs(dtype=dtype, device=device, **sizes)
    masking, doubles = masking_for(name, *inputs[:2]), [x.double() for x in inputs]
    exact_masking = masking_for(name, *doubles[:2])
    got = kernel.additive_attention_triton(*inputs, **masking)
    exact = additive_attention(*doubles, **exact_masking)
    assert got.dtype == dtype
    assert_within_budget(got, plain=additive_attention(*inputs, **masking), exact=exact)
    mine = gradients(lambda *x: kernel.additive_attention_triton(*x, **masking), *inputs)
    plain = gradients(lambda *x: additive_attention(*x, **masking), *inputs)
    truth = gradients(lambda *x: additive_attention(*x, **exact_masking), *doubles)
    assert_gradients_within_budget(mine, plain=plain, exact=truth, zero=16 * torch.finfo(dtype).eps)


def test_nan_in_padding_does_not_reach_the_kernel(device):
    inputs = make_inputs(dtype=torch.float32, device=device)
    lengths = torch.tensor([3, 0], device=device)
    clean = additive_attention(*inputs, key_lengths=lengths)
    inputs[1][0, :, 3:], inputs[2][0, :, 3:], inputs[1][1], inputs[2][1] = (torch.nan,) * 4
    got = kernel.additive_attention_triton(*inputs, key_lengths=lengths)
    torch.testing.assert_close(got, clean)
    assert all(x.isfinite().all() for x in gradients(
        lambda *x: kernel.additive_attention_triton(*x, key_lengths=lengths), *inputs))  # fmt: skip


@pytest.mark.parametrize(("t", "s"), [(0, 3), (3, 0)])
def test_the_kernel_of_nothing_is_the_definition_of_nothing(t, s, device):
    inputs = make_inputs(t=t, s=s, dtype=torch.float32, device=device)
    for attend in (kernel.additive_attention_triton, additive_attention_blocked, additive_attention):
        out = attend(*inputs)
        assert out.shape == (2, 1, t, 6) and not out.any()
        assert not any(x.any() for x in gradients(attend, *inputs))


def test_the_kernel_reads_masks_of_more_than_two_to_the_31_elements(device):
    inputs = make_inputs(b=1, t=4, s=5, dtype=torch.float32, device=device)
    mask = torch.empty_strided((4, 5), (2**30, 1), dtype=torch.bool, device=device)  # pages not written to cost nothing
    mask.copy_(torch.arange(20).reshape(4, 5) % 3 > 0)
    torch.testing.assert_close(
        kernel.additive_attention_triton(*inputs, mask=mask), additive_attention(*inputs, mask=mask.contiguous())
    )


def test_the_kernel_writes_every_element_and_takes_any_strides(device):
    torch.use_deterministic_algorithms(True)  # fresh memory is NaN
    try:
        inputs = make_inputs(h=2, t=18, s=20, dtype=torch.float32, device=device)
        lengths = torch.tensor([20, 1, 7, 1], device=device)[::2]
        wanted = additive_attention(*inputs, key_lengths=lengths)
        strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:3]]
        assert not strided[0].is_contiguous()
        got = kernel.additive_attention_triton(*strided, *inputs[3:], key_lengths=lengths)
        torch.testing.assert_close(got, wanted)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("additive", capability)
    assert len(compiled) >= 9
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        assert c.spills == 0, c
        if capability >= 80 and "fp32" not in c.case:
            assert c.matrix == "mma", c  # tiles of 16 rows: the product with the values, below wgmma's 64


# The module


@pytest.mark.parametrize("impl", ["reference", "blocked", "triton"])
def test_every_impl_of_the_module_is_one_function(impl, device):
    torch.manual_seed(0)
    layer = AdditiveAttention(4, 6, hidden_dim=5, impl=impl).to(device)
    query, memory = torch.randn(2, 3, 4, device=device), torch.randn(2, 7, 6, device=device)
    lengths = torch.tensor([7, 2], device=device)
    context = layer(query, memory, key_lengths=lengths)
    for i, length in enumerate(lengths.tolist()):
        wanted = additive_attention_loop(
            query[i], memory[i, :length], memory[i, :length], layer.w_q, layer.w_k, layer.w_score
        )
        torch.testing.assert_close(context[i], wanted, rtol=1e-4, atol=1e-5)
    if impl == "reference":
        again, weights = layer(query, memory, key_lengths=lengths, need_weights=True)
        torch.testing.assert_close(again, context)
        torch.testing.assert_close(weights @ memory, context)


# Bad input

Q, K, V, W_Q, W_K, W_SCORE = make_inputs()
BAD = {
    "three axes": (dict(q=Q[0]), "q must be \\(batch, heads, length, width\\)"),
    "heads differ": (dict(k=K.expand(-1, 2, -1, -1)), "q and k must share batch and heads"),
    "w_q of another width": (dict(w_q=W_Q[:, :2]), "w_q must be \\(a, dq\\)"),
    "hidden widths differ": (dict(w_k=W_K[:2]), "w_q must be \\(a, dq\\), w_k \\(a, dk\\), w_score \\(a,\\)"),
    "w_score a matrix": (dict(w_score=W_SCORE[None]), "w_score \\(a,\\)"),
    "values of another length": (dict(v=V[:, :, :3]), "v must be \\(b, h, s, dv\\) = \\(2, 1, 7, dv\\)"),
    "integers": (dict(v=V.long()), "v must be floating point"),
    "dtypes differ": (dict(w_q=W_Q.half()), "must share one dtype"),
    "lengths past the end": (dict(key_lengths=torch.tensor([8, 1])), "must lie in 0..7, got 1..8"),
    "mask of another shape": (dict(mask=torch.ones(5, 6) > 0), "mask must broadcast"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attend", [additive_attention, additive_attention_blocked, kernel.additive_attention_triton])
def test_bad_input_is_named(case, attend):
    changed, message = BAD[case]
    arguments = dict(q=Q, k=K, v=V, w_q=W_Q, w_k=W_K, w_score=W_SCORE) | changed
    with pytest.raises(ValueError, match=message):
        attend(**arguments)


@pytest.mark.bad_input
def test_what_an_impl_cannot_do_it_says():
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, triton, got 'torch'"):
        AdditiveAttention(4, 4, hidden_dim=4, impl="torch")
    with pytest.raises(ValueError, match="never forms weights: use impl='reference'"):
        AdditiveAttention(4, 4, hidden_dim=4, impl="blocked")(
            torch.ones(1, 2, 4), torch.ones(1, 3, 4), need_weights=True
        )
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.additive_attention_triton(Q, K, V, W_Q, W_K, W_SCORE)
    with pytest.raises(ValueError, match="hidden_dim must be an integer of at least 1, got 0"):
        AdditiveAttention(4, 4, hidden_dim=0)
    with pytest.raises(
        ValueError, match="query must be \\(b, t, 4\\) and memory \\(b, s, 6\\), got \\(2, 4\\) and \\(3, 6\\)"
    ):
        AdditiveAttention(4, 6, hidden_dim=5)(torch.ones(2, 4), torch.ones(3, 6))
    with pytest.raises(ValueError, match="form must be one of reference, blocked, triton, got 'fused'"):
        peak_bytes("fused", t=1, s=1, a=1, dv=1)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        additive_attention_blocked(Q, K, V, W_Q, W_K, W_SCORE, block=0)
