"""What all layouts share: what may be appended, how it is written and read, how many bytes it takes."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse._shared.layer import Form, check_impl, form_of
from attncourse._shared.precision import autocast_dtype
from attncourse._shared.validate import check_key_lengths, check_widths, has_values, is_integer, require

from .codec import Codec, Plain
from .slots import kv_cache_append, kv_cache_gather

WRITES: dict[str, Form] = {"torch": kv_cache_append, "triton": "attncourse.kv_cache.kernel:kv_cache_append_triton"}
READS: dict[str, Form] = {"torch": kv_cache_gather, "triton": "attncourse.kv_cache.kernel:kv_cache_gather_triton"}


def empty_store(
    n: int, size: int, shape: CacheShape, *, codec: Codec, dtype: torch.dtype, device: torch.device | str | None
) -> tuple[tuple[Tensor, ...], ...]:
    """Return zeros for n blocks of `size` tokens: for each stream the tensors (n, g, size, ...) that its codec names.

    Args:
        shape: what the layer keeps of a token.
        codec: how vectors are stored.
        dtype, device: of what is appended and viewed.
    """
    return tuple(
        tuple(
            torch.zeros(n, shape.n_kv_heads, size, field, dtype=kind, device=device)
            for field, kind in codec.fields(width, dtype)
        )
        for width in shape.widths
    )


def token_nbytes(shape: CacheShape, *, codec: Codec | None = None, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes that one token takes in one layer's cache:
    2 * n_kv_heads * head_dim * itemsize for plain keys and values.

    Args:
        shape: what the layer keeps of a token.
        codec: how vectors are stored (default: `Plain()`).
        dtype: of what is appended.
    """
    stored: Codec = codec or Plain()
    fields = [field for width in shape.widths for field in stored.fields(width, dtype)]
    return shape.n_kv_heads * sum(width * dtype.itemsize for width, dtype in fields)


