"""Patterns against loops written from the papers, and every form of block-sparse attention against independent oracles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.rope import RotaryEmbedding
from attncourse.block_sparse import (
    BlockPattern,
    BlockSparseAttention,
    block_sparse_attention,
    block_sparse_attention_blocked,
    block_sparse_attention_loop,
    block_sparse_attention_torch,
    dilated,
    fixed,
    from_blocks,
    from_mask,
    from_rule,
    local,
    local_and_random,
    strided,
)
from attncourse.profile import peak_memory
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

kernel = pytest.importorskip("attncourse.block_sparse.kernel", reason="Triton is on Linux alone")

# What `test_every_form` builds and calls.
LAYERS = {"block_sparse": Layer(lambda **o: BlockSparseAttention(D_MODEL, 4, pattern=local(9, steps=3, block=4), **o))}


# The patterns


def strided_by_the_paper(n, stride):
    """A(1) and A(2) of Child et al. 2019, section 4.3, index by index."""
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(max(0, i - stride), i + 1):
            mask[i, j] = True
        for j in range(i + 1):
            if (i - j) % stride == 0:
                mask[i, j] = True
    return mask


def fixed_by_the_paper(n, stride, c):
    """The same for the fixed pattern; j mod l runs over {l - c, ..., l - 1}."""
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i + 1):
            mask[i, j] = math.floor(j / stride) == math.floor(i / stride) or j % stride in range(stride - c, stride)
    return mask


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize(("n", "stride"), [(1, 1), (17, 1), (23, 4), (48, 7), (5, 9)])
def test_strided_and_fixed_are_the_papers_sets(n, stride, block):
    assert torch.equal(strided(n, stride=stride, block=block).dense_mask(), strided_by_the_paper(n, stride))
    for c in {1, stride // 2, stride} - {0}:
        got = fixed(n, stride=stride, summaries=c, block=block).dense_mask()
        assert torch.equal(got, fixed_by_the_paper(n, stride, c))


@pytest.mark.parametrize("causal", [True, False])
def test_dilated_and_local_are_their_definitions(causal):
    n = 19
    for dilation, steps in [(1, 0), (1, 4), (3, 2), (4, None), (25, None)]:
        wanted = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            for m in range((n if steps is None else steps) + 1):
                for j in (i - m * dilation, i if causal else i + m * dilation):
                    if 0 <= j < n:
                        wanted[i, j] = True
        assert torch.equal(dilated(n, dilation=dilation, steps=steps, causal=causal, block=4).dense_mask(), wanted)
    window = local(n, steps=4, causal=causal, block=4)
    assert window.dense_mask()[10].sum() == (5 if causal else 9)


@pytest.mark.parametrize("causal", [True, False])
def test_local_and_random_draws_others_once(causal):
    n, block = 61, 5
    drawn = local_and_random(n, radius=1, n_random=2, seed=3, causal=causal, block=block)
    assert torch.equal(
        drawn.dense_mask(), local_and_random(n, radius=1, n_random=2, seed=3, causal=causal, block=block).dense_mask()
    )
    other = local_and_random(n, radius=1, n_random=2, seed=4, causal=causal, block=block)
    assert not torch.equal(drawn.dense_mask(), other.dense_mask())
    near_by = local_and_random(n, radius=1, n_random=0, seed=3, causal=causal, block=block)
    at = torch.arange(n) // block
    wanted = (at[:, None] - at).abs() <= 1
    assert torch.equal(near_by.dense_mask(), wanted.tril() if causal else wanted)
    for row in range(13):
        blocks = drawn.columns[drawn.rows == row].tolist()
        near = [j for j in range(13) if abs(row - j) <= 1 and (j <= row or not causal)]
        assert set(near) <= set(blocks)
        others = row - 1 if causal else 13 - len(near)
        assert len(blocks) - len(near) == min(2, max(others, 0))
        assert not causal or max(blocks) <= row
    many = [local_and_random(n, radius=0, n_random=1, seed=seed, block=block) for seed in range(300)]
    seen = torch.stack([p.dense_mask()[0] for p in many]).float().mean(dim=0)[block::block]
    assert (seen - 1 / 12).abs().max() < 0.08, "every other block is as likely"


masks = st.builds(
    lambda n, density, seed: torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < density,
    st.integers(1, 21), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]), st.integers(0, 999),
)  # fmt: skip


@given(mask=masks, block=st.integers(1, 9), s=st.integers(1, 21), t=st.integers(0, 25))
@settings(deadline=None, max_examples=60)
def test_any_mask_comes_back_counted_cut_and_composed(mask, block, s, t):
    n = len(mask)
    pattern = from_mask(mask, block=block)
    assert torch.equal(pattern.dense_mask(), mask)
    assert pattern.count() == int(mask.sum()) and pattern.density == pytest.approx(mask.float().mean().item())
    assert pattern.causal == (not mask.triu(1).any())
    s = min(s, n)
    assert torch.equal(pattern.first(s).dense_mask(), mask[:s, :s])
    assert pattern.first(s).count() == int(mask[:s, :s].sum())
    got = pattern.dense_mask(t, s)
    for i in range(t):
        at = s - t + i
        assert torch.equal(got[i], mask[at, :s] if at >= 0 else torch.zeros(s, dtype=torch.bool))
    other_mask = torch.rand(n, n, generator=torch.Generator().manual_seed(n)) > 0.5
    other = from_mask(other_mask, block=block)
    for combined, wanted in ((pattern | other, mask | other_mask), (pattern & other, mask & other_mask)):
        assert torch.equal(combined.dense_mask(), wanted)
        check_lists(combined, wanted)
    check_lists(pattern, mask)


def check_lists(pattern, mask):
    """Live blocks alone are listed, whole ones first and told apart, by queries and by keys."""
    block, m = pattern.block, pattern.n_blocks
    state = {}  # (block of queries, block of keys) -> whole or partial; dead ones are not in it
    for i in range(m):
        for j in range(m):
            part = mask[i * block : (i + 1) * block, j * block : (j + 1) * block]
            if part.any():
                state[i, j] = "whole" if part.all() else "partial"
    assert pattern.block_density == len(state) / m**2
    assert len(pattern.masks) == sum(kind == "partial" for kind in state.values())
    for lists, key in ((pattern.by_query, lambda i, j: (i, j)), (pattern.by_key, lambda i, j: (j, i))):
        found = {}
        for line in range(m):
            start, middle, end = int(lists.starts[line]), int(lists.middles[line]), int(lists.starts[line + 1])
            for at in range(start, end):
                place = key(line, int(lists.blocks[at]))
                found[place] = "whole" if at < middle else "partial"
                which = int(lists.mask_of[at])
                if which >= 0:
                    i, j = place
                    part = mask[i * block : (i + 1) * block, j * block : (j + 1) * block]
                    assert torch.equal(pattern.masks[which][: part.shape[0], : part.shape[1]], part)
                assert (which < 0) == (at < middle)
        assert found == state


def test_blocks_and_rules_make_the_same_patterns():
    rng = torch.Generator().manual_seed(0)
    for n, causal in [(23, True), (23, False), (24, True), (21, True), (1, True)]:
        grid = torch.rand(-(-n // 5), -(-n // 5), generator=rng) > 0.5
        grid |= torch.eye(len(grid), dtype=torch.bool)
        by_blocks = from_blocks(grid, n, causal=causal, block=5)
        by_rule = from_rule(lambda i, j, grid=grid: grid[i // 5, j // 5], n, causal=causal, block=5)
        assert torch.equal(by_blocks.dense_mask(), by_rule.dense_mask())
        check_lists(by_blocks, by_rule.dense_mask())
        assert by_blocks.causal == (not by_rule.dense_mask().triu(1).any())


def test_a_mask_of_the_last_queries_stands_at_the_end():
    mask = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    pattern = from_mask(mask, block=4)
    assert torch.equal(pattern.dense_mask(3, 8), mask) and not pattern.dense_mask()[:5].any()


def test_reach_is_the_length_of_the_shortest_path():
    rng = torch.Generator().manual_seed(0)
    for density in (0.05, 0.15, 0.4):
        mask = torch.rand(13, 13, generator=rng) < density
        layers = from_mask(mask, block=4).reach()
        power = torch.eye(13, dtype=torch.float64)
        step = mask.double() + torch.eye(13, dtype=torch.float64)
        for depth in range(15):
            assert torch.equal((layers >= 0) & (layers <= depth), power > 0)
            power = power @ step


def test_layers_needed_by_the_named_patterns():
    n = 64
    assert strided(n, stride=8).layers_needed() == fixed(n, stride=8).layers_needed() == 2
    assert local(n, steps=7).layers_needed() == 9  # 63 positions back, 7 a layer
    assert dilated(n, dilation=8).layers_needed() is None  # neighbours never meet
    assert from_rule(lambda i, j: j <= i, n).layers_needed() == 1
    assert from_rule(lambda i, j: (i == 0) | (j == 0), n).layers_needed() == 2  # through the first position
    assert from_rule(lambda i, j: i == j, 1).layers_needed() == 0


def test_reach_is_what_layers_of_attention_depend_on():
    n = 22
    pattern = strided(n, stride=5, block=4) & fixed(n, stride=7, block=4)
    torch.manual_seed(0)
    layers = [BlockSparseAttention(8, 2, pattern=pattern).double() for _ in range(3)]
    x = torch.randn(1, n, 8, dtype=torch.float64)
    reach = pattern.reach()
    for depth in range(1, 4):

        def run(x, depth=depth):
            for layer in layers[:depth]:
                x = x + layer(x)
            return x[0]

        jacobian = torch.autograd.functional.jacobian(run, x)[:, :, 0].abs().sum(dim=(1, 3))
        assert torch.equal(jacobian > 0, (reach >= 0) & (reach <= depth))


# The forms

N = 23
MASK_RNG = torch.Generator().manual_seed(7)
HOLES = torch.rand(N, N, generator=MASK_RNG) > 0.7
HOLES[[0, 4, 5, 6, 7, 22]] = False  # rows, and a whole block of rows, that see nothing
HOLES[:, 12:16] = False  # a block of keys that nobody sees
PATTERNS = {
    "strided": strided(N, stride=5, block=4),
    "fixed": fixed(N, stride=6, summaries=2, block=4),
    "dilated": dilated(N, dilation=3, steps=4, causal=False, block=5),
    "local and random": local_and_random(N, radius=1, n_random=1, seed=0, block=4),
    "causal random": local_and_random(N, radius=0, n_random=2, seed=1, causal=True, block=3),
    "holes": from_mask(HOLES, block=4),
    "everything": from_rule(lambda i, j: (i >= 0) & (j >= 0), N, block=8),
    "nothing": from_rule(lambda i, j: (i < 0) & (j < 0), N, block=8),
    "single positions": strided(N, stride=4, block=1),
    "one block": fixed(N, stride=4, block=64),
}
FORMS = {
    "reference": block_sparse_attention,
    "blocked": block_sparse_attention_blocked,
    "torch": block_sparse_attention_torch,
    "triton": kernel.block_sparse_attention_triton,
}
SIZES = [(N, N), (7, 18), (18, 7), (1, 1), (1, N), (13, 13)]


def dense_by_hand(q, k, v, mask, *, key_lengths=None, scale=None):
    """A loop over every pair in float64, written apart from the package; mask is (n, n), positions by positions."""
    b, h, t, dk = q.shape
    g, s = k.shape[1:3]
    out = torch.zeros(b, h, t, v.shape[-1], dtype=torch.float64)
    for i in range(b):
        for j in range(h):
            for row in range(t):
                at = s - t + row
                seen = [col for col in range(s) if at >= 0 and mask[at, col]]
                seen = [col for col in seen if key_lengths is None or col < int(key_lengths[i])]
                if seen:
                    keys, values = k[i, j * g // h, seen].double(), v[i, j * g // h, seen].double()
                    scores = keys @ q[i, j, row].double() * (dk**-0.5 if scale is None else scale)
                    out[i, j, row] = torch.softmax(scores, dim=0) @ values
    return out


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("t", "s"), SIZES)
def test_every_form_is_the_loop(name, t, s):
    q, k, v = make_qkv(b=3, h=4, g=2, t=t, s=s, dk=5, dv=3)
    pattern, lengths = PATTERNS[name], torch.tensor([s, 0, s // 2])
    for masking in ({}, dict(key_lengths=lengths), dict(scale=0.7)):
        wanted = dense_by_hand(q, k, v, pattern.dense_mask(), **masking)
        for form in ("reference", "blocked", "torch"):
            torch.testing.assert_close(FORMS[form](q, k, v, pattern=pattern, **masking), wanted, msg=form)
    loop = block_sparse_attention_loop(q[0, 0], k[0, 0], v[0, 0], pattern=pattern)
    torch.testing.assert_close(block_sparse_attention(q, k, v, pattern=pattern)[0, 0], loop)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("t", "s"), SIZES)
def test_gradients_and_log_sum_exp_are_the_definitions(name, t, s):
    q, k, v = make_qkv(b=2, h=4, g=2, t=t, s=s, dk=5, dv=3)
    masking = dict(pattern=PATTERNS[name], key_lengths=torch.tensor([s, s // 2]))
    wanted = gradients(lambda *x: block_sparse_attention(*x, **masking), q, k, v)
    for form in ("blocked", "torch"):
        for got, want in zip(gradients(lambda *x: FORMS[form](*x, **masking), q, k, v), wanted, strict=True):  # noqa: B023
            torch.testing.assert_close(got, want)
    lse = block_sparse_attention_blocked(q, k, v, **masking, return_lse=True)[1]
    torch.testing.assert_close(lse, block_sparse_attention(q, k, v, **masking, return_lse=True)[1])


@given(
    mask=masks, block=st.integers(1, 9), t=st.integers(1, 21), g=st.integers(1, 2), group=st.integers(1, 3),
    dk=st.integers(1, 6), dv=st.integers(1, 6), seed=st.integers(0, 999),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_blocked_is_pytorch_over_any_mask(mask, block, t, g, group, dk, dv, seed):
    s = len(mask)
    t = min(t, s)
    q, k, v = make_qkv(b=1, h=g * group, g=g, t=t, s=s, dk=dk, dv=dv, seed=seed)
    pattern, seen = from_mask(mask, block=block), mask[s - t :]
    got = block_sparse_attention_blocked(q, k, v, pattern=pattern)
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    empty = ~seen.any(dim=-1)
    assert not got[:, :, empty].any()
    torch.testing.assert_close(got[:, :, ~empty], wanted[:, :, ~empty])


def test_gradients_of_blocked_against_differences():
    q, k, v = make_qkv(b=1, h=2, g=1, t=5, s=7, dk=3, dv=2, grad=True)
    for pattern in (PATTERNS["strided"], PATTERNS["dilated"]):  # in which every one of these rows sees something
        assert torch.autograd.gradcheck(
            lambda *x, p=pattern: block_sparse_attention_blocked(*x, pattern=p, return_lse=True), (q, k, v)
        )


@pytest.mark.parametrize("name", ["strided", "dilated", "local and random", "holes"])
def test_flex_attention_agrees_over_the_same_blocks(name):
    """Its own block lists are ours, and so is its output with a mask made of our lists."""
    pattern = PATTERNS[name]
    dense, block = pattern.dense_mask(), pattern.block
    theirs = create_block_mask(
        lambda b, h, i, j: dense[i, j], None, None, N, N, device="cpu", BLOCK_SIZE=block, _compile=False
    )
    lists = pattern.by_query
    for line in range(pattern.n_blocks):
        start, middle, end = (int(x) for x in (lists.starts[line], lists.middles[line], lists.starts[line + 1]))
        count, whole = int(theirs.kv_num_blocks[0, 0, line]), int(theirs.full_kv_num_blocks[0, 0, line])
        # Theirs counts a block that the length cuts short as partial even where all of it is seen.
        cut = {j for j in range(start, middle) if N % block and pattern.n_blocks - 1 in (line, int(lists.blocks[j]))}
        assert whole == middle - start - len(cut) and count == end - middle + len(cut)
        mine = sorted(int(lists.blocks[j]) for j in [*range(middle, end), *cut])
        assert sorted(theirs.kv_indices[0, 0, line, :count].tolist()) == mine
    q, k, v = make_qkv(b=2, h=2, t=N)
    mask = block_mask_of(pattern)
    got = flex_attention(q, k, v, block_mask=mask)
    wanted = block_sparse_attention_blocked(q, k, v, pattern=pattern)
    torch.testing.assert_close(got, wanted)


def block_mask_of(pattern):
    """FlexAttention's mask of our lists: padded tables in place of ours."""
    m, dense = pattern.n_blocks, pattern.dense_mask()

    def table(first, last):
        counts = (last - first)[None, None]
        rows = [pattern.by_query.blocks[a:b].tolist() for a, b in zip(first, last, strict=True)]
        padded = torch.tensor([row + [0] * (m - len(row)) for row in rows], dtype=torch.int32)
        return counts, padded[None, None]

    starts, middles = pattern.by_query.starts, pattern.by_query.middles
    partial, whole = table(middles, starts[1:]), table(starts[:-1], middles)
    return BlockMask.from_kv_blocks(
        *partial, *whole, BLOCK_SIZE=pattern.block, mask_mod=lambda b, h, i, j: dense[i, j],
        seq_lengths=(pattern.n, pattern.n),
    )  # fmt: skip


