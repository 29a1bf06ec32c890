"""Every form of local attention against a loop, FlexAttention, SDPA and each other; a ring at every split of a text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from attncourse._shared.cache import CacheShape
from attncourse._shared.rope import RotaryEmbedding
from attncourse.kv_cache import ContiguousCache, Int8, PagedCache, PagePool, RingCache, kv_cache_attention
from attncourse.profile import peak_memory
from attncourse.sliding_window import (
    SlidingWindowAttention,
    local_mask,
    sliding_window_attention,
    sliding_window_attention_blocked,
    sliding_window_attention_loop,
    sliding_window_attention_torch,
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

kernel = pytest.importorskip("attncourse.sliding_window.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {
    "sliding_window": Layer(lambda **o: SlidingWindowAttention(D_MODEL, 4, window=3, **o)),
    "sliding_window, dilated": Layer(lambda **o: SlidingWindowAttention(D_MODEL, 4, radius=2, dilation=2, **o)),
}

PATTERNS = {
    "window": dict(window=4),
    "window of one": dict(window=1),
    "window beyond the text": dict(window=40),
    "dilated window": dict(window=3, dilation=2),
    "radius": dict(radius=2),
    "dilated radius": dict(radius=2, dilation=3),
    "sinks": dict(window=3, sinks=2),
    "more sinks than text": dict(window=2, sinks=30),
}


def blocked(q, k, v, **pattern):
    return sliding_window_attention_blocked(q, k, v, block=5, **pattern)


def sees(at, col, *, window=None, radius=None, dilation=1, sinks=0):
    """The rule in words: one pair, written apart from the package."""
    if window is not None and col > at:
        return False
    if col < sinks:
        return True
    steps, rest = divmod(abs(at - col), dilation)
    return rest == 0 and (steps < window if window is not None else steps <= radius)


def dense_by_hand(q, k, v, *, key_lengths=None, scale=None, **pattern):
    """A loop over every pair in float64: the oracle of every form."""
    (b, h, t, dk), (g, s) = q.shape, k.shape[1:3]
    out = torch.zeros(b, h, t, v.shape[-1], dtype=torch.float64)
    for i in range(b):
        length = s if key_lengths is None else int(key_lengths[i])
        for j in range(h):
            for row in range(t):
                seen = [col for col in range(length) if sees(s - t + row, col, **pattern)]
                if seen:
                    scores = k[i, j * g // h, seen].double() @ q[i, j, row].double()
                    weights = torch.softmax(scores * (dk**-0.5 if scale is None else scale), dim=0)
                    out[i, j, row] = weights @ v[i, j * g // h, seen].double()
    return out


FORMS = {
    "reference": sliding_window_attention,
    "blocked": blocked,
    "torch": sliding_window_attention_torch,
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("t", "s"), [(7, 7), (13, 13), (3, 11), (11, 3), (1, 1), (1, 9)])
def test_every_form_is_the_loop_under_every_pattern(name, t, s):
    q, k, v = make_qkv(b=3, h=4, g=2, t=t, s=s, dk=5, dv=3)
    for lengths in (None, torch.tensor([s, 0, s // 2])):
        wanted = dense_by_hand(q, k, v, key_lengths=lengths, **PATTERNS[name])
        for form, attend in FORMS.items():
            got = attend(q, k, v, key_lengths=lengths, **PATTERNS[name])
            torch.testing.assert_close(got, wanted, msg=lambda m, form=form: f"{form}: {m}")
    loop = sliding_window_attention_loop(q[0, 0], k[0, 0], v[0, 0], **PATTERNS[name])
    torch.testing.assert_close(loop, dense_by_hand(q, k, v, **PATTERNS[name])[0, 0])


patterns = st.one_of(
    st.fixed_dictionaries(dict(window=st.integers(1, 20), sinks=st.integers(0, 9))),
    st.fixed_dictionaries(dict(window=st.integers(1, 20), dilation=st.integers(1, 6))),
    st.fixed_dictionaries(dict(radius=st.integers(1, 20), dilation=st.integers(1, 6))),
)


@given(
    pattern=patterns, b=st.integers(1, 2), g=st.integers(1, 2), group=st.integers(1, 3), t=st.integers(1, 17),
    s=st.integers(1, 17), dk=st.integers(1, 9), dv=st.integers(1, 9), block=st.integers(1, 18), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_blocked_is_the_definition_at_every_size(pattern, b, g, group, t, s, dk, dv, block, seed):
    q, k, v = make_qkv(b=b, h=g * group, g=g, t=t, s=s, dk=dk, dv=dv, seed=seed)
    wanted = sliding_window_attention(q, k, v, **pattern)
    torch.testing.assert_close(sliding_window_attention_blocked(q, k, v, block=block, **pattern), wanted)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("t", "s"), [(9, 9), (4, 9), (9, 4)])
def test_gradients_of_every_form_are_the_definitions(name, t, s):
    q, k, v = make_qkv(b=2, h=4, g=2, t=t, s=s, dk=5, dv=3)
    for lengths in (None, torch.tensor([s, s // 2])):
        masking = dict(key_lengths=lengths, **PATTERNS[name])
        wanted = gradients(lambda *x, masking=masking: sliding_window_attention(*x, **masking), q, k, v)
        for attend in (blocked, sliding_window_attention_torch):
            got = gradients(lambda *x, f=attend, masking=masking: f(*x, **masking), q, k, v)
            for mine, truth in zip(got, wanted, strict=True):
                torch.testing.assert_close(mine, truth)


def test_the_gradient_is_the_slope():
    q, k, v = make_qkv(b=1, h=2, g=1, t=7, s=8, dk=3, grad=True)
    for pattern in (dict(window=3, sinks=1), dict(radius=2, dilation=2)):
        assert torch.autograd.gradcheck(lambda *x, p=pattern: blocked(*x, scale=0.7, **p), (q, k, v))


@pytest.mark.parametrize("name", PATTERNS)
def test_flexattention_agrees(name):
    q, k, v = make_qkv(b=1, h=2, t=33, dk=16, dtype=torch.float32)
    rule = local_mask(33, 33, **PATTERNS[name])
    block_mask = create_block_mask(lambda b, h, i, j: rule[i, j], None, None, 33, 33, device="cpu")
    wanted = flex_attention(q, k, v, block_mask=block_mask)
    torch.testing.assert_close(blocked(q, k, v, **PATTERNS[name]), wanted)


@pytest.mark.parametrize("t", [1, 5, 9])
def test_a_window_as_long_as_the_text_is_causal_and_a_radius_so_long_is_full(t):
    q, k, v = make_qkv(t=t, s=9)
    positions = torch.arange(9)
    causal = scaled_dot_product_attention(q, k, v, attn_mask=positions <= positions[9 - t :, None])
    full = scaled_dot_product_attention(q, k, v)
    for attend in FORMS.values():
        for beyond in (0, 1, 50):
            torch.testing.assert_close(attend(q, k, v, window=9 + beyond), causal)
            torch.testing.assert_close(attend(q, k, v, radius=9 + beyond), full)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name, pattern in PATTERNS.items() if "window" in pattern])
def test_no_window_sees_the_future(form, name):
    q, k, v = make_qkv(b=1, h=2, g=1, t=6, s=8)
    assert_causal(lambda *x: FORMS[form](*x, **PATTERNS[name]), q, k, v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["window", "radius", "sinks", "dilated radius"])
def test_nan_in_padding_goes_nowhere(form, name):
    q, k, v = make_qkv(b=2, t=9, s=7)
    lengths = torch.tensor([4, 0])
    clean = sliding_window_attention(q, k, v, key_lengths=lengths, **PATTERNS[name])
    k[0, :, 4:], v[0, :, 4:], k[1], v[1] = (torch.nan,) * 4
    attend = FORMS[form]
    torch.testing.assert_close(attend(q, k, v, key_lengths=lengths, **PATTERNS[name]), clean)
    assert clean[1].abs().max() == 0
    for gradient in gradients(lambda *x: attend(*x, key_lengths=lengths, **PATTERNS[name]), q, k, v):
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", ["b", "t", "s"])
def test_length_zero_is_no_special_case(form, empty):
    q, k, v = make_qkv(t=3, s=4)
    cuts = {"b": (q[:0], k[:0], v[:0]), "t": (q[:, :, :0], k, v), "s": (q, k[:, :, :0], v[:, :, :0])}
    q, k, v = cuts[empty]
    for name in ("sinks", "dilated radius"):
        out = FORMS[form](q, k, v, **PATTERNS[name])
        assert out.shape == (*q.shape[:3], v.shape[-1])
        assert not out.any()


@pytest.mark.parametrize("pattern", [dict(window=64), dict(radius=32, dilation=3), dict(window=60, sinks=4)], ids=str)
def test_blocked_takes_memory_linear_in_the_length_and_in_the_window(pattern):
    def bytes_at(n, attend=sliding_window_attention_blocked):
        q, k, v = make_qkv(b=1, h=1, t=n, dk=16, dtype=torch.float32, grad=True)
        return peak_memory(lambda: attend(q, k, v, **pattern).sum().backward())

    assert bytes_at(8192) / bytes_at(2048) < 4.3
    assert bytes_at(2048) < bytes_at(2048, sliding_window_attention_torch) / 10


@pytest.mark.parametrize(
    "pattern", [dict(window=128), dict(radius=64), dict(window=120, sinks=8), dict(window=128, dilation=3)]
)
def test_blocked_visits_only_the_pairs_it_needs(pattern):
    """The work is linear: counted in multiplications, not in seconds, which a loaded machine stretches."""

    def flops(n):
        q, k, v = make_qkv(b=1, h=1, t=n, dk=16, grad=True)
        with FlopCounterMode(display=False) as counted:
            sliding_window_attention_blocked(q, k, v, **pattern).sum().backward()
        return counted.get_total_flops()

    assert flops(8192) / flops(4096) < 2.1
    products, pairs = 7, 4096 * 128  # two forward; scores again and four gradients backward
    assert flops(4096) < 1.6 * products * 2 * 16 * pairs


# The ring buffer

STREAMED = [name for name, pattern in PATTERNS.items() if "window" in pattern and "dilation" not in pattern]


def ring_for(k, v, *, piece=1, **pattern):
    return RingCache(len(k), CacheShape(k.shape[1], (k.shape[3], v.shape[3])), piece=piece, dtype=k.dtype, **pattern)


def streamed(q, k, v, sizes, **pattern):
    """Piece by piece through a ring, which alone knows the window."""
    cache, outs = ring_for(k, v, piece=max(sizes), **pattern), []
    for q_piece, *kept in zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True):
        cache.append(*kept)
        outs.append(kv_cache_attention(q_piece, cache))
    return torch.cat(outs, dim=2), cache


@pytest.mark.parametrize("name", STREAMED)
def test_every_split_of_a_text_gives_the_same(name):
    q, k, v = make_qkv(b=2, h=4, g=2, t=11, dk=5, dv=3)
    wanted = dense_by_hand(q, k, v, **PATTERNS[name])
    splits = [[11], [1] * 11, *([first, 11 - first] for first in range(1, 11)), [3, 1, 1, 5, 1], [2, 7, 2]]
    for sizes in splits:
        torch.testing.assert_close(streamed(q, k, v, sizes, **PATTERNS[name])[0], wanted)


@given(data=st.data(), n=st.integers(1, 25), window=st.integers(1, 12), sinks=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_every_drawn_split_gives_the_same(data, n, window, sinks):
    sizes = []
    while sum(sizes) < n:
        sizes.append(data.draw(st.integers(1, n - sum(sizes))))
    q, k, v = make_qkv(b=1, h=2, g=1, t=n, dk=4)
    wanted = sliding_window_attention(q, k, v, window=window, sinks=sinks)
    torch.testing.assert_close(streamed(q, k, v, sizes, window=window, sinks=sinks)[0], wanted)


def test_the_ring_holds_a_window_and_never_grows():
    q, k, v = make_qkv(b=1, h=1, t=50, dk=4)
    _, cache = streamed(q, k, v, [1] * 50, window=6, sinks=2)
    assert [field.shape[2] for store in cache.storage for field in store] == [8, 8]
    assert cache.lengths.tolist() == [50]
    (held,) = cache.positions()
    assert sorted(held.tolist()) == [0, 1, 44, 45, 46, 47, 48, 49]
    torch.testing.assert_close(cache.view()[0], k[:, :, held])
    assert RingCache(2, CacheShape(3, (4, 5)), window=6, sinks=2).nbytes == 2 * 3 * 8 * (4 + 5) * 4


def test_what_the_ring_forgot_is_never_read():
    """Poison what no later query may see: a form that still reads it gives NaN."""
    q, k, v = make_qkv(b=1, h=1, t=12, dk=4)
    wanted = sliding_window_attention(q, k, v, window=3)[:, :, 8:]
    k[:, :, :5], v[:, :, :5] = torch.nan, torch.nan
    for sizes in ([8, 1, 1, 1, 1], [1] * 12, [4, 4, 2, 2]):
        torch.testing.assert_close(streamed(q, k, v, sizes, window=3)[0][:, :, 8:], wanted)


# The kernels

WIDE = {
    "window": dict(window=20),
    "window of one": dict(window=1),
    "dilated radius": dict(radius=9, dilation=3),
    "sinks": dict(window=18, sinks=5),
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize(("t", "s"), [(67, 67), (19, 53), (53, 19), (1, 67)])
def test_the_kernel_keeps_its_budget_under_every_pattern(name, t, s, device):
    check_kernel(WIDE[name], dict(b=1, h=2, g=1, t=t, s=s, dk=17, dv=24), torch.float32, device)


@pytest.mark.dry
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dk", "dv"), [(16, 16), (64, 64), (96, 128), (160, 256), (1, 3)])
def test_the_kernel_keeps_its_budget_at_every_width(dtype, dk, dv, device):
    check_kernel(dict(window=9, sinks=2), dict(b=1, h=2, g=1, t=19, s=35, dk=dk, dv=dv), dtype, device)


def test_the_kernel_keeps_its_budget_with_padding_and_strides(device):
    check_kernel(dict(radius=6), dict(b=2, h=2, g=2, t=37, s=41, dk=8, dv=8), torch.float32, device, lengths=[41, 13])
    check_kernel(dict(radius=6), dict(b=2, h=2, g=2, t=37, s=41, dk=8, dv=8), torch.float32, device, strided=True)


def check_kernel(pattern, sizes, dtype, device, *, lengths=None, strided=False):
    """Output and gradients against float64, with twice the error of plain PyTorch in this dtype as budget."""
    q, k, v = make_qkv(dtype=dtype, device=device, **sizes)
    lengths = None if lengths is None else torch.tensor(lengths, device=device)
    pattern = dict(key_lengths=lengths, **pattern)

    def kernels(*inputs):
        if strided:  # (b, t, h, d) in memory, as projections leave it
            inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
            assert not any(x.is_contiguous() for x in inputs)
        return kernel.sliding_window_attention_triton(*inputs, **pattern)

    def definition(*inputs):
        return sliding_window_attention(*inputs, **pattern)

    doubles = [x.double() for x in (q, k, v)]
    out = kernels(q, k, v)
    assert out.dtype == dtype
    assert_within_budget(out, plain=definition(q, k, v), exact=definition(*doubles), what="output")
    got, plain, wanted = gradients(kernels, q, k, v), gradients(definition, q, k, v), gradients(definition, *doubles)
    # One key per query: a gradient of 0 is the difference of two equal sums of dv products, each rounded.
    zero = 8 * torch.finfo(dtype).eps * v.shape[-1]
    assert_gradients_within_budget(got, plain=plain, exact=wanted, zero=zero)


def test_the_kernel_writes_every_element(device):
    """In this mode PyTorch fills fresh memory with NaN, and what no program writes stays so."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=device).isnan().all()
        q, k, v = make_qkv(t=33, s=49, dk=24, dtype=torch.float32, device=device)
        assert kernel.sliding_window_attention_triton(q, k, v, window=5).isfinite().all()
        for gradient in gradients(lambda *x: kernel.sliding_window_attention_triton(*x, window=5), q, k, v):
            assert gradient.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_kernel_visits_only_the_tiles_it_needs(device):
    """NaN in a tile that no query may see: a kernel that still reads it multiplies a weight of 0 by NaN."""
    q, k, v = make_qkv(b=1, h=1, t=20, s=200, dk=8, dtype=torch.float32, device=device)
    clean = sliding_window_attention(q, k, v, window=10, sinks=3)
    k[:, :, 64:128], v[:, :, 64:128] = torch.nan, torch.nan

    def attend(*x):
        return kernel.sliding_window_attention_triton(*x, window=10, sinks=3)

    torch.testing.assert_close(attend(q, k, v), clean)
    dq, dk, dv = gradients(attend, q, k, v)
    assert dq.isfinite().all() and dk[:, :, :64].any() and not dk[:, :, 64:128].any() and not dv[:, :, 64:128].any()


