"""Latent attention: expanded, absorbed and by hand; with a cache and without; its cost; the kernel in the interpreter or on CUDA."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from attncourse._shared.cache import CacheShape
from attncourse._shared.rope import RotaryEmbedding
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import ContiguousCache, PagedCache, PagePool, RingCache
from attncourse.latent import (
    LatentAttention,
    LatentShape,
    absorb_query,
    cheaper_form,
    crossover,
    expand_latent,
    latent_attention,
    latent_attention_absorbed,
    latent_attention_blocked,
    latent_attention_loop,
    latent_bytes,
    latent_flops,
)
from attncourse.latent.convert import latent_from_grouped, low_rank
from attncourse.multi_head import MultiHeadAttention
from attncourse.softmax_attention import softmax_attention
from attncourse.testing import assert_within_budget, gradients
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer

kernel = pytest.importorskip("attncourse.latent.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
WIDTHS = dict(kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=5)
LAYERS = {
    "latent": Layer(lambda **o: LatentAttention(D_MODEL, 4, **WIDTHS, **o)),
    "latent, absorbed": Layer(lambda **o: LatentAttention(D_MODEL, 4, **WIDTHS, form="absorbed", **o)),
}


def draw(*, b=2, h=3, t=5, s=7, n=4, p=2, r=6, dv=5, dtype=torch.float64, device="cpu", seed=0):
    """q_nope, q_rope, latent, k_rope, w_uk, w_uv."""
    rng = torch.Generator().manual_seed(seed)
    shapes = (b, h, t, n), (b, h, t, p), (b, 1, s, r), (b, 1, s, p), (h, n, r), (h, dv, r)
    inputs = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    inputs[4:] = [w * r**-0.5 for w in inputs[4:]]  # as a layer starts: keys and values are of the latents' size
    return [x.to(device, dtype) for x in inputs]


def cache_for(layer, b, *, kind="contiguous", dtype=torch.float64, device="cpu"):
    """A cache whose unused places hold NaN."""
    shape = layer.cache_shape
    if kind == "contiguous":
        cache = ContiguousCache(b, shape, capacity=19, dtype=dtype, device=device)
    else:
        cache = PagedCache(b, PagePool(12, shape, page_size=4, dtype=dtype, device=device))
    for (stream,) in cache.storage:
        stream.fill_(torch.nan)
    return cache


def layer_of(**changes):
    torch.manual_seed(0)
    sizes = dict(kv_lora_rank=6, q_lora_rank=7, qk_nope_head_dim=5, qk_rope_head_dim=4, v_head_dim=3) | changes
    layer = LatentAttention(11, 3, **sizes).double()
    for norm in (m for m in layer.modules() if isinstance(m, torch.nn.RMSNorm)):
        torch.nn.init.normal_(norm.weight)
    return layer


FORMS = {"expanded": latent_attention, "absorbed": latent_attention_absorbed}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 5), (2, 7), (7, 2)])
def test_both_forms_are_the_loop(form, causal, t, s):
    inputs = draw(b=1, t=t, s=s)
    q_nope, q_rope, latent, k_rope, w_uk, w_uv = inputs
    loop = latent_attention_loop(q_nope[0], q_rope[0], latent[0, 0], k_rope[0, 0], w_uk, w_uv, causal=causal)
    torch.testing.assert_close(FORMS[form](*inputs, causal=causal)[0], loop, rtol=0, atol=1e-10)


@given(
    b=st.integers(1, 2), h=st.integers(1, 5), t=st.integers(1, 9), s=st.integers(1, 11), n=st.integers(0, 7),
    p=st.integers(0, 4), r=st.integers(1, 9), dv=st.integers(1, 7), causal=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_absorbed_is_expanded_at_every_size(b, h, t, s, n, p, r, dv, causal, seed):
    inputs = draw(b=b, h=h, t=t, s=s, n=n + (p == 0), p=p, r=r, dv=dv, seed=seed)
    masking = dict(causal=causal, key_lengths=torch.arange(b) % s + 1)
    expanded, absorbed = (form(*inputs, **masking) for form in FORMS.values())
    torch.testing.assert_close(absorbed, expanded, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_masks_scale_and_padding_are_those_of_softmax_attention(form):
    inputs = draw()
    lengths = torch.tensor([7, 3])
    clean = FORMS[form](*inputs, key_lengths=lengths, scale=0.3)
    inputs[2][1, :, 3:], inputs[3][1, :, 3:] = torch.nan, torch.nan
    poisoned = FORMS[form](*inputs, key_lengths=lengths, scale=0.3)
    torch.testing.assert_close(poisoned, clean)
    by_mask = FORMS[form](*draw(), mask=torch.arange(7) < lengths[:, None, None, None], scale=0.3)
    torch.testing.assert_close(by_mask, clean)


def test_gradients_of_both_forms_agree():
    inputs = draw()
    wanted = gradients(lambda *x: latent_attention(*x, causal=True), *inputs)
    for got, want in zip(
        gradients(lambda *x: latent_attention_absorbed(*x, causal=True), *inputs), wanted, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_keys_rotated_after_expansion_cannot_be_absorbed():
    """With W_UK c turned by its position, q . R W_UK c: no query of one position stands for all of them."""
    inputs = draw(n=4, p=0)
    q, _, latent, k_rope, w_uk, w_uv = inputs
    rope = RotaryEmbedding(4)
    keys, values = expand_latent(latent, k_rope, w_uk, w_uv)
    at = torch.arange(7)
    turned_q, turned_k = rope(q, at[-5:]), rope(keys, at)
    rotated = softmax_attention(turned_q, turned_k, values, causal=True)
    absorbed = latent_attention_absorbed(turned_q, inputs[1], latent, k_rope, w_uk, w_uv, causal=True)
    assert (absorbed - rotated).abs().max() > 0.1
    # What does work takes a matrix for every distance, W_UK^T R(m - n): nothing that is formed once a query.
    first = turned_q[:, :, -1:]
    for j in range(7):
        query = torch.einsum("bhtn,hnr->bhtr", rope(first, torch.tensor([-j])), w_uk)
        torch.testing.assert_close(
            query[:, :, 0] @ latent[:, 0, j, :, None], (first * turned_k[:, :, j : j + 1]).sum(-1)
        )


@given(
    b=st.integers(1, 2), h=st.integers(1, 4), t=st.integers(1, 3), s=st.integers(1, 30), split=st.integers(1, 9),
    splits=st.integers(1, 4), p=st.integers(0, 3), masked=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_splits_of_any_size_are_the_unsplit_form(b, h, t, s, split, splits, p, masked, seed):
    inputs = draw(b=b, h=h, t=t, s=s, p=p, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, s + 1, (b,), generator=rng)
    masking = dict(key_lengths=lengths, mask=torch.rand(b, 1, t, s, generator=rng) > 0.4 if masked else None)
    wanted = latent_attention_absorbed(*inputs, **masking)
    for row, length in enumerate(lengths):
        inputs[2][row, :, length:] = torch.nan
    got = latent_attention_blocked(*inputs, split=split, splits=splits, **masking)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.bad_input
@pytest.mark.parametrize("form", FORMS)
def test_wrong_shapes_are_named(form):
    for changed, shape, message in (
        (1, (2, 3, 4, 2), "q_rope must be"), (2, (2, 3, 7, 6), "latent must be"), (3, (2, 1, 6, 2), "k_rope must be"),
        (4, (3, 5, 6), "w_uk must be"), (5, (2, 5, 6), "w_uv must be"), (0, (2, 3, 5), "q_nope must be"),
    ):  # fmt: skip
        inputs = draw()
        inputs[changed] = torch.zeros(shape, dtype=torch.float64)
        with pytest.raises(ValueError, match=message):
            FORMS[form](*inputs)


# The layer


@pytest.mark.parametrize("rank", [None, 7])
@pytest.mark.parametrize("impl", ["reference", "blocked", "torch"])
@pytest.mark.parametrize("form", [None, "expanded", "absorbed"])
def test_the_layer_is_the_paper_by_hand(impl, form, rank):
    layer = layer_of(impl=impl, form=form, q_lora_rank=rank)
    x = torch.randn(2, 6, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_hand(layer, x), rtol=0, atol=1e-10)


def by_hand(layer, x):
    """Equations 9 to 19 with loops over heads and tokens, apart from the package's forms."""
    shape = layer.shape
    n, p, r = shape.qk_nope_head_dim, shape.qk_rope_head_dim, shape.kv_lora_rank

    def rms(y, norm):
        return y / (y.square().mean() + 1e-6).sqrt() * norm.weight

    def turn(y, position):
        pairs = torch.complex(y[0::2], y[1::2])
        angle = position * 10_000.0 ** (-2 * torch.arange(len(pairs), dtype=torch.float64) / p)
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten()

    out = torch.zeros_like(x)
    for i, sequence in enumerate(x):
        keys, values = [], []
        for j, token in enumerate(sequence):
            compressed = layer.kv_a.weight @ token
            latent = rms(compressed[:r], layer.kv_a_norm)
            rotated = turn(compressed[r:], j)
            by_head = (layer.kv_b.weight @ latent).reshape(shape.n_heads, n + shape.v_head_dim)
            keys.append([torch.cat([row[:n], rotated]) for row in by_head])
            values.append([row[n:] for row in by_head])
            if layer.q_lora_rank is None:
                q = layer.q.weight @ token
            else:
                q = layer.q_b.weight @ rms(layer.q_a.weight @ token, layer.q_a_norm)
            heads = []
            for head, query in enumerate(q.reshape(shape.n_heads, n + p)):
                query = torch.cat([query[:n], turn(query[n:], j)])
                scores = torch.stack([query @ key[head] for key in keys]) * (n + p) ** -0.5
                heads.append(torch.softmax(scores, dim=0) @ torch.stack([value[head] for value in values]))
            out[i, j] = layer.o.weight @ torch.cat(heads)
    return out


