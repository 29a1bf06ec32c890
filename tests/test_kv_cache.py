"""Every layout against no cache at all, at every split; the page pool against lists; quantisation against its bound."""

import contextlib
import itertools
import random
from collections import Counter

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from attncourse._shared.cache import CacheShape, KeyValueCache, read_cache, visible_through
from attncourse._shared.rope import RotaryEmbedding
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import (
    ChannelCache,
    ContiguousCache,
    Fp8,
    Int4,
    Int8,
    PagedCache,
    PagePool,
    Plain,
    RingCache,
    kv_cache_attention,
    token_nbytes,
)
from attncourse.kv_cache.layout import empty_store
from attncourse.kv_cache.quantize import (
    dequantize_fp8,
    dequantize_int4,
    dequantize_int8,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
)
from attncourse.kv_cache.slots import kv_cache_append, kv_cache_gather, page_slots
from attncourse.softmax_attention import softmax_attention, softmax_attention_loop
from attncourse.testing import assert_within_budget, make_qkv, relative_error
from tests.compile_gate import SHARED_LIMIT, compile_all

kernel = pytest.importorskip("attncourse.kv_cache.kernel", reason="Triton is on Linux alone")
softmax_attention_triton = pytest.importorskip("attncourse.softmax_attention.kernel").softmax_attention_triton


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


