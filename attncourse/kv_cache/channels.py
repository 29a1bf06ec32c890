"""The layout of quantised channels: whole blocks of tokens, whose keys have a scale for each channel.

Some channels of keys are large for every token. Where a token's entries share a scale, such a channel takes the precision of
all others; where a channel's do, it takes only its own. Liu et al. 2024, KIVI, https://arxiv.org/abs/2402.02750, section 3:
keys by channel, values by token, and the last tokens, which fill no block yet, as they are.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse._shared.validate import check_widths, require

from .codec import Codec, Int4, Plain
from .layout import Layout, empty_store
from .slots import kv_cache_gather


class ChannelCache(Layout):
    """Each sequence is whole blocks of `block` tokens, encoded, and after them fewer than `block` tokens as they are.

    Of the first stream (keys) the codec's vectors are the entries that one channel has in a block, (g, width, block); of
    the others those of one token, (g, block, width). `storage` holds for each stream the codec's tensors
    (b, n_blocks, g, ...), and last the tokens of no block, (b, g, block, width).

    Args:
        b: sequences.
        shape: what the layer keeps of a token.
        capacity: the longest sequence, a multiple of `block`.
        block: tokens of a block.
        dtype, device: of what is appended and viewed.
        codec: how a block is stored; its groups are of tokens for keys, of channels for values (default: `Int4()`).
    """

    capacity: int
    in_slots = False

    def __init__(
        self,
        b: int,
        shape: CacheShape,
        *,
        capacity: int,
        block: int = 32,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        codec: Codec | None = None,
    ):
        super().__init__(b, shape, dtype=dtype, device=device, codec=codec or Int4(), impl="torch")
        check_widths(capacity=capacity, block=block)
        require(capacity % block == 0, f"a block must divide the capacity, got capacity={capacity}, block={block}")
        self.capacity, self.block, n_blocks = capacity, block, capacity // block
        recent = empty_store(b, block, shape, codec=Plain(), dtype=dtype, device=device)
        self.storage = ()
        for i, (width, (plain,)) in enumerate(zip(shape.widths, recent, strict=True)):
            size, entries = (width, block) if i == 0 else (block, width)
            vectors = CacheShape(shape.n_kv_heads, (entries,))
            (fields,) = empty_store(b * n_blocks, size, vectors, codec=self.codec, dtype=dtype, device=device)
            self.storage += ((*(field.unflatten(0, (b, n_blocks)) for field in fields), plain),)

    def append(self, *streams, counts=None) -> None:
        """Add c tokens to every sequence; a block is encoded as soon as it is whole.

        Args:
            streams: (b, g, c, width) each.
            counts: (b,) integers, how many of the c are tokens (default: all).
        """
        streams, counts = self._checked(streams, counts)
        self._reserve(counts, most=streams[0].shape[2])
        self._most += streams[0].shape[2]
        for row, (length, count) in enumerate(zip(self.lengths.tolist(), counts.tolist(), strict=True)):
            done, begun = divmod(length, self.block)
            for i, ((*fields, recent), x) in enumerate(zip(self.storage, streams, strict=True)):
                text = torch.cat([recent[row, :, :begun], x[row, :, :count]], dim=1)
                ends = tuple(range(self.block, text.shape[1] + 1, self.block))
                *whole, rest = text.tensor_split(ends, dim=1)
                for j, tokens in enumerate(whole):
                    for field, part in zip(fields, self.codec.encode(tokens.mT if i == 0 else tokens), strict=True):
                        field[row, done + j] = part
                recent[row, :, : rest.shape[1]] = rest
        self.lengths = self.lengths + counts

    def view(self) -> tuple[Float[Tensor, "b g s width"], ...]:
        """Return each stream, decoded where it is encoded; zeros for padding."""
        positions = self.positions()
        s, whole = positions.shape[1], self._whole()
        encoded = ((positions >= 0) & (positions < whole[:, None]))[:, None, :, None]
        views = []
        for i, (*fields, recent) in enumerate(self.storage):
            vectors = self.codec.decode(*(field[:, : -(-s // self.block)] for field in fields), dtype=self.dtype)
            tokens = rearrange(vectors.mT if i == 0 else vectors, "b n g t width -> b g (n t) width")[:, :, :s]
            plain = kv_cache_gather((recent,), self._slots(positions), codec=Plain(), dtype=self.dtype)
            views.append(torch.where(encoded, tokens, plain))
        return tuple(views)

    @property
    def used_nbytes(self) -> int:
        """Return the bytes of the whole blocks, and of the tokens after them."""
        blocks, after = int(self._whole().sum()) // self.block, int((self.lengths - self._whole()).sum())
        a_block = sum(field[0, 0].nbytes for *fields, _ in self.storage for field in fields)
        return blocks * a_block + after * self.token_nbytes

    @property
    def token_nbytes(self) -> int:
        """Return the bytes of one token of one sequence, as long as its block is not whole."""
        return sum(recent[0, :, 0].nbytes for *_, recent in self.storage)

    def _whole(self) -> Tensor:
        """Return how many tokens of each sequence stand in whole blocks."""
        return self.lengths // self.block * self.block

    def _slots(self, positions: Tensor) -> Tensor:
        rows = torch.arange(len(positions), device=self.device)[:, None]
        return torch.where(positions >= self._whole()[:, None], rows * self.block + positions % self.block, -1)

    def _release(self, lengths: Tensor) -> None:
        """Open a block that is whole no more: what is left of it stays as it was decoded."""
        first = lengths // self.block * self.block  # of the tokens that then stand in no whole block
        opened = (first < self._whole()).nonzero()[:, 0].tolist()
        if not opened:
            return
        for (*_, recent), x in zip(self.storage, self.view(), strict=True):
            for row in opened:
                left = x[row, :, first[row] : lengths[row]]
                recent[row, :, : left.shape[1]] = left
