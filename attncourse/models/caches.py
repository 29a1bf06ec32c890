"""Caches for a whole model: one a block, as wide as its attention asks for."""

from collections.abc import Callable

import torch

from attncourse._shared.cache import CacheShape, KeyValueCache
from attncourse._shared.precision import autocast_dtype
from attncourse._shared.validate import check_widths, require
from attncourse.kv_cache import ContiguousCache, PagedCache, PagePool

from .decoder import DecoderLM


def new_caches(
    model: DecoderLM,
    b: int,
    *,
    layout: Callable[..., KeyValueCache] = ContiguousCache,
    dtype: torch.dtype | None = None,
    **options,
) -> list[KeyValueCache]:
    """Return an empty cache for each block of the model, for b sequences, on the model's device.

    Args:
        dtype: of the keys and values that the layers hand over (default: the model's, or autocast's where it is on).
        layout: what makes a cache from (b, shape, dtype=, device=): `ContiguousCache`, `RingCache` or `paged`.
        dtype: of keys and values (default: autocast's where that is on, else the model's).
        options: of the layout; capacity=64, or window=8, or codec=Int8().

    Raises:
        ValueError: the model's attention keeps no cache; as the layout.
    """
    layers = [block.self_attention for block in model.stack.blocks]
    for layer in layers:
        require(
            hasattr(layer, "cache_shape"), f"{type(layer).__name__} keeps no cache: give the model another attention"
        )
    like = next(model.parameters())
    dtype = dtype or autocast_dtype(like.device) or like.dtype
    return [layout(b, layer.cache_shape, dtype=dtype, device=like.device, **options) for layer in layers]


def paged(
    b: int, shape: CacheShape, *, capacity: int, page_size: int = 16, n_pages: int | None = None, **storage
) -> PagedCache:
    """Return a cache for sequences of at most `capacity` tokens, in pages of a pool of its own.

    Args:
        n_pages: of the pool (default: enough for b sequences of full length).
        storage: dtype, device and codec, as in `PagePool`.
    """
    check_widths(capacity=capacity, page_size=page_size)
    pages = -(-capacity // page_size)
    pool = PagePool(b * pages if n_pages is None else n_pages, shape, page_size=page_size, **storage)
    return PagedCache(b, pool, max_pages=pages)


def forget_row(cache: KeyValueCache, row: int) -> None:
    """Empty one sequence of a cache and leave the others: whoever comes next there must not read what stands."""
    lengths = cache.lengths.clone()
    lengths[row] = 0
    cache.truncate(lengths)
