"""Every form of every room takes and refuses the same, and is right in every dtype, under autocast and huge masks.

A layer is called the same way whatever it is, so that one test asks the same of all: each layer of each room's module.py
stands in LAYERS of the room's tests, and is asked in each impl that it has.
"""

import copy
import importlib
import inspect
from functools import partial

import pytest
import torch
from torch import nn

from attncourse._shared.merge import merge_partial
from attncourse.additive import additive_attention, additive_attention_blocked
from attncourse.block_sparse import (
    block_sparse_attention,
    block_sparse_attention_blocked,
    block_sparse_attention_torch,
    local,
)
from attncourse.global_local import global_local_attention, global_local_attention_blocked
from attncourse.grouped_query import grouped_query_attention, grouped_query_decode
from attncourse.hard_attention import HardAttention, gumbel_noise, hard_attention, relaxed_attention
from attncourse.kv_cache import ContiguousCache, RingCache
from attncourse.latent import (
    latent_attention,
    latent_attention_absorbed,
    latent_attention_blocked,
)
from attncourse.multiplicative import luong_local_attention, multiplicative_attention
from attncourse.rooms import rooms_with
from attncourse.sliding_window import (
    sliding_window_attention,
    sliding_window_attention_blocked,
    sliding_window_attention_torch,
)
from attncourse.softmax_attention import (
    online_softmax_attention,
    softmax_attention,
    softmax_attention_blocked,
    softmax_attention_loop,
    softmax_attention_torch,
)
from attncourse.testing import assert_within_budget, gradients, make_qkv, relative_error
from tests.every_layer import BATCH as B
from tests.every_layer import D_MODEL as D
from tests.every_layer import TOKENS as T

pytest.importorskip("triton", reason="Triton is on Linux alone")

HALVES = (torch.bfloat16, torch.float16)
# By names: those of the rooms' layers and of their settings.
LAYERS = {
    name: layer
    for room in rooms_with("{}/module.py")
    for name, layer in importlib.import_module(f"tests.test_{room}").LAYERS.items()
}
FORMS = [(name, impl) for name, layer in LAYERS.items() for impl in layer.impls]
WITHOUT_GRADIENTS = {("multiplicative, local-p", "triton")}  # of a predicted position; it refuses to give them
each_form = pytest.mark.parametrize(("name", "impl"), FORMS)


def test_every_layer_is_asked_in_every_impl():
    asked = {type(layer.make()) for layer in LAYERS.values()}
    for room in rooms_with("{}/module.py"):
        module = importlib.import_module(f"attncourse.{room}.module")
        layers = {x for _, x in inspect.getmembers(module, inspect.isclass) if x.__module__ == module.__name__}
        assert {x for x in layers if issubclass(x, nn.Module)} <= asked, f"tests/test_{room}.py: LAYERS lacks a layer"
    assert all(layer.impls == tuple(type(layer.make()).forms) for layer in LAYERS.values())


def build(name, impl, *, dtype=torch.float32):
    """The layer with the same parameters whatever the impl; hard attention's choices are far from each other."""
    torch.manual_seed(0)
    layer = LAYERS[name].make(impl=impl)
    if isinstance(layer, HardAttention):
        with torch.no_grad():
            layer.w_q.weight.copy_(3 * torch.eye(D))
            layer.w_k.weight.copy_(torch.eye(D).roll(1, 0))
    return layer.to(dtype).eval()


def tokens(name, *, dtype=torch.float32, size=1.0):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(B, T, D, generator=rng)
    if name == "hard_attention":
        x = 3 * torch.eye(D).expand(B, D, D)[:, torch.randperm(D, generator=rng)[:T]] + 0.1 * x
    return (size * x).to(dtype)


def maskings(name, dtype=torch.float32) -> dict[str, dict]:
    """What a layer may be told: padding, and where it takes masks each kind, one that hides a row by a huge number."""
    found = {"nothing": {}, "lengths": dict(key_lengths=torch.tensor([T - 2, 3]))}
    if LAYERS[name].masks:
        rng = torch.Generator().manual_seed(2)
        huge = torch.zeros(T, T, dtype=dtype).masked_fill(torch.rand(T, T, generator=rng) < 0.3, torch.finfo(dtype).min)
        huge[torch.arange(T), torch.arange(T)] = 0.0
        found |= {
            "boolean": dict(mask=torch.rand(T, T, generator=rng) < 0.8),
            "added": dict(mask=torch.randn(B, 1, T, T, generator=rng).to(dtype), key_lengths=torch.tensor([T, 4])),
            "a huge number": dict(mask=huge),
        }
    return found