class Layout(ABC):
    """A layout is a cache whose subclass says where tokens go: `_slots`, `_release`, and `_reserve` or a `capacity`.

    It is a `KeyValueCache`, whose attributes say what a layer may ask.

    `lengths` (b,) int32 is replaced when it changes, never written into, so who holds it keeps what it was. `storage`
    holds for each stream the tensors of its codec, (n, g, size, ...).
    """

    window: int | None = None  # layouts that forget say how much a query still sees
    sinks: int = 0
    capacity: int | None = None
    storage: tuple[tuple[Tensor, ...], ...]
    block_table: Int[Tensor, "b pages"] | None = None
    in_slots: bool = True

    def __init__(self, b: int, shape: CacheShape, *, dtype, device, codec: Codec | None, impl: str):
        check_widths(b=b)
        check_impl(impl, WRITES)
        self.shape, self.dtype, self.impl = shape, dtype, impl
        self.codec: Codec = codec or Plain()
        self.lengths: Int[Tensor, " b"] = torch.zeros(b, dtype=torch.int32, device=device)
        # No sequence is longer. It is counted on the host, so that room is checked without waiting for the device.
        self._most = 0

    @property
    def device(self) -> torch.device:
        """Return where the cache lives."""
        return self.lengths.device

    @property
    def in_order(self) -> bool:
        """Return whether `view` gives position j in place j, as layouts do that forget nothing."""
        return True

    def append(self, *streams: Float[Tensor, "b g c width"], counts: Int[Tensor, " b"] | None = None) -> None:
        """Add c tokens per stream to every sequence; of row b only the first counts[b] are tokens (default: all).

        Under autocast, tokens of any dtype are brought to the cache's.

        Raises:
            ValueError: a shape, batch, dtype or device that is not the cache's, no room, or streams that ask for a
                gradient, which no cache keeps; then nothing is written.
        """
        streams, counts = self._checked(streams, counts)
        c = streams[0].shape[2]
        self._reserve(counts, most=c)
        self._most += c
        steps = torch.arange(c, device=self.device)
        positions = torch.where(steps < counts[:, None], self.lengths[:, None] + steps, -1)
        slots = self._slots(positions)
        write = form_of(self.impl, WRITES)
        for store, x in zip(self.storage, streams, strict=True):
            write(store, x, slots, codec=self.codec)
        self.lengths = self.lengths + counts

    def view(self) -> tuple[Float[Tensor, "b g s width"], ...]:
        """Return each stream as the cache holds it, token j of sequence b at `positions()[b, j]`; zeros for padding."""
        slots = self._slots(self.positions())
        read = form_of(self.impl, READS)
        return tuple(read(store, slots, codec=self.codec, dtype=self.dtype) for store in self.storage)

    def _fronts(self, size: int) -> tuple[Float[Tensor, "b g s width"], ...]:
        """Return the first `size` slots of each row, of plain storage without a copy;
        what no token stands in is undefined.
        """
        fronts = ((field[:, :, :size] for field in store) for store in self.storage)
        return tuple(self.codec.decode(*front, dtype=self.dtype) for front in fronts)

    def positions(self) -> Int[Tensor, "b s"]:
        """Return where the tokens of `view` stand in their sequences; -1 for padding."""
        steps = torch.arange(int(self.lengths.max()), device=self.device)
        return torch.where(steps < self.lengths[:, None], steps, -1)

    def truncate(self, lengths: Int[Tensor, " b"]) -> None:
        """Forget what stands at positions from lengths[b] on; 0 makes room for another sequence in row b.

        Raises:
            ValueError: a length that is negative or more than the sequence has; then nothing is forgotten.
        """
        check_key_lengths(lengths, b=len(self.lengths), s=self._most, like=self.lengths)
        if has_values(lengths) and (lengths > self.lengths).any():
            raise ValueError(f"truncate takes lengths up to {self.lengths.tolist()}, got {lengths.tolist()}")
        self._release(lengths)
        self.lengths = lengths.to(torch.int32, copy=True)

    def fork(self, rows: Sequence[int] | Int[Tensor, " n"]) -> Self:
        """Return another cache, whose sequence i is so far that of row rows[i].

        Raises:
            ValueError: no row, or one that is not there.
        """
        rows = self._checked_rows(rows)
        twin = copy.copy(self)
        twin.lengths = self.lengths[rows]
        twin.storage = tuple(tuple(field[rows] for field in store) for store in self.storage)
        return twin

    @property
    def nbytes(self) -> int:
        """Return the bytes of the storage; lengths and tables are not counted."""
        return sum(field.nbytes for store in self.storage for field in store)

    @property
    def used_nbytes(self) -> int:
        """Return the bytes of the tokens that stand."""
        return self.token_nbytes * int((self.positions() >= 0).sum())

    @property
    def token_nbytes(self) -> int:
        """Return the bytes of one token of one sequence."""
        return token_nbytes(self.shape, codec=self.codec, dtype=self.dtype)

    def _reserve(self, counts: Tensor, *, most: int) -> None:
        """Make room for the next counts[b] <= most tokens, or raise and change nothing. Here each row has its own room."""
        assert self.capacity is not None  # a layout that has none says this method itself
        if self._most + most <= self.capacity:
            return
        self._most = int(self.lengths.max())
        if int((self.lengths + counts).max()) > self.capacity:
            raise ValueError(
                f"the cache has room for {self.capacity} tokens a sequence, got lengths {self.lengths.tolist()} and "
                f"{counts.tolist()} more"
            )

    @abstractmethod
    def _slots(self, positions: Tensor) -> Tensor:
        """Return the number of the slot of each position, -1 where the position is."""

    @abstractmethod
    def _release(self, lengths: Tensor) -> None:
        """Give back what no token of the first lengths[b] needs, or raise and change nothing."""

    def _checked(self, streams, counts) -> tuple[tuple[Tensor, ...], Tensor]:
        if autocast_dtype(self.device) is not None:
            streams = tuple(x.to(self.dtype) for x in streams)
        b, shape = len(self.lengths), self.shape
        found = [tuple(x.shape) for x in streams]
        c = found[0][2] if found and len(found[0]) == 4 else 0
        if c < 1 or found != [(b, shape.n_kv_heads, c, width) for width in shape.widths]:
            raise ValueError(
                f"append takes {len(shape.widths)} streams of {b} sequences, {shape.n_kv_heads} heads, equally many tokens "
                f"and widths {shape.widths}, got shapes {found}"
            )
        for x in streams:
            if x.dtype != self.dtype or x.device != self.device:
                raise ValueError(f"the cache holds {self.dtype} on {self.device}, got {x.dtype} on {x.device}")
            if torch.is_grad_enabled() and x.requires_grad:
                raise ValueError("a cache keeps no gradients: append under torch.no_grad()")
        if counts is None:
            return streams, torch.full_like(self.lengths, c)
        check_key_lengths(counts, b=b, s=c, like=self.lengths)
        return streams, counts.to(torch.int32)

    def _checked_rows(self, rows) -> Tensor:
        rows = torch.as_tensor(rows, device=self.device)
        require(
            is_integer(rows)
            and rows.ndim == 1
            and len(rows) > 0
            and int(rows.min()) >= 0
            and int(rows.max()) < len(self.lengths),
            f"fork takes rows of 0..{len(self.lengths) - 1}, got {rows.tolist()}",
        )
        return rows