def test_hugging_faces_big_bird_agrees_over_the_same_random_blocks(monkeypatch):
    """Its blocks: the first and the last see and are seen by all, three around, and random ones that we hand it."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    block, m, h, n_random = 4, 12, 2, 2
    n = block * m
    rng = torch.Generator().manual_seed(0)
    config = transformers.BigBirdConfig(
        hidden_size=16, num_attention_heads=h, block_size=block, num_random_blocks=n_random, use_bias=False,
        max_position_embeddings=n,
    )  # fmt: skip
    chosen = np.zeros((m - 2, n_random), dtype=np.int64)
    grid = torch.zeros(m, m, dtype=torch.bool)
    for row in range(1, m - 1):
        taken = {0, m - 1, row - 1, row, row + 1, *([2, m - 3] if row in (1, m - 2) else [])}
        free = [j for j in range(m) if j not in taken]
        picked = [free[j] for j in torch.randperm(len(free), generator=rng)[:n_random]]
        chosen[row - 1] = picked
        grid[row, picked] = True
    monkeypatch.setattr(
        BigBirdBlockSparseAttention, "_bigbird_block_rand_mask_with_head", lambda self, **_: [chosen] * h
    )
    theirs = BigBirdBlockSparseAttention(config).double().eval()
    x = torch.randn(2, n, 16, generator=rng, dtype=torch.float64)
    ones = torch.ones(2, n, dtype=torch.float64)
    blocked, band, from_mask_, to_mask = BigBirdModel.create_masks_for_block_sparse_attn(ones, block)
    with torch.no_grad():
        wanted, _ = theirs(x, band, from_mask_, to_mask, blocked, blocked)

    around = local_and_random(n, radius=1, n_random=0, seed=0, block=block)
    ends = from_rule(lambda i, j: (i < block) | (i >= n - block) | (j < block) | (j >= n - block), n, block=block)
    pattern = around | ends | from_blocks(grid, n, block=block)
    q, k, v = (p(x).unflatten(-1, (h, -1)).transpose(1, 2) for p in (theirs.query, theirs.key, theirs.value))
    got = block_sparse_attention_blocked(q, k, v, pattern=pattern).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_sees_the_future(form, device):
    q, k, v = make_qkv(b=1, h=2, g=1, t=6, s=8, dtype=torch.float32, device=device)
    pattern = from_rule(lambda i, j: j >= 0, 8, causal=True, block=3).to(device)
    assert_causal(lambda *x: FORMS[form](*x, pattern=pattern), q, k, v)


@pytest.mark.parametrize("form", FORMS)
def test_nan_in_padding_goes_nowhere(form, device):
    q, k, v = make_qkv(b=2, t=5, s=7, dtype=torch.float32, device=device)
    lengths, pattern = torch.tensor([4, 0], device=device), strided(9, stride=2, block=4).to(device)
    clean = block_sparse_attention(q, k, v, pattern=pattern, key_lengths=lengths)
    k[0, :, 4:], v[0, :, 4:], k[1], v[1] = (torch.nan,) * 4
    torch.testing.assert_close(FORMS[form](q, k, v, pattern=pattern, key_lengths=lengths), clean)
    assert clean[1].abs().max() == 0 and clean[0].abs().max() > 0
    for gradient in gradients(lambda *x: FORMS[form](*x, pattern=pattern, key_lengths=lengths), q, k, v):
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", ["b", "t", "s"])
def test_length_zero_is_no_special_case(form, empty, device):
    q, k, v = make_qkv(t=3, s=4, dtype=torch.float32, device=device)
    if empty == "b":
        q, k, v = q[:0], k[:0], v[:0]
    elif empty == "t":
        q = q[:, :, :0]
    else:
        k, v = k[:, :, :0], v[:, :, :0]
    pattern = local(4, steps=1, block=2).to(device)
    out = FORMS[form](q, k, v, pattern=pattern)
    assert out.shape == (*q.shape[:3], v.shape[-1]) and not out.any()
    assert all(not g.any() for g in gradients(lambda *x: FORMS[form](*x, pattern=pattern), q, k, v))


def test_blocked_takes_memory_linear_in_the_length_and_the_mask_does_not():
    def bytes_at(attend, n):
        pattern = strided(n, stride=64, block=32)
        q, k, v = make_qkv(b=1, h=1, t=n, dk=16, dtype=torch.float32, grad=True)
        return peak_memory(lambda: attend(q, k, v, pattern=pattern).sum().backward())

    grown = {f: bytes_at(FORMS[f], 2048) / bytes_at(FORMS[f], 512) for f in ("reference", "blocked")}
    assert grown["reference"] > 12
    assert grown["blocked"] < 5


def test_blocked_multiplies_only_live_blocks():
    """The flops that PyTorch counts are those of the live blocks, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    n, block, d = 256, 16, 8
    q, k, v = make_qkv(b=1, h=2, t=n, dk=d, dtype=torch.float32, grad=True)
    for pattern in (local_and_random(n, radius=1, n_random=1, seed=0, block=block), strided(n, stride=48, block=block)):
        a_product = 2 * 2 * len(pattern.columns) * block**2 * d  # two heads
        with FlopCounterMode(display=False) as forward:
            out = block_sparse_attention_blocked(q, k, v, pattern=pattern)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        assert forward.get_total_flops() == 2 * a_product
        assert backward.get_total_flops() == 5 * a_product