# The module


@pytest.mark.parametrize("impl", ["reference", "blocked", "torch", "triton"])
@pytest.mark.parametrize("name", ["window", "dilated radius", "sinks"])
def test_every_impl_of_the_module_is_one_function(impl, name, device):
    torch.manual_seed(0)
    layer = SlidingWindowAttention(12, 4, n_kv_heads=2, head_dim=5, impl=impl, **PATTERNS[name]).to(device)
    x, lengths = torch.randn(2, 9, 12, device=device), torch.tensor([9, 6], device=device)

    def heads(linear):
        return linear(x).unflatten(-1, (-1, 5)).transpose(1, 2).detach().cpu()

    out = dense_by_hand(*map(heads, (layer.w_q, layer.w_k, layer.w_v)), key_lengths=lengths.cpu(), **PATTERNS[name])
    wanted = layer.w_o(out.transpose(1, 2).flatten(2).float().to(device))
    torch.testing.assert_close(layer(x, key_lengths=lengths), wanted, rtol=1e-4, atol=1e-5)


def test_the_module_streams_with_positions_of_its_own():
    torch.manual_seed(0)
    layer = SlidingWindowAttention(16, 4, n_kv_heads=2, window=3, sinks=2, rope=RotaryEmbedding(4)).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    wanted = layer(x)
    for sizes in ([9], [1] * 9, [4, 1, 1, 3]):
        cache = RingCache(2, layer.cache_shape, window=3, sinks=2, piece=max(sizes), dtype=x.dtype)
        with torch.no_grad():
            out = torch.cat([layer(piece, cache=cache) for piece in x.split(sizes, dim=1)], dim=1)
        torch.testing.assert_close(out, wanted)


