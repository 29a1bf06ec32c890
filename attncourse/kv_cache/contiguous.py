"""The plain layout: room for `capacity` tokens a sequence, allocated at the start and filled from the front."""

import torch
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse._shared.validate import check_widths

from .codec import Codec, Plain
from .layout import Layout, empty_store


class ContiguousCache(Layout):
    """Each sequence has a row of `capacity` slots, (b, g, capacity, width), and position p stands in slot p.

    Args:
        b: sequences.
        shape: what the layer keeps of a token.
        capacity: the longest sequence; its room is held whether used or not.
        dtype, device: of what is appended and viewed.
        codec: how vectors are stored (default: `Plain()`).
        impl: how they are written and gathered, "torch" or "triton" (kernels; interpreted without a GPU).
    """

    capacity: int

    def __init__(
        self,
        b: int,
        shape: CacheShape,
        *,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        codec: Codec | None = None,
        impl: str = "torch",
    ):
        super().__init__(b, shape, dtype=dtype, device=device, codec=codec, impl=impl)
        check_widths(capacity=capacity)
        self.capacity = capacity
        self.storage = empty_store(b, capacity, shape, codec=self.codec, dtype=dtype, device=device)

    def view(self) -> tuple[Float[Tensor, "b g s width"], ...]:
        """Return each stream's filled front, of plain storage without a copy;
        what stands there as padding is undefined.
        """
        if self.impl == "triton" and not isinstance(self.codec, Plain):
            return super().view()
        return self._fronts(int(self.lengths.max()))

    def _slots(self, positions: Tensor) -> Tensor:
        rows = torch.arange(len(positions), device=self.device)[:, None]
        return torch.where(positions >= 0, rows * self.capacity + positions, -1)

    def _release(self, lengths: Tensor) -> None:
        """Give nothing back: a row's room stays its own, and what stood there is overwritten by what comes next."""