def some(impl, cases, last=1):
    """All of the cases; of a kernel, which is interpreted slowly, the last ones."""
    return cases[-last:] if impl == "triton" else cases


def as_double(options):
    """Masks as float64."""
    return {k: x.double() if x.is_floating_point() else x for k, x in options.items()}


@each_form
@torch.no_grad()
def test_sixteen_bits_err_no_more_than_the_definition_does(name, impl):
    for dtype in some(impl, HALVES):
        layer, plain = build(name, impl, dtype=dtype), build(name, "reference", dtype=dtype)
        exact = copy.deepcopy(plain).double()
        for what, options in some(impl, list(maskings(name, dtype).items()), last=2):
            x, call = tokens(name, dtype=dtype), LAYERS[name].call
            got = call(layer, x, **options)
            assert got.dtype == dtype
            wanted = call(exact, x.double(), **as_double(options))
            assert_within_budget(got, plain=call(plain, x, **options), exact=wanted, what=f"{what}, {dtype}")


@each_form
@torch.no_grad()
def test_float32_agrees_with_float64(name, impl):
    layer = build(name, impl)
    exact = build(name, "reference", dtype=torch.float64)
    for what, options in some(impl, list(maskings(name).items())):
        call = LAYERS[name].call
        error = relative_error(
            call(layer, tokens(name), **options), call(exact, tokens(name).double(), **as_double(options))
        )
        assert error < 3e-5, (what, error)


@each_form
@torch.no_grad()
def test_autocast_gives_its_dtype_and_float32_gradients(name, impl):
    exact = build(name, "reference", dtype=torch.float64)
    plain, call = build(name, "reference"), LAYERS[name].call
    for given in some(
        impl, (torch.float32, torch.bfloat16)
    ):  # tokens, and what the layer before made of them under autocast
        x = tokens(name, dtype=given)
        for what, options in some(impl, list(maskings(name).items())):
            layer = build(name, impl)
            with torch.autocast("cpu", torch.bfloat16):
                got, beside_it = call(layer, x, **options), call(plain, x, **options)
            assert got.dtype == torch.bfloat16, what
            wanted = call(exact, x.double(), **as_double(options))
            assert_within_budget(got, plain=beside_it, exact=wanted, what=f"{what}, {given}")
    if (name, impl) in WITHOUT_GRADIENTS or next(layer.parameters(), None) is None:
        return
    with torch.enable_grad():
        with torch.autocast("cpu", torch.bfloat16):
            got = call(layer, x)
        got.float().sum().backward()
    found = [p.grad for p in layer.parameters() if p.grad is not None]
    assert found and all(g.dtype == torch.float32 and g.isfinite().all() for g in found)


@each_form
@torch.no_grad()
def test_the_meta_device_gives_shapes(name, impl):
    with torch.device("meta"):
        x = torch.empty(B, T, D)
    layer, call = build(name, impl).to("meta"), LAYERS[name].call
    if impl == "triton":
        with pytest.raises(ValueError, match="CUDA"):
            call(layer, x)
        return
    for lengths in ({}, dict(key_lengths=torch.empty(B, dtype=torch.long, device="meta"))):
        out = call(layer, x, **lengths)
        assert out.shape == (B, T, D) and out.is_meta