def caches_of(layer, b, *, dtype):
    """One of each layout, those that forget with room for pieces of four."""
    window, shape = dict(window=layer.pattern["window"], sinks=layer.pattern["sinks"]), layer.cache_shape
    return {
        "a ring": RingCache(b, shape, piece=4, dtype=dtype, **window),
        "a larger ring": RingCache(
            b, shape, window=window["window"] + 2, sinks=window["sinks"] + 1, piece=4, dtype=dtype
        ),
        "contiguous": ContiguousCache(b, shape, capacity=12, dtype=dtype),
        "pages": PagedCache(b, PagePool(5 * b, shape, page_size=3, dtype=dtype)),
    }


@pytest.mark.parametrize("impl", SlidingWindowAttention.forms)
@torch.no_grad()
def test_the_module_streams_through_every_cache_at_unequal_lengths(impl):
    torch.manual_seed(0)
    layer = SlidingWindowAttention(16, 4, n_kv_heads=2, window=3, sinks=1, rope=RotaryEmbedding(4), impl=impl)
    whole = torch.randn(2, 12, 16)
    wanted = SlidingWindowAttention(16, 4, n_kv_heads=2, window=3, sinks=1, rope=RotaryEmbedding(4))
    wanted.load_state_dict(layer.state_dict())
    wanted = wanted(whole)
    for name, cache in caches_of(layer, 2, dtype=torch.float32).items():
        done = torch.zeros(2, dtype=torch.long)
        for counts in ([4, 1], [1, 3], [4, 0], [1, 1], [2, 4]):
            counts = torch.tensor(counts)
            piece = torch.full((2, int(counts.max()), 16), torch.nan)
            for row, (start, count) in enumerate(zip(done, counts, strict=True)):
                piece[row, :count] = whole[row, start : start + count]
            out = layer(piece.nan_to_num(7.0), key_lengths=counts, cache=cache)
            for row, (start, count) in enumerate(zip(done, counts, strict=True)):
                torch.testing.assert_close(
                    out[row, :count], wanted[row, start : start + count], rtol=1e-4, atol=1e-5, msg=name
                )
            done += counts