SPLITS = [(9,), (4, 5), (1,) * 9, (1, 3, 1, 4), (8, 1)]
KERNELS = ("triton", "numba")
IMPLS = ["reference", "blocked", "torch", *(pytest.param(name, id=f"{name} kernel") for name in KERNELS)]


def comparable(impl):
    """The kernels take float32 at most."""
    dtype = torch.float32 if impl in KERNELS else torch.float64
    return dtype, dict(rtol=1e-4, atol=1e-4) if impl in KERNELS else dict(rtol=0, atol=1e-10)


@pytest.mark.parametrize("splits", SPLITS, ids=str)
@pytest.mark.parametrize("kind", ["contiguous", "paged"])
@pytest.mark.parametrize("form", [None, "absorbed"])
@pytest.mark.parametrize("impl", IMPLS)
@torch.no_grad()
def test_cached_is_uncached_at_every_split(impl, form, kind, splits, device):
    dtype, close = comparable(impl)
    exact = layer_of(impl="reference", form="expanded").to(device)
    layer = layer_of(impl=impl, form=form).to(device, dtype)
    x = torch.randn(2, 9, 11, dtype=torch.float64, device=device)
    cache = cache_for(layer, 2, kind=kind, dtype=dtype, device=device)
    pieces = torch.cat([layer(piece.to(dtype), cache=cache) for piece in x.split(splits, dim=1)], dim=1)
    torch.testing.assert_close(pieces, exact(x).to(dtype), **close)


