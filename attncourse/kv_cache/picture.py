"""What the poster shows of this room."""

from typing import Any

import torch
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse._shared.picture import TOKENS, WIDTH, small_heads

from .contiguous import ContiguousCache
from .reference import kv_cache_attention


def reads() -> Tensor:
    """Return what the newest token reads out of a cache; all other rows are past and empty."""
    q, k, v = small_heads()
    # Any: a type checker takes the protocol's attributes for ones that callers set
    cache: Any = ContiguousCache(1, CacheShape(1, (WIDTH, TOKENS)), capacity=TOKENS)
    cache.append(k, v)
    rows = torch.zeros(TOKENS, TOKENS)
    rows[-1] = kv_cache_attention(q[:, :, -1:], cache)[0, 0, 0]
    return rows
