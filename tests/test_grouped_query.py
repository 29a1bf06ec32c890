"""Grouped-query attention against PyTorch's multi-head attention and SDPA; decoding against reading everything again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.rope import RotaryEmbedding
from attncourse.grouped_query import (
    GroupedQueryAttention,
    grouped_from_multi_head,
    grouped_query_attention,
    grouped_query_attention_loop,
    grouped_query_decode,
)
from attncourse.multi_head import MultiHeadAttention, state_dict_from_torch
from attncourse.testing import assert_causal, gradients, make_qkv


class ListCache:
    """The plainest cache that keeps the protocol: a list of tensors a sequence, put together when looked at."""

    def __init__(self, b, shape, *, dtype=torch.float64):
        self.lengths = torch.zeros(b, dtype=torch.long)
        self.kept = [[torch.zeros(shape.n_kv_heads, 0, width, dtype=dtype) for width in shape.widths] for _ in range(b)]

    def append(self, *streams, counts=None):
        counts = torch.full_like(self.lengths, streams[0].shape[2]) if counts is None else counts
        for row, count in enumerate(counts.tolist()):
            new = [stream[row, :, :count] for stream in streams]
            self.kept[row] = [torch.cat(pair, dim=1) for pair in zip(self.kept[row], new, strict=True)]
        self.lengths = self.lengths + counts

    def view(self):
        longest = int(self.lengths.max())
        streams = ([row[i] for row in self.kept] for i in range(len(self.kept[0])))
        return tuple(
            torch.stack([nn.functional.pad(x, (0, 0, 0, longest - x.shape[1]), value=torch.nan) for x in stream])
            for stream in streams
        )

    def positions(self):
        at = torch.arange(int(self.lengths.max())).expand(len(self.lengths), -1)
        return torch.where(at < self.lengths[:, None], at, -1)


MASKINGS = {
    "plain": lambda b, t, s: {},
    "causal": lambda b, t, s: dict(causal=True),
    "window": lambda b, t, s: dict(window=4),
    "lengths and causal": lambda b, t, s: dict(key_lengths=torch.tensor([s, 0, s // 2])[:b], causal=True),
    "boolean mask": lambda b, t, s: dict(mask=torch.arange(t * s).reshape(t, s) % 3 > 0),
    "added mask": lambda b, t, s: dict(mask=torch.linspace(-2, 2, b * s, dtype=torch.float64).reshape(b, 1, 1, s)),
    "scale": lambda b, t, s: dict(scale=0.7),
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
    dk=st.integers(1, 9), dv=st.integers(1, 9), window=st.none() | st.integers(1, 14), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_decoding_is_the_definition_on_what_each_sequence_holds(b, g, group, t, s, dk, dv, window, seed):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=t, s=s, dk=dk, dv=dv, seed=seed)
    lengths = torch.randint(0, s + 1, (b,), generator=torch.Generator().manual_seed(seed))
    wanted = [
        grouped_query_attention(q[i : i + 1], k[i : i + 1, :, :n], v[i : i + 1, :, :n], causal=True, window=window)
        for i, n in enumerate(lengths.tolist())
    ]
    for i, n in enumerate(lengths.tolist()):
        k[i, :, n:] = v[i, :, n:] = torch.nan
    got = grouped_query_decode(q, k, v, cache_seqlens=lengths, window=window)
    torch.testing.assert_close(got, torch.cat(wanted))


# The module


def layer_and_tokens(g, *, b=2, t=9, rope=True, seed=0):
    torch.manual_seed(seed)
    turn = RotaryEmbedding(4) if rope else None
    layer = GroupedQueryAttention(24, 6, n_kv_heads=g, rope=turn).double()
    return layer, torch.randn(b, t, 24, dtype=torch.float64)


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch"])
def test_as_many_key_heads_as_query_heads_is_pytorchs_multi_head_attention(impl):
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    ours = GroupedQueryAttention(12, 3, n_kv_heads=3, impl=impl).double()
    ours.load_state_dict(state_dict_from_torch(theirs.state_dict()))
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    future = torch.ones(7, 7).triu(1).bool()
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=future)[0])


@given(
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6), g=st.sampled_from([1, 2, 3, 6]), rope=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_read_in_pieces_through_a_cache_is_read_at_once(cuts, g, rope, seed):
    layer, x = layer_and_tokens(g, t=sum(cuts), rope=rope, seed=seed)
    cache = ListCache(2, layer.cache_shape)
    pieces = [layer(piece, cache=cache) for piece in x.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), layer(x))
    assert cache.view()[0].shape == (2, g, sum(cuts), 4)


def test_sequences_of_unequal_lengths_share_a_cache():
    layer, x = layer_and_tokens(2, b=3, t=8)
    counts = torch.tensor([5, 0, 3])
    cache = ListCache(3, layer.cache_shape)
    first = layer(x[:, :5], key_lengths=counts, cache=cache)
    assert first.isfinite().all()
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(first[row, :count], layer(x[row : row + 1, :count])[0])
    new = torch.stack([x[row, n : n + 2] for row, n in enumerate(counts.tolist())])
    second = layer(new, cache=cache)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(second[row], layer(x[row : row + 1, : count + 2])[0, count:])


# Conversion


@pytest.mark.parametrize("g", [1, 2, 3, 6])
def test_heads_that_are_alike_convert_without_loss(g):
    """Each group's heads hold the same keys and values: their mean, and their first, are what each of them is."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(24, 6, causal=True, rope=RotaryEmbedding(4)).double()
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
