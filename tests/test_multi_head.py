"""Multi-head attention against heads written by hand, PyTorch's layer, and the layers of GPT-2, BERT, T5 and Llama."""

import copy
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.rope import RotaryEmbedding
from attncourse.multi_head import (
    MultiHeadAttention,
    merge_heads,
    multi_head_attention,
    multi_head_attention_loop,
    share_on,
    split_heads,
    state_dict_from_torch,
    state_dict_to_torch,
)
from attncourse.testing import assert_gradients_within_budget, assert_within_budget, gradients, relative_error
from tests.every_layer import D_MODEL, Layer

kernel = pytest.importorskip("attncourse.multi_head.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {"multi_head": Layer(lambda **o: MultiHeadAttention(D_MODEL, 4, **o), masks=True)}


def draw(*shape, seed=0, dtype=torch.float64, device="cpu"):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(device=device, dtype=dtype)


def inputs(*, b=2, t=5, s=7, d=6, dc=9, h=3, dk=4, dv=2, d_out=5, seed=0, dtype=torch.float64, device="cpu"):
    """x, context and the four matrices; widths that all differ, so that no two axes can be mistaken for each other."""
    shapes = [(b, t, d), (b, s, dc), (h * dk, d), (h * dk, dc), (h * dv, dc), (d_out, h * dv)]
    return [draw(*shape, seed=seed + i, dtype=dtype, device=device) for i, shape in enumerate(shapes)]


def by_hand(x, context, w_q, w_k, w_v, w_o, *, n_heads, causal=False, key_lengths=None, mask=None, scale=None):
    """The paper's form: every head's scores pair by pair, heads side by side, then w_o. Nothing from the package."""
    b, t, _ = x.shape
    s, dk, dv = context.shape[1], len(w_q) // n_heads, len(w_v) // n_heads
    scale = dk**-0.5 if scale is None else scale
    out = torch.zeros(b, t, len(w_o), dtype=torch.float64)
    for i in range(b):
        for row in range(t):
            side_by_side = torch.zeros(n_heads * dv, dtype=torch.float64)
            for head in range(n_heads):
                keys, values = range(head * dk, (head + 1) * dk), slice(head * dv, (head + 1) * dv)
                query, scores, seen = w_q[keys] @ x[i, row], [], []
                for col in range(s):
                    score = scale * float(query @ (w_k[keys] @ context[i, col]))
                    hidden = causal and col > s - t + row
                    hidden |= key_lengths is not None and col >= int(key_lengths[i])
                    if mask is not None:
                        entry = mask.expand(b, n_heads, t, s)[i, head, row, col]
                        hidden |= mask.dtype == torch.bool and not bool(entry)
                        score += 0.0 if mask.dtype == torch.bool else float(entry)
                    if not hidden:
                        scores.append(score)
                        seen.append(col)
                if seen:
                    weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), dim=0)
                    side_by_side[values] = w_v[values] @ (weights @ context[i, seen])
            out[i, row] = w_o @ side_by_side
    return out