@torch.no_grad()
def test_a_ring_of_codes_streams_nearly_the_same():
    torch.manual_seed(0)
    layer, x = SlidingWindowAttention(64, 2, window=4), torch.randn(1, 20, 64)
    cache = RingCache(1, layer.cache_shape, window=4, codec=Int8())
    out = torch.cat([layer(token, cache=cache) for token in x.split(1, dim=1)], dim=1)
    assert 0 < relative_error(out, layer(x)) < 0.02


@pytest.mark.parametrize("impl", ["reference", "blocked"])
def test_layers_reach_their_windows_one_after_the_other(impl):
    """Through L layers a token hears from L (w - 1) + 1 positions, no fewer and no more."""
    torch.manual_seed(0)
    for layers, window, dilation in [(1, 4, 1), (3, 4, 1), (2, 3, 2)]:
        stack = [
            SlidingWindowAttention(8, 2, window=window, dilation=dilation, impl=impl).double() for _ in range(layers)
        ]
        x = torch.randn(1, 30, 8, dtype=torch.float64, requires_grad=True)
        y = x
        for layer in stack:
            y = y + layer(y)
        heard = torch.autograd.grad(y[0, -1].sum(), x)[0].norm(dim=-1)[0] > 0
        reach = layers * (window - 1) * dilation + 1
        assert heard[-reach:][::dilation].all() and not heard[:-reach].any()


