"""Every form of softmax attention against the loop, PyTorch, and each other; the kernels in the interpreter or on CUDA."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.merge import merge_partial
from attncourse.profile import peak_memory
from attncourse.softmax_attention import (
    SoftmaxAttention,
    attention_weights,
    online_softmax_attention,
    softmax_attention,
    softmax_attention_blocked,
    softmax_attention_loop,
    softmax_attention_torch,
)
from attncourse.testing import (
    assert_causal,
    assert_gradients_within_budget,
    assert_within_budget,
    gradients,
    make_qkv,
    relative_error,
)
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer

kernel = pytest.importorskip("attncourse.softmax_attention.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {"softmax_attention": Layer(lambda **o: SoftmaxAttention(D_MODEL, **o), masks=True)}


def blocked(q, k, v, **masking):
    return softmax_attention_blocked(q, k, v, block=5, **masking)


MASKINGS = {
    "plain": lambda b, h, t, s: {},
    "causal": lambda b, h, t, s: dict(causal=True),
    "window": lambda b, h, t, s: dict(window=4),
    "lengths": lambda b, h, t, s: dict(key_lengths=torch.tensor([s, 0, s // 2])[:b]),
    "lengths and causal": lambda b, h, t, s: dict(key_lengths=torch.tensor([s - 1, 1, s // 2])[:b], causal=True),
    "boolean mask": lambda b, h, t, s: dict(mask=torch.arange(t * s).reshape(t, s) % 3 > 0),
    "mask a head": lambda b, h, t, s: dict(mask=torch.arange(h * s).reshape(h, 1, s) % 4 > 0),
    "added mask": lambda b, h, t, s: dict(mask=torch.linspace(-2, 2, b * s).reshape(b, 1, 1, s)),
    "softcap": lambda b, h, t, s: dict(softcap=1.5, causal=True),
    "scale": lambda b, h, t, s: dict(scale=0.7),
}


def masking_for(name, q, k):
    masking = MASKINGS[name](*q.shape[:3], k.shape[2])
    moved = {n: x.to(q.device) if isinstance(x, torch.Tensor) else x for n, x in masking.items()}
    if isinstance(moved.get("mask"), torch.Tensor) and moved["mask"].is_floating_point():
        moved["mask"] = moved["mask"].to(q.dtype)
    return moved


def dense_by_hand(q, k, v, *, causal=False, window=None, key_lengths=None, mask=None, scale=None, softcap=None):
    """A loop over every pair in float64, written apart from the package: the oracle of the masked forms."""
    b, h, t, dk = q.shape
    g, s = k.shape[1:3]
    out = torch.zeros(b, h, t, v.shape[-1], dtype=torch.float64)
    for i in range(b):
        for j in range(h):
            for row in range(t):
                at, pairs = s - t + row, []
                for col in range(s):
                    score = float(q[i, j, row].double() @ k[i, j * g // h, col].double())
                    score *= dk**-0.5 if scale is None else scale
                    if softcap is not None:
                        score = softcap * float(torch.tanh(torch.tensor(score / softcap, dtype=torch.float64)))
                    hidden = (causal or window is not None) and col > at
                    hidden |= window is not None and col <= at - window
                    hidden |= key_lengths is not None and col >= int(key_lengths[i])
                    if mask is not None:
                        entry = mask.expand(b, h, t, s)[i, j, row, col]
                        hidden |= mask.dtype == torch.bool and not bool(entry)
                        score += 0.0 if mask.dtype == torch.bool else float(entry)
                    if not hidden:
                        pairs.append((score, col))
                if pairs:
                    weights = torch.softmax(torch.tensor([p[0] for p in pairs], dtype=torch.float64), dim=0)
                    out[i, j, row] = sum(
                        w * v[i, j * g // h, p[1]].double() for w, p in zip(weights, pairs, strict=True)
                    )
    return out


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize(("t", "s"), [(7, 7), (3, 11), (11, 3), (1, 1)])
def test_the_definition_is_the_loop_under_every_mask(name, t, s):
    q, k, v = make_qkv(b=3, h=4, g=2, t=t, s=s, dk=5, dv=3)
    masking = masking_for(name, q, k)
    wanted = dense_by_hand(q, k, v, **masking)
    torch.testing.assert_close(softmax_attention(q, k, v, **masking), wanted)
    torch.testing.assert_close(blocked(q, k, v, **masking), wanted)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("t", "s"), [(1, 1), (6, 6), (2, 9), (9, 2)])
def test_loop_online_and_formula_are_one_function(causal, t, s):
    q, k, v = make_qkv(b=1, h=1, t=t, s=s, dk=4, dv=3)
    loop = softmax_attention_loop(q[0, 0], k[0, 0], v[0, 0], causal=causal)
    torch.testing.assert_close(softmax_attention(q, k, v, causal=causal)[0, 0], loop)
    if not causal:
        torch.testing.assert_close(online_softmax_attention(q[0, 0], k[0, 0], v[0, 0]), loop)


@pytest.mark.parametrize("name", ["plain", "boolean mask", "added mask", "scale"])
def test_pytorch_agrees_where_it_has_the_mask(name):
    q, k, v = make_qkv(b=3, h=4, g=2, t=6, s=9)
    masking = masking_for(name, q, k)
    wanted = scaled_dot_product_attention(
        q, k, v, attn_mask=masking.get("mask"), scale=masking.get("scale"), enable_gqa=True
    )
    torch.testing.assert_close(softmax_attention(q, k, v, **masking), wanted)


def test_pytorchs_is_causal_is_aligned_to_the_start_and_ours_to_the_end():
    q, k, v = make_qkv(b=1, h=1, t=2, s=4)
    theirs = scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(theirs[0, 0, 0], v[0, 0, 0])  # their first query sees the first key alone
    seen_by_first = attention_weights(q, k, causal=True)[0, 0, 0] > 0
    assert seen_by_first.tolist() == [True, True, True, False]
    square = make_qkv(b=1, h=1, t=4, s=4)
    torch.testing.assert_close(
        softmax_attention(*square, causal=True), scaled_dot_product_attention(*square, is_causal=True)
    )


@given(
    b=st.integers(1, 2), g=st.integers(1, 2), group=st.integers(1, 3), t=st.integers(1, 12), s=st.integers(1, 12),
    dk=st.integers(1, 9), dv=st.integers(1, 9), window=st.none() | st.integers(1, 14), block=st.integers(1, 13),
    seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_blocked_is_the_definition_at_every_size(b, g, group, t, s, dk, dv, window, block, seed):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=t, s=s, dk=dk, dv=dv, seed=seed)
    out, lse = softmax_attention_blocked(q, k, v, window=window, block=block, return_lse=True)
    wanted, wanted_lse = softmax_attention(q, k, v, window=window, return_lse=True)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, wanted_lse)


@pytest.mark.parametrize("name", MASKINGS)
def test_gradients_of_blocked_and_torch_are_the_definitions(name):
    q, k, v = make_qkv(b=3, h=4, g=2, t=7, s=9, dk=5, dv=3)
    masking = masking_for(name, q, k)
    wanted = gradients(lambda *x: softmax_attention(*x, **masking), q, k, v)
    for got, want in zip(gradients(lambda *x: blocked(*x, **masking), q, k, v), wanted, strict=True):
        torch.testing.assert_close(got, want)
    if not masking.keys() & {"softcap", "window"}:
        for got, want in zip(
            gradients(lambda *x: softmax_attention_torch(*x, **masking), q, k, v), wanted, strict=True
        ):
            torch.testing.assert_close(got, want)


@pytest.mark.dry
def test_the_log_sum_exp_has_gradients_too():
    q, k, v = make_qkv(b=1, h=2, g=1, t=5, s=6, dk=3, grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: softmax_attention_blocked(*x, causal=True, block=2, return_lse=True), (q, k, v)
    )


def test_equivalences_of_heads_and_windows():
    q, k, v = make_qkv(h=4, g=1, t=6, s=6)
    shared = softmax_attention(q, k, v)
    copied = softmax_attention(q, k.expand(-1, 4, -1, -1), v.expand(-1, 4, -1, -1))
    torch.testing.assert_close(shared, copied)  # one key/value head is multi-query attention
    causal = softmax_attention(q, k, v, causal=True)
    torch.testing.assert_close(softmax_attention(q, k, v, window=6), causal)
    torch.testing.assert_close(softmax_attention(q, k, v, window=100), causal)


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_two_halves_of_the_keys_merge_to_the_whole(cut):
    q, k, v = make_qkv(t=5, s=9)
    left = softmax_attention(q, k[:, :, :cut], v[:, :, :cut], return_lse=True)
    right = softmax_attention(q, k[:, :, cut:], v[:, :, cut:], return_lse=True)
    out, lse = merge_partial(*left, *right)
    wanted, wanted_lse = softmax_attention(q, k, v, return_lse=True)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, wanted_lse)


def all_forms(device):
    return {
        "reference": softmax_attention,
        "blocked": blocked,
        "torch": softmax_attention_torch,
        "triton": kernel.softmax_attention_triton,
    }


@pytest.mark.parametrize("form", ["reference", "blocked", "torch", "triton"])
def test_no_form_sees_the_future(form, device):
    q, k, v = make_qkv(b=1, h=2, g=1, t=6, s=8, dtype=torch.float32, device=device)
    assert_causal(lambda *x: all_forms(device)[form](*x, causal=True), q, k, v)


@pytest.mark.parametrize("form", ["reference", "blocked", "torch", "triton"])
def test_nan_in_padding_goes_nowhere(form, device):
    q, k, v = make_qkv(b=2, t=5, s=7, dtype=torch.float32, device=device)
    lengths = torch.tensor([4, 0], device=device)
    clean = softmax_attention(q, k, v, key_lengths=lengths)
    k[0, :, 4:], v[0, :, 4:], k[1], v[1] = (torch.nan,) * 4
    attend = all_forms(device)[form]
    torch.testing.assert_close(attend(q, k, v, key_lengths=lengths), clean)
    assert clean[1].abs().max() == 0
    for gradient in gradients(lambda *x: attend(*x, key_lengths=lengths), q, k, v):
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() == 0


@pytest.mark.parametrize("form", ["reference", "blocked", "torch", "triton"])
@pytest.mark.parametrize("empty", ["b", "t", "s"])
def test_length_zero_is_no_special_case(form, empty, device):
    q, k, v = make_qkv(t=3, s=4, dtype=torch.float32, device=device)
    q, k, v = (
        (q[:0], k[:0], v[:0])
        if empty == "b"
        else (q[:, :, :0], k, v)
        if empty == "t"
        else (q, k[:, :, :0], v[:, :, :0])
    )
    out = all_forms(device)[form](q, k, v)
    assert out.shape == (*q.shape[:3], v.shape[-1])
    assert not out.any()


def test_blocked_takes_memory_linear_in_the_length():
    def bytes_at(attend, n):
        q, k, v = make_qkv(b=1, h=1, t=n, s=n, dk=16, dtype=torch.float32, grad=True)
        return peak_memory(lambda: attend(q, k, v, causal=True).sum().backward())

    grown = {f.__name__: bytes_at(f, 2048) / bytes_at(f, 512) for f in (softmax_attention, softmax_attention_blocked)}
    assert grown["softmax_attention"] > 12  # four times the length, sixteen times the weights
    assert grown["softmax_attention_blocked"] < 4.5


# The kernels


@pytest.mark.parametrize("name", MASKINGS)
def test_the_kernel_keeps_its_budget_under_every_mask(name, device):
    check_kernel(name, dict(b=3, h=4, g=2, t=37, s=53, dk=17, dv=24), torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dk", "dv"), [(16, 16), (40, 80), (64, 64), (96, 128), (160, 256), (1, 3)])
def test_the_kernel_keeps_its_budget_at_every_width(dtype, dk, dv, device):
    check_kernel("causal", dict(b=1, h=2, g=1, t=19, s=35, dk=dk, dv=dv), dtype, device)


@pytest.mark.dry
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 67), (67, 1), (130, 130), (70, 31)])
@pytest.mark.parametrize("name", ["plain", "causal", "window"])
def test_the_kernel_keeps_its_budget_off_the_block_edges(name, t, s, device):
    check_kernel(name, dict(b=1, h=2, g=2, t=t, s=s, dk=8, dv=8), torch.float32, device)


def check_kernel(name, sizes, dtype, device):
    """Output, log-sum-exp and gradients against float64, with twice the error of plain PyTorch in this dtype as budget."""
    q, k, v = make_qkv(dtype=dtype, device=device, **sizes)
    masking = masking_for(name, q, k)
    exact_masking = {
        n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for n, x in masking.items()
    }
    exact_inputs = [x.double() for x in (q, k, v)]
    exact, exact_lse = softmax_attention(*exact_inputs, **exact_masking, return_lse=True)
    out, lse = kernel.softmax_attention_triton(q, k, v, **masking, return_lse=True)
    plain = softmax_attention(q, k, v, **masking)
    assert out.dtype == dtype
    assert_within_budget(out, plain=plain, exact=exact, what="output")
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-3, atol=1e-3)
    wanted = gradients(lambda *x: softmax_attention(*x, **exact_masking), *exact_inputs)
    plain = gradients(lambda *x: softmax_attention(*x, **masking), q, k, v)
    got = gradients(lambda *x: kernel.softmax_attention_triton(*x, **masking), q, k, v)
    # One visible key: do . v less do . out is 0, of terms of this size, each rounded; then times a row of q or k.
    rows = [x.double().norm(dim=-1).max() for x in (q, k, v)]
    terms = rows[2] * v.shape[-1] ** 0.5 * max(rows[:2]) * q.shape[-1] ** -0.5
    assert_gradients_within_budget(got, plain=plain, exact=wanted, zero=4 * torch.finfo(dtype).eps * terms)


def test_the_kernel_takes_any_strides(device):
    q, k, v = make_qkv(b=2, h=3, t=9, s=9, dtype=torch.float32, device=device)
    wanted = gradients(lambda *x: softmax_attention(*x, causal=True), q, k, v)

    def transposed(x):  # (b, t, h, d) in memory, as projections leave it
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    strided = [transposed(q), transposed(k), v.repeat_interleave(2, dim=-1)[..., ::2]]
    assert not any(x.is_contiguous() for x in strided)
    torch.testing.assert_close(
        kernel.softmax_attention_triton(*strided, causal=True), softmax_attention(q, k, v, causal=True)
    )
    for got, want in zip(
        gradients(lambda *x: kernel.softmax_attention_triton(*x, causal=True), *strided), wanted, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_kernel_takes_lengths_of_any_strides(device):
    q, k, v = make_qkv(b=3, s=19, dtype=torch.float32, device=device)
    lengths = torch.tensor([19, 1, 4, 1, 11, 1], device=device)[::2]
    torch.testing.assert_close(
        kernel.softmax_attention_triton(q, k, v, key_lengths=lengths), softmax_attention(q, k, v, key_lengths=lengths)
    )


def test_the_kernel_reads_masks_of_more_than_two_to_the_31_elements(device):
    q, k, v = make_qkv(b=1, h=1, t=4, s=5, dtype=torch.float32, device=device)
    mask = torch.empty_strided((4, 5), (2**30, 1), dtype=torch.bool, device=device)  # pages not written to cost nothing
    mask.copy_(torch.arange(20).reshape(4, 5) % 3 > 0)
    torch.testing.assert_close(
        kernel.softmax_attention_triton(q, k, v, mask=mask), softmax_attention(q, k, v, mask=mask.contiguous())
    )


@pytest.mark.dry
def test_the_kernels_log_sum_exp_has_gradients(device):
    q, k, v = make_qkv(b=1, h=2, g=1, t=9, s=12, dtype=torch.float32, device=device)

    def through_both(attend):
        def total(*x):
            out, lse = attend(*x, causal=True, return_lse=True)
            return out + torch.sin(lse)[..., None].to(out.dtype)

        return total

    got = gradients(through_both(kernel.softmax_attention_triton), q, k, v)
    wanted = gradients(through_both(softmax_attention), *(x.double() for x in (q, k, v)))
    for mine, truth in zip(got, wanted, strict=True):
        assert relative_error(mine, truth) < 1e-5


@pytest.mark.parametrize("which", [0, 1], ids=["output", "log-sum-exp"])
def test_of_the_kernels_two_outputs_the_one_without_a_gradient_gets_no_zeros(which, device, monkeypatch):
    q, k, v = make_qkv(b=1, h=2, g=1, t=9, s=12, dtype=torch.float32, device=device)
    given, row_delta = [], kernel.row_delta

    def spy(out, dout, dlse=None):
        given.append(dlse)
        return row_delta(out, dout, dlse)

    def one_of(attend):
        return lambda q, k, v: torch.sin(attend(q, k, v, causal=True, return_lse=True)[which]) + 0.0 * v.sum()

    monkeypatch.setattr(kernel, "row_delta", spy)
    got = gradients(one_of(kernel.softmax_attention_triton), q, k, v)
    wanted = gradients(one_of(softmax_attention), *(x.double() for x in (q, k, v)))
    assert [dlse is None for dlse in given] == [which == 0]
    for mine, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-4, atol=1e-5)


def test_the_kernel_writes_every_element(device):
    """In this mode PyTorch fills fresh memory with NaN, and what no program writes stays so."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=device).isnan().all()
        q, k, v = make_qkv(t=33, s=49, dk=24, dtype=torch.float32, device=device)
        out, lse = kernel.softmax_attention_triton(q, k, v, causal=True, return_lse=True)
        assert out.isfinite().all() and lse.isfinite().all()
        for gradient in gradients(lambda *x: kernel.softmax_attention_triton(*x, causal=True), q, k, v):
            assert gradient.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