MASKINGS = {
    "plain": lambda b, h, t, s: {},
    "causal": lambda b, h, t, s: dict(causal=True),
    "lengths": lambda b, h, t, s: dict(key_lengths=torch.tensor([s, 0, s // 2])[:b]),
    "lengths and causal": lambda b, h, t, s: dict(key_lengths=torch.tensor([s - 1, 1, s // 2])[:b], causal=True),
    "boolean mask": lambda b, h, t, s: dict(mask=torch.arange(t * s).reshape(t, s) % 3 > 0),
    "mask a head": lambda b, h, t, s: dict(mask=torch.arange(h * s).reshape(h, 1, s) % 4 > 0),
    "added mask": lambda b, h, t, s: dict(mask=torch.linspace(-2, 2, b * h * s).double().reshape(b, h, 1, s)),
    "scale": lambda b, h, t, s: dict(scale=0.7),
}


# The definition


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize(("t", "s"), [(5, 7), (7, 5), (1, 1)])
def test_both_forms_of_the_definition_are_heads_by_hand(name, t, s):
    arguments = inputs(t=t, s=s)
    masking = MASKINGS[name](2, 3, t, s)
    wanted = by_hand(*arguments, n_heads=3, **masking)
    torch.testing.assert_close(multi_head_attention(*arguments, n_heads=3, **masking), wanted)
    if masking.get("mask") is None or masking["mask"].ndim == 2:
        torch.testing.assert_close(multi_head_attention_loop(*arguments, n_heads=3, **masking), wanted)


@given(
    b=st.integers(1, 2), h=st.integers(1, 5), t=st.integers(1, 7), s=st.integers(1, 7), dk=st.integers(1, 5),
    dv=st.integers(1, 5), d=st.integers(1, 7), dc=st.integers(1, 7), causal=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_one_projection_is_the_loop_at_every_size(b, h, t, s, dk, dv, d, dc, causal, seed):
    arguments = inputs(b=b, h=h, t=t, s=s, dk=dk, dv=dv, d=d, dc=dc, seed=seed)
    loop = multi_head_attention_loop(*arguments, n_heads=h, causal=causal)
    torch.testing.assert_close(multi_head_attention(*arguments, n_heads=h, causal=causal), loop)
    wanted = gradients(lambda *a: multi_head_attention_loop(*a, n_heads=h, causal=causal), *arguments)
    got = gradients(lambda *a: multi_head_attention(*a, n_heads=h, causal=causal), *arguments)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_splitting_puts_entries_where_they_belong():
    x = torch.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    split = split_heads(x, 4)
    assert split.shape == (2, 4, 3, 2)
    for head in range(4):
        assert torch.equal(split[:, head], x[:, :, 2 * head : 2 * head + 2])
    assert torch.equal(merge_heads(split), x)


def test_scaled_dot_product_attention_agrees_head_by_head():
    x, context, w_q, w_k, w_v, w_o = inputs()
    heads = []
    for i in range(3):
        q, k = x @ w_q[4 * i : 4 * i + 4].T, context @ w_k[4 * i : 4 * i + 4].T
        heads.append(scaled_dot_product_attention(q, k, context @ w_v[2 * i : 2 * i + 2].T))
    wanted = torch.cat(heads, dim=-1) @ w_o.T
    torch.testing.assert_close(multi_head_attention(x, context, w_q, w_k, w_v, w_o, n_heads=3), wanted)


# The layer


def make_layer(impl="reference", *, dtype=torch.float64, device="cpu", seed=0, **options):
    """A layer with widths that all differ and biases that are not zero."""
    torch.manual_seed(seed)
    options = dict(d_context=9, head_dim=4, v_head_dim=2, n_heads=3, bias=True) | options
    return MultiHeadAttention(6, impl=impl, **options).to(device=device, dtype=dtype)


def with_bias_column(layer):
    """The layer's matrices with the biases as a last column, for inputs with a last entry of 1."""
    return [torch.cat([w.weight, w.bias[:, None]], dim=1).detach() for w in (layer.w_q, layer.w_k, layer.w_v)]


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch"])
@pytest.mark.parametrize("name", MASKINGS)
def test_the_layer_is_the_definition_with_biases(impl, name):
    masking = MASKINGS[name](2, 3, 5, 7)
    layer = make_layer(impl, causal=masking.pop("causal", False), scale=masking.pop("scale", None))
    x, context = draw(2, 5, 6), draw(2, 7, 9, seed=1)
    ones = torch.ones(2, 7, 1, dtype=torch.float64)
    wanted = by_hand(
        torch.cat([x, ones[:, :5]], dim=-1), torch.cat([context, ones], dim=-1), *with_bias_column(layer),
        layer.w_o.weight.detach(), n_heads=3, causal=layer.causal, scale=layer.scale, **masking,
    ) + layer.w_o.bias.detach()  # fmt: skip
    torch.testing.assert_close(layer(x, context, **masking).detach(), wanted)


@pytest.mark.parametrize("impl", ["blocked", "torch"])
def test_every_impl_has_the_definitions_gradients(impl):
    layer, other = make_layer("reference", causal=True), make_layer(impl, causal=True)
    x, context, lengths = draw(2, 5, 6), draw(2, 7, 9, seed=1), torch.tensor([7, 4])
    grads = []
    for each in (layer, other):
        each(x, context, key_lengths=lengths).square().sum().backward()
        grads.append({name: p.grad for name, p in each.named_parameters()})
    for name, wanted in grads[0].items():
        torch.testing.assert_close(grads[1][name], wanted, msg=name)


@pytest.mark.parametrize("impl", MultiHeadAttention.forms)
def test_padding_may_hold_anything(impl, device):
    layer = make_layer(impl, dtype=torch.float32, device=device)
    x, context = draw(2, 5, 6).float().to(device), draw(2, 7, 9, seed=1).float().to(device)
    lengths = torch.tensor([4, 7], device=device)
    clean = layer(x[:1], context[:1, :4])
    context[0, 4:] = torch.nan
    got = layer(x, context, key_lengths=lengths)
    torch.testing.assert_close(got[:1], clean)
    got.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.w_q.parameters())


@pytest.mark.parametrize("impl", MultiHeadAttention.forms)
def test_causal_queries_are_the_last_of_what_is_read(impl, device):
    layer = make_layer(impl, d_context=6, dtype=torch.float32, device=device, causal=True)
    x = draw(1, 7, 6).float().to(device)
    whole = layer(x)
    torch.testing.assert_close(layer(x[:, 4:], x), whole[:, 4:])
    x[:, 5] += 1
    moved = (layer(x) - whole).abs().amax(dim=-1)[0] > 1e-6
    assert moved.tolist() == [False] * 5 + [True] * 2


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rope_turns_queries_as_the_last_of_the_keys(interleaved):
    layer = make_layer(d_context=6, causal=True, rope=RotaryEmbedding(4, interleaved=interleaved))
    x = draw(2, 7, 6)
    whole = layer(x)
    torch.testing.assert_close(layer(x[:, 5:], x), whole[:, 5:])
    torch.testing.assert_close(layer(x, positions=torch.arange(7)), whole)
    torch.testing.assert_close(layer(x, positions=torch.arange(7) + 100), whole)  # only distances matter
    apart = torch.stack([torch.arange(7) + 3, torch.arange(7) * 2])
    got = layer(x, positions=apart)
    torch.testing.assert_close(got[0], whole[0])
    assert (got[1] - whole[1]).abs().max() > 1e-3


def test_weights_are_given_head_by_head():
    layer = make_layer(causal=True)
    x, context = draw(2, 5, 6), draw(2, 7, 9, seed=1)
    out, weights = layer(x, context, need_weights=True)
    assert weights.shape == (2, 3, 5, 7)
    torch.testing.assert_close(out, layer(x, context))
    values = layer.w_v(context).unflatten(-1, (3, 2))
    read = torch.stack([weights[:, i] @ values[:, :, i] for i in range(3)], dim=2).flatten(2)
    torch.testing.assert_close(layer.w_o(read), out)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_dropout_drops_weights_in_training_and_keeps_their_mean(impl):
    layer = make_layer(impl, dtype=torch.float32, dropout=0.5)
    x, context = draw(1, 5, 6).float(), draw(1, 7, 9, seed=1).float()
    steady = layer.eval()(x, context)
    layer.train()
    drawn = torch.stack([layer(x, context) for _ in range(2000)]).detach()
    assert drawn.std(dim=0).min() > 0
    assert (drawn.mean(dim=0) - steady).abs().max() < 6 * drawn.std(dim=0).max() / 2000**0.5


def test_the_share_of_a_head_is_counted_key_by_key():
    weights = torch.softmax(draw(2, 3, 4, 5), dim=-1)
    marked = torch.arange(40).reshape(2, 4, 5) % 3 == 0
    wanted = torch.zeros(3, dtype=torch.float64)
    for i, row, key in marked.nonzero().tolist():
        wanted += weights[i, :, row, key] / 8
    torch.testing.assert_close(share_on(weights, marked), wanted)
    torch.testing.assert_close(share_on(weights, torch.ones_like(marked)), torch.ones(3, dtype=torch.float64))


# Masking and pruning heads


@pytest.mark.parametrize("impl", MultiHeadAttention.forms)
def test_a_masked_head_says_nothing_and_the_others_what_they_said(impl, device):
    layer = make_layer(impl, dtype=torch.float32, device=device)
    x, context = draw(2, 5, 6).float().to(device), draw(2, 7, 9, seed=1).float().to(device)

    def masked(*heads):
        return layer(x, context, head_mask=torch.tensor([i in heads for i in range(3)], device=device)) - layer.w_o.bias

    everything = layer(x, context) - layer.w_o.bias
    torch.testing.assert_close(masked(0) + masked(1) + masked(2), everything)
    torch.testing.assert_close(masked(0) + masked(1, 2), everything)
    assert masked().abs().max() == 0
    half = layer(x, context, head_mask=torch.full((3,), 0.5, device=device)) - layer.w_o.bias
    torch.testing.assert_close(half, everything / 2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("removed", [[0], [1], [2, 0]])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_a_pruned_layer_is_the_masked_one_with_fewer_parameters(removed, bias, impl):
    layer = make_layer(impl, bias=bias, causal=True)
    smaller = layer.without_heads(removed)
    x, context = draw(2, 5, 6), draw(2, 7, 9, seed=1)
    keep = torch.tensor([i not in removed for i in range(3)])
    torch.testing.assert_close(smaller(x, context), layer(x, context, head_mask=keep))
    a_head = 4 * 6 + 4 * 9 + 2 * 9 + 2 * 6 + bias * (4 + 4 + 2)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (layer, smaller)]
    assert sizes[0] - sizes[1] == len(removed) * a_head
    assert (smaller.n_heads, smaller.head_dim, smaller.v_head_dim) == (3 - len(removed), 4, 2)
    for linear in (smaller.w_q, smaller.w_k, smaller.w_v, smaller.w_o):
        assert linear.weight.shape == (linear.out_features, linear.in_features)


def test_pruning_leaves_the_layer_alone_and_the_heads_that_stay_in_order():
    layer = make_layer("reference", d_context=6, rope=RotaryEmbedding(4))
    before = copy.deepcopy(layer.state_dict())
    x = draw(2, 5, 6)
    smaller = layer.without_heads([1])
    _, weights = layer(x, need_weights=True)
    _, fewer = smaller(x, need_weights=True)
    torch.testing.assert_close(fewer, weights[:, [0, 2]])
    with torch.no_grad():
        smaller.w_q.weight.zero_()
        smaller.w_o.bias.zero_()
    assert all(torch.equal(p, before[name]) for name, p in layer.state_dict().items())
    twice = layer.without_heads([0]).without_heads([1])
    torch.testing.assert_close(twice(x), layer.without_heads([0, 2])(x))


# PyTorch's layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kdim", [None, 12, 5])
def test_pytorchs_layer_computes_the_same_in_both_directions(kdim, bias):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, bias=bias, kdim=kdim, vdim=kdim, batch_first=True).double()
    for p in theirs.parameters():
        nn.init.normal_(p)  # its biases are zero at first
    ours = MultiHeadAttention(12, 3, d_context=kdim, bias=bias, impl="reference").double()
    ours.load_state_dict(state_dict_from_torch(theirs.state_dict()))
    x, context = draw(2, 5, 12), draw(2, 7, kdim or 12, seed=1)
    visible = torch.arange(35).reshape(5, 7) % 3 > 0  # PyTorch's boolean masks say who may not look
    lengths = torch.tensor([7, 4])
    padding = torch.arange(7) >= lengths[:, None]
    for ours_masked, theirs_masked in [
        ({}, {}),
        (dict(mask=visible), dict(attn_mask=~visible)),
        (dict(key_lengths=lengths), dict(key_padding_mask=padding)),
        (dict(mask=visible, key_lengths=lengths), dict(attn_mask=~visible, key_padding_mask=padding)),
        (dict(mask=draw(2, 3, 5, 7)), dict(attn_mask=draw(2, 3, 5, 7).flatten(0, 1))),
    ]:
        out, weights = ours(x, context, need_weights=True, **ours_masked)
        wanted, wanted_weights = theirs(x, context, context, average_attn_weights=False, **theirs_masked)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(weights, wanted_weights, rtol=0, atol=1e-6)
    back = nn.MultiheadAttention(12, 3, bias=bias, kdim=kdim, vdim=kdim, batch_first=True).double()
    back.load_state_dict(state_dict_to_torch(ours.state_dict()))
    assert all(torch.equal(p, theirs.state_dict()[name]) for name, p in back.state_dict().items())


# Layers of published models, with random parameters from tiny configurations

D, H, T = 24, 3, 7


def loaded(options, **projections):
    """Our layer with the given Linear layers' parameters."""
    layer = MultiHeadAttention(D, H, **dict(bias=True) | options)
    state = {f"{name}.{n}": p for name, linear in projections.items() for n, p in linear.state_dict().items()}
    layer.load_state_dict(state)
    return layer.eval()


def randomized(module, scale=0.3):
    torch.manual_seed(1)
    for p in module.parameters():
        nn.init.normal_(p, std=scale)
    return module.eval()


def as_linear(weight, bias):
    """A Linear of a weight (in, out), as GPT-2's Conv1D stores it."""
    linear = nn.Linear(*weight.shape)
    linear.load_state_dict(dict(weight=weight.T, bias=bias))
    return linear


def assert_same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert wanted.std() > 0.1, "outputs that are all alike compare nothing"


def test_gpt2s_layer_computes_the_same():
    gpt2 = pytest.importorskip("transformers.models.gpt2.modeling_gpt2")
    from transformers import GPT2Config

    config = GPT2Config(n_embd=D, n_head=H, attn_implementation="eager")
    theirs = randomized(gpt2.GPT2Attention(config, layer_idx=0))
    stacked = zip(theirs.c_attn.weight.chunk(3, dim=1), theirs.c_attn.bias.chunk(3), strict=True)
    q, k, v = (as_linear(*wb) for wb in stacked)
    ours = loaded(dict(causal=True), w_q=q, w_k=k, w_v=v, w_o=as_linear(theirs.c_proj.weight, theirs.c_proj.bias))
    x = draw(2, T, D).float()
    future = torch.full((T, T), -torch.inf).triu(1)
    assert_same(ours(x), theirs(x, attention_mask=future)[0])


def test_berts_layer_computes_the_same_with_padding():
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    from transformers import BertConfig

    config = BertConfig(hidden_size=D, num_attention_heads=H, attn_implementation="eager")
    theirs = randomized(bert.BertSelfAttention(config))
    project = randomized(nn.Linear(D, D))  # BERT keeps it in another module, with the residual and the norm
    ours = loaded({}, w_q=theirs.query, w_k=theirs.key, w_v=theirs.value, w_o=project)
    x, lengths = draw(2, T, D).float(), torch.tensor([T, 4])
    padding = torch.zeros(2, 1, 1, T).masked_fill(torch.arange(T) >= lengths[:, None, None, None], -torch.inf)
    assert_same(ours(x, key_lengths=lengths), project(theirs(x, attention_mask=padding)[0]))


@pytest.mark.parametrize("cross", [False, True])
def test_t5s_layer_computes_the_same_with_its_relative_bias_as_an_added_mask(cross):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    from transformers import T5Config

    config = T5Config(
        d_model=D, num_heads=H, d_kv=5, relative_attention_num_buckets=8, relative_attention_max_distance=9
    )
    config._attn_implementation = "eager"
    theirs = randomized(t5.T5Attention(config, has_relative_attention_bias=not cross, layer_idx=0))
    options = dict(head_dim=5, bias=False, scale=1.0)
    ours = loaded(options, w_q=theirs.q, w_k=theirs.k, w_v=theirs.v, w_o=theirs.o)
    x, context = draw(2, T, D).float(), draw(2, T + 4, D, seed=1).float()
    if cross:
        assert_same(ours(x, context), theirs(x, key_value_states=context)[0])
    else:
        assert_same(ours(x, mask=theirs.compute_bias(T, T)), theirs(x)[0])


def test_llamas_layer_computes_the_same_with_its_rotary_embedding():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, attention_bias=False, attn_implementation="eager"
    )
    theirs = randomized(llama.LlamaAttention(config, layer_idx=0))
    rope = RotaryEmbedding(D // H, base=config.rope_parameters["rope_theta"])
    options = dict(bias=False, causal=True, rope=rope)
    ours = loaded(options, w_q=theirs.q_proj, w_k=theirs.k_proj, w_v=theirs.v_proj, w_o=theirs.o_proj)
    x, positions = draw(2, T, D).float(), torch.stack([torch.arange(T), torch.arange(T) * 3])
    cos_sin = llama.LlamaRotaryEmbedding(config)(x, positions)
    future = torch.full((T, T), -torch.inf).triu(1)
    wanted = theirs(x, position_embeddings=cos_sin, attention_mask=future)[0]
    assert_same(ours(x, positions=positions), wanted)


# The kernel: softmax attention's own, which tests/test_softmax_attention.py compiles for every chip. Here is nothing new
# to compile; what remains is that heads reach it in the strides that splitting leaves.


@pytest.mark.dry
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MASKINGS)
def test_the_kernel_keeps_its_budget(name, dtype, device):
    sizes = dict(t=19, s=37, dk=17, dv=24)
    arguments = inputs(**sizes, dtype=dtype, device=device)
    masking = MASKINGS[name](2, 3, 19, 37)

    def cast(kind):
        moved = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in masking.items()}
        return {n: x.to(kind) if n == "mask" and x.is_floating_point() else x for n, x in moved.items()}

    exact_arguments = [a.double() for a in arguments]
    exact_masking = {n: x.double() if n == "mask" and x.is_floating_point() else x for n, x in cast(dtype).items()}
    exact = multi_head_attention(*exact_arguments, n_heads=3, **exact_masking)
    plain = multi_head_attention(*arguments, n_heads=3, **cast(dtype))
    got = kernel.multi_head_attention_triton(*arguments, n_heads=3, **cast(dtype))
    assert got.dtype == dtype
    assert_within_budget(got, plain=plain, exact=exact)


def test_the_kernel_has_gradients_for_inputs_and_matrices(device):
    arguments = inputs(t=9, s=11, dtype=torch.float32, device=device)
    exact = gradients(lambda *a: multi_head_attention(*a, n_heads=3, causal=True), *(a.double() for a in arguments))
    plain = gradients(lambda *a: multi_head_attention(*a, n_heads=3, causal=True), *arguments)
    got = gradients(lambda *a: kernel.multi_head_attention_triton(*a, n_heads=3, causal=True), *arguments)
    assert_gradients_within_budget(got, plain=plain, exact=exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("impl", ["blocked", "torch", "triton"])
def test_the_layer_keeps_its_budget_in_sixteen_bits(impl, dtype, device):
    layer = make_layer("reference", dtype=dtype, device=device, d_context=6, causal=True, rope=RotaryEmbedding(4))
    x = draw(2, 23, 6, dtype=dtype, device=device)
    exact, plain = copy.deepcopy(layer).double()(x.double()), layer(x)
    layer.impl = impl
    assert_within_budget(layer(x), plain=plain, exact=exact)


@pytest.mark.parametrize("impl", MultiHeadAttention.forms)
def test_under_autocast_the_layer_works_in_sixteen_bits(impl, device):
    layer = make_layer(impl, dtype=torch.float32, device=device, d_context=6, causal=True, rope=RotaryEmbedding(4))
    x, added = draw(2, 11, 6).float().to(device), draw(11, 11, seed=1).float().to(device)
    exact = copy.deepcopy(layer).double()
    exact.impl = "reference"
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device, torch.bfloat16):
            got = layer(x.to(dtype), mask=added.to(dtype))
        assert got.dtype == torch.bfloat16
        assert relative_error(got, exact(x.double(), mask=added.double())) < 4 * torch.finfo(torch.bfloat16).eps


# torch.compile


def compiled_agrees(backend, **options):
    layer = make_layer("torch", dtype=torch.float32, d_context=6, causal=True, rope=RotaryEmbedding(4))
    x, lengths, head_mask = draw(2, 9, 6).float(), torch.tensor([9, 4]), torch.tensor([1.0, 0.5, 0.0])
    compiled = torch.compile(layer, fullgraph=True, backend=backend, **options)
    for masking in ({}, dict(key_lengths=lengths), dict(head_mask=head_mask), dict(mask=torch.ones(9, 9).tril() > 0)):
        torch.testing.assert_close(compiled(x, **masking), layer(x, **masking), rtol=1e-5, atol=1e-6)
    layer.zero_grad()
    compiled(x).square().sum().backward()
    got = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    layer(x).square().sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-5)


def test_the_layer_compiles_without_graph_breaks():
    torch.compiler.reset()
    compiled_agrees("aot_eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_the_layer_compiles_to_machine_code():
    torch.compiler.reset()
    compiled_agrees("inductor")


# Bad input


@pytest.mark.bad_input
def test_bad_layers_are_named():
    with pytest.raises(
        ValueError, match="n_heads must divide d_model unless head_dim is given, got d_model=10, n_heads=3"
    ):
        MultiHeadAttention(10, 3)
    assert MultiHeadAttention(10, 3, head_dim=4).w_q.out_features == 12
    with pytest.raises(ValueError, match="n_heads must be an integer of at least 1, got 0"):
        MultiHeadAttention(10, 0)
    with pytest.raises(ValueError, match="head_dim must be an integer of at least 1, got 2.5"):
        MultiHeadAttention(10, 2, head_dim=2.5)
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, torch, triton, got 'flash'"):
        MultiHeadAttention(10, 2, impl="flash")
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        MultiHeadAttention(10, 2, dropout=1)
    with pytest.raises(ValueError, match="no dropout on weights: use impl='reference' or 'torch', got dropout=0.1"):
        MultiHeadAttention(10, 2, dropout=0.1, impl="blocked")
    with pytest.raises(ValueError, match="rope must turn the heads' width, got head_dim=5 and a rope of width 4"):
        MultiHeadAttention(10, 2, rope=RotaryEmbedding(4))


X = draw(2, 5, 6)
BAD = {
    "width": (dict(x=X[..., :5]), r"x must be \(b, t, 6\) and context \(b, s, 9\), got \(2, 5, 5\) and \(2, 7, 9\)"),
    "no context": (dict(context=None), r"context \(b, s, 9\), got \(2, 5, 6\) and \(2, 5, 6\)"),
    "batch": (dict(x=X[:1]), r"got \(1, 5, 6\) and \(2, 7, 9\)"),
    "axes": (dict(x=X[0]), r"got \(5, 6\) and \(2, 7, 9\)"),
    "dtypes": (dict(x=X.float()), "x, context must share one dtype"),
    "dtype": (dict(x=X.float(), context=draw(2, 7, 9).float()), "x, weight must share one dtype"),
    "no tensor": (dict(x=X.tolist()), "x must be a torch.Tensor, got list"),
    "lengths": (dict(key_lengths=torch.tensor([8, 1])), "key_lengths must lie in 0..7, got 1..8"),
    "mask": (dict(mask=torch.ones(4, 5, 7) > 0), r"mask must broadcast to \(b, h, t, s\) = \(2, 3, 5, 7\)"),
    "head mask": (dict(head_mask=torch.ones(2)), r"head_mask must have shape \(3,\), got \(2,\)"),
    "positions": (dict(positions=torch.arange(7)), "positions are for a rotary embedding"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("impl", MultiHeadAttention.forms)
def test_bad_calls_are_named_by_every_impl(case, impl):
    changed, message = BAD[case]
    arguments = dict(x=X, context=draw(2, 7, 9)) | changed
    with pytest.raises(ValueError, match=message):
        make_layer(impl)(**arguments)


@pytest.mark.bad_input
def test_what_a_layer_cannot_do_it_says():
    for impl in ("blocked", "torch", "triton"):
        with pytest.raises(ValueError, match=f"impl='{impl}' never forms weights: use 'reference'"):
            make_layer(impl)(X, draw(2, 7, 9), need_weights=True)
    with pytest.raises(ValueError, match=r"some, not all, of 0..2, got \[3\]"):
        make_layer().without_heads([3])
    with pytest.raises(ValueError, match=r"some, not all, of 0..2, got \[0, 1, 2\]"):
        make_layer().without_heads(range(3))
    layer = make_layer(d_context=6, rope=RotaryEmbedding(4))
    with pytest.raises(ValueError, match="the queries are the last t of the s tokens that are read, got t=5, s=3"):
        layer(X, X[:, :3])
    with pytest.raises(ValueError, match=r"positions must have shape \(5,\) or \(2, 5\), got \(4,\)"):
        layer(X, positions=torch.arange(4))


@pytest.mark.bad_input
def test_parameters_that_have_no_counterpart_are_refused():
    with pytest.raises(ValueError, match="add_bias_kv=True appends a learned key and value"):
        state_dict_from_torch(nn.MultiheadAttention(4, 2, add_bias_kv=True).state_dict())
    with pytest.raises(ValueError, match="read from one context, got kdim=3, vdim=5"):
        state_dict_from_torch(nn.MultiheadAttention(4, 2, kdim=3, vdim=5).state_dict())
    with pytest.raises(ValueError, match="fill the model's width 6, got queries, keys and values of 12, 12, 6 in all"):
        state_dict_to_torch(make_layer().state_dict())


MATRICES = dict(zip(("x", "context", "w_q", "w_k", "w_v", "w_o"), inputs(), strict=True))
BAD_MATRICES = {
    "rows of w_q": (dict(w_q=draw(9, 6)), r"w_q and w_k must have equally many rows, got w_q \(9, 6\), w_k \(12, 9\)"),
    "columns of w_v": (dict(w_v=draw(6, 8)), "w_k and w_v must read one width"),
    "columns of w_o": (dict(w_o=draw(5, 7)), "w_o must have a column for each row of w_v"),
    "input": (dict(x=draw(2, 5, 7)), r"x must be \(b, t, 6\)"),
    "heads": (dict(n_heads=5), "the 5 heads must divide the rows of w_q, w_k and w_v"),
    "no heads": (dict(n_heads=0), "n_heads must be an integer of at least 1, got 0"),
    "a vector": (dict(w_o=draw(6)), r"projections must be matrices \(out, in\)"),
    "dtype": (dict(w_q=draw(12, 6).float()), "must share one dtype"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD_MATRICES)
@pytest.mark.parametrize(
    "attend", [multi_head_attention_loop, multi_head_attention, kernel.multi_head_attention_triton]
)
def test_bad_matrices_are_named(case, attend):
    changed, message = BAD_MATRICES[case]
    with pytest.raises(ValueError, match=message):
        attend(**(dict(MATRICES, n_heads=3) | changed))


@pytest.mark.bad_input
def test_marks_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"marked must be \(b, t, s\) = \(2, 4, 5\), got \(4, 5\)"):
        share_on(draw(2, 3, 4, 5), torch.ones(4, 5) > 0)


@pytest.mark.bad_input
def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="the 4 heads must divide the width 6"):
        split_heads(X, 4)
