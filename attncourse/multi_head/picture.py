"""What the poster shows of this room."""

from attncourse._shared.cache import CacheShape

from .module import MultiHeadAttention


def kept() -> CacheShape:
    """Return what one token leaves behind in a layer of width 512 with 8 query heads."""
    layer = MultiHeadAttention(512, 8)
    return CacheShape(layer.n_heads, (layer.head_dim, layer.head_dim))
