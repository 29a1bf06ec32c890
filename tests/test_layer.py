"""What all layers say alike: their heads' rules, their impls and defaults, and PyTorch's attention under a mask."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

from attncourse._shared.layer import check_dropout, form_of, head_widths, sdpa_under
from attncourse._shared.rope import RotaryEmbedding
from attncourse.block_sparse import (
    BlockSparseAttention,
    block_sparse_attention,
    block_sparse_attention_torch,
    from_rule,
)
from attncourse.grade.imports import imported_names
from attncourse.hard_attention import HardAttention
from attncourse.linear_attention import LinearAttention
from attncourse.rooms import rooms_with
from attncourse.sliding_window import (
    SlidingWindowAttention,
    sliding_window_attention,
    sliding_window_attention_torch,
)
from attncourse.softmax_attention import SoftmaxAttention, softmax_attention, softmax_attention_torch
from attncourse.testing import gradients, make_qkv


def layers_of(room):
    """The layers of a room."""
    module = importlib.import_module(f"attncourse.{room}.module")
    return [
        x
        for _, x in inspect.getmembers(module, inspect.isclass)
        if x.__module__ == module.__name__ and issubclass(x, nn.Module)
    ]


LAYERS = [layer for room in rooms_with("{}/module.py") for layer in layers_of(room)]


# Heads


def test_heads_are_equal_parts_of_the_model_unless_told():
    assert head_widths(12, 4) == (4, 3, 3)
    assert head_widths(12, 4, n_kv_heads=2, head_dim=5) == (2, 5, 5)
    assert head_widths(10, 4, head_dim=5, v_head_dim=7, rope=None) == (4, 5, 7)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("told", "message"),
    [
        (dict(n_kv_heads=3), "the 3 key/value heads must divide the 4 query heads"),
        (dict(d_model=10), "n_heads must divide d_model unless head_dim is given, got d_model=10, n_heads=4"),
        (dict(n_heads=0), "n_heads must be an integer of at least 1, got 0"),
        (dict(head_dim=0), "head_dim must be an integer of at least 1, got 0"),
        (dict(v_head_dim=2.5), "v_head_dim must be an integer of at least 1, got 2.5"),
        (dict(rope=RotaryEmbedding(4)), "rope must turn the heads' width, got head_dim=3 and a rope of width 4"),
    ],
)
def test_heads_that_cannot_be_are_named(told, message):
    with pytest.raises(ValueError, match=message):
        head_widths(**(dict(d_model=12, n_heads=4) | told))


@pytest.mark.bad_input
@pytest.mark.parametrize("layer", [SoftmaxAttention, HardAttention, LinearAttention])
@pytest.mark.parametrize("width", ["head_dim", "v_head_dim", "d_context"])
def test_a_width_of_zero_is_none(layer, width):
    with pytest.raises(ValueError, match=f"{width} must be an integer of at least 1, got 0"):
        layer(8, **{width: 0})


# Impls


@pytest.mark.parametrize("layer", LAYERS)
def test_an_impl_is_a_form_and_one_that_is_none_is_named(layer):
    assert list(layer.forms) == [i for i in ("reference", "blocked", "torch", "triton", "numba") if i in layer.forms]
    with pytest.raises(ValueError, match=f"impl must be one of {', '.join(layer.forms)}, got 'numpy'"):
        form_of("numpy", layer.forms)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_kernel_is_imported_when_it_is_called(layer):
    pytest.importorskip("triton", reason="Triton is on Linux alone")
    named = {impl: form for impl, form in layer.forms.items() if isinstance(form, str)}
    assert set(named) == {"triton"} & set(layer.forms)
    decoders = getattr(layer, "decoders", {})
    for name in (*named.values(), *decoders.values()):
        assert form_of("any", {"any": name}) is pkgutil.resolve_name(name)
        assert name.partition(":")[0] in imported_names(inspect.getsource(layer)), "who follows imports must see it"


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_differ_in_no_default(layer):
    """PyTorch's fused attention, but where it would score all pairs, which the layer is there to avoid."""
    fastest = (
        ("blocked",) if layer in (SlidingWindowAttention, BlockSparseAttention) else ("torch", "blocked", "reference")
    )
    defaults = {name: parameter.default for name, parameter in inspect.signature(layer).parameters.items()}
    assert defaults["impl"] == next(impl for impl in fastest if impl in layer.forms)
    assert defaults.get("bias", False) is False