# The kernels


@pytest.mark.parametrize("name", PATTERNS)
def test_the_kernel_keeps_its_budget_over_every_pattern(name, device):
    pattern = PATTERNS[name]
    if name == "single positions":  # 529 blocks are slow to interpret
        pattern = strided(11, stride=4, block=1)
    n = pattern.n
    sizes = dict(b=2, h=2, g=1, t=n - 4, s=n, dk=9, dv=6)
    check_kernel(pattern, sizes, torch.float32, device, key_lengths=torch.tensor([n, n // 2], device=device))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("dk", "dv"), [(16, 16), (40, 80), (160, 256), (1, 3)])
def test_the_kernel_keeps_its_budget_at_every_width(dtype, dk, dv, device):
    check_kernel(strided(35, stride=7, block=16), dict(b=1, h=2, g=1, t=19, s=35, dk=dk, dv=dv), dtype, device)


@pytest.mark.dry
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 67), (67, 1), (70, 70), (70, 31)])
@pytest.mark.parametrize("block", [16, 20, 64])
def test_the_kernel_keeps_its_budget_off_the_block_edges(t, s, block, device):
    pattern = strided(71, stride=11, block=block)
    check_kernel(pattern, dict(b=1, h=2, g=2, t=t, s=s, dk=8, dv=8), torch.float32, device)


