"""Plans and their runs: what a run takes, and that no check waits for the device unless it is asked to.

What would wait for a GPU is seen on the CPU: who asks for a tensor's numbers is refused. Kernels are then only counted.
"""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from attncourse import checking_values
from attncourse._shared.cache import CacheShape
from attncourse._shared.language import interpreter
from attncourse._shared.validate import has_values
from attncourse.additive.kernel import additive_attention_triton
from attncourse.block_sparse import local_and_random
from attncourse.block_sparse.kernel import block_sparse_attention_triton
from attncourse.global_local.kernel import global_local_attention_triton
from attncourse.grouped_query.kernel import grouped_query_decode_triton, plan_grouped_query_decode
from attncourse.hard_attention.kernel import hard_attention_triton
from attncourse.kv_cache import ContiguousCache, Int8, RingCache
from attncourse.kv_cache.kernel import kv_cache_append_triton, kv_cache_gather_triton
from attncourse.latent.kernel import latent_attention_triton, plan_latent_decode
from attncourse.linear_attention.kernel import linear_attention_triton
from attncourse.multiplicative.kernel import multiplicative_attention_triton
from attncourse.sliding_window.kernel import sliding_window_attention_triton
from attncourse.softmax_attention.kernel import softmax_attention_triton


def draw(*shape, device="cpu"):
    return torch.randn(*shape, device=device)


PATTERN = local_and_random(64, block=16, radius=1, n_random=1, seed=0)


# Plan and run


def decoding(device, *, s=40):
    """q, k, v and lengths of two sequences."""
    q, k, v = draw(2, 4, 1, 16, device=device), *(draw(2, 2, s, 16, device=device) for _ in range(2))
    return q, k, v, torch.tensor([7, s], dtype=torch.int32, device=device)


def latents(device, *, s=40):
    """The inputs of absorbed decoding, and lengths."""
    inputs = draw(2, 4, 1, 8), draw(2, 4, 1, 4), draw(2, 1, s, 16), draw(2, 1, s, 4), draw(4, 8, 16), draw(4, 6, 16)
    return *(x.to(device) for x in inputs), torch.tensor([7, s], dtype=torch.int32, device=device)


@pytest.fixture(params=["triton", "numba"])
def rooms(request, device):
    """A plan and a launcher of grouped-query decoding, and of latents."""
    if request.param == "triton":
        grouped = plan_grouped_query_decode, grouped_query_decode_triton
        return grouped, (plan_latent_decode, latent_attention_triton)
    if device != "cpu":
        pytest.skip("numba's kernel runs on processors")
    grouped = pytest.importorskip("attncourse.grouped_query.cpu_kernel")
    latent = pytest.importorskip("attncourse.latent.cpu_kernel")
    return (
        (grouped.plan_grouped_query_decode_numba, grouped.grouped_query_decode_numba),
        (latent.plan_latent_decode_numba, latent.latent_attention_numba),
    )


@pytest.mark.dry
def test_a_plan_serves_growing_sequences_and_other_values(device, rooms):
    """What a run gives is what a call of its own gives, and stays when the plan runs again."""
    (plan_decode, decode), _ = rooms
    q, k, v, lengths = decoding(device)
    plan = plan_decode(q, k, v, cache_seqlens=lengths)
    outs, wanted = [], []
    for step in range(3):
        grown, values = lengths - 3 + step, v + step
        outs.append(plan.run(q, k, values, cache_seqlens=grown))
        wanted.append(decode(q, k, values, cache_seqlens=grown))
    for (out, _), right in zip(outs, wanted, strict=True):
        assert torch.equal(out, right)
    assert not torch.equal(outs[0][0], outs[2][0])


@pytest.mark.dry
def test_a_plan_of_latents_serves_growing_sequences(device, rooms):
    _, (plan_decode, decode) = rooms
    *inputs, lengths = latents(device)
    plan = plan_decode(*inputs, key_lengths=lengths)
    first = plan.run(*inputs, key_lengths=lengths - 3)
    kept = first.clone()
    assert torch.equal(plan.run(*inputs, key_lengths=lengths), decode(*inputs, key_lengths=lengths))
    assert torch.equal(first, kept) and not torch.equal(first, decode(*inputs, key_lengths=lengths))


def test_without_lengths_and_starts_a_cache_is_full(device):
    q, k, v, _ = decoding(device)
    full = torch.full((2,), 40, dtype=torch.int32, device=device)
    told = dict(cache_seqlens=full, starts=full - 1)
    assert torch.equal(grouped_query_decode_triton(q, k, v, **told), grouped_query_decode_triton(q, k, v))


