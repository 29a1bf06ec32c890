"""What the poster shows of this room."""

from attncourse._shared.cache import CacheShape

from .module import LatentAttention


def kept() -> CacheShape:
    """Return what one token leaves behind in a layer of width 512 with 8 query heads."""
    layer = LatentAttention(512, 8, kv_lora_rank=64, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64)
    return layer.cache_shape
