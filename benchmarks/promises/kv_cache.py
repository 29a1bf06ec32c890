"""What a cache promises: a step of decoding instead of the whole text again, and an append that no length slows down."""

from collections.abc import Callable

import torch

from attncourse._shared.cache import CacheShape
from attncourse.grouped_query import GroupedQueryAttention
from attncourse.kv_cache import ContiguousCache, Int8, PagedCache, PagePool
from attncourse.profile.timing import median_seconds

from .measured_row import Row

SHAPE, LENGTH = CacheShape(8, (64, 64)), 4096


@torch.no_grad()
def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """Measure a layer's step at 2048 tokens against reading them again;
    an append after 4096 tokens and after twice as many.
    """
    progress("a step of a layer")
    rows = [_step(device)]
    for name, build in {"contiguous": _contiguous, "in pages": _paged}.items():
        for codec in (None, Int8(group=32)):
            case = f"append, {name}, {'plain' if codec is None else 'int8'}, after {LENGTH} and {2 * LENGTH} tokens"
            progress(case)
            caches = {length: build(length, codec, device) for length in (LENGTH, 2 * LENGTH)}
            seconds = median_seconds({str(n): _append(cache, n) for n, cache in caches.items()}, rounds=41)
            rows.append(Row(case, seconds[str(2 * LENGTH)], seconds[str(LENGTH)], 1.5, "growth"))
    return rows


def _step(device):
    layer = GroupedQueryAttention(512, 8, n_kv_heads=8).to(device)
    x = torch.randn(1, 2048, 512, device=device)
    cache = ContiguousCache(1, layer.cache_shape, capacity=2048, device=device)
    layer(x[:, :-1], cache=cache)
    before = cache.lengths

    def step():
        cache.truncate(before)
        return layer(x[:, -1:], cache=cache)

    torch.testing.assert_close(step(), layer(x)[:, -1:])
    seconds = median_seconds({"step": step, "again": lambda: layer(x)}, rounds=5)
    return Row("step with a cache, the text again, 2048 tokens", seconds["step"], seconds["again"], 5.0, "speedup")


def _contiguous(length, codec, device):
    return _filled(ContiguousCache(1, SHAPE, capacity=2 * LENGTH + 1, device=device, codec=codec), length)


def _paged(length, codec, device):
    return _filled(PagedCache(1, PagePool(2 * LENGTH // 16 + 1, SHAPE, device=device, codec=codec)), length)


def _filled(cache, length):
    cache.append(*(torch.randn(1, 8, length, 64, device=cache.device) for _ in range(2)))
    return cache


def _append(cache, length):
    token, before = torch.randn(1, 8, 1, 64, device=cache.device), torch.full_like(cache.lengths, length)

    def append():
        cache.truncate(before)
        cache.append(token, token)

    return append