@pytest.mark.bad_input
def test_dropout_that_cannot_be_is_named():
    for dropout, impl, message in [
        (1.0, "torch", r"dropout must lie in \[0, 1\), got 1.0"),
        (0.1, "blocked", "impl='blocked' has no dropout on weights: use impl='reference' or 'torch', got dropout=0.1"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_dropout(dropout, impl)


# PyTorch's attention under a mask


T, S = 5, 7
LENGTHS = torch.tensor([0, 4])
HIDDEN = torch.rand(T, S, generator=torch.Generator().manual_seed(0)) < 0.6
HIDDEN[1] = True  # a row that sees nothing, whatever the lengths
ADDED = torch.randn(T, S, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LATE = from_rule(lambda i, j: (j <= i) & (i >= 2), S, block=2)  # the first two positions see nothing

# A form, and its definition, by what they are told: in each some rows see nothing.
UNDER = {
    "boolean": (softmax_attention_torch, softmax_attention, dict(mask=~HIDDEN)),
    "added": (softmax_attention_torch, softmax_attention, dict(mask=ADDED.masked_fill(HIDDEN, -torch.inf))),
    "lengths": (softmax_attention_torch, softmax_attention, dict(key_lengths=LENGTHS)),
    "all": (softmax_attention_torch, softmax_attention, dict(mask=~HIDDEN, key_lengths=LENGTHS, causal=True)),
    "window": (sliding_window_attention_torch, sliding_window_attention, dict(window=2, key_lengths=LENGTHS)),
    "pattern": (block_sparse_attention_torch, block_sparse_attention, dict(pattern=LATE)),
    "pattern, lengths": (block_sparse_attention_torch, block_sparse_attention, dict(pattern=LATE, key_lengths=LENGTHS)),
}


@pytest.mark.parametrize("name", UNDER)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("g", [4, 2])
def test_rows_that_see_nothing_give_zeros_and_no_gradient(name, dtype, g):
    form, definition, told = UNDER[name]
    t = S if "pattern" in told else T
    inputs = [x.to(dtype) for x in make_qkv(b=2, h=4, g=g, t=t, s=S, dk=8, dv=8)]
    told = {k: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for k, x in told.items()}
    got, wanted = form(*inputs, **told), definition(*inputs, **told)
    assert (wanted == 0).all(dim=-1).any(), "some row sees nothing"
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    found = gradients(lambda *x: form(*x, **told), *inputs)
    for mine, theirs in zip(found, gradients(lambda *x: definition(*x, **told), *inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert (found[0][(wanted == 0).all(dim=-1)] == 0).all()


@pytest.mark.parametrize("mask", [torch.ones(3, 4, dtype=torch.bool), torch.zeros(1, 1, 3, 4, dtype=torch.float64)])
def test_padding_under_a_mask_may_hold_anything(mask):
    q, k, v = make_qkv(b=2, h=2, t=3, s=4)
    wanted = sdpa_under(q[1:], k[1:, :, :2], v[1:, :, :2], mask[..., :2])
    k[0], v[0], k[1, :, 2:], v[1, :, 2:] = torch.nan, torch.nan, torch.nan, torch.nan
    out = sdpa_under(q, k, v, mask, key_lengths=torch.tensor([0, 2]))
    torch.testing.assert_close(out[1:], wanted)
    assert (out[0] == 0).all()
