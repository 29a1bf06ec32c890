"""The layout of a window: a ring of as many tokens as a query may see, in which new ones overwrite the oldest.

Xiao et al. 2023, StreamingLLM, https://arxiv.org/abs/2309.17453, section 3.2, for the first tokens beside the ring.
"""

from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse._shared.validate import check_widths, require

from .codec import Codec, Plain
from .layout import Layout, empty_store


class RingCache(Layout):
    """A ring holds of each sequence its first `sinks` tokens, and of the others the last window + piece - 1.

    The first query of a piece of c tokens sees window - 1 tokens before the piece, and the last one is written c - 1
    later: that many slots keep both. Position p from `sinks` on stands in slot sinks + (p - sinks) mod ring.

    Args:
        b: sequences.
        shape: what the layer keeps of a token.
        window: how many tokens a query sees, its own included.
        sinks: first tokens that are never overwritten.
        piece: the longest piece that `append` takes. Each token more is also one that `truncate` may take back.
        dtype, device: of what is appended and viewed.
        codec: how vectors are stored (default: `Plain()`).
        impl: how they are written and gathered, "torch" or "triton" (kernels; interpreted without a GPU).
    """

    window: int

    def __init__(
        self,
        b: int,
        shape: CacheShape,
        *,
        window: int,
        sinks: int = 0,
        piece: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        codec: Codec | None = None,
        impl: str = "torch",
    ):
        super().__init__(b, shape, dtype=dtype, device=device, codec=codec, impl=impl)
        check_widths(window=window, piece=piece)
        require(sinks >= 0, f"sinks must not be negative, got {sinks}")
        self.window, self.sinks, self.piece, self.ring = window, sinks, piece, window + piece - 1
        self.storage = empty_store(b, sinks + self.ring, shape, codec=self.codec, dtype=dtype, device=device)
        # After a truncation the ring still holds, where older tokens were, what stood beyond: lengths do not tell.
        self._written = self.lengths
        self._most_written = 0  # counted on the host, as the longest length is

    def append(self, *streams, counts=None) -> None:
        """Add c tokens to every sequence; the oldest tokens of the ring are overwritten.

        Args:
            streams: (b, g, c, width) each.
            counts: (b,) integers, how many of the c are tokens (default: all).

        Raises:
            ValueError: a shape, batch, dtype or device that is not the cache's, or streams that ask for a gradient; a
                piece that is longer than the cache was built for. Then nothing is written.
        """
        super().append(*streams, counts=counts)
        self._written = torch.maximum(self._written, self.lengths)
        self._most_written = max(self._most_written, self._most)

    @property
    def in_order(self) -> bool:
        """Return whether nothing has left the window yet, nor was written beyond it,
        of the longest sequence there may be.
        """
        return self._most_written <= self.window

    def view(self) -> tuple[Float[Tensor, "b g s width"], ...]:
        """Return each stream as it lies, of plain storage without a copy; what stands there as padding is undefined."""
        if self.impl == "triton" and not isinstance(self.codec, Plain):
            return super().view()
        return self._fronts(self._filled())

    def positions(self) -> Int[Tensor, "b s"]:
        """Return where the token of each slot stands in its sequence, -1 for an empty slot:
        not in order once it has turned.
        """
        slots = torch.arange(self._filled(), device=self.device)
        turns = (self._written[:, None] - 1 - slots).div(self.ring, rounding_mode="floor")
        in_ring = slots + turns * self.ring  # the last position that was written there; before the ring if none was
        positions = torch.where(slots < self.sinks, slots, torch.where(in_ring >= self.sinks, in_ring, -1))
        return torch.where(positions < self.lengths[:, None], positions, -1)

    def fork(self, rows) -> Self:
        """Return another cache, whose sequence i is so far that of row rows[i]."""
        twin = super().fork(rows)
        twin._written = self._written[self._checked_rows(rows)]
        return twin

    def _filled(self) -> int:
        """Return how many slots of a row may hold a token."""
        return min(self.sinks + self.ring, int(self._written.max()))

    def _reserve(self, counts: Tensor, *, most: int) -> None:
        if most <= self.piece:
            return
        if int(counts.max()) > self.piece:
            raise ValueError(
                f"this ring takes pieces of at most {self.piece} tokens (piece=), got counts {counts.tolist()}"
            )

    def _slots(self, positions: Tensor) -> Tensor:
        rows = torch.arange(len(positions), device=self.device)[:, None]
        slot = torch.where(positions < self.sinks, positions, self.sinks + (positions - self.sinks) % self.ring)
        return torch.where(positions >= 0, rows * (self.sinks + self.ring) + slot, -1)

    def _release(self, lengths: Tensor) -> None:
        oldest = (self._written - self.ring).clamp_min(self.sinks)  # of those not overwritten
        needed = (lengths - self.window + 1).clamp_min(self.sinks)  # by the next query
        lost = (needed < oldest) & (lengths > self.sinks)
        if lost.any():
            raise ValueError(
                f"a window of {self.window} at lengths {lengths.tolist()} needs tokens that were overwritten: of lengths "
                f"{self.lengths.tolist()} the ring holds positions from {oldest.tolist()}"
            )
        self._written = torch.where(lengths <= self.sinks, lengths.to(torch.int32), self._written)
        self._most, self._most_written = int(lengths.max()), int(self._written.max())