WRONG_LENGTHS = {
    "beyond the keys": (torch.tensor([T + 1, 1]), "must lie in 0..7, got 1..8"),
    "negative": (torch.tensor([-1, 2]), "must lie in"),
    "floats": (torch.tensor([2.0, 3.0]), "must be an integer tensor, got torch.float32"),
    "booleans": (torch.tensor([True, False]), "must be an integer tensor, got torch.bool"),
    "one for two": (torch.tensor([3]), r"must have shape \(2,\), got \(1,\)"),
    "a list": ([3, 2], "must be an integer tensor"),
    "a mask": (torch.ones(B, T, dtype=torch.long), "must have shape"),
}
WRONG_MASKS = {
    "a tokenizer's": (torch.tensor([[1] * T, [1, 1] + [0] * 5])[:, None, None], r"got torch.int64.*mask\.bool\(\)"),
    "bytes": (torch.ones(T, T, dtype=torch.uint8), r"mask\.bool\(\)"),
    "another float": (torch.zeros(T, T, dtype=torch.float64), "got torch.float64"),
    "too short": (torch.ones(T, T - 1, dtype=torch.bool), "must broadcast to"),
    "five axes": (torch.ones(1, 1, 1, T, T, dtype=torch.bool), "must broadcast to"),
    "a list": ([[True] * T] * T, "must be a torch.Tensor, got list"),
}


@each_form
@torch.no_grad()
def test_every_form_refuses_the_same(name, impl):
    layer, x, call = build(name, impl), tokens(name), LAYERS[name].call
    for lengths, message in WRONG_LENGTHS.values():
        with pytest.raises(ValueError, match=f"key_lengths {message}"):
            call(layer, x, key_lengths=lengths)
    for mask, message in WRONG_MASKS.values() if LAYERS[name].masks else ():
        with pytest.raises(ValueError, match=f"mask .*{message}"):
            call(layer, x, mask=mask)
    for wrong in (x[0], x[..., :-1], x.long(), x.tolist()):
        with pytest.raises(ValueError, match=r"must be \(b, t, 16\)|floating point|torch.Tensor"):
            call(layer, wrong)
    if next(layer.parameters(), None) is not None:
        with pytest.raises(ValueError, match="float64|one dtype"):
            call(layer, x.double())


@each_form
@torch.no_grad()
def test_every_form_takes_the_same(name, impl):
    layer, reference, call = build(name, impl), build(name, "reference"), LAYERS[name].call
    x = tokens(name)
    odd = [dict(key_lengths=torch.tensor([T, 0], dtype=kind)) for kind in (torch.int32, torch.int8, torch.uint8)]
    if LAYERS[name].masks:
        visible = torch.arange(T) < 4
        odd += [
            dict(mask=visible),
            dict(mask=visible.expand(B, 1, 1, T)),
            dict(mask=~torch.eye(T).bool().expand(1, T, T)),
        ]
    for options in some(impl, odd):
        got = call(layer, x, **options)
        torch.testing.assert_close(got, call(reference, x, **options), rtol=1e-4, atol=1e-5)
    for few in some(impl, (x[:, :2], x[:0])):
        assert call(layer, few).shape == few.shape


# The functions behind the layers: scores far apart, so that what a form rounds shows.


def causal(form):
    return lambda q, k, v: form(q, k, v, causal=True)


def kernel_of(room, name):
    return lambda *inputs, **options: getattr(importlib.import_module(f"attncourse.{room}.kernel"), name)(
        *inputs, **options
    )


PATTERN = local(24, steps=30, block=8)  # causal, and long enough to see all
FUNCTIONS = {
    "softmax definition": causal(softmax_attention),
    "softmax blocked": causal(partial(softmax_attention_blocked, block=5)),
    "softmax torch": causal(softmax_attention_torch),
    "softmax triton": causal(kernel_of("softmax_attention", "softmax_attention_triton")),
    "grouped definition": causal(grouped_query_attention),
    "grouped decode": lambda q, k, v: grouped_query_decode(q, k, v),
    "window definition": lambda q, k, v: sliding_window_attention(q, k, v, window=24),
    "window blocked": lambda q, k, v: sliding_window_attention_blocked(q, k, v, window=24, block=5),
    "window torch": lambda q, k, v: sliding_window_attention_torch(q, k, v, window=24),
    "window triton": lambda q, k, v: kernel_of("sliding_window", "sliding_window_attention_triton")(q, k, v, window=24),
    "block-sparse definition": lambda q, k, v: block_sparse_attention(q, k, v, pattern=PATTERN, return_lse=True)[0],
    "block-sparse blocked": lambda q, k, v: block_sparse_attention_blocked(q, k, v, pattern=PATTERN, return_lse=True)[
        0
    ],
    "block-sparse torch": lambda q, k, v: block_sparse_attention_torch(q, k, v, pattern=PATTERN),
    "block-sparse triton": lambda q, k, v: kernel_of("block_sparse", "block_sparse_attention_triton")(
        q, k, v, pattern=PATTERN
    ),
}


