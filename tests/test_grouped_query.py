"""Grouped-query attention against PyTorch's multi-head attention and SDPA; decoding against reading everything again."""

import ctypes
import os
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.cache import CacheShape
from attncourse._shared.rope import RotaryEmbedding
from attncourse.grouped_query import (
    GroupedQueryAttention,
    group_heads,
    grouped_from_multi_head,
    grouped_query_attention,
    grouped_query_attention_loop,
    grouped_query_decode,
)
from attncourse.kv_cache import ChannelCache, ContiguousCache, Fp8, Int4, Int8, PagedCache, PagePool, RingCache
from attncourse.multi_head import MultiHeadAttention, state_dict_from_torch
from attncourse.profile import peak_memory
from attncourse.softmax_attention import softmax_attention
from attncourse.testing import assert_causal, assert_within_budget, gradients, make_qkv, relative_error
from tests.compile_gate import SHARED_LIMIT, compile_all
from tests.every_layer import D_MODEL, Layer

kernel = pytest.importorskip("attncourse.grouped_query.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {
    "grouped_query": Layer(lambda **o: GroupedQueryAttention(D_MODEL, 4, n_kv_heads=2, **o), masks=True),
    "grouped_query, a window": Layer(
        lambda **o: GroupedQueryAttention(D_MODEL, 4, n_kv_heads=1, window=3, **o), masks=True
    ),
}


@pytest.fixture
def decode(decoder_of):
    return decoder_of(GroupedQueryAttention)


def poisoned(cache):
    """The cache with NaN in every slot that nothing was written to: padding is undefined."""
    for store in cache.storage:
        for field in store:
            if field.is_floating_point():
                field.fill_(torch.nan)
    return cache


