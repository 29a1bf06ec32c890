"""Every form of global and local attention against the loop, Hugging Face, FlexAttention, and each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared import launch
from attncourse.global_local import (
    GlobalLocalAttention,
    global_local_attention,
    global_local_attention_blocked,
    global_local_loop,
    global_local_mask,
    state_dict_from_longformer,
)
from attncourse.profile import peak_memory
from attncourse.testing import assert_gradients_within_budget, assert_within_budget, gradients, make_qkv
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer

kernel = pytest.importorskip("attncourse.global_local.kernel", reason="Triton is on Linux alone")


def with_hubs(layer, x, **options):
    """The second token is global."""
    return layer(x, global_indices=torch.ones(1, dtype=torch.long, device=getattr(x, "device", None)), **options)


# What `test_every_form` builds and calls.
LAYERS = {
    "global_local": Layer(lambda **o: GlobalLocalAttention(D_MODEL, 2, radius=2, **o)),
    "global_local, hubs": Layer(lambda **o: GlobalLocalAttention(D_MODEL, 2, radius=2, **o), call=with_hubs),
}


def blocked(*qkv, **options):
    return global_local_attention_blocked(*qkv, block=5, **options)


def draw(*, b=2, h=4, g=2, t=11, dk=5, dv=3, n=2, dtype=torch.float64, device="cpu", seed=0):
    """q, k, v of every token, and q, k, v of global tokens."""
    q, k, v = make_qkv(b=b, h=h, g=g, t=t, dk=dk, dv=dv, dtype=dtype, device=device, seed=seed)
    q_global, k_global, v_global = make_qkv(
        b=b, h=h, g=g, t=n, s=t, dk=dk, dv=dv, dtype=dtype, device=device, seed=seed + 1
    )
    return (q, k, v), (q_global, k_global, v_global)


def by_loop(q, k, v, *, radius, global_indices=None, global_qkv=None, key_lengths=None):
    """The loop over sequences and heads, each cut to its length and to its own global tokens."""
    (b, h, t, _), g = q.shape, k.shape[1]
    out = torch.zeros(b, h, t, v.shape[-1], dtype=torch.float64)
    for i in range(b):
        length = t if key_lengths is None else int(key_lengths[i])
        row = [] if global_indices is None else global_indices.expand(b, -1)[i].tolist()
        kept = [n for n, at in enumerate(row) if 0 <= at < length]
        for j in range(h):
            theirs = None
            if global_qkv is not None:
                q_global, k_global, v_global = global_qkv
                theirs = (
                    q_global[i, j, kept], k_global[i, j * g // h, :length], v_global[i, j * g // h, :length],
                )  # fmt: skip
            out[i, j, :length] = global_local_loop(
                q[i, j, :length], k[i, j * g // h, :length], v[i, j * g // h, :length], radius=radius,
                global_positions=[row[n] for n in kept], global_qkv=theirs,
            )  # fmt: skip
    return out


CASES = {
    "two hubs": lambda t: dict(global_indices=torch.tensor([t - 1, 0])),
    "no hub": lambda t: dict(),
    "an empty list": lambda t: dict(global_indices=torch.zeros(0, dtype=torch.long)),
    "all are hubs": lambda t: dict(global_indices=torch.arange(t)),
    "a hub in padding": lambda t: dict(global_indices=torch.tensor([1, t - 1]), key_lengths=torch.tensor([t, t - 2])),
    "hubs of their own": lambda t: dict(global_indices=torch.tensor([[3, -1, 0], [-1, -1, -1]])),
    "hubs of their own, padded": lambda t: dict(
        global_indices=torch.tensor([[3, 5, -1], [2, -1, 9]]), key_lengths=torch.tensor([5, t])
    ),
    "nothing but padding": lambda t: dict(global_indices=torch.tensor([0]), key_lengths=torch.tensor([0, t])),
}  # fmt: skip


def hubs_in(case):
    return 0 if "global_indices" not in case else case["global_indices"].shape[-1]


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("radius", [1, 3, 40])
@pytest.mark.parametrize("name", CASES)
def test_the_definition_and_the_blocks_are_the_loop(name, radius, separate):
    case = CASES[name](11) | dict(radius=radius)
    qkv, theirs = draw(n=hubs_in(case))
    if separate and "global_indices" in case:
        case["global_qkv"] = theirs
    wanted = by_loop(*qkv, **case)
    torch.testing.assert_close(global_local_attention(*qkv, **case), wanted)
    torch.testing.assert_close(blocked(*qkv, **case), wanted)


@given(
    b=st.integers(1, 2), g=st.integers(1, 2), group=st.integers(1, 3), t=st.integers(1, 13), dk=st.integers(1, 9),
    dv=st.integers(1, 9), radius=st.integers(1, 15), block=st.integers(1, 14), seed=st.integers(0, 999), data=st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_blocked_is_the_definition_at_every_size(b, g, group, t, dk, dv, radius, block, seed, data):
    hubs = data.draw(st.lists(st.integers(0, t - 1), unique=True))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, t), min_size=b, max_size=b)))
    qkv, theirs = draw(b=b, h=g * group, g=g, t=t, dk=dk, dv=dv, n=len(hubs), seed=seed)
    poisoned = [x.clone() for x in qkv]
    for x in poisoned:
        for i in range(b):
            x[i, :, lengths[i] :] = torch.nan
    case = dict(
        radius=radius, global_indices=torch.tensor(hubs, dtype=torch.long), global_qkv=theirs, key_lengths=lengths
    )
    wanted = global_local_attention(*qkv, **case)
    torch.testing.assert_close(global_local_attention(*poisoned, **case), wanted)
    torch.testing.assert_close(global_local_attention_blocked(*poisoned, block=block, **case), wanted)


@pytest.mark.parametrize("name", CASES)
def test_the_mask_is_what_the_loop_reads(name):
    case = CASES[name](11)
    mask = global_local_mask(11, radius=2, b=2, **case)
    one_hot = torch.eye(11, dtype=torch.float64).expand(2, 1, 11, 11)
    seen = by_loop(*make_qkv(b=2, h=1, t=11)[:2], one_hot, radius=2, **case) > 0
    assert torch.equal(seen, mask)
    assert torch.equal(mask, mask.transpose(-1, -2))  # who reads a token is read by it


def test_without_hubs_it_is_a_band_and_with_a_wide_radius_full_attention():
    q, k, v = make_qkv(b=1, h=2, t=9)
    near = (torch.arange(9)[:, None] - torch.arange(9)).abs() <= 2
    for attend in (global_local_attention, blocked):
        torch.testing.assert_close(attend(q, k, v, radius=2), scaled_dot_product_attention(q, k, v, attn_mask=near))
        full = scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(attend(q, k, v, radius=8), full)
        torch.testing.assert_close(attend(q, k, v, radius=1, global_indices=torch.arange(9)), full)


@pytest.mark.parametrize("form", ["reference", "blocked", "triton"])
@pytest.mark.parametrize("sizes", [dict(b=0), dict(t=0)], ids=["no sequence", "no token"])
def test_length_zero_is_no_special_case(form, sizes, device):
    forms = {"reference": global_local_attention, "blocked": blocked, "triton": kernel.global_local_attention_triton}
    q, k, v = make_qkv(dtype=torch.float32, device=device, **(dict(b=2, t=7) | sizes))
    hubs = torch.arange(min(q.shape[2], 1), device=device)
    assert forms[form](q, k, v, radius=2, global_indices=hubs).shape == v.shape


def test_flex_attention_agrees_where_projections_are_shared():
    q, k, v = make_qkv(b=1, h=2, t=130, dtype=torch.float32)
    hubs = torch.tensor([0, 77])
    is_hub = torch.zeros(130, dtype=torch.bool)
    is_hub[hubs] = True

    def visible(b, h, i, j):
        return ((i - j).abs() <= 6) | is_hub[i] | is_hub[j]

    wanted = flex_attention(q, k, v, block_mask=create_block_mask(visible, 1, 1, 130, 130, device="cpu"))
    for attend in (global_local_attention, global_local_attention_blocked):
        torch.testing.assert_close(attend(q, k, v, radius=6, global_indices=hubs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_blocked_are_the_definitions_and_padding_gets_none(name):
    case = CASES[name](11) | dict(radius=2)
    qkv, theirs = draw(n=hubs_in(case))

    def through(attend):
        def function(*inputs):
            separate = dict(global_qkv=inputs[3:]) if "global_indices" in case else {}
            return attend(*inputs[:3], **case, **separate)

        return function

    inputs = (*qkv, *theirs) if "global_indices" in case else qkv
    wanted = gradients(through(global_local_attention), *inputs)
    got = gradients(through(blocked), *inputs)
    for mine, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, truth)
    if "key_lengths" in case:
        padding = torch.arange(11) >= case["key_lengths"][:, None]
        for gradient in got[:3]:
            assert gradient.isfinite().all() and not gradient.transpose(1, 2)[padding].any()


def test_the_gradients_of_the_definition_are_right():
    qkv, theirs = draw(b=1, h=2, g=1, t=6, dk=2, dv=2, n=2)
    inputs = [x.requires_grad_() for x in (*qkv, *theirs)]
    case = dict(radius=1, global_indices=torch.tensor([4, 1]), key_lengths=torch.tensor([5]))
    for attend in (global_local_attention, blocked):
        assert torch.autograd.gradcheck(lambda *x, attend=attend: attend(*x[:3], global_qkv=x[3:], **case), inputs)


def test_blocked_takes_memory_linear_in_the_length():
    def bytes_at(attend, t):
        q, k, v = make_qkv(b=1, h=1, t=t, dk=16, dtype=torch.float32, grad=True)
        hubs = torch.tensor([0, t // 2])
        return peak_memory(lambda: attend(q, k, v, radius=32, global_indices=hubs).sum().backward())

    grown = {f: bytes_at(f, 2048) / bytes_at(f, 512) for f in (global_local_attention, global_local_attention_blocked)}
    assert grown[global_local_attention] > 12  # four times the length, sixteen times the pairs
    assert grown[global_local_attention_blocked] < 4.5


# Hugging Face


def longformer(*, windows, d_model=24, n_heads=3, layers=1):
    """Their model with random weights, its biases too."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LongformerConfig(
        vocab_size=50, hidden_size=d_model, num_attention_heads=n_heads, num_hidden_layers=layers,
        intermediate_size=2 * d_model, attention_window=windows, max_position_embeddings=200, pad_token_id=1,
    )  # fmt: skip
    model = transformers.LongformerModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".attention.self." in name or ".attention.output.dense" in name:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("impl", ["reference", "blocked"])