def check_kernel(pattern, sizes, dtype, device, **masking):
    """Output, log-sum-exp and gradients against float64, with twice the error of plain PyTorch in this dtype as budget."""
    masking["pattern"] = pattern.to(device)
    q, k, v = make_qkv(dtype=dtype, device=device, **sizes)
    exact_inputs = [x.double() for x in (q, k, v)]
    exact, exact_lse = block_sparse_attention(*exact_inputs, **masking, return_lse=True)
    out, lse = kernel.block_sparse_attention_triton(q, k, v, **masking, return_lse=True)
    assert out.dtype == dtype
    assert_within_budget(out, plain=block_sparse_attention(q, k, v, **masking), exact=exact, what="output")
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-3, atol=1e-3)
    wanted = gradients(lambda *x: block_sparse_attention(*x, **masking), *exact_inputs)
    plain = gradients(lambda *x: block_sparse_attention(*x, **masking), q, k, v)
    got = gradients(lambda *x: kernel.block_sparse_attention_triton(*x, **masking), q, k, v)
    assert_gradients_within_budget(got, plain=plain, exact=wanted)


def test_the_kernel_takes_any_strides(device):
    pattern = strided(9, stride=3, block=4).to(device)
    q, k, v = make_qkv(b=2, h=3, t=9, dtype=torch.float32, device=device)
    wanted = gradients(lambda *x: block_sparse_attention(*x, pattern=pattern), q, k, v)
    strides = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]  # as projections leave them
    strides.append(v.repeat_interleave(2, dim=-1)[..., ::2])
    assert not any(x.is_contiguous() for x in strides)
    got = gradients(lambda *x: kernel.block_sparse_attention_triton(*x, pattern=pattern), *strides)
    for mine, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-4, atol=1e-5)


