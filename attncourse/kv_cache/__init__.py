"""Keys and values that are kept (Shazeer 2019, https://arxiv.org/abs/1911.02150) and their layouts.

Pages: Kwon et al. 2023, https://arxiv.org/abs/2309.06180. The kernel is imported from `attncourse.kv_cache.kernel`, since
it needs Triton.
"""

from attncourse._shared.cache import CacheShape, KeyValueCache, visible_in_cache

from .channels import ChannelCache
from .codec import Codec, Fp8, Int4, Int8, Plain
from .configs import MODELS, PublicModel
from .contiguous import ContiguousCache
from .cost import CacheCost, LayerCost, cost
from .layout import Layout, token_nbytes
from .paged import PagedCache, PagePool
from .published import PublishedFigure, published_figures
from .reference import kv_cache_attention
from .ring import RingCache

__all__ = [
    "MODELS",
    "CacheCost",
    "CacheShape",
    "ChannelCache",
    "Codec",
    "ContiguousCache",
    "Fp8",
    "Int4",
    "Int8",
    "KeyValueCache",
    "LayerCost",
    "Layout",
    "PagePool",
    "PagedCache",
    "Plain",
    "PublicModel",
    "PublishedFigure",
    "RingCache",
    "cost",
    "kv_cache_attention",
    "published_figures",
    "token_nbytes",
    "visible_in_cache",
]