@pytest.mark.parametrize("hubs", [[[0, 5], [3, -1]], [[-1, -1], [-1, -1]], [list(range(24)), [0] + [-1] * 23]])
def test_the_module_is_hugging_faces_self_attention(impl, hubs):
    theirs = longformer(windows=[6]).encoder.layer[0].attention.self
    t, lengths, index = 24, torch.tensor([24, 19]), torch.tensor(hubs)
    ours = GlobalLocalAttention(24, 3, radius=3, impl=impl)
    ours.load_state_dict(state_dict_from_longformer(theirs.state_dict()))
    x = torch.randn(2, t, 24, requires_grad=True)
    state = torch.zeros(2, t).masked_fill(torch.arange(t) >= lengths[:, None], -10_000.0)
    for i, row in enumerate(hubs):
        state[i, [at for at in row if at >= 0]] = 10_000.0
    theirs_out = theirs(
        x, attention_mask=state, is_index_masked=state < 0, is_index_global_attn=state > 0,
        is_global_attn=bool((state > 0).any()),
    )[0]  # fmt: skip
    ours_out = ours(x, global_indices=index, key_lengths=lengths)
    exists = torch.arange(t) < lengths[:, None]
    torch.testing.assert_close(ours_out, theirs_out, rtol=0, atol=1e-5)
    cotangent = torch.randn_like(x) * exists[..., None]
    for mine, wanted in zip(
        torch.autograd.grad(ours_out, [x, ours.w_k_global.weight, ours.w_q.weight], cotangent),
        torch.autograd.grad(
            theirs_out, [x, theirs.key_global.weight, theirs.query.weight], cotangent, allow_unused=True
        ),
        strict=True,
    ):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if wanted is None else wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [1, 7, 37])