@pytest.mark.parametrize("kind", ["contiguous", "paged"])
@pytest.mark.parametrize("form", [None, "absorbed"])
@pytest.mark.parametrize("impl", IMPLS)
@torch.no_grad()
def test_a_cache_of_unequal_lengths_goes_on_as_each_sequence_would(impl, form, kind, device):
    dtype, close = comparable(impl)
    exact = layer_of(impl="reference", form="expanded").to(device)
    layer = layer_of(impl=impl, form=form).to(device, dtype)
    x = torch.randn(3, 9, 11, dtype=torch.float64, device=device)
    cache, done = cache_for(layer, 3, kind=kind, dtype=dtype, device=device), torch.zeros(3, dtype=torch.long)
    for counts in ([4, 1, 2], [3, 0, 3], [1, 1, 1], [0, 2, 1]):
        counts = torch.tensor(counts)
        piece = torch.full((3, int(counts.max()), 11), 7.0, dtype=dtype, device=device)
        for row in range(3):
            piece[row, : counts[row]] = x[row, done[row] : done[row] + counts[row]]
        out = layer(piece, key_lengths=counts.to(device), cache=cache)
        assert out.isfinite().all()
        for row in range(3):
            wanted = exact(x[row : row + 1, : done[row] + counts[row]])[0, done[row] :]
            torch.testing.assert_close(out[row, : counts[row]], wanted.to(dtype), **close)
        done += counts


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch"])
@torch.no_grad()
def test_a_ring_whose_slots_are_out_of_order_is_read_by_position(impl):
    """What has left the ring is not seen: the layer is that of a text that begins where the ring does."""
    layer = layer_of(impl=impl, qk_rope_head_dim=0)  # without positions, so that a text may begin anywhere
    x = torch.randn(1, 9, 11, dtype=torch.float64)
    cache = RingCache(1, layer.cache_shape, window=4, dtype=torch.float64)
    for j in range(9):
        out = layer(x[:, j : j + 1], cache=cache)
        wanted = layer(x[:, max(j - 3, 0) : j + 1])[:, -1:]
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-10)