def test_the_kernels_log_sum_exp_has_gradients(device):
    pattern = PATTERNS["strided"].to(device)
    q, k, v = make_qkv(b=1, h=2, g=1, t=9, s=12, dtype=torch.float32, device=device)

    def through_both(attend):
        def total(*x):
            out, lse = attend(*x, pattern=pattern, return_lse=True)
            return out + torch.sin(lse)[..., None].to(out.dtype)

        return total

    wanted = gradients(through_both(block_sparse_attention), *(x.double() for x in (q, k, v)))
    for attend in (kernel.block_sparse_attention_triton, block_sparse_attention_blocked):
        for mine, truth in zip(gradients(through_both(attend), q, k, v), wanted, strict=True):
            assert relative_error(mine, truth) < 1e-5


def test_the_kernel_writes_every_element(device):
    """In this mode PyTorch fills fresh memory with NaN, and what no program writes stays so."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device=device).isnan().all()
        pattern = from_mask(HOLES, block=20).to(device)
        q, k, v = make_qkv(t=N, dk=24, dtype=torch.float32, device=device)
        out, lse = kernel.block_sparse_attention_triton(q, k, v, pattern=pattern, return_lse=True)
        assert out.isfinite().all() and not lse.isnan().any()
        for gradient in gradients(lambda *x: kernel.block_sparse_attention_triton(*x, pattern=pattern), q, k, v):
            assert gradient.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_neither_kernel_nor_gathering_reads_a_dead_block(device):
    """NaN stands where nobody looks, and goes nowhere."""
    n, block = 48, 16
    grid = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0]]) > 0
    pattern = from_blocks(grid, n, block=block).to(device)
    q, k, v = make_qkv(b=1, h=1, t=n, dtype=torch.float32, device=device)
    wanted = block_sparse_attention(q, k, v, pattern=pattern)
    k[:, :, 32:], v[:, :, 32:] = torch.nan, torch.nan
    torch.testing.assert_close(kernel.block_sparse_attention_triton(q, k, v, pattern=pattern), wanted)
    torch.testing.assert_close(block_sparse_attention_blocked(q, k, v, pattern=pattern), wanted)


# The module


@pytest.mark.parametrize("impl", FORMS)
def test_every_impl_of_the_module_is_one_function(impl, device):
    torch.manual_seed(0)
    rope = RotaryEmbedding(4)
    layer = BlockSparseAttention(12, 4, head_dim=4, n_kv_heads=2, pattern=PATTERNS["strided"], rope=rope, impl=impl)
    layer = layer.to(device)
    x, lengths = torch.randn(2, 11, 12, device=device), torch.tensor([11, 6], device=device)
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2).double() for p in (layer.w_q, layer.w_k, layer.w_v))
    at = torch.arange(11, device=device)
    heads = dense_by_hand(
        *(y.detach().cpu() for y in (rope(q, at), rope(k, at), v)), PATTERNS["strided"].dense_mask(),
        key_lengths=lengths.cpu(),
    )  # fmt: skip
    wanted = layer.w_o(heads.transpose(1, 2).flatten(2).float().to(device))
    torch.testing.assert_close(layer(x, key_lengths=lengths), wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_that_sees_everything_is_pytorchs():
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True).double()
    everything = from_rule(lambda i, j: j >= 0, 9, block=4)
    mine = BlockSparseAttention(12, 3, pattern=everything, bias=True).double()
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    with torch.no_grad():
        for linear, weight, bias in zip((mine.w_q, mine.w_k, mine.w_v), weights, biases, strict=True):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        mine.w_o.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(mine(x), theirs(x, x, x, need_weights=False)[0])


# Bad input

Q, K, V = make_qkv(b=2, h=4, g=2, t=3, s=5, dk=8, dv=6, dtype=torch.float32)
FIVE = local(5, steps=1, block=2)
BAD = {
    "three axes": (dict(q=Q[0]), "must be \\(batch, heads, length, width\\), got shape \\(4, 3, 8\\)"),
    "g does not divide h": (dict(q=Q[:, :3]), "the 2 key/value heads must divide the 3 query heads"),
    "lengths past the end": (dict(key_lengths=torch.tensor([1, 6])), "must lie in 0..5, got 1..6"),
    "pattern too short": (dict(pattern=local(4, steps=1)), "the pattern has 4 positions, got 5 keys"),
    "no pattern": (dict(pattern=torch.ones(5, 5) > 0), "pattern must be a BlockPattern, got Tensor"),
    "pattern elsewhere": (dict(pattern=FIVE.to("meta")), "the pattern must be on cpu, got meta: use pattern.to"),
}  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", FORMS)
def test_bad_input_is_named(case, form):
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        FORMS[form](**(dict(q=Q, k=K, v=V, pattern=FIVE) | changed))


@pytest.mark.bad_input
def test_a_pattern_that_cannot_be_is_refused():
    refused = [
        (lambda: dilated(9, dilation=0), "dilation must be an integer of at least 1, got 0"),
        (lambda: local(9, steps=-1), "steps must be at least 0, got -1"),
        (lambda: strided(9, stride=0), "stride must be an integer of at least 1, got 0"),
        (lambda: fixed(9, stride=3, summaries=4), "summaries must be at most the stride, got 4 and 3"),
        (lambda: local(0, steps=1), "n must be an integer of at least 1, got 0"),
        (lambda: local(9, steps=1, block=0), "block must be an integer of at least 1, got 0"),
        (lambda: local_and_random(9, radius=-1, n_random=0, seed=0), "at least 0, got -1 and 0"),
        (lambda: from_mask(torch.ones(3, 3)), "mask must be boolean .* got torch.float32 \\(3, 3\\)"),
        (lambda: from_mask(torch.ones(4, 3) > 0), "1 <= t <= s, got torch.bool \\(4, 3\\)"),
        (lambda: from_rule(lambda i, j: i - j, 3), "a rule gives booleans, got torch.int64"),
        (lambda: from_blocks(torch.ones(2, 2) > 0, 9, block=4), "need booleans \\(3, 3\\), got torch.bool \\(2, 2\\)"),
        (lambda: FIVE | local(5, steps=1, block=4), "as many positions and the same block, got .*n=5, block=2"),
        (lambda: FIVE & None, "got .*None"),
        (lambda: FIVE.first(6), "the pattern has 5 positions, got s=6"),
        (lambda: FIVE.dense_mask(2, 6), "the pattern has 5 positions, got t=2, s=6"),
    ]
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.bad_input
def test_what_a_layer_cannot_do_it_says():
    with pytest.raises(ValueError, match="impl must be one of reference, blocked, torch, triton, got 'cuda'"):
        BlockSparseAttention(4, 1, pattern=FIVE, impl="cuda")
    with pytest.raises(ValueError, match="the 3 key/value heads must divide the 4 query heads"):
        BlockSparseAttention(8, 4, n_kv_heads=3, pattern=FIVE)
    with pytest.raises(ValueError, match="n_heads must divide d_model unless head_dim is given, got d_model=9"):
        BlockSparseAttention(9, 4, pattern=FIVE)
    with pytest.raises(ValueError, match="got head_dim=2 and a rope of width 4"):
        BlockSparseAttention(8, 4, pattern=FIVE, rope=RotaryEmbedding(4))
    with pytest.raises(ValueError, match="pattern must be a BlockPattern, got NoneType"):
        BlockSparseAttention(8, 4, pattern=None)
    with pytest.raises(ValueError, match="x must be \\(b, t, 8\\), got \\(1, 3, 7\\)"):
        BlockSparseAttention(8, 4, pattern=FIVE)(torch.randn(1, 3, 7))
    with pytest.raises(ValueError, match="takes float32, float16 or bfloat16, got torch.float64"):
        kernel.block_sparse_attention_triton(*(x.double() for x in (Q, K, V)), pattern=FIVE)
    with pytest.raises(ValueError, match="takes widths to 256, got 300"):
        kernel.block_sparse_attention_triton(*make_qkv(t=5, dk=300, dtype=torch.float32), pattern=FIVE)


def test_a_second_derivative_is_refused_not_wrong(device):
    q, k, v = make_qkv(b=1, h=1, t=4, dtype=torch.float32, device=device, grad=True)
    pattern = FIVE.to(device)
    for attend in (kernel.block_sparse_attention_triton, block_sparse_attention_blocked):
        (first,) = torch.autograd.grad(attend(q, k, v, pattern=pattern).square().sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
            first.sum().backward()


def test_a_pattern_says_what_it_is():
    assert repr(FIVE) == "BlockPattern(n=5, block=2, causal=True, 9 pairs, 1 whole and 4 partial of 9 blocks)"
    assert isinstance(FIVE.to("cpu"), BlockPattern)


# The compiler


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("block_sparse", capability)
    assert len(compiled) >= 15
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], c
        if capability >= 80 and "fp32" not in c.case and not c.kernel.endswith("delta_kernel"):
            assert c.spills == 0, c
            assert c.matrix != "none", c
    forward = [c for c in compiled if "fwd" in c.kernel and "fp32" not in c.case]
    expected = {75: "none", 80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]
    assert {c.matrix for c in forward} == {expected}