def plain(q, k, v):
    """What a user would type: three operations in the inputs' dtype, causal."""
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT * q.shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[-2:]).tril(scores.shape[-1] - scores.shape[-2]) == 0
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("form", FUNCTIONS)
def test_large_scores_keep_their_budget_forward_and_backward(form, dtype):
    q, k, v = make_qkv(b=1, h=2, g=1, t=24, dk=16, dv=5, seed=3)
    q, k, v = (x.to(dtype) for x in (8 * q, k, v))
    exact = [x.double() for x in (q, k, v)]
    with torch.no_grad():
        assert_within_budget(FUNCTIONS[form](q, k, v), plain=plain(q, k, v), exact=plain(*exact))
    if form == "grouped decode":
        return
    found = zip(gradients(FUNCTIONS[form], q, k, v), gradients(plain, q, k, v), gradients(plain, *exact), strict=True)
    for got, beside_it, wanted in found:
        assert_within_budget(got, plain=beside_it, exact=wanted, what="gradient")


MANY = 1100
SUMS = {
    "softmax definition": softmax_attention,
    "softmax blocked": softmax_attention_blocked,
    "softmax torch": softmax_attention_torch,
    "softmax online": lambda q, k, v: online_softmax_attention(q[0, 0], k[0, 0], v[0, 0])[None, None],
    "softmax loop": lambda q, k, v: softmax_attention_loop(q[0, 0], k[0, 0], v[0, 0])[None, None],
    "window blocked": lambda q, k, v: sliding_window_attention_blocked(q, k, v, window=MANY),
    "block-sparse blocked": lambda q, k, v: block_sparse_attention_blocked(
        q, k, v, pattern=local(MANY, steps=MANY, block=64)
    ),
    "grouped decode": grouped_query_decode,
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("form", SUMS)
def test_a_mean_of_ones_is_one(form, dtype):
    """Sums in bfloat16 stop growing at 256, in float16 at 2048."""
    rng = torch.Generator().manual_seed(4)
    q, k = (torch.randn(1, 1, n, 8, generator=rng).to(dtype) for n in (2, MANY))
    out = SUMS[form](3 * q, k, torch.ones(1, 1, MANY, 3, dtype=dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=torch.finfo(dtype).eps)


WITH_LSE = {
    "softmax definition": softmax_attention,
    "softmax blocked": softmax_attention_blocked,
    "softmax triton": kernel_of("softmax_attention", "softmax_attention_triton"),
    "block-sparse definition": lambda q, k, v, **o: block_sparse_attention(q, k, v, pattern=ALL, **o),
    "block-sparse blocked": lambda q, k, v, **o: block_sparse_attention_blocked(q, k, v, pattern=ALL, **o),
    "block-sparse triton": lambda q, k, v, **o: kernel_of("block_sparse", "block_sparse_attention_triton")(
        q, k, v, pattern=ALL, **o
    ),
    "decode triton": lambda q, k, v, **o: kernel_of("grouped_query", "grouped_query_decode_triton")(
        q, k, v, starts=torch.full((len(q),), k.shape[2]), **o
    ),
}
ALL = local(64, steps=64, causal=False, block=16)


@pytest.mark.parametrize("form", WITH_LSE)
def test_log_sum_exps_are_float32_and_merge_to_the_whole(form):
    for dtype in (*HALVES, torch.float32):
        q, k, v = make_qkv(b=1, h=2, t=5, s=32, dk=8, dv=3, seed=5)
        q, k, v = (x.to(dtype) for x in (3 * q, k, v))
        exact_out, exact_lse = softmax_attention(q.double(), k.double(), v.double(), return_lse=True)
        with torch.no_grad():
            _, lse = WITH_LSE[form](q, k, v, return_lse=True)
            halves = [
                WITH_LSE[form](q, k[:, :, part], v[:, :, part], return_lse=True)
                for part in (slice(13), slice(13, None))
            ]
        assert lse.dtype == torch.float32
        torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-5, atol=1e-5)
        out, _ = merge_partial(*halves[0], *halves[1])
        assert relative_error(out, exact_out) < 4 * torch.finfo(dtype).eps


def test_float64_keeps_its_log_sum_exp():
    for form in ("softmax definition", "softmax blocked", "block-sparse definition", "block-sparse blocked"):
        assert WITH_LSE[form](*make_qkv(t=5), return_lse=True)[1].dtype == torch.float64


def test_halves_whose_every_key_is_masked_by_a_huge_number_merge_to_their_mean():
    q, k, v = make_qkv(b=1, h=1, t=2, s=6, dtype=torch.float32)
    parts = [
        softmax_attention(0 * q, k[:, :, part], v[:, :, part], mask=torch.full((2, 3), -1e9), return_lse=True)
        for part in (slice(3), slice(3, None))
    ]
    torch.testing.assert_close(merge_partial(*parts[0], *parts[1])[0], v.mean(dim=2, keepdim=True).expand(1, 1, 2, 8))


# Masks whose every number is huge: the row is a mean, as in PyTorch's attention, and so are its gradients.


def w(q, *shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape).to(q)


def latent_form(form):
    def run(q, k, v, mask):
        d = q.shape[-1]
        eye = torch.eye(d).to(q).expand(q.shape[1], d, d)
        return form(q, q[..., :0], k[:, :1], k[:, :1, :, :0], eye, eye, mask=mask) + 0 * v.sum()  # it reads no v

    return run


MASKED = {
    "softmax definition": lambda q, k, v, mask: softmax_attention(q, k, v, mask=mask, return_lse=True)[0],
    "softmax blocked": lambda q, k, v, mask: softmax_attention_blocked(q, k, v, mask=mask, block=4, return_lse=True)[0],
    "softmax torch": lambda q, k, v, mask: softmax_attention_torch(q, k, v, mask=mask),
    "softmax triton": lambda *x: kernel_of("softmax_attention", "softmax_attention_triton")(*x[:3], mask=x[3]),
    "grouped definition": lambda q, k, v, mask: grouped_query_attention(q, k, v, mask=mask),
    "additive definition": lambda q, k, v, mask: additive_attention(
        q, k, v, w(q, 3, 8), w(q, 3, 8), w(q, 3), mask=mask
    ),
    "additive blocked": lambda q, k, v, mask: additive_attention_blocked(
        q, k, v, w(q, 3, 8), w(q, 3, 8), w(q, 3), mask=mask, block=2
    ),
    "additive triton": lambda q, k, v, mask: kernel_of("additive", "additive_attention_triton")(
        q, k, v, w(q, 3, 8), w(q, 3, 8), w(q, 3), mask=mask
    ),
    "dot definition": lambda q, k, v, mask: multiplicative_attention(q, k, v, mask=mask),
    "dot triton": lambda q, k, v, mask: kernel_of("multiplicative", "multiplicative_attention_triton")(
        q, k, v, mask=mask
    ),
    "latent definition": latent_form(latent_attention),
    "latent absorbed": latent_form(latent_attention_absorbed),
    "latent blocked": latent_form(lambda *x, **o: latent_attention_blocked(*x, split=2, splits=2, **o)),
    "relaxed": lambda q, k, v, mask: relaxed_attention(
        q, k, v, noise=torch.zeros(*q.shape[:3], k.shape[2]), temperature=1.0, mask=mask
    ),
}
FILLS = [
    *((torch.float32, fill) for fill in (-1e4, -1e9, torch.finfo(torch.float32).min)),
    *((torch.bfloat16, fill) for fill in (-1e9, torch.finfo(torch.bfloat16).min)),
    *((torch.float16, fill) for fill in (-1e4, torch.finfo(torch.float16).min)),
]


@pytest.mark.parametrize("form", MASKED)
def test_a_row_whose_every_key_carries_a_huge_number_gives_a_mean(form):
    for dtype, fill in FILLS:
        q, k, v = (x.to(dtype) for x in make_qkv(b=1, h=1, t=4, s=9, dk=8, seed=6))
        # Equal scores, so that it is the mean whatever a huge number leaves of their differences.
        if form.startswith("additive"):
            k = k[:, :, :1].expand_as(k).contiguous()
        else:
            q[:, :, :2] = 0.0
        mask = torch.zeros(4, 9, dtype=dtype)
        mask[:2] = fill
        mask[3, 2:] = fill

        def run(q, k, v, mask=mask):
            return MASKED[form](q, k, v, mask.to(q.dtype))

        def exact(q, k, v, mask=mask):
            return MASKED[form.split()[0] + " definition" if form != "relaxed" else form](q, k, v, mask.double())

        inputs = [x.double() for x in (q, k, v)]
        times = 200 if dtype == torch.float32 else 4
        found = [(run(q, k, v), exact(*inputs))]
        if (
            form != "softmax torch"
        ):  # whose backward pass on a CPU reads maximum and log(sum) as one number (torch 2.13)
            found += zip(gradients(run, q, k, v), gradients(exact, *inputs), strict=True)
        for got, wanted in found:
            if wanted.norm() > 1e-9:
                assert relative_error(got, wanted) < times * torch.finfo(dtype).eps, (dtype, fill)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_a_hard_choice_among_keys_of_a_huge_number_is_a_draw(impl):
    """Noise is added to what is left of a score below its row's best: next to -1e9 it would round away."""
    q, k, v = torch.zeros(1, 1, 64, 4), torch.zeros(1, 1, 5, 4), torch.arange(5.0)[None, None, :, None]
    mask = torch.full((64, 5), -1e9)
    if impl == "triton":
        read = kernel_of("hard_attention", "hard_attention_triton")(q, k, v, seed=3, mask=mask)
    else:
        noise = gumbel_noise(1, 1, 64, 5, generator=torch.Generator().manual_seed(0))
        read = hard_attention(q, k, v, noise=noise, mask=mask)
    assert read.log_prob.dtype == torch.float32
    torch.testing.assert_close(read.log_prob, torch.full((1, 1, 64), -torch.tensor(5.0).log()))
    assert read.index.unique().tolist() == [0, 1, 2, 3, 4]


# What is kept between calls.


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize(
    "name", ["grouped_query", "grouped_query, a window", "sliding_window", "latent", "latent, absorbed"]
)
@torch.no_grad()
def test_what_a_ring_shows_does_not_hang_on_how_the_text_was_cut(name, impl):
    layer, x = build(name, impl), tokens(name).repeat(1, 2, 1)
    outs = []
    for piece in (1, 2, 7):
        cache = RingCache(B, layer.cache_shape, window=4, sinks=1, piece=piece)
        outs.append(torch.cat([layer(part, cache=cache) for part in x.split(piece, dim=1)], dim=1))
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["grouped_query", "sliding_window", "latent", "latent, absorbed"])
@torch.no_grad()
def test_caches_serve_under_autocast(name, dtype):
    for impl in LAYERS[name].impls if dtype == torch.float32 else LAYERS[name].impls[:-1]:
        layer, exact, x = build(name, impl), build(name, "reference"), tokens(name)
        cache = ContiguousCache(B, layer.cache_shape, capacity=T, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            out = torch.cat([layer(part, cache=cache) for part in x.split((6, 1), dim=1)], dim=1)
        assert out.dtype == torch.bfloat16
        assert relative_error(out, exact(x)) < 0.03, impl


def test_local_positions_are_not_rounded():
    q = torch.randn(1, 1, 3, 4).bfloat16()
    k = torch.randn(1, 1, 600, 4).bfloat16()
    positions = torch.tensor([[[301.0, 402.0, 597.0]]])
    got = luong_local_attention(q, k, k, positions, radius=1)
    wanted = luong_local_attention(q.double(), k.double(), k.double(), positions.double(), radius=1)
    assert relative_error(got, wanted) < 0.01


def test_global_local_forms_agree_in_half_precision_with_hubs():
    q, k, v = make_qkv(b=1, h=2, t=24, dk=16, seed=8)
    q, k, v = (x.bfloat16() for x in (6 * q, k, v))
    options = dict(radius=2, global_indices=torch.tensor([3, 11]))
    exact = global_local_attention(q.double(), k.double(), v.double(), **options)
    for form in (
        global_local_attention,
        global_local_attention_blocked,
        kernel_of("global_local", "global_local_attention_triton"),
    ):
        assert relative_error(form(q, k, v, **options), exact) < 0.01
