"""Memory traffic, counted: an algorithm's accesses in their order, through a cache of a given size.

What an algorithm computes does not say what it moves. Here its accesses are written down tile by tile, as its loops make
them, and a cache that forgets the least recently used tile says which of them reach the memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from attncourse._shared.validate import check_widths, require


class Access(NamedTuple):
    """An access reads or writes a tile of a matrix as a whole."""

    matrix: str
    tile: tuple[int, ...]
    bytes: int
    write: bool = False


@dataclass
class Traffic:
    """Traffic is the bytes that crossed between the cache and the memory."""

    read: int = 0
    written: int = 0

    @property
    def total(self) -> int:
        """Return the bytes both ways."""
        return self.read + self.written


def simulate_cache(accesses: Iterable[Access], *, capacity: int) -> Traffic:
    """Return the traffic of these accesses through a cache of `capacity` bytes that drops the least recently used tile.

    A tile that is read comes from memory unless it is cached. One that is written is changed in the cache, and goes to
    memory when it is dropped, or at the end.

    Raises:
        ValueError: a tile is larger than the cache.
    """
    check_widths(capacity=capacity)
    held: OrderedDict[tuple, tuple[int, bool]] = OrderedDict()  # bytes, and whether memory has an older version
    traffic, used = Traffic(), 0
    for access in accesses:
        require(access.bytes <= capacity, f"a tile of {access.bytes} bytes does not fit a cache of {capacity}")
        name = access.matrix, access.tile
        known = held.pop(name, None)
        if known is None:
            used += access.bytes
            if not access.write:
                traffic.read += access.bytes
        held[name] = access.bytes, access.write or (known is not None and known[1])
        while used > capacity:
            _, (size, changed) = held.popitem(last=False)
            used -= size
            traffic.written += size * changed
    traffic.written += sum(size for size, changed in held.values() if changed)
    return traffic


def standard_attention_accesses(n: int, d: int, *, block: int, itemsize: int) -> Iterator[Access]:
    """Yield the accesses of attention as three calls: S = Q K^T, P = softmax(S) by rows, O = P V, each tile by tile.

    Dao et al. 2022, https://arxiv.org/abs/2205.14135, algorithm 0. n is a multiple of the block.
    """
    _check_blocks(n, d, block)
    blocks, narrow, square = range(n // block), block * d * itemsize, block * block * itemsize
    for i in blocks:
        for j in blocks:
            yield Access("Q", (i,), narrow)
            yield Access("K", (j,), narrow)
            yield Access("S", (i, j), square, write=True)
    for i in blocks:
        for j in blocks:  # the row's maximum and sum
            yield Access("S", (i, j), square)
        for j in blocks:
            yield Access("S", (i, j), square)
            yield Access("P", (i, j), square, write=True)
    for i in blocks:
        for j in blocks:
            yield Access("P", (i, j), square)
            yield Access("V", (j,), narrow)
        yield Access("O", (i,), narrow, write=True)


def flash_attention_accesses(n: int, d: int, *, block: int, itemsize: int) -> Iterator[Access]:
    """Yield the accesses of attention as one loop: a block of queries stays while keys and values pass by;
    scores are never written.

    Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithm 1. n is a multiple of the block.
    """
    _check_blocks(n, d, block)
    narrow = block * d * itemsize
    for i in range(n // block):
        for j in range(n // block):
            yield Access("Q", (i,), narrow)
            yield Access("K", (j,), narrow)
            yield Access("V", (j,), narrow)
        yield Access("O", (i,), narrow, write=True)


def largest_block(n: int, d: int, *, capacity: int, itemsize: int) -> int:
    """Return the largest power of two, at most n, whose tiles of Q, K, V, O and of scores fit the cache together.

    Raises:
        ValueError: not even blocks of 1 fit.
    """
    check_widths(n=n, d=d, capacity=capacity, itemsize=itemsize)
    fitting = [b for b in (2**i for i in range(n.bit_length())) if itemsize * (4 * b * d + b * b) <= capacity]
    require(bool(fitting), f"a cache of {capacity} bytes does not hold a row each of Q, K, V and O of width {d}")
    return fitting[-1]


def bytes_moved(algorithm: Callable[..., Iterator[Access]], n: int, d: int, *, capacity: int, itemsize: int = 2) -> int:
    """Return the traffic both ways of an algorithm with the largest tiles that fit a cache of `capacity` bytes."""
    block = largest_block(n, d, capacity=capacity, itemsize=itemsize)
    return simulate_cache(algorithm(n, d, block=block, itemsize=itemsize), capacity=capacity).total


def _check_blocks(n: int, d: int, block: int) -> None:
    check_widths(n=n, d=d, block=block)
    require(n % block == 0, f"the block must divide the length, got n={n}, block={block}")