# The module


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch", "triton"])
def test_every_impl_of_the_module_is_one_function(impl, device):
    torch.manual_seed(0)
    layer = SoftmaxAttention(12, d_context=10, head_dim=8, v_head_dim=6, causal=True, impl=impl).to(device)
    x, context = torch.randn(2, 5, 12, device=device), torch.randn(2, 7, 10, device=device)
    lengths = torch.tensor([7, 6], device=device)
    q, k, v = (project(y).double() for project, y in ((layer.w_q, x), (layer.w_k, context), (layer.w_v, context)))
    head = dense_by_hand(*(y[:, None].detach().cpu() for y in (q, k, v)), causal=True, key_lengths=lengths.cpu())[:, 0]
    wanted = head.float().to(device) @ layer.w_o.weight.T
    torch.testing.assert_close(layer(x, context, key_lengths=lengths), wanted, rtol=1e-4, atol=1e-5)


def test_the_module_gives_weights_and_log_sum_exp_on_request():
    layer = SoftmaxAttention(6, impl="reference").double()
    x = make_qkv(b=2, h=1, t=4, dk=6)[0][:, 0]
    out, weights, lse = layer(x, need_weights=True, need_lse=True)
    assert out.shape == (2, 4, 6) and lse.shape == (2, 4)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, dtype=torch.float64))
    scores = layer.w_q(x) @ layer.w_k(x).transpose(1, 2) * 6**-0.5
    torch.testing.assert_close(weights, (scores - lse[..., None]).exp())


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_dropout_drops_weights_in_training_and_keeps_their_mean(impl):
    torch.manual_seed(0)
    layer = SoftmaxAttention(8, dropout=0.5, impl=impl)
    x = torch.randn(1, 6, 8)
    steady = layer.eval()(x)
    torch.testing.assert_close(layer(x), steady)
    layer.train()
    drawn = torch.stack([layer(x) for _ in range(3000)])
    assert drawn.std(dim=0).min() > 0
    assert (drawn.mean(dim=0) - steady).abs().max() < 6 * drawn.std(dim=0).max() / 3000**0.5


