"""Every layout against no cache at all, at every split; the page pool against lists; quantisation against its bound."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse._shared.cache import CacheShape, KeyValueCache
from attncourse.kv_cache import ContiguousCache, Fp8, Int4, Int8, PagedCache, PagePool, RingCache, kv_cache_attention
from attncourse.softmax_attention import softmax_attention_loop
from attncourse.testing import make_qkv


def attend_by_hand(q, k, v, *, window=None, sinks=0):
    """Causal attention of one sequence (h, t, dk), (g, t, dk), (g, t, dv), a token and a head at a time in float64."""
    (h, t, _), g = q.shape, k.shape[0]
    out = torch.zeros(h, t, v.shape[-1], dtype=torch.float64)
    for head in range(h):
        key, value = k[head * g // h], v[head * g // h]
        for i in range(t):
            seen = [j for j in range(i + 1) if window is None or j > i - window or j < sinks]
            out[head, i] = softmax_attention_loop(q[head, i : i + 1], key[seen], value[seen])[0]
    return out


def pieces_of(lengths, rng, longest):
    """Counts (b,) that add up to the lengths, each piece's drawn anew, some of them zero."""
    left = torch.as_tensor(lengths)
    while left.any():
        counts = torch.minimum(torch.randint(0, longest + 1, left.shape, generator=rng), left)
        if counts.any():
            yield counts
            left = left - counts


def run_through(cache, q, k, v, lengths, *, seed=0, longest=4, **options):
    """Append and attend in pieces of unequal counts, with padding full of NaN; the outputs (b, h, t, dv) put together."""
    rng, b = torch.Generator().manual_seed(seed), len(lengths)
    out, start = torch.zeros(b, q.shape[1], q.shape[2], v.shape[-1], dtype=q.dtype), torch.zeros(b, dtype=torch.long)
    for counts in pieces_of(lengths, rng, longest):
        c = int(counts.max())
        piece = []
        for x in (q, k, v):
            piece.append(torch.full((b, x.shape[1], c, x.shape[3]), torch.nan, dtype=x.dtype))
            for row in range(b):
                piece[-1][row, :, : counts[row]] = x[row, :, start[row] : start[row] + counts[row]]
        cache.append(*piece[1:], counts=counts)
        got = kv_cache_attention(piece[0], cache, counts=counts, **options)
        for row in range(b):
            out[row, :, start[row] : start[row] + counts[row]] = got[row, :, : counts[row]]
        start += counts
        assert cache.lengths.tolist() == start.tolist()
    return out


def paged(b, shape, capacity, *, page_size=3, **kw):
    """Room for b sequences in pages that lie in no order."""
    pool = PagePool(b * -(-capacity // page_size) + 2, shape, page_size=page_size, **kw)
    pool._free.sort(key=lambda page: page * 7 % 11)
    return PagedCache(b, pool)


LAYOUTS = {
    "contiguous": lambda b, shape, capacity, **kw: ContiguousCache(b, shape, capacity=capacity, **kw),
    "ring": lambda b, shape, capacity, **kw: RingCache(b, shape, window=capacity, piece=4, **kw),
    "paged": paged,
}


@given(
    layout=st.sampled_from(sorted(LAYOUTS)), lengths=st.lists(st.integers(0, 13), min_size=1, max_size=3),
    g=st.integers(1, 2), group=st.integers(1, 2), dk=st.integers(1, 5), dv=st.integers(1, 5),
    longest=st.integers(1, 4), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_every_layout_is_no_cache_at_every_split(layout, lengths, g, group, dk, dv, longest, seed):
    t = max(*lengths, 1)
    q, k, v = make_qkv(b=len(lengths), h=g * group, g=g, t=t, dk=dk, dv=dv, seed=seed)
    cache = LAYOUTS[layout](len(lengths), CacheShape(g, (dk, dv)), t, dtype=torch.float64)
    assert isinstance(cache, KeyValueCache)
    got = run_through(cache, q, k, v, lengths, seed=seed, longest=longest)
    for row, length in enumerate(lengths):
        wanted = attend_by_hand(*(x[row, :, :length] for x in (q, k, v)))
        torch.testing.assert_close(got[row, :, :length], wanted)


@given(
    length=st.integers(1, 25), window=st.integers(1, 7), sinks=st.integers(0, 5), piece=st.integers(1, 4),
    seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_a_ring_is_a_window_and_its_sinks(length, window, sinks, piece, seed):
    q, k, v = make_qkv(b=2, h=2, g=1, t=length, dk=3, seed=seed)
    lengths = [length, length // 2]
    cache = RingCache(2, CacheShape(1, (3, 3)), window=window, sinks=sinks, piece=piece, dtype=torch.float64)
    held = cache.nbytes
    got = run_through(cache, q, k, v, lengths, seed=seed, longest=piece, window=window, sinks=sinks)
    assert cache.nbytes == held == 2 * (sinks + window + piece - 1) * 6 * 8
    for row in range(2):
        cut = (x[row, :, : lengths[row]] for x in (q, k, v))
        torch.testing.assert_close(got[row, :, : lengths[row]], attend_by_hand(*cut, window=window, sinks=sinks))


@pytest.mark.parametrize("codec", [Int8(), Int8(group=2), Int4(), Fp8(group=2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quantised_cache_gives_back_what_its_codec_makes_of_a_token(layout, codec):
    k, v = torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 4)
    cache = LAYOUTS[layout](2, CacheShape(2, (6, 4)), 9, codec=codec)
    cache.append(k[:, :, :3], v[:, :, :3])
    cache.append(k[:, :, 3:], v[:, :, 3:])
    for held, x in zip(cache.view(), (k, v), strict=True):
        torch.testing.assert_close(held, codec.decode(*codec.encode(x), dtype=torch.float32), rtol=0, atol=0)
        assert not torch.equal(held, x)
