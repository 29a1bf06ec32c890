"""What the poster shows of this room."""

from attncourse._shared.cache import CacheShape

from .module import GroupedQueryAttention


def kept() -> CacheShape:
    """Return what one token leaves behind in a layer of width 512 with 8 query heads."""
    return GroupedQueryAttention(512, 8, n_kv_heads=2).cache_shape