def test_a_length_that_nobody_checked_reads_nothing_behind_the_cache(device, rooms):
    """The row after the cache holds NaN, as does the next sequence's."""
    (plan_grouped, decode), (plan_latents, decode_latents) = rooms
    q, k, v, _ = decoding(device, s=41)
    k[:, :, 40:] = v[:, :, 40:] = torch.nan
    too_long = torch.tensor([41, 1000], dtype=torch.int32, device=device)
    cut = [x[:, :, :40] for x in (k, v)]
    named = dict(cache_seqlens=too_long, starts=too_long * 0 + 39)
    got, _ = plan_grouped(q, *cut, **named, check_values=False).run(q, *cut, **named)
    torch.testing.assert_close(got, decode(q, *(x.contiguous() for x in cut)))
    *inputs, _ = latents(device, s=41)
    for i in (2, 3):
        inputs[i][:, :, 40:] = torch.nan
        inputs[i] = inputs[i][:, :, :40]
    plan = plan_latents(*inputs, key_lengths=too_long, check_values=False)
    torch.testing.assert_close(plan.run(*inputs, key_lengths=too_long), decode_latents(*inputs))


@pytest.mark.bad_input
def test_a_run_on_other_tensors_is_refused(device, rooms):
    (plan_decode, decode), _ = rooms
    q, k, v, lengths = decoding(device)
    plan = plan_decode(q, k, v, cache_seqlens=lengths)
    lies = f"this plan of {decode.__name__} was made for"
    strided = k.transpose(1, 2).contiguous().transpose(1, 2)
    for wrong, message in (
        (lambda: plan.run(q[:1], k, v, cache_seqlens=lengths), rf"{lies} q \(2, 4, 1, 16\) .* got \(1, 4, 1, 16\)"),
        (lambda: plan.run(q, k[:, :, :39], v, cache_seqlens=lengths), rf"{lies} k .* got \(2, 2, 39, 16\)"),
        (lambda: plan.run(q, strided, v, cache_seqlens=lengths), rf"{lies} k .* got .* strides \(1280, 16, 32, 1\)"),
        (lambda: plan.run(q.half(), k, v, cache_seqlens=lengths), f"{lies} q .* got .* torch.float16"),
        (lambda: plan.run(q, k, v, cache_seqlens=lengths.long()), f"{lies} cache_seqlens .* got .* torch.int64"),
        (lambda: plan.run(q, k, v), f"{lies} cache_seqlens .* got None: make another plan"),
        (lambda: plan.run(q, k, v, cache_seqlens=lengths, starts=lengths), f"{lies} starts None, got"),
        (lambda: plan.run(q, k, v, cache_seqlens=lengths, length=lengths), "takes q, k, v, .*, got length"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


@pytest.mark.bad_input
def test_a_plan_looks_at_lengths_unless_told_otherwise(device, rooms):
    (plan_grouped, _), (plan_latents, _) = rooms
    q, k, v, lengths = decoding(device)
    with pytest.raises(ValueError, match=r"must lie in 0..40, got 8..41"):
        plan_grouped(q, k, v, cache_seqlens=lengths + 1)
    plan_grouped(q, k, v, cache_seqlens=lengths + 1, check_values=False)
    *inputs, lengths = latents(device)
    with pytest.raises(ValueError, match=r"must lie in 0..40, got 8..41"):
        plan_latents(*inputs, key_lengths=lengths + 1)
    plan_latents(*inputs, key_lengths=lengths + 1, check_values=False)


# Nothing is read back


class ReadBack(Exception):
    """The host asked for a number that a tensor holds."""


class NoReads(TorchDispatchMode):
    """Raises where a GPU would have to be waited for: a tensor's number, or how many of its numbers are not zero."""

    READS = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "masked_select")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        chosen = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.READS or any(x is not None and x.dtype == torch.bool for x in chosen):
            raise ReadBack(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def launched(monkeypatch):
    """Names of kernels in the order of their launches, which do nothing; lists of a tensor's numbers are refused."""

    def refuse(x):
        raise ReadBack("tolist")

    names = []
    monkeypatch.setattr(interpreter.InterpretedFunction, "run", lambda self, *_, **__: names.append(self.fn.__name__))
    monkeypatch.setattr(torch.Tensor, "tolist", refuse)
    return names


def integers(*shape, dtype=torch.int32):
    return torch.ones(shape, dtype=dtype)


def qkv(t=32, s=32):
    return draw(2, 4, t, 16), draw(2, 2, s, 16), draw(2, 2, s, 16)


def append():
    cache = ContiguousCache(2, CacheShape(2, (16, 16)), capacity=32, codec=Int8())
    kv_cache_append_triton(cache.storage[0], draw(2, 2, 1, 16), integers(2, 1, dtype=torch.int64), codec=cache.codec)


def gather():
    cache = ContiguousCache(2, CacheShape(2, (16, 16)), capacity=32)
    slots = integers(2, 8, dtype=torch.int64)
    return kv_cache_gather_triton(cache.storage[0], slots, codec=cache.codec, dtype=torch.float32)


def cached(kind, **options):
    """Two tokens into a cache, one after the other."""
    cache = kind(2, CacheShape(2, (16, 16)), impl="triton", **options)
    for _ in range(2):
        cache.append(draw(2, 2, 1, 16), draw(2, 2, 1, 16))


# Each with what a check could look at: lengths, indices, decays, slots, tables.
CALLS = {
    "softmax": lambda: softmax_attention_triton(*qkv(), key_lengths=integers(2)),
    "additive": lambda: additive_attention_triton(
        draw(2, 4, 8, 16), *(draw(2, 4, 32, 16) for _ in range(2)), draw(16, 16), draw(16, 16), draw(16),
        key_lengths=integers(2),
    ),
    "multiplicative": lambda: multiplicative_attention_triton(
        draw(2, 4, 8, 16), *(draw(2, 4, 32, 16) for _ in range(2)), draw(16, 16), key_lengths=integers(2)
    ),
    "hard": lambda: hard_attention_triton(*qkv(), seed=0, key_lengths=integers(2)),
    "window": lambda: sliding_window_attention_triton(*qkv(), window=8, key_lengths=integers(2)),
    "block sparse": lambda: block_sparse_attention_triton(*qkv(64, 64), pattern=PATTERN, key_lengths=integers(2)),
    "global and local": lambda: global_local_attention_triton(
        *qkv(), radius=4, global_indices=integers(1, dtype=torch.int64), key_lengths=integers(2)
    ),
    "linear": lambda: linear_attention_triton(
        *qkv(), causal=True, decay=integers(2, 2, 32, 1).float(), key_lengths=integers(2)
    ),
    "decode": lambda: grouped_query_decode_triton(*qkv(t=1), cache_seqlens=integers(2)),
    "decode in pages": lambda: grouped_query_decode_triton(
        draw(2, 4, 1, 16), *(draw(9, 2, 16, 16) for _ in range(2)), cache_seqlens=integers(2), block_table=integers(2, 2)
    ),
    "latent": lambda: latent_attention_triton(*latents("cpu")[:-1], key_lengths=integers(2)),
    "append": append,
    "gather": gather,
    "append to a cache": lambda: cached(ContiguousCache, capacity=2),
    "append to a ring": lambda: cached(RingCache, window=4),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_no_check_reads_back_unless_asked(call, launched):
    """Every launcher, as on CUDA: there nobody asks."""
    with checking_values(False), NoReads():
        CALLS[call]()
    assert launched
    with checking_values(), NoReads(), pytest.raises(ReadBack):
        CALLS[call]()


def test_values_are_checked_on_a_cpu_and_elsewhere_on_demand():
    with FakeTensorMode():  # has shapes and a device, but no numbers
        lengths = {kind: torch.ones(2, dtype=torch.int32, device=kind) for kind in ("cpu", "cuda", "meta")}
    assert [has_values(x) for x in lengths.values()] == [True, False, False]
    with checking_values():
        assert [has_values(x) for x in lengths.values()] == [True, True, False]
        with checking_values(None):
            assert has_values(lengths["cuda"])
    with checking_values(False):
        assert not any(map(has_values, lengths.values()))
    assert not has_values(lengths["cuda"])


def test_room_is_still_refused_where_nothing_is_read():
    """The host counts how long a sequence can be at most; only where that is too long does it ask."""
    cache = ContiguousCache(2, CacheShape(1, (4, 4)), capacity=3)
    tokens = draw(2, 1, 1, 4), draw(2, 1, 1, 4)
    with checking_values(False):
        for _ in range(3):
            cache.append(*tokens)
        with pytest.raises(ValueError, match=r"room for 3 tokens a sequence, got lengths \[3, 3\] and \[1, 1\] more"):
            cache.append(*tokens)
        for _ in range(9):
            cache.truncate(integers(2))
            cache.append(*tokens, counts=integers(2) * torch.tensor([0, 1], dtype=torch.int32))
    assert cache.lengths.tolist() == [1, 2]