MASKINGS = {
    "plain": lambda b, t, s: {},
    "causal": lambda b, t, s: dict(causal=True),
    "window": lambda b, t, s: dict(window=4),
    "lengths and causal": lambda b, t, s: dict(key_lengths=torch.tensor([s, 0, s // 2])[:b], causal=True),
    "boolean mask": lambda b, t, s: dict(mask=torch.arange(t * s).reshape(t, s) % 3 > 0),
    "added mask": lambda b, t, s: dict(mask=torch.linspace(-2, 2, b * s, dtype=torch.float64).reshape(b, 1, 1, s)),
    "scale": lambda b, t, s: dict(scale=0.7),
    "softcap": lambda b, t, s: dict(softcap=0.6, causal=True),
}


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize("g", [1, 2, 3, 6])
@pytest.mark.parametrize(("t", "s"), [(7, 7), (3, 11), (1, 1)])
def test_the_definition_is_the_loop_and_pytorch_with_keys_repeated(name, g, t, s):
    q, k, v = make_qkv(b=3, h=6, g=g, t=t, s=s, dk=5, dv=3)
    masking = MASKINGS[name](3, t, s)
    loop = grouped_query_attention_loop(q, k, v, **masking)
    torch.testing.assert_close(grouped_query_attention(q, k, v, **masking), loop)
    if not masking.keys() & {"window", "key_lengths", "causal"}:
        added = dict(attn_mask=masking.get("mask"), scale=masking.get("scale"))
        repeated = (x.repeat_interleave(6 // g, dim=1) for x in (k, v))
        torch.testing.assert_close(loop, scaled_dot_product_attention(q, *repeated, **added))
        torch.testing.assert_close(loop, scaled_dot_product_attention(q, k, v, enable_gqa=True, **added))


def test_gradients_are_the_loops():
    q, k, v = make_qkv(h=6, g=2, t=5, s=7, dk=5, dv=3)
    wanted = gradients(lambda *x: grouped_query_attention_loop(*x, causal=True), q, k, v)
    for got, want in zip(gradients(lambda *x: grouped_query_attention(*x, causal=True), q, k, v), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_no_query_sees_the_future():
    q, k, v = make_qkv(b=1, h=4, g=2, t=6, s=8)
    assert_causal(lambda *x: grouped_query_attention(*x, causal=True), q, k, v)


# Decoding


@given(
    b=st.integers(1, 3), g=st.integers(1, 3), group=st.integers(1, 3), t=st.integers(1, 4), s=st.integers(1, 40),
    dk=st.integers(1, 9), dv=st.integers(1, 9), window=st.none() | st.integers(1, 14),
    softcap=st.none() | st.just(0.6), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_decoding_is_the_definition_on_what_each_sequence_holds(b, g, group, t, s, dk, dv, window, softcap, seed):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=t, s=s, dk=dk, dv=dv, seed=seed)
    lengths = torch.randint(0, s + 1, (b,), generator=torch.Generator().manual_seed(seed))
    wanted = [
        softmax_attention(
            q[i : i + 1], k[i : i + 1, :, :n], v[i : i + 1, :, :n], causal=True, window=window, softcap=softcap
        )
        for i, n in enumerate(lengths.tolist())
    ]
    for i, n in enumerate(lengths.tolist()):
        k[i, :, n:] = v[i, :, n:] = torch.nan
    got = grouped_query_decode(q, k, v, cache_seqlens=lengths, window=window, softcap=softcap)
    torch.testing.assert_close(got, torch.cat(wanted))


@pytest.mark.parametrize("t", [1, 3])
def test_decoding_by_a_mask_is_the_definition_under_it(t):
    """Caches that are not in order, or have holes: sequence 1 sees a middle part, 2 nothing."""
    q, k, v = make_qkv(b=3, h=4, g=2, t=t, s=13)
    mask = torch.rand(3, 1, t, 13, generator=torch.Generator().manual_seed(0)) > 0.4
    mask[1, ..., :3] = mask[1, ..., 7:] = mask[2] = False
    wanted = grouped_query_attention(q, k, v, mask=mask)
    unseen = ~mask[:, 0].any(dim=1)
    k, v = (x.masked_fill(unseen[:, None, :, None], torch.nan) for x in (k, v))
    torch.testing.assert_close(grouped_query_decode(q, k, v, mask=mask), wanted)


@pytest.mark.parametrize(("b", "g"), [(1, 1), (2, 2), (1, 4), (3, 2)])
@pytest.mark.parametrize(("t", "softcap"), [(1, None), (2, None), (1, 0.6)])
def test_long_caches_of_few_heads_are_read_in_pieces_to_the_same_result(b, g, t, softcap):
    """Lengths that the pieces do not divide, in a cache with room left, and the front of it shorter in one sequence."""
    s = 16 * 256 + 13
    q, k, v = make_qkv(b=b, h=4 * g, g=g, t=t, s=s + 50, dk=8, dv=5)
    k[:, :, s:] = v[:, :, s:] = torch.nan
    lengths = torch.full((b,), s)
    lengths[-1] -= 7 * (b > 1)
    got = grouped_query_decode(q, k, v, cache_seqlens=lengths, softcap=softcap)
    for i, n in enumerate(lengths.tolist()):
        row = slice(i, i + 1)
        wanted = softmax_attention(q[row], k[row, :, :n], v[row, :, :n], causal=True, softcap=softcap)
        torch.testing.assert_close(got[row], wanted)


def test_decoding_copies_no_keys():
    """A view of a cache with room left is read in place: what a step holds beside it is small."""
    q, k, v = make_qkv(b=1, h=8, g=2, t=1, s=20_000, dk=64, dtype=torch.float32)
    front_k, front_v = k[:, :, :16_384], v[:, :, :16_384]
    held = peak_memory(lambda: grouped_query_decode(q, front_k, front_v))
    scores = 8 * 16_384 * 4
    assert held < 6 * scores < front_k.nbytes / 2


# The module


def layer_and_tokens(g, *, b=2, t=9, rope=True, seed=0):
    torch.manual_seed(seed)
    turn = RotaryEmbedding(4) if rope else None
    layer = GroupedQueryAttention(24, 6, n_kv_heads=g, bias=True, rope=turn).double()
    return layer, torch.randn(b, t, 24, dtype=torch.float64)


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch"])
def test_as_many_key_heads_as_query_heads_is_pytorchs_multi_head_attention(impl):
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    ours = GroupedQueryAttention(12, 3, n_kv_heads=3, bias=True, impl=impl).double()
    ours.load_state_dict(state_dict_from_torch(theirs.state_dict()))
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    future = torch.ones(7, 7).triu(1).bool()
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=future)[0])


@given(
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6), g=st.sampled_from([1, 2, 3, 6]), rope=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
@torch.no_grad()
def test_read_in_pieces_through_a_cache_is_read_at_once(cuts, g, rope, seed):
    layer, x = layer_and_tokens(g, t=sum(cuts), rope=rope, seed=seed)
    cache = poisoned(ContiguousCache(2, layer.cache_shape, capacity=sum(cuts) + 3, dtype=torch.float64))
    pieces = [layer(piece, cache=cache) for piece in x.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), layer(x))
    assert cache.token_nbytes == 2 * g * 4 * 8  # keys and values, g heads of width 4, float64


@torch.no_grad()
def test_sequences_of_unequal_lengths_share_a_cache():
    layer, x = layer_and_tokens(2, b=3, t=8)
    counts = torch.tensor([5, 0, 3])
    cache = poisoned(ContiguousCache(3, layer.cache_shape, capacity=9, dtype=torch.float64))
    first = layer(x[:, :5], key_lengths=counts, cache=cache)
    assert first.isfinite().all()
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(first[row, :count], layer(x[row : row + 1, :count])[0])
    new = torch.stack([x[row, n : n + 2] for row, n in enumerate(counts.tolist())])
    second = layer(new, cache=cache)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(second[row], layer(x[row : row + 1, : count + 2])[0, count:])


def layouts(layer, b, *, dtype, page_size=4):
    pool = PagePool(4 * b, layer.cache_shape, page_size=page_size, dtype=dtype)
    pool._free = pool._free[::2] + pool._free[1::2]  # no page beside the one before it
    return {
        "contiguous": ContiguousCache(b, layer.cache_shape, capacity=13, dtype=dtype),
        "paged": PagedCache(b, pool),
        "ring": RingCache(b, layer.cache_shape, window=13, piece=4, dtype=dtype),
    }


@pytest.mark.parametrize("layout", ["contiguous", "paged", "ring"])
@pytest.mark.parametrize("impl", ["torch", "triton", "numba"])
@torch.no_grad()
def test_every_layout_decodes_what_reading_at_once_gives(layout, impl):
    layer, x = layer_and_tokens(2, b=3, t=12)
    layer, x = layer.float(), x.float()
    cache = layouts(layer, 3, dtype=torch.float32)[layout]
    wanted = layer(x)
    layer.impl = impl
    pieces = [layer(piece, cache=cache) for piece in x.split([4, 1, 3, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("codec", [None, Int8(), Int4(group=2), Fp8()], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "paged", "ring", "channels"])
@pytest.mark.parametrize("kernel", ["triton", "numba"])
@torch.no_grad()
def test_the_kernel_reads_a_layers_cache_where_it_lies(kernel, layout, codec, monkeypatch):
    """Two caches hold the same codes: what plain PyTorch decodes and gathers first, the kernel reads as it lies."""
    layer, x = layer_and_tokens(2, b=3, t=12)
    layer, x = layer.float(), x.float()
    layer.softcap = 0.8

    def read(impl):
        pool = PagePool(12, layer.cache_shape, page_size=4, codec=codec)
        pool._free = pool._free[::2] + pool._free[1::2]
        cache = {
            "contiguous": lambda: ContiguousCache(3, layer.cache_shape, capacity=13, codec=codec),
            "paged": lambda: PagedCache(3, pool),
            "ring": lambda: RingCache(3, layer.cache_shape, window=13, piece=4, codec=codec),
            "channels": lambda: ChannelCache(3, layer.cache_shape, capacity=16, block=4, codec=codec and Int8()),
        }[layout]()
        if impl == kernel and layout != "channels":
            monkeypatch.setattr(cache, "view", lambda: pytest.fail("the cache was copied"))
        layer.impl = impl
        return torch.cat([layer(piece, cache=cache) for piece in x.split([4, 1, 3, 1, 3], dim=1)], dim=1)

    torch.testing.assert_close(read(kernel), read("blocked"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["triton", "numba"])
@torch.no_grad()
def test_a_ring_that_has_turned_decodes_a_window_and_is_refused_by_the_kernel(kernel):
    layer, x = layer_and_tokens(3, b=2, t=11)
    cache = RingCache(2, layer.cache_shape, window=5, dtype=torch.float64)
    got = torch.cat([layer(token, cache=cache) for token in x.split(1, dim=1)], dim=1)
    band = torch.ones(11, 11).tril().triu(-4).bool()
    torch.testing.assert_close(got, layer(x, mask=band))
    layer, cache = layer.float(), RingCache(2, layer.cache_shape, window=5)
    layer.impl = kernel
    with pytest.raises(ValueError, match="position j in place j: for a ring use another impl"):
        for token in x.float().split(1, dim=1):
            layer(token, cache=cache)


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch", "triton", "numba"])
@torch.no_grad()
def test_a_layer_with_a_window_sees_what_a_band_lets_through(impl):
    layer, x = layer_and_tokens(2, t=11)
    layer, x = layer.float(), x.float()
    band, odd = torch.ones(11, 11).tril().triu(-3).bool(), torch.rand(11, 11) < 0.7
    wanted, of_odd = layer(x, mask=band), layer(x, mask=band & odd)
    layer.window, layer.impl = 4, impl
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x, mask=odd), of_odd)
    torch.testing.assert_close(layer(x, mask=torch.zeros(11, 11).masked_fill(~odd, -torch.inf)), of_odd)
    cache = ContiguousCache(2, layer.cache_shape, capacity=11)
    pieces = [layer(piece, cache=cache) for piece in x.split([6, 1, 3, 1], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted)


# Conversion


@pytest.mark.parametrize("g", [1, 2, 3, 6])
def test_heads_that_are_alike_convert_without_loss(g):
    """Each group's heads hold the same keys and values: their mean, and their first, are what each of them is."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(24, 6, bias=True, causal=True, rope=RotaryEmbedding(4)).double()
    with torch.no_grad():
        for linear in (layer.w_k, layer.w_v):
            for parameter in (linear.weight, linear.bias):
                heads = parameter.unflatten(0, (g, 6 // g, 4))
                heads.copy_(heads[:, :1].expand_as(heads).clone())
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    for by in ("mean", "first"):
        converted = grouped_from_multi_head(layer, g, by=by)
        assert converted.w_k.weight.shape == (4 * g, 24)
        torch.testing.assert_close(converted(x), layer(x))


def test_a_group_is_the_mean_of_its_neighbours_or_the_first_of_them_or_new():
    weight = torch.arange(24.0).reshape(8, 3)  # four heads of width 2
    mean = group_heads(weight, n_heads=4, n_kv_heads=2)
    torch.testing.assert_close(mean, torch.stack([(weight[i] + weight[i + 2]) / 2 for i in (0, 1, 4, 5)]))
    first = group_heads(weight, n_heads=4, n_kv_heads=2, by="first")
    assert torch.equal(first, weight[[0, 1, 4, 5]])
    wide = torch.randn(800, 30, generator=torch.Generator().manual_seed(0)) * 3 + 1
    drawn = [
        group_heads(wide, n_heads=4, n_kv_heads=2, by="random", rng=torch.Generator().manual_seed(i)) for i in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert abs(drawn[0].mean() - 1) < 0.15 and abs(drawn[0].std() - 3) < 0.15


def test_a_converted_layer_keeps_what_it_was_told_and_shares_nothing():
    layer = MultiHeadAttention(
        24, 6, causal=True, rope=RotaryEmbedding(4), scale=0.3, bias=False, impl="blocked"
    ).double()
    converted = grouped_from_multi_head(layer, 2)
    assert (converted.n_kv_heads, converted.scale, converted.impl, converted.causal) == (2, 0.3, "blocked", True)
    assert converted.w_q.bias is None and converted.w_q.weight.dtype == torch.float64
    assert torch.equal(converted.w_q.weight, layer.w_q.weight) and torch.equal(converted.w_o.weight, layer.w_o.weight)
    before = layer.w_q.weight.clone()
    with torch.no_grad():
        converted.w_q.weight.zero_()
    assert torch.equal(layer.w_q.weight, before)
    whole = grouped_from_multi_head(layer, 6)
    x = torch.randn(1, 5, 24, dtype=torch.float64)
    torch.testing.assert_close(whole(x), layer(x))
    twice = grouped_from_multi_head(grouped_from_multi_head(layer, 3), 1)  # the mean of means of equal groups
    torch.testing.assert_close(twice.w_k.weight, grouped_from_multi_head(layer, 1).w_k.weight)


# The kernels


def lengths_for(b, s, device):
    return torch.tensor([s, 0, 1, s // 2][:b], dtype=torch.int32, device=device)


def exact_decode(q, k, v, lengths, **masking):
    """The definition, sequence by sequence: output and log-sum-exp."""
    parts = [
        softmax_attention(
            q[i : i + 1], k[i : i + 1, :, :n], v[i : i + 1, :, :n], causal=True, **masking, return_lse=True
        )
        for i, n in enumerate(lengths.tolist())
    ]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])


@pytest.mark.dry
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("splits", [1, 3, 8])
@pytest.mark.parametrize(
    ("h", "g", "t", "masking"),
    [(6, 2, 1, {}), (4, 4, 2, {"softcap": 0.6, "scale": 0.4}), (5, 1, 1, {"window": 20}), (34, 1, 1, {})],
)
def test_the_decode_kernel_keeps_its_budget_at_every_split(dtype, splits, h, g, t, masking, decode, device):
    q, k, v = make_qkv(b=4, h=h, g=g, t=t, s=83, dk=17, dv=24, dtype=dtype, device=device)
    lengths = lengths_for(4, 83, device)
    exact, exact_lse = exact_decode(q.double(), k.double(), v.double(), lengths, **masking)
    plain, _ = exact_decode(q, k, v, lengths, **masking)
    for i, n in enumerate(lengths.tolist()):
        k[i, :, n:] = v[i, :, n:] = torch.nan
    out, lse = decode(q, k, v, cache_seqlens=lengths, splits=splits, **masking, return_lse=True)
    assert out.dtype == dtype and not out[1].any()
    assert_within_budget(out, plain=plain, exact=exact)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-3, atol=1e-3)


@pytest.mark.dry
@pytest.mark.parametrize("codec", [None, Int8(), Int8(group=8), Int4(), Int4(group=4), Fp8(), Fp8(group=4)], ids=str)
@pytest.mark.parametrize("paged", [False, True])
def test_the_decode_kernel_reads_every_storage_where_it_lies(codec, paged, decode, device):
    """Pages in shuffled order with NaN where nothing was written; codes against their dequantised values."""
    b, h, g, s, dk, dv = 3, 4, 2, 37, 16, 24
    q, k, v = make_qkv(b=b, h=h, g=g, t=1, s=s, dk=dk, dv=dv, dtype=torch.float32, device=device)
    shape = CacheShape(g, (dk, dv))
    if paged:
        pool = PagePool(30, shape, page_size=5, device=device, codec=codec)
        pool._free = [pool._free[i] for i in torch.randperm(30, generator=torch.Generator().manual_seed(3))]
        cache = poisoned_floats(PagedCache(b, pool), pool.storage)
    else:
        cache = ContiguousCache(b, shape, capacity=s + 2, device=device, codec=codec)
        poisoned_floats(cache, cache.storage)
    counts = torch.tensor([s, 11, 1], dtype=torch.int32, device=device)
    cache.append(k, v, counts=counts)
    (keys, *k_beside), (values, *v_beside) = pool.storage if paged else cache.storage
    beside = dict(zip(("k_scale", "k_zero"), k_beside, strict=False))
    beside |= dict(zip(("v_scale", "v_zero"), v_beside, strict=False))
    table = dict(block_table=cache.block_table) if paged else {}
    got = decode(q, keys, values, cache_seqlens=cache.lengths, splits=3, **beside, **table)
    held = [x.double() for x in cache.view()]
    wanted, _ = exact_decode(q.double(), *held, cache.lengths)
    assert relative_error(got, wanted) < 1e-5


def poisoned_floats(cache, storage):
    for store in storage:
        for field in store:
            if field.is_floating_point():
                field.copy_(torch.full_like(field, torch.nan, dtype=torch.float32).to(field.dtype))
    return cache


def test_queries_that_start_before_their_end_are_padding_in_the_kernel(decode, device):
    """A piece of 3 queries of which sequence 1 has one: its rows see no more than stands there, and stay finite."""
    q, k, v = make_qkv(b=2, h=4, g=2, t=3, s=19, dtype=torch.float32, device=device)
    starts, lengths = torch.tensor([16, 4], device=device), torch.tensor([19, 5], device=device)
    k[1, :, 5:] = v[1, :, 5:] = torch.nan
    got = decode(q, k, v, cache_seqlens=lengths, starts=starts)
    torch.testing.assert_close(got[:1], softmax_attention(q[:1], k[:1], v[:1], causal=True), rtol=1e-4, atol=1e-5)
    first = softmax_attention(q[1:, :, :1], k[1:, :, :5], v[1:, :, :5])
    torch.testing.assert_close(got[1:, :, :1], first, rtol=1e-4, atol=1e-5)
    assert got.isfinite().all()


def test_the_decode_kernels_addresses_are_of_64_bits(decode, device):
    stride = 2**30  # three sequences: the last begins 2^31 entries in. Memory that is not touched costs nothing
    q, codes, v = make_qkv(b=3, h=2, g=1, t=1, s=5, dk=8, dtype=torch.float32, device=device)
    k = torch.empty_strided((3, 1, 5, 8), (stride, 40, 8, 1), dtype=torch.int8, device=device)
    k.copy_((codes * 20).to(torch.int8))
    v = (v * 20).to(torch.int8)
    ones, zeros = torch.ones(3, 1, 5, 1, device=device), torch.zeros(3, 1, 5, 1, device=device)
    got = decode(q, k, v, k_scale=ones, k_zero=zeros, v_scale=ones, v_zero=zeros)
    torch.testing.assert_close(got, softmax_attention(q, k.float(), v.float()), rtol=1e-4, atol=1e-4)


def test_the_decode_kernels_write_every_element(decode, device):
    """In this mode PyTorch fills fresh memory with NaN, and what no program writes stays so."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=device).isnan().all()
        q, k, v = make_qkv(b=2, h=6, g=2, t=1, s=49, dk=24, dtype=torch.float32, device=device)
        out, lse = decode(q, k, v, splits=5, return_lse=True)
        assert out.isfinite().all() and lse.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("empty", ["b", "t", "s"])
def test_length_zero_is_no_special_case(empty, decode, device):
    q, k, v = make_qkv(t=3, s=4, dtype=torch.float32, device=device)
    if empty == "b":
        q, k, v = q[:0], k[:0], v[:0]
    q, k, v = (q[:, :, :0], k, v) if empty == "t" else (q, k[:, :, :0], v[:, :, :0]) if empty == "s" else (q, k, v)
    for form in (grouped_query_decode, decode):
        out = form(q, k, v)
        assert out.shape == (*q.shape[:3], v.shape[-1]) and not out.any()


# The kernel for processors


@pytest.fixture
def on_a_processor(device):
    if device != "cpu":
        pytest.skip("numba's kernel runs on processors")
    return pytest.importorskip("attncourse.grouped_query.cpu_kernel")


@pytest.mark.parametrize("width", [1, 64])  # less than a vector, and some whole ones
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_the_kernel_widens_every_number_of_a_small_float(dtype, width, on_a_processor):
    """All codes that there are, as values of one token each, which a single key of weight 1 reads."""
    bits = torch.uint8 if dtype.itemsize == 1 else torch.int16
    numbers = torch.arange(2 ** (8 * dtype.itemsize)).to(bits)
    numbers = torch.stack([numbers.roll(i) for i in range(width)], dim=-1).view(dtype)[:, None, None]
    k = torch.zeros_like(numbers) if dtype.itemsize == 2 else numbers.new_zeros(numbers.shape)
    q = torch.zeros(len(numbers), 1, 1, width, dtype=dtype if dtype.itemsize == 2 else torch.float32)
    ones = {} if dtype.itemsize == 2 else dict.fromkeys(("k_scale", "v_scale"), torch.ones(len(numbers), 1, 1, 1))
    out = on_a_processor.grouped_query_decode_numba(q, k, numbers, **ones)
    torch.testing.assert_close(out, numbers.to(out.dtype), rtol=0, atol=0, equal_nan=True)


def test_pages_and_codes_are_read_without_a_copy_as_long_as_the_cache(on_a_processor):
    q, k, _ = make_qkv(b=1, h=8, g=2, t=1, s=32768, dk=64, dtype=torch.float32)
    codes, scale, zero = Int8().encode(k)
    table = torch.randperm(2048).to(torch.int32)[None]
    pages = [x.unflatten(2, (2048, 16)).transpose(1, 2)[0].contiguous() for x in (codes, scale, zero)]
    beside = dict(k_scale=pages[1], v_scale=pages[1], k_zero=pages[2], v_zero=pages[2])

    def step():
        return on_a_processor.grouped_query_decode_numba(
            q, pages[0], pages[0], block_table=table, cache_seqlens=torch.tensor([32768]), **beside
        )

    step()
    assert peak_memory(step) < codes.nbytes / 16
    tracemalloc.start()  # what NumPy holds; a tile is on the compiled side, and as long as 64 keys
    try:
        step()
        assert tracemalloc.get_traced_memory()[1] < codes.nbytes / 16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("splits", [None, 9])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_result_is_the_same_in_any_number_of_threads(threads, splits, on_a_processor):
    q, k, v = make_qkv(b=3, h=4, g=1, t=1, s=700, dk=16, dtype=torch.float32)
    wanted = softmax_attention(q.double(), k.double(), v.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = on_a_processor.grouped_query_decode_numba(q, k, v, splits=splits)
    finally:
        torch.set_num_threads(before)
    assert relative_error(got, wanted) < 1e-6


@pytest.mark.parametrize("by", ["openmp", "threads"])
def test_a_kernel_runs_in_both_threads(by, monkeypatch, on_a_processor):
    """PyTorch's own threads, and those that are started where PyTorch has another library for them."""
    from attncourse._shared import cpu_kernel

    if by == "threads":
        monkeypatch.setattr(cpu_kernel, "_openmp", lambda: None)
    elif cpu_kernel._openmp() is None:
        pytest.skip("PyTorch has another OpenMP here")
    seen, together = [], threading.Barrier(2, timeout=60)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def kernel(work):
        together.wait()  # one thread alone would wait for ever
        seen.append((work, threading.get_ident()))

    work, before = np.zeros(1), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cpu_kernel.in_threads(kernel, work.ctypes.data)
    finally:
        torch.set_num_threads(before)
    assert {at for at, _ in seen} == {work.ctypes.data} and len({thread for _, thread in seen}) == 2


def test_what_pytorch_makes_by_default_does_not_matter(on_a_processor):
    q, k, v = make_qkv(b=1, h=4, g=2, t=1, s=300, dk=16, dtype=torch.float32)
    wanted = on_a_processor.grouped_query_decode_numba(q, k, v, splits=3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            got = on_a_processor.grouped_query_decode_numba(q, k, v, splits=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, wanted)


def test_what_no_thread_did_is_no_result(monkeypatch, on_a_processor):
    """A thread without memory for its tiles ends; what it had taken stays undone."""
    from attncourse._shared import cpu_kernel

    monkeypatch.setattr(cpu_kernel, "in_threads", lambda *_: None)
    q, k, v = make_qkv(b=1, h=2, g=1, t=1, s=9, dk=8, dtype=torch.float32)
    with pytest.raises(MemoryError, match="no room for its tiles: 0 of 1 sequences were done"):
        on_a_processor.grouped_query_decode_numba(q, k, v, splits=3)


def test_what_is_visible_and_not_finite_shows(on_a_processor):
    q, k, v = make_qkv(b=1, h=2, g=1, t=1, s=9, dk=8, dtype=torch.float32)
    for poison in (k, v):
        spoilt = poison.clone()
        spoilt[0, 0, 3, 2] = torch.nan
        tensors = (q, spoilt, v) if poison is k else (q, k, spoilt)
        assert on_a_processor.grouped_query_decode_numba(*tensors).isnan().any()


def test_without_numba_the_error_says_what_to_install():
    code = (
        "import sys, torch; sys.modules['numba'] = None\n"
        "from attncourse.grouped_query import GroupedQueryAttention\n"
        "from attncourse.kv_cache import ContiguousCache\n"
        "layer = GroupedQueryAttention(8, 2, n_kv_heads=1, impl='numba')\n"
        "with torch.no_grad():\n"
        "    layer(torch.zeros(1, 1, 8), cache=ContiguousCache(1, layer.cache_shape, capacity=4))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: impl='numba' needs numba: pip install 'attncourse[cpu]'" in done.stderr


def test_what_was_compiled_is_kept_on_disk_and_compiling_is_said(tmp_path, on_a_processor):
    code = (
        "import torch; from attncourse.grouped_query.cpu_kernel import grouped_query_decode_numba as decode\n"
        "print(decode(*(torch.ones(1, 1, 1, 4),) * 3).tolist())\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment) for _ in range(2)
    ]
    assert [run.stdout.strip() for run in runs] == ["[[[[1.0, 1.0, 1.0, 1.0]]]]"] * 2, runs
    first, second = (run.stderr for run in runs)
    assert "compiling grouped_query_split_kernel for this processor, once ..." in first and second == ""


def test_compiled_functions_have_names_of_their_own(on_a_processor):
    """What is kept on disk goes by them. A process of its own, since what was loaded from there stands beside it."""
    code = (
        "import gc\n"
        "from numba.core.dispatcher import Dispatcher\n"
        "import attncourse._shared.cpu_kernel\n"
        "functions = [x for x in gc.get_objects() if issubclass(type(x), Dispatcher)]\n"
        "ours = [f for f in functions if f.py_func.__module__ == 'attncourse._shared.cpu_kernel']\n"
        "names = [f.py_func.__qualname__ for f in ours if f.targetoptions.get('inline') != 'always']\n"
        "assert '_phases.<locals>.score_1' in names and len(set(names)) == len(names), sorted(names)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_eight_lanes_decode_as_sixteen_do(tmp_path, on_a_processor):
    """Of a processor without AVX-512, which this one is told to be."""
    code = (
        "import llvmlite.binding as llvm\n"
        "features = llvm.get_host_cpu_features()\n"
        "features['avx512f'] = False\n"
        "llvm.get_host_cpu_features = lambda: features\n"
        "import torch\n"
        "from attncourse._shared.lanes import LANES\n"
        "from attncourse.grouped_query.cpu_kernel import grouped_query_decode_numba as decode\n"
        "from torch.nn.functional import scaled_dot_product_attention as sdpa\n"
        "for h, g, s, width in ((3, 3, 70, 8), (8, 4, 129, 40), (8, 2, 65, 64), (12, 1, 300, 72), (6, 1, 1, 128)):\n"
        "    q, k, v = torch.randn(2, h, 1, width), torch.randn(2, g, s, width), torch.randn(2, g, s, width)\n"
        "    wanted = sdpa(q.double(), k.double(), v.double(), enable_gqa=True)\n"
        "    assert (decode(q, k, v, splits=2) - wanted).abs().max() < 1e-5, (h, g, s, width)\n"
        "print(LANES)\n"
    )
    told = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told)
    assert done.stdout == "8\n", done.stderr


def test_prefill_goes_through_the_softmax_kernel_with_gradients(device):
    q, k, v = make_qkv(h=6, g=2, t=19, dtype=torch.float32, device=device)
    wanted = gradients(lambda *x: grouped_query_attention(*x, causal=True), q, k, v)
    got = gradients(lambda *x: kernel.grouped_query_attention_triton(*x, causal=True), q, k, v)
    for mine, theirs in zip(got, wanted, strict=True):
        assert relative_error(mine, theirs) < 1e-5


# Bad input

Q, K, V = make_qkv(b=2, h=4, g=2, t=1, s=5, dk=8, dtype=torch.float32)
BAD = {
    "g does not divide h": (dict(q=Q[:, :3]), "the 2 key/value heads must divide the 3 query heads"),
    "lengths past the end": (dict(cache_seqlens=torch.tensor([1, 6])), "must lie in 0..5, got 1..6"),
    "lengths of another batch": (dict(cache_seqlens=torch.tensor([1])), "must have shape \\(2,\\)"),
    "no window": (dict(window=0), "window must be at least 1"),
}  # fmt: skip
BAD_DECODE = {
    "mask of floats": (dict(mask=torch.ones(2, 1, 1, 5)), "mask must be boolean"),
    "mask a head": (dict(mask=torch.ones(2, 4, 1, 5) > 0), "mask must be \\(b, 1, t, s\\) = \\(2, 1, 1, 5\\)"),
    "mask beside lengths": (
        dict(mask=torch.ones(2, 1, 1, 5) > 0, cache_seqlens=torch.tensor([1, 1])), "without cache_seqlens and window"
    ),
    "no softcap": (dict(softcap=0.0), "softcap must be positive, got 0.0"),
}  # fmt: skip
SCALE = torch.ones(2, 2, 5, 1)
BAD_KERNEL = {
    "codes without scales": (dict(k=K.to(torch.int8), v=V.to(torch.int8)), "k_scale is needed beside torch.int8"),
    "scales without codes": (dict(k_scale=SCALE), "k_scale has no place beside torch.float32"),
    "one of codes": (dict(k=K.to(torch.int8)), "or both int8, uint8 \\(int4\\) or float8_e4m3fn codes, got torch.int8 and torch.float32"),
    "gradient": (dict(k=K.clone().requires_grad_()), "is for inference and gives no gradients"),
    "table of int64": (dict(block_table=torch.zeros(2, 1).long()), "block_table must be \\(2, max_pages\\) int32"),
    "no splits": (dict(splits=0), "splits must be at least 1, got 0"),
    "strided vectors": (dict(k=K.repeat(1, 1, 1, 2)[..., ::2]), "must be neighbours in memory"),
    "another batch": (dict(k=K[:1], v=V[:1]), "must share the batch, got 2 and 1"),
    "wide": (dict(zip("qkv", make_qkv(b=2, dk=300, dtype=torch.float32), strict=True)), "takes widths to 256, got 300"),
    "float64": (dict(q=Q.double(), k=K.double(), v=V.double()), "takes float32, float16 or bfloat16"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD | BAD_DECODE)
def test_bad_input_of_decoding_is_named(case):
    changed, message = (BAD | BAD_DECODE)[case]
    with pytest.raises(ValueError, match=message):
        grouped_query_decode(**dict(q=Q, k=K, v=V) | changed)


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD | BAD_KERNEL)
def test_bad_input_of_the_kernel_is_named(case, decode, device):
    changed, message = (BAD | BAD_KERNEL)[case]
    arguments = {
        n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in (dict(q=Q, k=K, v=V) | changed).items()
    }
    with pytest.raises(ValueError, match=message):
        decode(**arguments)


@pytest.mark.bad_input
def test_bad_layers_and_conversions_are_named():
    with pytest.raises(ValueError, match="the 4 key/value heads must divide the 6 query heads"):
        GroupedQueryAttention(24, 6, n_kv_heads=4)
    with pytest.raises(ValueError, match="rope must turn the heads' width, got head_dim=4 and a rope of width 8"):
        GroupedQueryAttention(24, 6, n_kv_heads=2, rope=RotaryEmbedding(8))
    with pytest.raises(ValueError, match="causal must be True, got window=3"):
        GroupedQueryAttention(24, 6, n_kv_heads=2, causal=False, window=3)
    layer = GroupedQueryAttention(24, 6, n_kv_heads=2)
    with pytest.raises(ValueError, match="x must be \\(b, t, 24\\), got \\(1, 2, 23\\)"):
        layer(torch.zeros(1, 2, 23))
    both_ways = GroupedQueryAttention(24, 6, n_kv_heads=2, causal=False)
    with pytest.raises(ValueError, match="build with causal=True"):
        both_ways(torch.zeros(1, 2, 24), cache=ContiguousCache(1, both_ways.cache_shape, capacity=4))
    with pytest.raises(ValueError, match="by must be one of mean, first, random, got 'max'"):
        grouped_from_multi_head(MultiHeadAttention(24, 6), 2, by="max")
    with pytest.raises(ValueError, match="give a torch.Generator as rng"):
        grouped_from_multi_head(MultiHeadAttention(24, 6), 2, by="random")
    with pytest.raises(ValueError, match="values as wide as keys can be grouped"):
        grouped_from_multi_head(MultiHeadAttention(24, 6, v_head_dim=5), 2)
    with pytest.raises(ValueError, match="the 4 key/value heads must divide the 6 query heads"):
        grouped_from_multi_head(MultiHeadAttention(24, 6), 4)


# The compiler


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("grouped_query", capability)
    assert len(compiled) >= 20
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        if capability >= 80 and "fp32" not in c.case:
            # Of 64 rows as wide as 256 one number is put aside on Blackwell, outside the loop.
            crowded = capability == 100 and "d=256" in c.case and "64 rows" in c.case
            assert c.loop.local == 0 and c.spills <= 8 * crowded, c
        if capability >= 80 and "fp32" not in c.case and "plain" in c.case:
            # The cache is read in pieces of 16 bytes, and a page is looked up once a tile.
            assert c.loop.local == 0 and c.loop.copies >= 8 and c.loop.narrow == ("contiguous" not in c.case), c
            if "4 rows" in c.case and "256" not in c.case:
                assert c.resident >= kernel.RESIDENT, c
    # A group of four query heads fills 16 rows with padding, which wgmma and tcgen05 do not take: they need 64.
    split = [c for c in compiled if "fp32" not in c.case]
    few, many = ({c.matrix for c in split if f", {rows} rows" in c.case} for rows in (4, 64))
    assert few == ({"none"} if capability == 75 else {"mma"})
    assert many == {{75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]}


@torch.no_grad()
def test_the_weights_of_a_models_grouped_layers_can_be_watched():
    from attncourse.latent import LatentAttention
    from attncourse.models.decoder import DecoderLM

    shape = dict(kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4)
    model = DecoderLM(9, d_model=16, attention=lambda: GroupedQueryAttention(16, 4, n_kv_heads=2, window=3))
    weights = model.attention_weights(torch.tensor([[1, 2, 3, 4, 5]]))
    assert weights.shape == (2, 1, 4, 5, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 1, 4, 5))
    assert (weights.triu(1) == 0).all() and (weights.tril(-3) == 0).all()
    assert {block.self_attention.impl for block in model.stack.blocks} == {"torch"}
    model = DecoderLM(9, d_model=16, attention=lambda: LatentAttention(16, 4, **shape))
    with pytest.raises(ValueError, match="LatentAttention does not give its weights"):
        model.attention_weights(torch.tensor([[1, 2]]))


@torch.no_grad()
def test_weights_come_from_the_reference_without_a_cache_and_mix_to_the_output():
    layer, x = layer_and_tokens(2, t=5)
    layer.impl = "reference"
    out, weights = layer(x, need_weights=True)
    torch.testing.assert_close(out, layer(x))
    assert weights.shape == (len(x), layer.n_heads, 5, 5)
    layer.impl = "torch"
    with pytest.raises(ValueError, match="weights are formed by impl='reference'"):
        layer(x, need_weights=True)


def test_all_256_codes_of_eight_bits_are_read_as_pytorch_reads_them(device):
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(1, 1, 1, 256).to(device)
    one, q = torch.ones(1, 1, 1, 1, device=device), torch.zeros(1, 1, 1, 256, device=device)
    zeros = torch.zeros_like(codes, dtype=torch.float32).to(torch.float8_e4m3fn)
    out = kernel.grouped_query_decode_triton(q, zeros, codes, k_scale=one, v_scale=one)
    torch.testing.assert_close(out, codes.float(), rtol=0, atol=0, equal_nan=True)