# Bad input

Q, K, V = make_qkv(b=2, h=4, g=2, t=3, s=5, dk=8, dv=6)
BAD = {
    "three axes": (dict(q=Q[0]), "must be \\(batch, heads, length, width\\), got shape \\(4, 3, 8\\)"),
    "widths differ": (dict(q=Q[..., :7]), "must share the width dk"),
    "lengths differ": (dict(v=V[:, :, :4]), "must share heads and length"),
    "batches differ": (dict(q=Q[:1]), "must share the batch size"),
    "g does not divide h": (dict(q=Q[:, :3]), "the 2 key/value heads must divide the 3 query heads"),
    "integers": (dict(k=K.long()), "k must be floating point, got torch.int64"),
    "dtypes differ": (dict(k=K.float()), "must share one dtype"),
    "devices differ": (dict(k=K.to("meta")), "must share one device"),
    "not a tensor": (dict(q=Q.numpy()), "q must be a torch.Tensor, got ndarray"),
    "mask of integers": (dict(mask=torch.ones(3, 5).long()), "mask must be boolean"),
    "mask of another shape": (dict(mask=torch.ones(3, 4) > 0), "mask must broadcast to \\(b, h, t, s\\) = \\(2, 4, 3, 5\\)"),
    "lengths of another batch": (dict(key_lengths=torch.tensor([1])), "key_lengths must have shape \\(2,\\)"),
    "lengths past the end": (dict(key_lengths=torch.tensor([1, 6])), "must lie in 0..5, got 1..6"),
    "lengths of floats": (dict(key_lengths=torch.tensor([1.0, 2.0])), "key_lengths must be an integer tensor"),
    "no window": (dict(window=0), "window must be at least 1 .*, got 0"),
    "no softcap": (dict(softcap=0.0), "softcap must be positive, got 0.0"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attend", [softmax_attention, softmax_attention_blocked, kernel.softmax_attention_triton])
def test_bad_input_is_named(case, attend):
    changed, message = BAD[case]
    arguments = dict(q=Q, k=K, v=V) | changed
    if attend is kernel.softmax_attention_triton:  # which has no float64, and says so first
        arguments = {
            n: x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x
            for n, x in arguments.items()
        }
        if case == "dtypes differ":
            arguments["k"] = arguments["k"].half()
    with pytest.raises(ValueError, match=message):
        attend(**arguments)


@pytest.mark.bad_input
def test_what_an_impl_cannot_do_it_says():
    x = torch.randn(1, 3, 4)
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, torch, triton, got 'cuda'"):
        SoftmaxAttention(4, impl="cuda")
    with pytest.raises(ValueError, match="no dropout on weights: use impl='reference' or 'torch', got dropout=0.1"):
        SoftmaxAttention(4, dropout=0.1, impl="triton")
    with pytest.raises(ValueError, match="never forms weights: use 'reference'"):
        SoftmaxAttention(4, impl="blocked")(x, need_weights=True)
    with pytest.raises(ValueError, match="gives no log-sum-exp"):
        SoftmaxAttention(4, impl="torch")(x, need_lse=True)
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.softmax_attention_triton(Q, K, V)
    wide = make_qkv(dk=300, dtype=torch.float32)
    with pytest.raises(ValueError, match="takes widths to 256, got 300"):
        kernel.softmax_attention_triton(*wide)
    added = torch.zeros(3, 5, requires_grad=True)
    for attend in (kernel.softmax_attention_triton, softmax_attention_blocked):
        with pytest.raises(ValueError, match="no gradient to an added mask"):
            attend(Q.float(), K.float(), V.float(), mask=added)


def test_a_second_derivative_is_refused_not_wrong(device):
    q, k, v = make_qkv(b=1, h=1, t=4, dtype=torch.float32, device=device, grad=True)
    for attend in (kernel.softmax_attention_triton, softmax_attention_blocked):
        (first,) = torch.autograd.grad(attend(q, k, v).square().sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
            first.sum().backward()


# The compiler


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("softmax_attention", capability)
    assert len(compiled) >= 15
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        if capability >= 80 and "fp32" not in c.case:
            assert c.spills == 0, c
            # Tiles of 32 rows are below the 64 that one wgmma or tcgen05 takes; such kernels may use mma.
            assert c.matrix != "none", c
    forward = [c for c in compiled if "fwd" in c.kernel and "fp32" not in c.case]
    for c in forward:
        # Tiles of whole keys: their reads are of 16 bytes and ask nothing, and no register is put aside.
        assert c.loop.local == 0 and ((c.loop.copies > 0 and c.loop.narrow == 0) or capability == 75), c
    expected = {75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]
    assert {c.matrix for c in forward} == {expected}
