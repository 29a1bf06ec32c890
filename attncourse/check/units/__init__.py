"""One module of checks a unit of exercises, in the order in which the course takes them."""

# isort: off
from . import why_attention
from . import softmax_attention
from . import additive
from . import multiplicative
from . import self_cross_causal
from . import multi_head
from . import hard_attention
from . import real_systems
from . import sliding_window
from . import block_sparse
from . import global_local
from . import linear_attention
from . import kv_cache
from . import grouped_query
from . import latent
from . import why_latent
from . import mechanism_or_implementation
from . import write_the_kernel
from . import which_attention
from . import cache_bandwidth
# isort: on

__all__ = [
    "additive",
    "block_sparse",
    "cache_bandwidth",
    "global_local",
    "grouped_query",
    "hard_attention",
    "kv_cache",
    "latent",
    "linear_attention",
    "mechanism_or_implementation",
    "multi_head",
    "multiplicative",
    "real_systems",
    "self_cross_causal",
    "sliding_window",
    "softmax_attention",
    "which_attention",
    "why_attention",
    "why_latent",
    "write_the_kernel",
]