# Bad input

Q, K, V = make_qkv(b=2, h=4, g=2, t=3, s=5, dk=8, dv=6)
BAD = {
    "neither": (dict(window=None), "give a window .* or a radius .*, got window=None, radius=None"),
    "both": (dict(radius=2), "not both and not neither, got window=3, radius=2"),
    "no window": (dict(window=0), "window must be at least 1, got 0"),
    "half a window": (dict(window=2.5), "window must be at least 1, got 2.5"),
    "no radius": (dict(window=None, radius=0), "radius must be at least 1, got 0"),
    "no dilation": (dict(dilation=0), "dilation must be at least 1, got 0"),
    "negative sinks": (dict(sinks=-1), "sinks must be at least 0, got -1"),
    "sinks and a radius": (dict(window=None, radius=2, sinks=1), "sinks go with an undilated window, got sinks=1, radius=2"),
    "sinks and a dilation": (dict(dilation=2, sinks=1), "sinks go with an undilated window, got sinks=1, .*dilation=2"),
    "three axes": (dict(q=Q[0]), "must be \\(batch, heads, length, width\\), got shape \\(4, 3, 8\\)"),
    "lengths differ": (dict(v=V[:, :, :4]), "must share heads and length"),
    "g does not divide h": (dict(q=Q[:, :3]), "the 2 key/value heads must divide the 3 query heads"),
    "integers": (dict(k=K.long()), "k must be floating point, got torch.int64"),
    "lengths past the end": (dict(key_lengths=torch.tensor([1, 6])), "must lie in 0..5, got 1..6"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attend", FORMS.values(), ids=FORMS)
def test_bad_input_is_named(case, attend):
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        attend(**(dict(q=Q, k=K, v=V, window=3) | changed))


@pytest.mark.bad_input
def test_what_the_layer_and_the_ring_cannot_do_they_say():
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, torch, triton, got 'flex'"):
        SlidingWindowAttention(8, 2, window=3, impl="flex")
    with pytest.raises(ValueError, match="the 3 key/value heads must divide the 4 query heads"):
        SlidingWindowAttention(8, 4, n_kv_heads=3, window=3)
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.sliding_window_attention_triton(Q, K, V, window=2)
    with pytest.raises(ValueError, match="takes widths to 256, got 300"):
        kernel.sliding_window_attention_triton(*make_qkv(dk=300, dtype=torch.float32), window=2)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        sliding_window_attention_blocked(Q, K, V, window=2, block=0)
    layer, x = SlidingWindowAttention(8, 2, window=3), torch.randn(1, 4, 8)
    with pytest.raises(ValueError, match="a cache keeps no gradients: append under torch.no_grad"):
        layer(x, cache=RingCache(1, layer.cache_shape, window=3, piece=4))


def test_a_second_derivative_is_refused_not_wrong():
    q, k, v = make_qkv(b=1, h=1, t=4, grad=True)
    (first,) = torch.autograd.grad(blocked(q, k, v, window=2).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        first.sum().backward()


# The compiler


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("sliding_window", capability)
    assert len(compiled) >= 15
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        if capability >= 80 and "fp32" not in c.case:
            assert c.spills == 0, c
            assert c.loop.local == 0, c
            # Tiles of 32 rows are below the 64 that one wgmma or tcgen05 takes; such kernels may use mma.
            assert c.matrix != "none", c
    forward = {c.matrix for c in compiled if "fwd" in c.kernel and "fp32" not in c.case}
    assert forward == {{75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]}


@pytest.mark.bad_input
@torch.no_grad()
def test_a_cache_that_cannot_serve_is_refused():
    layer, x = SlidingWindowAttention(8, 2, window=3, sinks=1), torch.randn(1, 2, 8)

    def ring(**pattern):
        return RingCache(1, layer.cache_shape, **pattern)

    for kept in (dict(window=2, sinks=1), dict(window=3)):
        with pytest.raises(
            ValueError, match="must keep what its layer sees, window=3 and sinks=1, got a ring of window="
        ):
            layer(x, cache=ring(piece=2, **kept))
    with pytest.raises(ValueError, match="this ring takes pieces of at most 1 tokens"):
        layer(x, cache=ring(window=3, sinks=1))
    with pytest.raises(ValueError, match="a layer with a radius sees ahead and cannot stream"):
        SlidingWindowAttention(8, 2, radius=3)(x, cache=ring(window=9, piece=2))
    with pytest.raises(ValueError, match="a dilated layer reads whole texts alone: give it no cache, got dilation=2"):
        SlidingWindowAttention(8, 2, window=3, dilation=2)(x, cache=ring(window=9, piece=2))
    with pytest.raises(ValueError, match="append takes 2 streams of 1 sequences, 3 heads"):
        layer(x, cache=ContiguousCache(1, CacheShape(3, (4, 4)), capacity=5))
