"""Local attention over a text that arrives piece by piece: a ring buffer of as many keys as a query may see.

Xiao et al. 2023, StreamingLLM, https://arxiv.org/abs/2309.17453, section 3.2, for the first keys beside the ring.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.validate import check_widths, require

from .blocked import sliding_window_attention_blocked
from .pattern import check_local, local_band


@dataclass
class WindowCache:
    """Keys and values that later queries may still see; `seen` tokens went by, and the buffers never grow.

    The first `sinks` slots hold the first tokens. The others are a ring: position p stands in slot
    sinks + (p - sinks) mod span, where span is (window - 1) dilation + 1, and overwrites the one that nobody sees again.
    """

    k: Float[Tensor, "b g slots dk"]
    v: Float[Tensor, "b g slots dv"]
    window: int
    dilation: int = 1
    sinks: int = 0
    seen: int = 0

    @classmethod
    def empty(
        cls,
        b: int,
        g: int,
        dk: int,
        dv: int | None = None,
        *,
        window: int,
        dilation: int = 1,
        sinks: int = 0,
        like=None,
    ) -> "WindowCache":
        """A cache that has seen nothing, with the dtype and device of the tensor `like`.

        Raises:
            ValueError: as `local_band`; a size below 1.
        """
        dv = dk if dv is None else dv
        check_widths(b=b, g=g, dk=dk, dv=dv)
        slots = sinks + local_band(window=window, dilation=dilation, sinks=sinks).span
        like = torch.empty(0) if like is None else like
        return cls(like.new_zeros(b, g, slots, dk), like.new_zeros(b, g, slots, dv), window, dilation, sinks)

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return self.k.nbytes + self.v.nbytes

    def slots(self, positions: Tensor) -> Tensor:
        """Where tokens at these positions stand."""
        ring = self.k.shape[2] - self.sinks
        return torch.where(positions < self.sinks, positions, self.sinks + (positions - self.sinks) % ring)

    def held(self) -> Tensor:
        """The positions that the buffers hold, in order."""
        ring = self.k.shape[2] - self.sinks
        first = torch.arange(min(self.seen, self.sinks), device=self.k.device)
        return torch.cat([first, torch.arange(max(self.seen - ring, len(first)), self.seen, device=self.k.device)])

    def append(self, k: Float[Tensor, "b g c dk"], v: Float[Tensor, "b g c dv"]) -> None:
        """Write the next tokens; of a long piece, those that stay."""
        start, self.seen = self.seen, self.seen + k.shape[2]
        positions = self.held()
        fresh = positions[positions >= start]
        slots = self.slots(fresh)
        self.k[:, :, slots], self.v[:, :, slots] = k[:, :, fresh - start], v[:, :, fresh - start]


def sliding_window_attention_step(
    q: Float[Tensor, "b h c dk"],
    k: Float[Tensor, "b g c dk"],
    v: Float[Tensor, "b g c dv"],
    cache: WindowCache,
    *,
    scale: float | None = None,
) -> Float[Tensor, "b h c dv"]:
    """Attention of the next c tokens to what they may see of the text so far, and the cache moved on.

    Whatever the pieces, the outputs are those of `sliding_window_attention` on the whole text. For inference: the cache
    keeps no gradients.

    Raises:
        ValueError: shapes that differ from the cache's, or a gradient is asked for.
    """
    check_local(q, k, v, None)
    shapes = [(*x.shape[:2], x.shape[3]) for x in (k, v, cache.k, cache.v)]
    require(
        shapes[:2] == shapes[2:] and q.shape[2] == k.shape[2],
        f"a piece has as many queries as keys, and the cache's batch, heads and widths, got q {tuple(q.shape)}, "
        f"k {tuple(k.shape)}, v {tuple(v.shape)} for a cache of {tuple(cache.k.shape)} and {tuple(cache.v.shape)}",
    )
    require(
        not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)),
        "the cache keeps no gradients: call it under torch.no_grad(), or use sliding_window_attention_blocked",
    )
    pattern = dict(window=cache.window, sinks=cache.sinks, dilation=cache.dilation, scale=scale)
    if q.shape[2] == 1 and cache.dilation == 1:
        cache.append(k, v)
        # One query sees every slot that is filled, and a sum over keys does not ask for their order: nothing is copied.
        filled = slice(0, cache.seen)
        pattern |= dict(window=cache.k.shape[2], sinks=0)
        past_k, past_v = (x[:, :, filled].to(q.dtype) for x in (cache.k, cache.v))
        return sliding_window_attention_blocked(q, past_k, past_v, **pattern)
    # With sinks the tokens between them and the ring are missing, which moves the sinks nearer: they are seen anyway.
    slots = cache.slots(cache.held())
    past_k, past_v = (x[:, :, slots].to(q.dtype) for x in (cache.k, cache.v))  # of another dtype under autocast alone
    out = sliding_window_attention_blocked(q, torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2), **pattern)
    cache.append(k, v)
    return out