def test_the_cache_holds_a_latent_and_a_shared_key_a_token():
    layer = layer_of()
    assert layer.cache_shape == CacheShape(1, (6, 4))
    assert layer_of(qk_rope_head_dim=0).cache_shape == CacheShape(1, (6, 0))


def test_padding_changes_nothing_before_it():
    layer = layer_of()
    x = torch.randn(2, 6, 11, dtype=torch.float64)
    wanted = layer(x[1:, :4])
    x[1, 4:] = 1e6
    torch.testing.assert_close(layer(x, key_lengths=torch.tensor([6, 4]))[1:, :4], wanted)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_the_layers_gradients_do_not_depend_on_its_form(form):
    x = torch.randn(2, 6, 11, dtype=torch.float64)
    wanted, layer = layer_of(form="expanded", impl="reference"), layer_of(form=form, impl="torch")
    for each in (wanted, layer):
        (each(x) * torch.arange(11)).sum().backward()
    for (name, got), want in zip(layer.named_parameters(), wanted.parameters(), strict=True):
        assert want.grad.abs().max() > 0, name
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # of the norm's weight and what it normalises
@pytest.mark.parametrize("form", ["expanded", "absorbed"])
@pytest.mark.parametrize("impl", ["reference", "blocked", "torch"])
def test_autocast_takes_every_impl_to_its_dtype(impl, form):
    layer = layer_of(impl=impl, form=form).float()
    x = torch.randn(2, 6, 11)
    cache = cache_for(layer, 2, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain, cached = layer(x), torch.cat([layer(piece, cache=cache) for piece in x.split([5, 1], dim=1)], dim=1)
    assert plain.dtype == cached.dtype == torch.bfloat16
    torch.testing.assert_close(plain.float(), layer(x), rtol=0.1, atol=0.1)
    torch.testing.assert_close(cached.float(), layer(x), rtol=0.1, atol=0.1)


@pytest.mark.bad_input
def test_sizes_that_do_not_fit_are_refused():
    for changes, message in (
        (dict(kv_lora_rank=0), "kv_lora_rank"), (dict(impl="fast"), "impl must be"), (dict(form="both"), "form must be"),
        (dict(rope=RotaryEmbedding(6)), "qk_rope_head_dim = 4"), (dict(qk_rope_head_dim=3), "must be even"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            layer_of(**changes)
    with pytest.raises(ValueError, match="x must be"):
        layer_of()(torch.zeros(1, 2, 12, dtype=torch.float64))


# What the forms cost

SHAPES = [LatentShape(3, 6, 4, 2, 5), LatentShape(2, 3, 8, 2, 8), LatentShape(16, 512, 128, 64, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("t", "s"), [(2, 3), (1, 17), (5, 17), (17, 17)])
@pytest.mark.parametrize("form", FORMS)
def test_operations_are_those_that_pytorch_counts(form, shape, t, s):
    inputs = draw(
        b=1, h=shape.n_heads, t=t, s=s, n=shape.qk_nope_head_dim, p=shape.qk_rope_head_dim, r=shape.kv_lora_rank,
        dv=shape.v_head_dim, dtype=torch.float32,
    )  # fmt: skip
    with FlopCounterMode(display=False) as counted:
        FORMS[form](*inputs)
    assert latent_flops(shape, form, t=t, s=s) == counted.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_those_of_the_tensors_that_each_form_reads_and_makes(form, shape):
    t, s = 3, 17
    inputs = draw(
        b=1, h=shape.n_heads, t=t, s=s, n=shape.qk_nope_head_dim, p=shape.qk_rope_head_dim, r=shape.kv_lora_rank,
        dv=shape.v_head_dim, dtype=torch.float32,
    )  # fmt: skip
    out = FORMS[form](*inputs)
    if form == "expanded":
        made = expand_latent(*inputs[2:])
    else:
        mixed = out.new_empty(1, shape.n_heads, t, shape.kv_lora_rank)
        made = absorb_query(inputs[0], inputs[4]), mixed
    once, twice = sum(x.nbytes for x in (*inputs, out)), sum(x.nbytes for x in made)
    assert latent_bytes(shape, form, t=t, s=s, itemsize=4) == once + 2 * twice


def test_the_crossover_is_where_the_operations_meet():
    deepseek = SHAPES[-1]
    assert crossover(deepseek) == pytest.approx(512 * 256 / (1024 - 256))
    for s in (100, 4096):
        t = crossover(deepseek, s=s)
        assert latent_flops(deepseek, "absorbed", t=t, s=s) == pytest.approx(
            latent_flops(deepseek, "expanded", t=t, s=s)
        )
        assert cheaper_form(deepseek, t=int(t), s=s) == "absorbed"
        assert cheaper_form(deepseek, t=int(t) + 1, s=s) == "expanded"
    assert crossover(SHAPES[1]) == float("inf")
    assert cheaper_form(SHAPES[1], t=10**6, s=10**6) == "absorbed"


# The kernels


@pytest.fixture
def attend(decoder_of):
    return decoder_of(LatentAttention)


def check_kernel(attend, inputs, exact_inputs=None, *, dtype, **options):
    """Against the definition in float64, with twice the error of plain PyTorch in this dtype as budget."""
    told = dict(options)
    masking = dict(key_lengths=told.pop("key_lengths", None), scale=told.get("scale"))
    stored = inputs if exact_inputs is None else exact_inputs  # contiguous, where the kernel reads pages
    if (positions := told.get("positions")) is not None:
        masking["mask"] = torch.arange(stored[2].shape[2], device=positions.device) <= positions[:, None, :, None]
    exact = latent_attention(*(x.double() for x in stored), **masking)
    plain = latent_attention_absorbed(*stored, **masking)
    out = attend(*inputs, key_lengths=masking["key_lengths"], **told)
    assert out.dtype == dtype
    assert_within_budget(out, plain=plain, exact=exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("r", "p"), [(16, 16), (24, 4), (80, 0), (128, 32), (200, 10)])
def test_the_kernel_keeps_its_budget_at_every_width(dtype, r, p, attend, device):
    check_kernel(attend, draw(h=5, t=1, s=37, n=8, r=r, p=p, dv=7, dtype=dtype, device=device), dtype=dtype)


def test_the_kernel_keeps_its_budget_at_the_published_width(attend, device):
    inputs = draw(b=1, h=3, t=1, s=19, n=128, r=512, p=64, dv=128, dtype=torch.float32, device=device)
    check_kernel(attend, inputs, dtype=torch.float32)


@pytest.mark.dry
@pytest.mark.parametrize(("h", "t"), [(1, 1), (16, 1), (17, 1), (3, 4)])
@pytest.mark.parametrize("s", [1, 16, 67])
def test_the_kernel_keeps_its_budget_off_the_block_edges(h, t, s, attend, device):
    positions = torch.arange(s - 1, s - 1 + t, device=device).expand(2, t)
    check_kernel(
        attend,
        draw(h=h, t=t, s=s, dtype=torch.float32, device=device),
        dtype=torch.float32,
        positions=positions,
        scale=0.3,
    )


@pytest.mark.parametrize("splits", [None, 1, 2, 3, 7])
def test_the_kernel_reads_each_sequence_to_its_own_length(splits, attend, device):
    inputs = draw(b=4, s=67, dtype=torch.float32, device=device)
    lengths = torch.tensor([67, 1, 0, 40], device=device)
    for row, length in enumerate(lengths):
        inputs[2][row, :, length:], inputs[3][row, :, length:] = torch.nan, torch.nan
    check_kernel(attend, inputs, dtype=torch.float32, key_lengths=lengths, splits=splits)


def test_any_split_gives_what_the_whole_gives(attend, device):
    inputs = draw(b=1, t=2, s=150, dtype=torch.float32, device=device)
    whole = attend(*inputs, splits=1)
    for splits in (2, 5, 10, 40):
        torch.testing.assert_close(attend(*inputs, splits=splits), whole)


@pytest.mark.dry
@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("splits", [1, 3])
def test_the_kernel_reads_pages_in_any_order_and_no_other(page_size, splits, attend, device):
    inputs = draw(b=3, s=48, r=16, dtype=torch.float32, device=device)
    lengths = torch.tensor([48, 17, 1], device=device)
    n_pages, per_row = 200, 48 // page_size
    places = torch.randperm(n_pages, generator=torch.Generator().manual_seed(1)).to(device)
    table = torch.full((3, per_row + 1), -1, dtype=torch.int32, device=device)
    pages = [torch.full((n_pages, 1, page_size, x.shape[-1]), torch.nan, device=device) for x in inputs[2:4]]
    for row, length in enumerate(lengths.tolist()):
        for i in range(-(-length // page_size)):
            page = int(places[row * per_row + i])
            table[row, i] = page
            for stream, x in zip(pages, inputs[2:4], strict=True):
                tokens = x[row, 0, i * page_size : min((i + 1) * page_size, length)]
                stream[page, 0, : len(tokens)] = tokens
    paged = [*inputs[:2], *pages, *inputs[4:]]
    check_kernel(attend, paged, inputs, dtype=torch.float32, key_lengths=lengths, block_table=table, splits=splits)


def test_the_kernel_takes_any_strides(device):
    inputs = draw(s=37, dtype=torch.float32, device=device)
    wanted = kernel.latent_attention_triton(*inputs)
    strided = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in inputs]
    strided[2] = torch.stack([inputs[2]] * 3, dim=3)[:, :, :, 1]
    torch.testing.assert_close(kernel.latent_attention_triton(*strided), wanted)


@pytest.mark.gpu
def test_the_kernel_reads_caches_of_more_than_two_to_the_31_elements(device):
    q_nope, q_rope, _, _, w_uk, w_uv = draw(b=1, h=2, t=1, r=512, p=64, dtype=torch.float16, device=device)
    s = 2**31 // 512 + 100
    latent, k_rope = (torch.zeros(1, 1, s, width, dtype=torch.float16, device=device) for width in (512, 64))
    latent[:, :, -1] = 1.0
    positions = torch.tensor([[s - 1]], device=device)
    inputs = (q_nope, q_rope, latent, k_rope, w_uk * 2000, w_uv)
    got = kernel.latent_attention_triton(*inputs, positions=positions)
    torch.testing.assert_close(got, latent_attention_absorbed(*inputs), rtol=1e-2, atol=1e-3)


@pytest.mark.bad_input
def test_the_kernel_says_what_it_cannot_do(attend, device):
    inputs = draw(dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match=r"inference.*impl='torch'"):
        attend(inputs[0].requires_grad_(), *inputs[1:])
    inputs = draw(dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        attend(*inputs)
    inputs = draw(r=513, dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match="latents of width to 512, got 513"):
        attend(*inputs)
    inputs = draw(dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match="pages need key_lengths"):
        attend(*inputs, block_table=torch.zeros(2, 1, dtype=torch.int32, device=device))
    for changes, message in (
        (dict(positions=torch.zeros(2, 1, dtype=torch.long, device=device)), "positions must be"),
        (dict(key_lengths=torch.tensor([8, 1], device=device)), "0..7"), (dict(splits=0), "splits"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            attend(*inputs, **changes)


@pytest.mark.bad_input
@pytest.mark.parametrize("impl", KERNELS)
def test_a_ring_is_refused_by_the_kernels(impl, device):
    layer = layer_of(impl=impl, form="absorbed", qk_rope_head_dim=0).to(device, torch.float32)
    ring = RingCache(1, layer.cache_shape, window=4, device=device)
    with torch.no_grad(), pytest.raises(ValueError, match=f"impl='{impl}' decodes .* got RingCache: use impl='torch'"):
        layer(torch.zeros(1, 1, 11, device=device), cache=ring)


@pytest.mark.bad_input
def test_the_kernel_for_processors_takes_vectors_whose_entries_are_neighbours():
    numba = pytest.importorskip("attncourse.latent.cpu_kernel")
    inputs = draw(dtype=torch.float32)
    inputs[2] = inputs[2].repeat_interleave(2, dim=-1)[..., ::2]
    with pytest.raises(ValueError, match="neighbours in memory, got strides"):
        numba.latent_attention_numba(*inputs)


def test_kernels_that_two_processes_compiled_and_a_third_one_loads_do_not_mix(tmp_path):
    """Numba's own names for functions are counted in each process anew; a name that means two functions runs either."""
    pytest.importorskip("attncourse.latent.cpu_kernel")
    compile_one = "from attncourse.{0}.cpu_kernel import {0}_split_kernel as kernel; kernel()"
    load_both = (
        "import torch\n"
        "from attncourse.grouped_query.cpu_kernel import grouped_query_decode_numba\n"
        "from attncourse.latent.cpu_kernel import latent_attention_numba\n"
        "from attncourse.latent import latent_attention_absorbed\n"
        "from torch.nn.functional import scaled_dot_product_attention as sdpa\n"
        "shapes = (2, 8, 1, 12), (2, 8, 1, 4), (2, 1, 37, 16), (2, 1, 37, 4), (8, 12, 16), (8, 6, 16)\n"
        "inputs = [torch.randn(shape) for shape in shapes]\n"
        "for h in (1, 2, 4, 8):\n"
        "    q, k, v = torch.randn(2, h, 1, 16), *torch.randn(2, 2, 1, 37, 16)\n"
        "    difference = grouped_query_decode_numba(q, k, v) - sdpa(q, k, v, enable_gqa=True)\n"
        "    assert difference.abs().max() < 1e-5, h\n"
        "    few = [x[:, :h] for x in inputs[:2]] + inputs[2:4] + [x[:h] for x in inputs[4:]]\n"
        "    difference = latent_attention_numba(*few) - latent_attention_absorbed(*few)\n"
        "    assert difference.abs().max() < 1e-4, (h, 'latent')\n"
    )
    told = dict(env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, stderr=subprocess.PIPE, text=True)
    compiling = [
        subprocess.Popen([sys.executable, "-c", compile_one.format(room)], **told)
        for room in ("grouped_query", "latent")
    ]
    for process in compiling:
        assert "compiling" in process.communicate()[1]
    done = subprocess.run([sys.executable, "-c", load_both], **told)
    assert done.returncode == 0 and "compiling" not in done.stderr, done.stderr


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_every_kernel_compiles_without_a_gpu(capability):
    matrix = {75: ("none", "none"), 80: ("mma", "mma"), 90: ("mma", "wgmma"), 100: ("mma", "tcgen05")}[capability]
    for c in compile_all("latent", capability):
        assert c.shared <= SHARED_LIMIT[capability], c
        if "fp32" in c.case:
            assert c.loop.local == 0, c
            continue
        many = "128 queries" in c.case
        assert c.matrix == matrix[many], c
        # 64 queries' mixtures of 512 are half of a thread's registers: here the compiler puts some others aside.
        crowded = many and "512" in c.case and capability == 90
        assert c.loop.local <= 0.03 * c.loop.instructions if crowded else c.spills == 0, c
        # The cache is read in pieces of 16 bytes, and a page is looked up once a tile.
        assert c.loop.copies >= 2 and c.loop.narrow == ("paged" in c.case) + (capability == 75), c
        if capability >= 80 and not many and "256" not in c.case:
            assert c.resident >= kernel.RESIDENT, c


# Conversion of a trained layer


def converted_from(n_kv_heads, rank, **changes):
    torch.manual_seed(0)
    layer = GroupedQueryAttention(12, 6, n_kv_heads=n_kv_heads, bias=False, causal=True, **changes).double()
    return layer, latent_from_grouped(layer, rank)


@pytest.mark.parametrize(("n_kv_heads", "full"), [(6, 12), (3, 12), (1, 4)])
def test_a_layer_of_full_rank_computes_what_the_converted_one_did(n_kv_heads, full):
    layer, latent = converted_from(n_kv_heads, full, head_dim=2)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(latent(x), layer(x), rtol=0, atol=1e-10)
    assert latent.cache_shape == CacheShape(1, (full, 0))
    layer.scale = 0.1
    torch.testing.assert_close(latent_from_grouped(layer, full)(x), layer(x), rtol=0, atol=1e-10)


def test_a_multi_head_layer_is_converted_with_values_of_their_own_width():
    layer = MultiHeadAttention(12, 3, head_dim=2, v_head_dim=3, bias=False, causal=True).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(latent_from_grouped(layer, 12)(x), layer(x), rtol=0, atol=1e-10)


def test_the_low_rank_factors_are_the_closest_there_are():
    rng = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(9, 7, generator=rng).double(), torch.randn(50, 7, generator=rng).double()
    inputs = inputs * torch.linspace(0.1, 3, 7)
    for rank in (1, 3, 7):
        up, down = low_rank(weight, rank)
        torch.testing.assert_close(up.T @ up, torch.eye(rank, dtype=torch.float64))
        left_out = torch.linalg.svdvals(weight)[rank:].norm()
        torch.testing.assert_close((up @ down - weight).norm(), left_out)
        up, down = low_rank(weight, rank, inputs=inputs)
        left_out = torch.linalg.svdvals(inputs @ weight.T)[rank:].norm()
        torch.testing.assert_close((inputs @ (up @ down - weight).T).norm(), left_out)


def test_few_inputs_leave_a_map_that_is_exact_on_them():
    rng = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(9, 7, generator=rng).double(), torch.randn(3, 7, generator=rng).double()
    up, down = low_rank(weight, 3, inputs=inputs)
    torch.testing.assert_close(inputs @ (up @ down).T, inputs @ weight.T)
    with pytest.raises(ValueError, match="over 3 inputs, rank is 3 at most, got rank=4"):
        low_rank(weight, 4, inputs=inputs)


@pytest.mark.bad_input
def test_layers_that_cannot_be_converted_are_refused():
    for changes, message in (
        (dict(rope=RotaryEmbedding(2)), "rope cannot be converted"), (dict(bias=True), "biases"),
        (dict(causal=False), "causal=True"),
    ):  # fmt: skip
        layer = GroupedQueryAttention(12, 6, n_kv_heads=6, **{"bias": False, "causal": True} | changes)
        with pytest.raises(ValueError, match=message):
            latent_from_grouped(layer, 4)
    for rank, message in ((0, "rank"), (13, "at most")):
        with pytest.raises(ValueError, match=message):
            converted_from(6, rank)