def test_a_stack_with_a_window_a_layer_is_hugging_faces_model(t):
    """Their model pads to its largest window, which the others must divide (and fails at a window of 2); ours need not."""
    model = longformer(windows=[4, 8, 16], layers=3)
    tokens = torch.randint(2, 50, (2, t))
    lengths = torch.tensor([t, max(1, t - 4)])
    exists = torch.arange(t) < lengths[:, None]
    hubs = torch.tensor([[0], [t // 2]]).clamp_max(lengths[:, None] - 1)
    is_hub = torch.zeros(2, t, dtype=torch.long).scatter(1, hubs, 1)
    with torch.no_grad():
        wanted = model(tokens, attention_mask=exists.long(), global_attention_mask=is_hub).last_hidden_state
        x = model.embeddings(tokens)
        for layer in model.encoder.layer:
            ours = GlobalLocalAttention(24, 3, radius=layer.attention.self.one_sided_attn_window_size)
            ours.load_state_dict(state_dict_from_longformer(layer.attention.state_dict()))
            attended = layer.attention.output.LayerNorm(x + ours(x, global_indices=hubs, key_lengths=lengths))
            x = layer.output(layer.intermediate(attended), attended)
    torch.testing.assert_close(x[exists], wanted[exists], rtol=0, atol=1e-5)


# The kernels


def check_kernel(case, sizes, dtype, device, *, separate=True):
    """Output and gradients against float64, with twice the error of plain PyTorch in this dtype as budget."""
    case = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in case.items()}
    qkv, theirs = draw(n=hubs_in(case), dtype=dtype, device=device, **sizes)
    inputs = (*qkv, *theirs) if separate and "global_indices" in case else qkv

    def through(attend):
        def function(*inputs):
            return attend(*inputs[:3], **case, **(dict(global_qkv=inputs[3:]) if len(inputs) > 3 else {}))

        return function

    exact_inputs = [x.double() for x in inputs]
    out, plain = (through(f)(*inputs) for f in (kernel.global_local_attention_triton, global_local_attention))
    exact = through(global_local_attention)(*exact_inputs)
    assert out.dtype == dtype
    assert_within_budget(out, plain=plain, exact=exact, what="output")
    got = gradients(through(kernel.global_local_attention_triton), *inputs)
    plain = gradients(through(global_local_attention), *inputs)
    wanted = gradients(through(global_local_attention), *exact_inputs)
    assert_gradients_within_budget(got, plain=plain, exact=wanted, zero=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_keeps_its_budget_in_every_case(name, device):
    check_kernel(CASES[name](37) | dict(radius=5), dict(t=37, dk=17, dv=24), torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dk", "dv"), [(16, 16), (40, 80), (160, 256), (1, 3)])
def test_the_kernel_keeps_its_budget_at_every_width(dtype, dk, dv, device):
    case = dict(global_indices=torch.tensor([0, 20]), radius=4)
    check_kernel(case, dict(b=1, h=2, g=1, t=35, dk=dk, dv=dv), dtype, device)


@pytest.mark.dry
@pytest.mark.parametrize(("t", "radius"), [(1, 1), (67, 1), (67, 16), (70, 200), (33, 32), (131, 60)])
def test_the_kernel_keeps_its_budget_off_the_block_edges(t, radius, device):
    case = dict(global_indices=torch.tensor([t // 2]), radius=radius)
    check_kernel(case, dict(b=1, h=2, g=2, t=t, dk=8, dv=8), torch.float32, device, separate=False)


def test_the_kernel_keeps_its_budget_where_tiles_between_the_edges_of_a_band_end_at_a_length(device):
    """There whole tiles and edges stand beside hubs, of which some rows see one as a neighbour and others from far off."""
    case = dict(global_indices=torch.tensor([3, 64, 129]), radius=70, key_lengths=torch.tensor([131, 77]))
    check_kernel(case, dict(b=2, h=2, g=1, t=131, dk=8, dv=8), torch.float32, device)


def test_the_kernel_visits_only_the_tiles_it_needs(device):
    """NaN where no query of the first tiles may look: a kernel that still reads it multiplies a weight of 0 by NaN."""
    q, k, v = make_qkv(b=1, h=1, t=200, dk=8, dtype=torch.float32, device=device)
    clean = global_local_attention(q, k, v, radius=10)[:, :, :96]
    k[:, :, 180:], v[:, :, 180:] = torch.nan, torch.nan
    attend = kernel.global_local_attention_triton
    torch.testing.assert_close(attend(q, k, v, radius=10)[:, :, :96], clean)
    for gradient in gradients(lambda *x: attend(*x, radius=10)[:, :, :96], q, k, v):
        assert gradient[:, :, :48].isfinite().all() and gradient[:, :, :48].any()


@pytest.mark.parametrize("hubs", [[2, 17], [17]], ids=["a hub and one in padding", "one in padding"])
def test_nan_in_padding_goes_nowhere_in_the_kernel(hubs, device):
    """Without any hub the last rows see nothing, near or global: their empty halves must not merge to NaN."""
    lengths = torch.tensor([13, 0], device=device)
    case = dict(radius=3, key_lengths=lengths, global_indices=torch.tensor(hubs, device=device))
    qkv, theirs = draw(t=20, n=len(hubs), dtype=torch.float32, device=device)
    wanted = global_local_attention(*qkv, global_qkv=theirs, **case)
    for x in (*qkv, *theirs[1:]):
        x[0, :, 13:], x[1] = torch.nan, torch.nan
    attend = kernel.global_local_attention_triton
    torch.testing.assert_close(attend(*qkv, global_qkv=theirs, **case), wanted, rtol=1e-4, atol=1e-5)
    for gradient in gradients(lambda *x: attend(*x[:3], global_qkv=x[3:], **case), *qkv, *theirs):
        assert gradient.isfinite().all() and not gradient[1].any()


def test_the_kernel_takes_any_strides_and_writes_every_element(device):
    """In this mode PyTorch fills fresh memory with NaN, and what no program writes stays so."""
    case = dict(radius=3, global_indices=torch.tensor([1], device=device))
    q, k, v = make_qkv(b=2, h=3, t=21, dtype=torch.float32, device=device)
    wanted = gradients(lambda *x: global_local_attention(*x, **case), q, k, v)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]  # as projections leave it
    strided.append(v.repeat_interleave(2, dim=-1)[..., ::2])
    torch.use_deterministic_algorithms(True)
    try:
        got = gradients(lambda *x: kernel.global_local_attention_triton(*x, **case), *strided)
    finally:
        torch.use_deterministic_algorithms(False)
    for mine, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_the_kernel_keeps_its_budget_at_length_on_a_gpu(device):
    case = dict(global_indices=torch.tensor([0, 1, 2047]), radius=128, key_lengths=torch.tensor([2048, 1900]))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        check_kernel(case, dict(b=2, h=8, g=8, t=2048, dk=64, dv=64), dtype, device)


# The module


def test_every_impl_of_the_module_is_one_function():
    torch.manual_seed(0)
    layer = GlobalLocalAttention(12, 3, radius=2, impl="reference").double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    many = torch.arange(8)  # more than the heads are wide, so that the keys of global tokens are formed
    for hubs in (torch.tensor([4, 0]), many):
        layer.impl = "reference"
        wanted = layer(x, global_indices=hubs, key_lengths=torch.tensor([9, 6]))
        layer.impl = "blocked"
        torch.testing.assert_close(layer(x, global_indices=hubs, key_lengths=torch.tensor([9, 6])), wanted)


def test_the_module_runs_the_kernel(device):
    torch.manual_seed(0)
    layer = GlobalLocalAttention(12, 3, radius=2).to(device)
    x, hubs = torch.randn(2, 9, 12, device=device), torch.tensor([4, 0], device=device)
    wanted = layer(x, global_indices=hubs)
    layer.impl = "triton"
    torch.testing.assert_close(layer(x, global_indices=hubs), wanted, rtol=1e-4, atol=1e-5)


def test_projections_of_global_tokens_start_as_copies_and_are_their_own():
    layer = GlobalLocalAttention(8, 2, radius=1).double()
    x = make_qkv(b=1, h=1, t=6, dk=8)[0][:, 0]
    q, k, v = (w(x).unflatten(-1, (2, 4)).transpose(1, 2) for w in (layer.w_q, layer.w_k, layer.w_v))
    hubs = torch.tensor([2])
    shared = global_local_attention(q, k, v, radius=1, global_indices=hubs)
    torch.testing.assert_close(layer(x, global_indices=hubs), layer.w_o(shared.transpose(1, 2).flatten(2)))
    before = layer(x, global_indices=hubs)
    torch.nn.init.normal_(layer.w_q_global.weight)
    moved = (layer(x, global_indices=hubs) != before).any(dim=-1)[0]
    assert moved.tolist() == [False, False, True, False, False, False]


# Bad input

(Q, K, V), GLOBAL = draw(b=2, h=4, g=2, t=6, n=1)
BAD = {
    "no radius": (dict(radius=0), "radius must be an integer of at least 1, got 0"),
    "lengths differ": (dict(q=Q[:, :, :5]), "q and k must share the length, got 5 and 6"),
    "out of range": (dict(global_indices=torch.tensor([6])), "must lie in 0..5 .*, got 6..6"),
    "below none": (dict(global_indices=torch.tensor([0, -2])), "must lie in 0..5 .*, got -2..0"),
    "twice": (dict(global_indices=torch.tensor([[0, 3], [3, 3]])), "must be distinct, got \\[3\\] more than once"),
    "floats": (dict(global_indices=torch.tensor([1.0])), "must be an integer tensor, got torch.float32"),
    "flags": (dict(global_indices=torch.ones(6) > 0), "must be an integer tensor, got torch.bool"),
    "another batch": (dict(global_indices=torch.zeros(3, 1).long()), "shape \\(n,\\) or \\(2, n\\), got \\(3, 1\\)"),
    "elsewhere": (dict(global_indices=torch.zeros(1, device="meta").long()), "global_indices must be on cpu, got meta"),
    "projected for nobody": (dict(global_qkv=GLOBAL), "it needs global_indices"),
    "queries of all": (
        dict(global_qkv=(Q, K, V), global_indices=torch.tensor([0])), "queries of global tokens alone\\), got"
    ),
    "another dtype": (
        dict(global_qkv=tuple(x.float() for x in GLOBAL), global_indices=torch.tensor([0])),
        "must be torch.float64 on cpu as q is, got torch.float32",
    ),
    "lengths past the end": (dict(key_lengths=torch.tensor([1, 7])), "must lie in 0..6, got 1..7"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attend", [global_local_attention, global_local_attention_blocked])
def test_bad_input_is_named(case, attend):
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        attend(**(dict(q=Q, k=K, v=V, radius=1) | changed))


@pytest.mark.bad_input
def test_bad_layers_and_parameters_are_named():
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, triton, got 'torch'"):
        GlobalLocalAttention(4, 2, radius=1, impl="torch")
    with pytest.raises(
        ValueError, match="n_heads must divide d_model unless head_dim is given, got d_model=4, n_heads=3"
    ):
        GlobalLocalAttention(4, 3, radius=1)
    with pytest.raises(ValueError, match="x must be \\(b, t, 4\\), got \\(1, 3, 5\\)"):
        GlobalLocalAttention(4, 2, radius=1)(torch.zeros(1, 3, 5))
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        global_local_attention_blocked(Q, K, V, radius=1, block=0)
    whole = {name.replace("w_", ""): x for name, x in GlobalLocalAttention(4, 2, radius=1).state_dict().items()}
    with pytest.raises(ValueError, match="a Longformer's attention has query, key, value"):
        state_dict_from_longformer(whole)


@pytest.mark.bad_input
def test_what_the_kernel_cannot_do_it_says():
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.global_local_attention_triton(Q, K, V, radius=1)
    with pytest.raises(ValueError, match="takes widths to 256, got 300"):
        kernel.global_local_attention_triton(*make_qkv(dk=300, dtype=torch.float32), radius=1)


# The compiler


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("global_local", capability)
    assert len(compiled) >= 32
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        if capability >= 80 and "fp32" not in c.case and not c.kernel.endswith("delta_kernel"):
            assert c.spills == 0, c
            # Tiles of 32 rows are below the 64 that one wgmma or tcgen05 takes; such kernels may use mma.
            assert c.matrix != "none", c
    forward = [c for c in compiled if "fwd" in c.kernel and "fp32" not in c.case]
    for c in forward:
        # Tiles between the edges: their reads are of 16 bytes and ask nothing, and no register is put aside.
        whole = "hubs" not in c.case and capability >= 80
        assert c.loop.local == 0 and (not whole or (c.loop.copies > 0 and c.loop.narrow == 0)), c
    expected = {75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]
    assert {c.matrix for c in forward} == {expected}


def test_a_wide_float32_head_has_no_backward_pass_on_a_chip_of_64_kib(monkeypatch, device):
    q, k, v = (x.requires_grad_() for x in make_qkv(b=1, h=1, t=3, dk=130, dtype=torch.float32, device=device))
    out = kernel.global_local_attention_triton(q, k, v, radius=1)
    monkeypatch.setattr(launch, "device_capability", lambda x: 75)
    with pytest.raises(ValueError, match="wider than 128 does not fit this chip's shared memory"):
        out.sum().backward()