def build(layout, b, shape, capacity, *, impl="torch", **kw):
    """A cache of this layout with room for b sequences of `capacity` tokens, in pieces of four."""
    if layout == "contiguous":
        return ContiguousCache(b, shape, capacity=capacity, impl=impl, **kw)
    if layout == "channels":
        capacity = -(-capacity // 3) * 3
        return ChannelCache(b, shape, capacity=capacity, block=3, codec=Int8(), **kw)
    if layout == "ring":
        return RingCache(b, shape, window=capacity, piece=4, impl=impl, **kw)
    pool = PagePool(b * -(-capacity // 3) + 2, shape, page_size=3, **kw)
    pool._free.sort(key=lambda page: page * 7 % 11)  # so that pages lie in no order
    return PagedCache(b, pool, impl=impl)


LAYOUTS = ("contiguous", "ring", "paged")


@given(
    layout=st.sampled_from(LAYOUTS), lengths=st.lists(st.integers(0, 13), min_size=1, max_size=3),
    g=st.integers(1, 2), group=st.integers(1, 2), dk=st.integers(1, 5), dv=st.integers(1, 5),
    longest=st.integers(1, 4), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_every_layout_is_no_cache_at_every_split(layout, lengths, g, group, dk, dv, longest, seed):
    t = max(*lengths, 1)
    q, k, v = make_qkv(b=len(lengths), h=g * group, g=g, t=t, dk=dk, dv=dv, seed=seed)
    cache = build(layout, len(lengths), CacheShape(g, (dk, dv)), t, dtype=torch.float64)
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


CODECS = {
    "plain": Plain(),
    "int8": Int8(),
    "int8 in groups": Int8(group=2),
    "int4": Int4(),
    "int4 in groups": Int4(group=2),
    "fp8": Fp8(),
    "fp8 in groups": Fp8(group=2),
}
SHAPES = {"keys and values": CacheShape(2, (6, 4)), "latents": CacheShape(1, (8, 2))}


def stored(x, codec):
    """What a codec makes of x, in float64: the reference that layouts and kernels are compared with."""
    return codec.decode(*codec.encode(x), dtype=torch.float64)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_back_what_its_codec_makes_of_a_token(layout, codec, shape, impl, device):
    shape, codec = SHAPES[shape], CODECS[codec]
    rng = torch.Generator().manual_seed(3)
    streams = [torch.randn(2, shape.n_kv_heads, 9, width, generator=rng).to(device) for width in shape.widths]
    cache = build(layout, 2, shape, 9, codec=codec, impl=impl, device=device)
    for counts in ([4, 1], [0, 4], [3, 2]):
        start = cache.lengths.tolist()
        piece = [torch.full((2, x.shape[1], 4, x.shape[3]), torch.nan, device=device) for x in streams]
        for row, count in enumerate(counts):
            for padded, x in zip(piece, streams, strict=True):
                padded[row, :, :count] = x[row, :, start[row] : start[row] + count]
        cache.append(*piece, counts=torch.tensor(counts, device=device))
    assert cache.lengths.tolist() == [7, 7]
    assert cache.positions().tolist() == [list(range(7))] * 2
    for held, x in zip(cache.view(), streams, strict=True):
        wanted = stored(x[:, :, :7].cpu(), codec)
        torch.testing.assert_close(held.double().cpu(), wanted, rtol=1e-6 if impl == "triton" else 0, atol=0)
        assert torch.equal(wanted.float(), x[:, :, :7].cpu()) == isinstance(codec, Plain)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_through_a_quantised_cache_is_attention_over_what_it_holds(layout, codec):
    q, k, v = make_qkv(b=2, h=4, g=2, t=11, dk=6, dv=4)
    cache = build(layout, 2, CacheShape(2, (6, 4)), 11, dtype=torch.float64, codec=CODECS[codec])
    got = run_through(cache, q, k, v, [11, 6])
    k, v = stored(k, CODECS[codec]), stored(v, CODECS[codec])
    for row, length in enumerate([11, 6]):
        wanted = attend_by_hand(*(x[row, :, :length] for x in (q, k, v)))
        torch.testing.assert_close(got[row, :, :length], wanted)


# Truncation, forks, pages


class Texts:
    """Caches beside plain lists of the tokens that they should hold, by which every operation is judged."""

    def __init__(self, cache):
        self.pool = getattr(cache, "pool", None)
        self.caches, self.texts, self.next, self.refused = [cache], [[[] for _ in cache.lengths]], 1.0, 0

    def append(self, which, counts):
        """Tokens that were never there before; refused, and nothing changed, exactly if the pages do not suffice."""
        cache, texts = self.caches[which], self.texts[which]
        k, v = (torch.full((len(texts), 1, max(*counts, 1), width), torch.nan) for width in cache.shape.widths)
        fresh = []
        for row, count in enumerate(counts):
            fresh.append([self.next + i for i in range(count)])
            self.next += count
            k[row, 0, :count] = torch.tensor(fresh[row])[:, None]
            v[row, 0, :count] = -torch.tensor(fresh[row])[:, None]
        if self.pool is not None and self.pages_needed(which, counts) > self.pool.n_free:
            before = state_of(cache)
            with pytest.raises(ValueError, match="new pages and .* copies of shared ones are needed"):
                cache.append(k, v, counts=torch.tensor(counts))
            assert_same_state(cache, before)
            self.refused += 1
            return
        cache.append(k, v, counts=torch.tensor(counts))
        for text, tokens in zip(texts, fresh, strict=True):
            text.extend(tokens)

    def pages_needed(self, which, counts):
        """Row by row: a copy where a page begun is held by another, and new pages beyond it."""
        cache, size, needed = self.caches[which], self.pool.page_size, 0
        held = Counter(page for c in self.caches for page in c.block_table[c.block_table >= 0].tolist())
        for row, (text, count) in enumerate(zip(self.texts[which], counts, strict=True)):
            if count and len(text) % size:
                page = int(cache.block_table[row, len(text) // size])
                needed += held[page] > 1
                held[page] -= held[page] > 1
            needed += -(-(len(text) + count) // size) - -(-len(text) // size)
        return needed

    def truncate(self, which, lengths):
        texts = self.texts[which]
        lengths = [min(n, len(text)) for n, text in zip(lengths, texts, strict=True)]
        self.caches[which].truncate(torch.tensor(lengths))
        self.texts[which] = [text[:n] for text, n in zip(texts, lengths, strict=True)]

    def fork(self, which, rows):
        self.caches.append(self.caches[which].fork(rows))
        self.texts.append([list(self.texts[which][row]) for row in rows])

    def free(self, which):
        self.caches.pop(which).free()
        del self.texts[which]

    def check(self):
        for cache, texts in zip(self.caches, self.texts, strict=True):
            assert cache.lengths.tolist() == [len(text) for text in texts]
            k, v = cache.view()
            for row, text in enumerate(texts):
                assert k[row, 0, : len(text), 0].tolist() == text
                assert v[row, 0, : len(text), -1].tolist() == [-token for token in text]
        if self.pool is not None:
            self.check_pool()

    def check_pool(self):
        size, held = self.pool.page_size, Counter()
        for cache, texts in zip(self.caches, self.texts, strict=True):
            for row, text in zip(cache.block_table.tolist(), texts, strict=True):
                pages = -(-len(text) // size)
                assert min([*row[:pages], 0]) == 0 and set(row[pages:]) <= {-1}
                held.update(row[:pages])
            assert cache.nbytes == len({p for row in cache.block_table.tolist() for p in row if p >= 0}) * size * 3 * 4
        assert self.pool.holders == [held[page] for page in range(self.pool.n_pages)]
        assert self.pool.n_free + len(held) == self.pool.n_pages
        assert sorted(self.pool._free) == [page for page in range(self.pool.n_pages) if held[page] == 0]


SMALL = CacheShape(1, (2, 1))


def state_of(cache):
    """All that a refused call must leave as it was."""
    fields = [x.clone() for store in cache.storage for x in store]
    pages = [] if cache.block_table is None else [cache.block_table.clone()]
    pool = [list(cache.pool.holders), list(cache.pool._free)] if pages else []
    return [*fields, *pages, cache.lengths.clone(), cache.positions()], pool


def assert_same_state(cache, before):
    (tensors, pool), (tensors_before, pool_before) = state_of(cache), before
    assert pool == pool_before
    for x, y in zip(tensors, tensors_before, strict=True):
        assert torch.equal(
            x.nan_to_num(7e9) if x.is_floating_point() else x, y.nan_to_num(7e9) if y.is_floating_point() else y
        )


class PagesAreLists(RuleBasedStateMachine):
    """Caches over one small pool, in any order of operations."""

    @initialize(page_size=st.integers(1, 4), n_pages=st.integers(1, 24), b=st.integers(1, 3))
    def start(self, page_size, n_pages, b):
        self.texts = Texts(PagedCache(b, PagePool(n_pages, SMALL, page_size=page_size), max_pages=99))

    def draw(self, data, low, high):
        """A cache, and a number for each of its rows."""
        which = data.draw(st.integers(0, len(self.texts.caches) - 1))
        rows = len(self.texts.texts[which])
        return which, data.draw(st.lists(st.integers(low, high), min_size=rows, max_size=rows))

    @rule(data=st.data())
    def append(self, data):
        self.texts.append(*self.draw(data, 0, 6))

    @rule(data=st.data())
    def truncate(self, data):
        self.texts.truncate(*self.draw(data, 0, 12))

    @precondition(lambda self: len(self.texts.caches) < 5)
    @rule(data=st.data())
    def fork(self, data):
        which, _ = self.draw(data, 0, 0)
        rows = st.integers(0, len(self.texts.texts[which]) - 1)
        self.texts.fork(which, data.draw(st.lists(rows, min_size=1, max_size=4)))

    @precondition(lambda self: len(self.texts.caches) > 1)
    @rule(data=st.data())
    def free(self, data):
        self.texts.free(self.draw(data, 0, 0)[0])

    @invariant()
    def holds(self):
        if hasattr(self, "texts"):
            self.texts.check()

    def teardown(self):
        if hasattr(self, "texts"):
            while self.texts.caches:
                self.texts.free(0)
            assert self.texts.pool.n_free == self.texts.pool.n_pages


TestPagesAreLists = PagesAreLists.TestCase
TestPagesAreLists.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_a_thousand_appends_forks_and_frees_leak_no_page():
    rng = random.Random(0)
    pool = PagePool(24, SMALL, page_size=3)
    texts = Texts(PagedCache(3, pool, max_pages=99))
    done = Counter()
    for _ in range(1000):
        which = rng.randrange(len(texts.caches))
        rows = len(texts.texts[which])
        does = rng.choices(["append", "truncate", "fork", "free"], [6, 2, 2, 2])[0]
        if does == "append":
            texts.append(which, [rng.randrange(5) for _ in range(rows)])
        elif does == "truncate":
            texts.truncate(which, [rng.randrange(12) for _ in range(rows)])
        elif does == "fork" and len(texts.caches) < 6:
            texts.fork(which, [rng.randrange(rows) for _ in range(rng.randint(1, 4))])
        elif does == "free" and len(texts.caches) > 1:
            texts.free(which)
        done[does] += 1
        texts.check()
    assert min(done.values()) > 100 and texts.refused > 50
    while texts.caches:
        texts.free(0)
    assert pool.n_free == 24 and pool.holders == [0] * 24


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels"])
def test_what_a_broken_text_left_hurts_no_other(layout):
    q, k, v = make_qkv(b=2, h=1, t=5, dk=2, dv=1, dtype=torch.float32)
    cache = build(layout, 2, SMALL, 9)
    cache.append(torch.full((2, 1, 4, 2), torch.nan), torch.full((2, 1, 4, 1), torch.nan))
    cache.append(torch.full((2, 1, 4, 2), torch.nan), torch.full((2, 1, 4, 1), torch.nan))
    cache.truncate(torch.tensor([0, 0]))
    cache.append(k[:, :, :4], v[:, :, :4], counts=torch.tensor([4, 1]))
    got = kv_cache_attention(q[:, :, :4], cache, counts=torch.tensor([4, 1]))
    assert got.isfinite().all()
    held_k, held_v = cache.view()
    for row, length in enumerate([4, 1]):
        wanted = attend_by_hand(*(x[row, :, :length] for x in (q, held_k, held_v)))
        torch.testing.assert_close(got[row, :, :length].double(), wanted)


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels"])
def test_who_holds_lengths_keeps_what_they_were(layout):
    cache = build(layout, 2, SMALL, 9)
    before = cache.lengths
    cache.append(*tokens(c=4))
    between, told = cache.lengths, torch.tensor([2, 3], dtype=torch.int32)
    cache.truncate(told)
    after = cache.lengths
    told.zero_()
    cache.append(*tokens())
    assert [x.tolist() for x in (before, between, after, cache.lengths)] == [[0, 0], [4, 4], [2, 3], [3, 4]]


@pytest.mark.parametrize("codec", [None, Int8()], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_truncates_and_forks_like_lists(layout, codec):
    rng = random.Random(1)
    texts = Texts(build(layout, 3, SMALL, 400, codec=codec))  # a token's entries are equal, and so exact in any codec
    texts.pool = None  # it never runs out here
    for _ in range(60):
        which = rng.randrange(len(texts.caches))
        rows = len(texts.texts[which])
        texts.append(which, [rng.randrange(5) for _ in range(rows)])
        if rng.random() < 0.4:
            texts.truncate(which, [rng.randrange(20) for _ in range(rows)])
        if rng.random() < 0.3 and len(texts.caches) < 4:
            texts.fork(which, [rng.randrange(rows) for _ in range(3)])
        texts.check()


def test_a_fork_shares_pages_until_one_side_writes():
    pool = PagePool(8, SMALL, page_size=4)
    one = PagedCache(1, pool)
    one.append(torch.ones(1, 1, 6, 2), torch.ones(1, 1, 6, 1))
    both = one.fork([0, 0])
    assert pool.n_free == 6 and both.nbytes == one.nbytes and both.used_nbytes == one.used_nbytes
    both.append(torch.full((2, 1, 1, 2), 2.0), torch.full((2, 1, 1, 1), 2.0))
    assert pool.n_free == 4  # each row of the fork has a second page of its own; the first, which is full, is all's
    assert one.view()[0][0, 0, :, 0].tolist() == [1] * 6
    assert both.view()[0][1, 0, :, 0].tolist() == [1] * 6 + [2]
    table = both.block_table[:, :2].tolist()
    assert table[0][0] == table[1][0] == int(one.block_table[0, 0]) and len({table[0][1], table[1][1]}) == 2
    one.free()
    assert pool.n_free == 5  # the old second page is nobody's any more


def test_the_last_holder_of_a_page_writes_without_a_copy():
    pool = PagePool(2, SMALL, page_size=4)
    one = PagedCache(1, pool)
    one.append(*tokens(b=1, c=2))
    both = one.fork([0, 0])
    one.free()
    both.append(*tokens(c=1))  # one copy is needed, and one page is free
    assert pool.n_free == 0 and both.block_table[:, 0].sort()[0].tolist() == [0, 1]


@given(
    window=st.integers(1, 5), sinks=st.integers(0, 3), piece=st.integers(1, 3), length=st.integers(1, 20),
    back=st.integers(0, 6) | st.integers(0, 20), seed=st.integers(0, 99),
)  # fmt: skip
@example(window=3, sinks=0, piece=2, length=10, back=2, seed=0)
@example(window=3, sinks=0, piece=2, length=10, back=3, seed=0)
@settings(deadline=None, max_examples=80)
def test_a_ring_takes_back_what_it_still_has_the_window_of(window, sinks, piece, length, back, seed):
    q, k, v = make_qkv(b=1, h=1, t=24, dk=2, seed=seed)
    cache = RingCache(1, CacheShape(1, (2, 2)), window=window, sinks=sinks, piece=piece, dtype=torch.float64)
    run_through(cache, q, k, v, [length], longest=piece, window=window, sinks=sinks)
    to = max(length - back, 0)
    needed = range(max(to - window + 1, sinks), to + 1) if to > sinks else ()  # by the next query, its own included
    gone = range(sinks, max(length - (window + piece - 1), sinks))
    if set(needed) & set(gone):
        before = state_of(cache)
        with pytest.raises(ValueError, match="needs tokens that were overwritten"):
            cache.truncate(torch.tensor([to]))
        assert_same_state(cache, before)
        return
    cache.truncate(torch.tensor([to]))
    other = make_qkv(b=1, h=1, t=24, dk=2, seed=seed + 1000)
    q, k, v = (torch.cat([x[:, :, :to], y[:, :, to:]], dim=2) for x, y in zip((q, k, v), other, strict=True))
    for i in range(to, 24):
        cache.append(k[:, :, i : i + 1], v[:, :, i : i + 1])
        got = kv_cache_attention(q[:, :, i : i + 1], cache, window=window, sinks=sinks)
        wanted = attend_by_hand(*(x[0, :, : i + 1] for x in (q, k, v)), window=window, sinks=sinks)[:, -1:]
        torch.testing.assert_close(got[0], wanted)


# Refusals


def one_of_each(layout):
    """A cache of two sequences with a few tokens, full of room for others."""
    cache = build(layout, 2, SMALL, 6)
    cache.append(torch.randn(2, 1, 4, 2), torch.randn(2, 1, 4, 1), counts=torch.tensor([4, 3]))
    return cache


def tokens(b=2, g=1, c=1, widths=(2, 1), **kw):
    return [torch.ones(b, g, c, width, **kw) for width in widths]


BAD_APPENDS = {
    "another batch": (
        lambda: (tokens(b=3), {}),
        r"append takes 2 streams of 2 sequences, .* got shapes \[\(3, 1, 1, 2\)",
    ),
    "another head": (lambda: (tokens(g=2), {}), "1 heads"),
    "another width": (lambda: (tokens(widths=(2, 2)), {}), r"widths \(2, 1\)"),
    "one stream": (lambda: (tokens()[:1], {}), "2 streams"),
    "no token": (lambda: (tokens(c=0), {}), "append takes"),
    "uneven streams": (lambda: ([tokens(c=1)[0], tokens(c=2)[1]], {}), "equally many tokens"),
    "another dtype": (
        lambda: (tokens(dtype=torch.float64), {}),
        "holds torch.float32 on cpu, got torch.float64 on cpu",
    ),
    "another device": (lambda: (tokens(device="meta"), {}), "holds torch.float32 on cpu, got torch.float32 on meta"),
    "a gradient": (lambda: (tokens(requires_grad=True), {}), "a cache keeps no gradients: append under torch.no_grad"),
    "counts beyond the piece": (lambda: (tokens(c=2), dict(counts=torch.tensor([3, 0]))), "must lie in 0..2, got 0..3"),
    "counts of floats": (lambda: (tokens(), dict(counts=torch.tensor([1.0, 0.0]))), "must be an integer tensor"),
    "one count": (lambda: (tokens(), dict(counts=torch.tensor([1]))), r"must have shape \(2,\), got \(1,\)"),
    "too many": (
        lambda: (tokens(c=30), {}),
        "room for 6 tokens|a row of the block table|pieces of at most 4 tokens|new pages",
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD_APPENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_refused_append_changes_nothing(layout, case):
    cache = one_of_each(layout)
    before = state_of(cache)
    (streams, told), message = BAD_APPENDS[case][0](), BAD_APPENDS[case][1]
    with pytest.raises(ValueError, match=message):
        cache.append(*streams, **told)
    assert_same_state(cache, before)


@pytest.mark.parametrize("layout", ["contiguous", "paged"])
def test_one_row_without_room_refuses_the_whole_append(layout):
    cache = build(layout, 2, SMALL, 6) if layout == "contiguous" else PagedCache(2, PagePool(3, SMALL, page_size=3))
    cache.append(*tokens(c=5), counts=torch.tensor([1, 5]))
    before = state_of(cache)
    with pytest.raises(ValueError, match="room for 6 tokens|1 new pages and 0 copies .* pages 0 are free"):
        cache.append(*tokens(c=2), counts=torch.tensor([1, 2]))
    assert_same_state(cache, before)
    cache.append(*tokens(c=2), counts=torch.tensor([2, 1]))  # where both have room, it goes on
    assert cache.lengths.tolist() == [3, 6]


@pytest.mark.bad_input
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_truncations_and_forks_are_named_and_change_nothing(layout):
    cache = one_of_each(layout)
    before = state_of(cache)
    for lengths, message in [
        (torch.tensor([4, 4]), r"truncate takes lengths up to \[4, 3\], got \[4, 4\]"),
        (torch.tensor([5, 0]), "must lie in 0..4, got 0..5"),
        (torch.tensor([-1, 0]), "must lie in 0..4, got -1..0"),
        (torch.tensor([1]), r"must have shape \(2,\)"),
        (torch.tensor([1.0, 1.0]), "must be an integer tensor"),
    ]:
        with pytest.raises(ValueError, match=message):
            cache.truncate(lengths)
    for rows in ([2], [-1], [], [0.0], torch.tensor(0), torch.tensor([True])):
        with pytest.raises(ValueError, match="fork takes rows of 0..1, got"):
            cache.fork(rows)
    assert_same_state(cache, before)


@pytest.mark.bad_input
def test_a_freed_cache_refuses_every_call():
    pool = PagePool(4, SMALL, page_size=3)
    cache = PagedCache(1, pool)
    cache.append(*tokens(b=1, c=4))
    twin = cache.fork([0])
    cache.free()
    assert pool.n_free == 2
    calls = {
        "append": lambda: cache.append(*tokens(b=1)),
        "view": cache.view,
        "positions": cache.positions,
        "truncate": lambda: cache.truncate(torch.tensor([0])),
        "fork": lambda: cache.fork([0]),
        "free": cache.free,
        "nbytes": lambda: cache.nbytes,
        "used_nbytes": lambda: cache.used_nbytes,
        "lengths": lambda: cache.lengths,
    }
    for call in calls.values():
        with pytest.raises(ValueError, match="this cache was freed"):
            call()
    assert pool.n_free == 2 and twin.view()[0].tolist() == [[[[1.0, 1.0]] * 4]]


@pytest.mark.bad_input
def test_a_pool_names_pages_that_are_not_there():
    pool = PagePool(2, SMALL)
    page = pool.take()
    for call in (pool.share, pool.release, pool.own):
        for absent in (2, -1):
            with pytest.raises(ValueError, match=f"pages are numbered 0..1, got page {absent}"):
                call(absent)
        with pytest.raises(ValueError, match=f"page {1 - page} is free"):
            call(1 - page)
    pool.share(page)
    pool.take()
    with pytest.raises(ValueError, match="all 2 pages of the pool are in use"):
        pool.take()
    with pytest.raises(ValueError, match="all 2 pages of the pool are in use"):
        pool.own(page)
    assert pool.holders[page] == 2


@pytest.mark.bad_input
def test_positions_and_slots_that_are_not_there_are_named():
    table = torch.tensor([[3, -1], [0, 2]], dtype=torch.int32)
    assert page_slots(table, torch.tensor([[1, -1], [5, 2]]), page_size=3).tolist() == [[10, -1], [8, 2]]
    with pytest.raises(ValueError, match="the block table has 2 pages of 3 tokens a row, got positions"):
        page_slots(table, torch.tensor([[0, 0], [0, 6]]), page_size=3)
    with pytest.raises(ValueError, match=r"no page holds some of the positions of rows \[0\]"):
        page_slots(table, torch.tensor([[3], [3]]), page_size=3)
    store = empty_store(2, 3, SMALL, codec=Plain(), dtype=torch.float32, device=None)[0]
    for write, read in (
        (kv_cache_append, kv_cache_gather),
        (kernel.kv_cache_append_triton, kernel.kv_cache_gather_triton),
    ):
        for slot in (6, -2):
            slots = torch.tensor([[0, slot]])
            with pytest.raises(ValueError, match="slots must lie in 0..5 or be -1, for 2 blocks of 3, got"):
                write(store, torch.ones(1, 1, 2, 2), slots, codec=Plain())
            with pytest.raises(ValueError, match="slots must lie in 0..5"):
                read(store, slots, codec=Plain(), dtype=torch.float32)
        for x in (torch.ones(1, 2, 2, 2), torch.ones(1, 1, 3, 2), torch.ones(1, 2, 2)):
            with pytest.raises(ValueError, match=r"tokens must be \(b, 1, c, width\) for slots \(b, c\), got"):
                write(store, x, torch.tensor([[0, 1]]), codec=Plain())
        for x, codec in (
            (torch.ones(1, 1, 2, 3), Plain()),
            (torch.ones(1, 1, 2, 2), Int8()),
            (torch.ones(1, 1, 2, 2).half(), Plain()),
        ):
            with pytest.raises(ValueError, match="stores such tokens in"):
                write(store, x, torch.tensor([[0, 1]]), codec=codec)
    assert not store[0].any()


@pytest.mark.bad_input
def test_what_cannot_be_built_is_named():
    with pytest.raises(ValueError, match="a group must divide the width 6, got group=4"):
        ContiguousCache(1, CacheShape(1, (6, 6)), capacity=3, codec=Int8(group=4))
    with pytest.raises(ValueError, match="so a group must be even, got 5 of 5"):
        ContiguousCache(1, CacheShape(1, (6, 5)), capacity=3, codec=Int4())
    with pytest.raises(ValueError, match="capacity must be an integer of at least 1, got 0"):
        ContiguousCache(1, SMALL, capacity=0)
    with pytest.raises(ValueError, match="impl must be one of torch, triton, got 'cuda'"):
        PagedCache(1, PagePool(1, SMALL), impl="cuda")
    with pytest.raises(ValueError, match="sinks must not be negative, got -1"):
        RingCache(1, SMALL, window=2, sinks=-1)
    cache = ContiguousCache(1, CacheShape(1, (4, 4, 4)), capacity=3)
    cache.append(*tokens(b=1, widths=(4, 4, 4)))
    with pytest.raises(ValueError, match="reads keys and values, got a cache of 3 streams"):
        kv_cache_attention(torch.ones(1, 1, 1, 4), cache)
    with pytest.raises(ValueError, match=r"the queries are the last 2 tokens .* for lengths \[1\]"):
        kv_cache_attention(torch.ones(1, 1, 2, 4), cache)


# Bytes


def test_bytes_to_the_digit():
    shape = CacheShape(8, (128, 128))
    assert token_nbytes(shape, dtype=torch.bfloat16) == 2 * 8 * 128 * 2
    assert token_nbytes(CacheShape(1, (512, 64)), dtype=torch.bfloat16) == 1152
    per_vector = {
        Plain(): 128 * 2, Int8(): 128 + 8, Int8(group=32): 128 + 4 * 8, Int4(group=32): 64 + 4 * 8, Fp8(group=64): 128 + 2 * 4
    }  # fmt: skip
    for codec, nbytes in per_vector.items():
        cache = ContiguousCache(2, shape, capacity=5, dtype=torch.bfloat16, codec=codec)
        assert cache.token_nbytes == 2 * 8 * nbytes and cache.nbytes == 2 * 5 * cache.token_nbytes
        assert cache.used_nbytes == 0
        piece = tokens(2, 8, 3, (128, 128), dtype=torch.bfloat16)
        cache.append(*piece, counts=torch.tensor([3, 1]))
        assert cache.used_nbytes == 4 * cache.token_nbytes and cache.nbytes == 2 * 5 * cache.token_nbytes
        pool = PagePool(6, shape, page_size=2, dtype=torch.bfloat16, codec=codec)
        pages = PagedCache(2, pool)
        pages.append(*piece, counts=torch.tensor([3, 1]))
        assert pool.nbytes == 12 * pages.token_nbytes
        assert pages.nbytes == 3 * 2 * pages.token_nbytes and pages.used_nbytes == 4 * pages.token_nbytes
        pages.truncate(torch.tensor([0, 1]))
        assert pages.nbytes == 2 * pages.token_nbytes and pages.used_nbytes == pages.token_nbytes


# Quantisation


@given(
    low=st.floats(-4, 4), exponent=st.integers(-8, 8), groups=st.sampled_from([1, 2, 3]), seed=st.integers(0, 999)
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_no_entry_is_off_by_more_than_half_a_step(low, exponent, groups, seed):
    rng = torch.Generator().manual_seed(seed)
    x = (torch.randn(5, 12, generator=rng) + low) * 10.0**exponent
    largest = x.abs().reshape(5, groups, -1).amax(-1).repeat_interleave(12 // groups, dim=-1)
    for quantize, dequantize, span in (
        (quantize_int8, dequantize_int8, 255),
        (quantize_int4, dequantize_int4, 15),
    ):
        codes, scale, zero = quantize(x, groups=groups)
        spread = x.reshape(5, groups, -1).amax(-1) - x.reshape(5, groups, -1).amin(-1)
        torch.testing.assert_close(scale, spread / span, rtol=1e-4, atol=0)
        error = (x - dequantize(codes, scale, zero)).abs()
        # Float32 rounds the quotient, the zero point and the product: a few units in the last place of the largest.
        assert (error <= scale.repeat_interleave(12 // groups, dim=-1) / 2 + 4 * 2**-23 * largest).all()
    codes, scale = quantize_fp8(x, groups=groups)
    step = scale.repeat_interleave(12 // groups, dim=-1)
    assert ((x - dequantize_fp8(codes, scale)).abs() <= torch.maximum(x.abs() / 16, step / 1024) * (1 + 1e-6)).all()


def test_codes_reach_both_ends_and_the_first_of_a_byte_is_low():
    codes, scale, zero = quantize_int8(torch.tensor([[-3.0, 5.0, 1.1, 0.0]]))
    assert codes.tolist() == [[-128, 127, 3, -32]]  # 130.7 and 95.6 of 255 steps up from -128
    codes, scale, zero = quantize_int4(torch.tensor([[0.0, 15.0, 2.0, 7.0]]))
    assert (codes.tolist(), scale.tolist(), zero.tolist()) == ([[0xF0, 0x72]], [[1.0]], [[0.0]])
    codes, scale = quantize_fp8(torch.tensor([[448.0, -1.0, 0.0, 17.0]]))
    assert dequantize_fp8(codes, scale).tolist() == [[448.0, -1.0, 0.0, 16.0]] and scale.tolist() == [[1.0]]


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "plain"])
def test_equal_entries_are_exact_extremes_are_finite_and_nan_stays(codec):
    codec = CODECS[codec]
    for value in (0.0, 1e-30, -7.25, 3e38, 123456.7):
        x = torch.full((3, 6), value)
        torch.testing.assert_close(stored(x, codec).float(), x, rtol=2e-7, atol=0)
    wide = torch.tensor([[-3e38, 3e38, 0.0, 1e38, -1e-38, 1e-45]])
    assert stored(wide, codec).isfinite().all()
    wide[0, 2] = torch.nan
    assert stored(wide, codec)[0, 2].isnan()


def test_fp8_is_the_nearest_of_its_256_numbers():
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    x = torch.cat([torch.linspace(-448, 448, 999), torch.logspace(-4, 2, 999)])[:, None]
    codes, scale = quantize_fp8(torch.cat([x, torch.full_like(x, 448.0)], dim=1))
    assert (scale == 1).all()
    away = (numbers.nan_to_num(1e9) - x.double()).abs()
    torch.testing.assert_close(
        (codes[:, :1].double() - x.double()).abs(), away.min(dim=1, keepdim=True)[0], rtol=0, atol=0
    )


@pytest.mark.parametrize(("codec", "at_most"), [(Int8(), 0.03), (Int8(group=4), 0.02), (Int4(), 0.4), (Fp8(), 0.12)])
def test_what_quantisation_does_to_attention_is_bounded_by_its_steps(codec, at_most):
    q, k, v = make_qkv(b=2, h=4, g=2, t=40, dk=8)
    cache = ContiguousCache(2, CacheShape(2, (8, 8)), capacity=40, dtype=torch.float64, codec=codec)
    cache.append(k, v)
    got = kv_cache_attention(q, cache)
    exact = softmax_attention(q, k, v, causal=True)
    off_k, off_v = ((x - held).abs().repeat_interleave(2, dim=1) for x, held in zip((k, v), cache.view(), strict=True))
    # A score is off by at most the sum of |q| times the keys' error, and a weight then by a factor e^2 that.
    off_score = (8**-0.5 * q.abs() @ off_k.transpose(-1, -2)).amax(-1, keepdim=True)
    bound = off_v.amax((-2, -1), keepdim=True) + torch.expm1(2 * off_score) * v.abs().amax()
    assert ((got - exact).abs() <= bound).all()
    assert 0 < relative_error(got, exact) < at_most


# Channels


def blocks_by_hand(x, lengths, block, turned):
    """Whole blocks as int8 makes of them, by channel or by token, and the other tokens as they are: a loop."""
    x = x.clone()
    for row, length in enumerate(lengths):
        for first in range(0, length // block * block, block):
            tokens = x[row, :, first : first + block]
            x[row, :, first : first + block] = stored(tokens.mT, Int8()).mT if turned else stored(tokens, Int8())
    return x


@given(
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=3), longest=st.integers(1, 14), seed=st.integers(0, 99)
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_a_cache_of_channels_encodes_whole_blocks_and_keeps_the_rest(lengths, longest, seed):
    b = len(lengths)
    q, k, v = make_qkv(b=b, h=2, t=14, dk=4, dv=6, seed=seed)
    cache = build("channels", b, CacheShape(2, (4, 6)), 14, dtype=torch.float64)
    run_through(cache, q, k, v, lengths, seed=seed, longest=longest)
    held_k, held_v = cache.view()
    blocks, after = sum(n // 3 for n in lengths), sum(n % 3 for n in lengths)
    assert cache.used_nbytes == blocks * 2 * (4 * (3 + 8) + 3 * (6 + 8)) + after * 2 * 10 * 8
    assert cache.nbytes == b * 5 * 2 * (4 * (3 + 8) + 3 * (6 + 8)) + b * 3 * 2 * 10 * 8
    for row, length in enumerate(lengths):
        for held, x, turned in ((held_k, k, True), (held_v, v, False)):
            wanted = blocks_by_hand(x, lengths, 3, turned)[row, :, :length]
            torch.testing.assert_close(held[row, :, :length], wanted)
    other = cache.fork([*range(b), 0])
    other.truncate((other.lengths - 2).clamp_min(0))
    for held, before in zip(other.view(), cache.view(), strict=True):
        for row, length in enumerate(other.lengths.tolist()):
            torch.testing.assert_close(held[row, :, :length], before[row % b, :, :length], rtol=0, atol=0)


def test_a_large_channel_costs_less_where_it_has_a_scale_of_its_own():
    q, k, v = make_qkv(b=1, h=2, t=64, dk=16)
    k[..., 3] += 30.0
    exact, errors = softmax_attention(q, k, v, causal=True), []
    for cache in (
        ContiguousCache(1, CacheShape(2, (16, 16)), capacity=64, dtype=torch.float64, codec=Int4()),
        ChannelCache(1, CacheShape(2, (16, 16)), capacity=64, dtype=torch.float64, codec=Int4()),
    ):
        cache.append(k, v)
        errors.append(relative_error(kv_cache_attention(q, cache), exact))
    assert errors[1] < errors[0] / 2


@pytest.mark.bad_input
def test_a_cache_of_channels_names_what_does_not_fit():
    with pytest.raises(ValueError, match="a block must divide the capacity, got capacity=40, block=32"):
        ChannelCache(1, SMALL, capacity=40)
    with pytest.raises(ValueError, match="so a group must be even, got 3 of 3"):
        ChannelCache(1, CacheShape(1, (4, 4)), capacity=6, block=3)
    cache = build("channels", 1, SMALL, 6)
    cache.append(*tokens(b=1, c=5))
    before = [x.clone() for store in cache.storage for x in store]
    with pytest.raises(ValueError, match="room for 6 tokens"):
        cache.append(*tokens(b=1, c=2))
    with pytest.raises(ValueError, match="must lie in 0..5, got 6..6"):
        cache.truncate(torch.tensor([6]))
    assert all(map(torch.equal, before, [x for store in cache.storage for x in store]))


# Kernels


@pytest.mark.dry
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "codec", [*CODECS.values(), Int8(group=1), Int8(group=3), Int4(group=6), Fp8(group=3)], ids=str
)
def test_kernels_write_the_same_bits_and_read_the_same_numbers(codec, dtype, device):
    rng = torch.Generator().manual_seed(1)
    for width in (6, 12):
        shape = CacheShape(2, (width,))
        stores = [empty_store(4, 5, shape, codec=codec, dtype=dtype, device=device)[0] for _ in range(2)]
        for store in stores:
            for field in store:
                field.view(torch.uint8).fill_(0x7F)  # NaN in every float, and so in every slot that nobody writes
        x = torch.randn(2, 2, 7, width, generator=rng) * torch.logspace(-6, 4, 7)[:, None]
        x[0, 0, 0], x[0, 1, 1], x[1, 1, 2] = 0.0, 3.0, -1e-30
        x = x.to(device, dtype).transpose(1, 2).contiguous().transpose(1, 2)  # as heads are cut from a projection
        slots = torch.randperm(20, generator=rng)[:14].reshape(2, 7).to(device)
        slots[1, 2] = slots[0, 6] = -1
        kv_cache_append(stores[0], x, slots, codec=codec)
        kernel.kv_cache_append_triton(stores[1], x, slots, codec=codec)
        for plain, mine in zip(*stores, strict=True):
            assert torch.equal(plain.view(torch.uint8), mine.view(torch.uint8))
        wanted = kv_cache_gather(stores[0], slots, codec=codec, dtype=dtype)
        got = kernel.kv_cache_gather_triton(stores[1], slots, codec=codec, dtype=dtype)
        assert got.dtype == dtype and got.isfinite().all()
        torch.testing.assert_close(got, wanted, rtol=torch.finfo(dtype).eps, atol=0)  # compiled, a product may be fused


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("codec", [Int8(), Int4(), Fp8()], ids=str)
def test_the_kernels_carry_nan_and_infinity_as_the_reference_does(codec, device):
    x = torch.randn(1, 1, 3, 6, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 1], x[0, 0, 1, 4] = torch.nan, torch.inf
    slots, seen = torch.arange(3, device=device)[None], []
    for write, read in (
        (kv_cache_append, kv_cache_gather),
        (kernel.kv_cache_append_triton, kernel.kv_cache_gather_triton),
    ):
        store = empty_store(1, 3, CacheShape(1, (6,)), codec=codec, dtype=torch.float32, device=device)[0]
        write(store, x.to(device), slots, codec=codec)
        seen.append(read(store, slots, codec=codec, dtype=torch.float32))
        assert not seen[-1][0, 0, 0].isfinite().any() and not seen[-1][0, 0, 1, 4].isfinite()
    torch.testing.assert_close(seen[1][0, 0, 2], seen[0][0, 0, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("codec", CODECS)
def test_decoding_by_kernels_errs_as_plain_decoding_over_the_dequantised_cache_does(codec, dtype, device):
    """The kernels' own error; what quantisation costs is measured apart, above."""
    codec = CODECS[codec]
    q, k, v = make_qkv(b=2, h=4, g=2, t=9, dk=6, dv=4, dtype=dtype, device=device)
    outs = []
    for impl in ("triton", "torch"):
        cache = build("paged", 2, CacheShape(2, (6, 4)), 9, dtype=dtype, codec=codec, impl=impl, device=device)
        cache.append(k[:, :, :8], v[:, :, :8])  # a piece longer than a page
        cache.append(k[:, :, 8:], v[:, :, 8:])
        (held, values), visible = read_cache(cache, torch.arange(9, device=device).expand(2, 9), dtype=dtype)
        attend = softmax_attention_triton if impl == "triton" else softmax_attention
        outs.append(attend(q, held, values, mask=visible))
    exact = softmax_attention(q.double(), stored(k, codec), stored(v, codec), causal=True)
    assert_within_budget(outs[0], plain=outs[1], exact=exact)


@pytest.mark.bad_input
def test_what_the_kernels_cannot_do_they_say():
    store = empty_store(1, 3, CacheShape(1, (4,)), codec=Plain(), dtype=torch.float64, device=None)[0]
    slots, x = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 1, 4)
    with pytest.raises(
        ValueError, match="kv_cache_append_triton takes float32, float16 or bfloat16, got torch.float64"
    ):
        kernel.kv_cache_append_triton(store, x.double(), slots, codec=Plain())
    with pytest.raises(ValueError, match="kv_cache_gather_triton takes float32, float16 or bfloat16"):
        kernel.kv_cache_gather_triton(store, slots, codec=Plain(), dtype=torch.float64)
    with pytest.raises(ValueError, match="kv_cache_append_triton gives no gradients"):
        kernel.kv_cache_append_triton(store, x.requires_grad_(), slots, codec=Plain())
    with pytest.raises(ValueError, match="knows the codecs Plain, Int8, Int4, Fp8, got 3"):
        kernel.kv_cache_gather_triton(store, slots, codec=3, dtype=torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("codec", [Plain(), Int8(group=32), Int4(group=32), Fp8(group=32)], ids=str)
def test_the_kernels_at_the_sizes_of_a_model(codec):
    pool = PagePool(600, CacheShape(8, (128, 128)), page_size=16, dtype=torch.bfloat16, device="cuda", codec=codec)
    caches = [PagedCache(4, pool, impl=impl) for impl in ("torch", "triton")]
    k, v = torch.randn(2, 4, 8, 1000, 128, device="cuda", dtype=torch.bfloat16)
    for cache in caches:
        cache.append(k, v, counts=torch.tensor([1000, 1, 517, 999], device="cuda"))
    for plain, mine in zip(*(cache.view() for cache in caches), strict=True):
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("kv_cache", capability)
    assert len(compiled) == (24 if capability == 75 else 32)
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability] and c.spills == 0, c


# The layer


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 3])
def test_a_layer_with_a_cache_is_the_layer_without(layout, impl, window, device):
    dtype = torch.float32 if impl == "triton" else torch.float64
    torch.manual_seed(0)
    options = dict(n_kv_heads=2, window=window, rope=RotaryEmbedding(6))
    layer = GroupedQueryAttention(12, 2, impl=impl, **options).to(device, dtype)
    x = torch.randn(2, 9, 12, dtype=dtype, device=device)
    with torch.no_grad():
        plain = GroupedQueryAttention(12, 2, impl="reference", **options).to(device, dtype)
        plain.load_state_dict(layer.state_dict())
        whole = plain(x)
        torch.testing.assert_close(layer(x, key_lengths=torch.tensor([9, 5], device=device))[0], whole[0])
        cache = build(layout, 2, layer.cache_shape, 9, dtype=dtype, device=device)
        first = layer(x[:, :4], cache=cache)
        second = layer(x[:, 4:8], cache=cache, key_lengths=torch.tensor([4, 1], device=device))
        last = layer(torch.cat([x[:1, 8:9], x[1:, 5:6]]), cache=cache)
    torch.testing.assert_close(first, whole[:, :4])
    torch.testing.assert_close(second[0], whole[0, 4:8])
    torch.testing.assert_close(second[1, :1], whole[1, 4:5])
    torch.testing.assert_close(last, torch.stack([whole[0, 8:9], whole[1, 5:6]]))


@pytest.mark.bad_input
def test_a_layer_whose_parameters_learn_is_refused():
    layer = GroupedQueryAttention(8, 2, n_kv_heads=2)
    with pytest.raises(ValueError, match="a cache keeps no gradients: append under torch.no_grad"):
        layer(torch.ones(1, 1, 8), cache=ContiguousCache(1, layer.cache_shape, capacity=2))


def test_a_ring_is_in_order_until_it_forgets():
    cache, token = RingCache(2, CacheShape(1, (3, 3)), window=4, sinks=1, piece=2), torch.ones(2, 1, 1, 3)
    for length in range(1, 10):
        cache.append(token, token)
        (held, _), visible = cache.positions(), visible_through(cache, cache.lengths[:, None] - 1)
        assert cache.in_order == (length <= 4)
        if cache.in_order:
            assert held.tolist() == list(range(length)) and visible.all()


@pytest.mark.parametrize("sinks", [0, 1])
@pytest.mark.parametrize("piece", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 3, 4])
def test_a_ring_that_took_tokens_back_is_in_order_only_if_it_is(window, piece, sinks):
    """What was written where older tokens stood, and taken back, is not in its place."""
    token = torch.ones(1, 1, 1, 3)
    for length, back in itertools.product(range(1, 9), range(piece + 1)):
        cache = RingCache(1, CacheShape(1, (3, 3)), window=window, sinks=sinks, piece=piece)
        for _ in range(length):
            cache.append(token, token)
        with contextlib.suppress(ValueError):  # of tokens that were overwritten
            cache.truncate((cache.lengths - back).clamp_min(0))
        if cache.in_order:
            held = cache.positions()
            places = torch.arange(held.shape[1])
            assert torch.equal(held, torch.where(places < cache.lengths[:, None], places, -1))
            assert torch.equal(visible_through(cache, cache.lengths[:, None] - 1)[:, 0, 0], held >= 0)


def test_a_ring_is_in_order_again_once_it_is_empty_and_while_rejected_tokens_stood_in_their_places():
    token = torch.ones(2, 1, 2, 3)
    cache = RingCache(2, CacheShape(1, (3, 3)), window=4, piece=2)
    for _ in range(5):  # two tokens guessed, and both rejected
        cache.append(token, token)
        cache.append(token, token)
        cache.truncate(torch.tensor([2, 1]))
        assert cache.in_order
        cache.truncate(torch.tensor([0, 0]))
    for _ in range(3):
        cache.append(token, token)
    assert not cache.in_order
    cache.truncate(torch.tensor([0, 0]))
    assert cache.in_order


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels"])
def test_a_cache_says_how_it_lies(layout):
    cache = build(layout, 2, CacheShape(1, (3, 3)), 9)
    assert isinstance(cache, KeyValueCache)
    assert (cache.block_table is None) == (layout != "paged")
    assert (cache.capacity is None) == (layout == "ring")
    assert [len(fields) for fields in cache.storage] == ([4, 4] if layout == "channels" else [1, 1])
    assert cache.in_order


@pytest.mark.dry
def test_the_kernel_reads_all_256_codes_of_eight_bits_as_pytorch_does(device):
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(1, 1, 1, 256).to(device)
    store, slots = (codes, torch.ones(1, 1, 1, 1, device=device)), torch.zeros(1, 1, dtype=torch.long, device=device)
    out = kernel.kv_cache_gather_triton(store, slots, codec=Fp8(), dtype=torch.float32)
    torch.testing.assert_close(out, codes.float(), rtol=0, atol=0, equal_nan=True)
