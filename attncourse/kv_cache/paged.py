"""The paged layout: room in pages of a few tokens, taken when a sequence grows into them and shared while it can be.

Kwon et al. 2023, PagedAttention, https://arxiv.org/abs/2309.06180, sections 4.2 (the block table) and 4.4 (sharing, and
the copy when one of the sharers writes).
"""

import copy
from collections import Counter
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from attncourse._shared.cache import CacheShape
from attncourse._shared.validate import check_widths, require

from .codec import Codec, Plain
from .layout import Layout, empty_store
from .slots import page_slots


def pages_for(tokens: int, page_size: int) -> int:
    """Return how many pages of page_size tokens so many tokens fill, the last one perhaps in part."""
    return -(-tokens // page_size)


class PagePool:
    """A pool holds n_pages pages, each of page_size tokens of one layer, for all the caches that are built on it.

    `storage` holds for each stream the tensors of its codec, (n_pages, g, page_size, ...); `holders[i]` says in how
    many places of block tables page i stands; a page that stands in none is on the free list.

    Args:
        n_pages: all there will ever be.
        shape: what the layer keeps of a token.
        page_size: tokens of a page.
        dtype, device: of what is appended and viewed.
        codec: how vectors are stored (default: `Plain()`).
    """

    def __init__(
        self,
        n_pages: int,
        shape: CacheShape,
        *,
        page_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        codec: Codec | None = None,
    ):
        check_widths(n_pages=n_pages, page_size=page_size)
        self.n_pages, self.shape, self.page_size, self.dtype = n_pages, shape, page_size, dtype
        self.codec: Codec = codec or Plain()
        self.storage = empty_store(n_pages, page_size, shape, codec=self.codec, dtype=dtype, device=device)
        self.holders = [0] * n_pages
        self._free = list(range(n_pages))[::-1]

    @property
    def n_free(self) -> int:
        """Return how many pages stand in no table."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all pages, free ones too."""
        return sum(field.nbytes for store in self.storage for field in store)

    def take(self) -> int:
        """Return a free page, now held once.

        Raises:
            ValueError: there is none.
        """
        require(bool(self._free), f"all {self.n_pages} pages of the pool are in use")
        page = self._free.pop()
        self.holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """Count one holder more of a page.

        Raises:
            ValueError: no such page, or a free one.
        """
        self._check_held(page)
        self.holders[page] += 1

    def release(self, page: int) -> None:
        """Count one holder less of a page; without any it is free again.

        Raises:
            ValueError: no such page, or a free one.
        """
        self._check_held(page)
        self.holders[page] -= 1
        if self.holders[page] == 0:
            self._free.append(page)

    def own(self, page: int) -> int:
        """Return a page with this content and a single holder: the page itself, or a copy if others hold it too.

        Raises:
            ValueError: no such page, a free one, or no page left for the copy.
        """
        self._check_held(page)
        if self.holders[page] == 1:
            return page
        twin = self.take()
        for store in self.storage:
            for field in store:
                field[twin] = field[page]
        self.release(page)
        return twin

    def _check_held(self, page: int) -> None:
        require(0 <= page < self.n_pages, f"pages are numbered 0..{self.n_pages - 1}, got page {page}")
        require(self.holders[page] > 0, f"page {page} is free")


class PagedCache(Layout):
    """The cache keeps sequences in pages of a pool: position p of row b stands in page block_table[b, p // page_size].

    `block_table` (b, max_pages) int32 is -1 where a row has no page. A fork holds the same pages; who writes into a
    page that others hold too, writes into a copy.

    Args:
        b: sequences.
        pool: where pages come from, and go back to.
        max_pages: pages of the longest sequence (default: the whole pool).
        impl: how tokens are written and gathered, "torch" or "triton" (kernels; interpreted without a GPU).
    """

    block_table: Tensor
    capacity: int

    def __init__(self, b: int, pool: PagePool, *, max_pages: int | None = None, impl: str = "torch"):
        device = pool.storage[0][0].device
        self._pages: list[list[int]] | None = [[] for _ in range(b)]
        super().__init__(b, pool.shape, dtype=pool.dtype, device=device, codec=pool.codec, impl=impl)
        max_pages = pool.n_pages if max_pages is None else max_pages
        check_widths(max_pages=max_pages)
        self.pool, self.max_pages = pool, max_pages
        self.block_table = torch.full((b, max_pages), -1, dtype=torch.int32, device=device)
        # The longest sequence that the table has room for; whether the pool has the pages shows when they are taken.
        self.capacity = max_pages * pool.page_size
        self.storage = pool.storage

    @property
    def cache_seqlens(self) -> Int[Tensor, " b"]:
        """Return `lengths`, by the name that kernels over pages give it."""
        return self.lengths

    def fork(self, rows) -> Self:
        """Return another cache, whose sequence i is so far that of row rows[i], without a copy: the pages are shared."""
        rows = self._checked_rows(rows)
        twin = copy.copy(self)
        twin.lengths, twin.block_table = self.lengths[rows], self.block_table[rows]
        twin._pages = [list(self._held_pages()[row]) for row in rows.tolist()]
        for pages in twin._held_pages():
            for page in pages:
                self.pool.share(page)
        return twin

    def free(self) -> None:
        """Give all pages back; after that every call raises ValueError."""
        self.truncate(torch.zeros_like(self.lengths))
        self._pages = None

    @property
    def lengths(self) -> Int[Tensor, " b"]:
        """Return how many tokens of each sequence went in;
        every method asks, so that none works on a cache that was freed.
        """
        self._held_pages()
        return self._lengths

    @lengths.setter
    def lengths(self, lengths):
        self._lengths = lengths

    @property
    def nbytes(self) -> int:
        """Return the bytes of the pages that stand in the table, each counted once; the table itself is not counted."""
        pages = self._held_pages()
        page_nbytes = self.pool.nbytes // self.pool.n_pages
        return page_nbytes * len({page for row in pages for page in row})

    @property
    def used_nbytes(self) -> int:
        """Return the bytes of the tokens that stand, those of a shared page counted once."""
        size = self.pool.page_size
        filled: dict[int, int] = {}
        for pages, length in zip(self._held_pages(), self.lengths.tolist(), strict=True):
            for i, page in enumerate(pages):
                filled[page] = max(filled.get(page, 0), min(size, length - i * size))
        return self.token_nbytes * sum(filled.values())

    def _reserve(self, counts: Tensor, *, most: int) -> None:
        pool, size, more, lengths = self.pool, self.pool.page_size, counts.tolist(), self.lengths.tolist()
        needed = [pages_for(length + count, size) for length, count in zip(lengths, more, strict=True)]
        require(
            max(needed) <= self.max_pages,
            f"a row of the block table has {self.max_pages} pages of {size} tokens, got lengths {lengths} and {more} more",
        )
        fresh = [n - len(pages) for n, pages in zip(needed, self._held_pages(), strict=True)]
        # Only a last page that is not full is written again; of its holders all that write copy it, but the last one.
        opened = [count > 0 and length % size > 0 for length, count in zip(lengths, more, strict=True)]
        writers = Counter(pages[-1] for pages, again in zip(self._held_pages(), opened, strict=True) if again)
        copies = sum(min(n, pool.holders[page] - 1) for page, n in writers.items())
        require(
            sum(fresh) + copies <= pool.n_free,
            f"{sum(fresh)} new pages and {copies} copies of shared ones are needed, and of the pool's {pool.n_pages} "
            f"pages {pool.n_free} are free",
        )
        for row, pages in enumerate(self._held_pages()):
            if opened[row]:
                pages[-1] = pool.own(pages[-1])
            pages.extend(pool.take() for _ in range(fresh[row]))
            if opened[row] or fresh[row]:
                self.block_table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)

    def _slots(self, positions: Tensor) -> Tensor:
        return page_slots(self.block_table, positions, page_size=self.pool.page_size)

    def _release(self, lengths: Tensor) -> None:
        for row, (pages, length) in enumerate(zip(self._held_pages(), lengths.tolist(), strict=True)):
            kept = pages_for(length, self.pool.page_size)
            for page in pages[kept:]:
                self.pool.release(page)
            del pages[kept:]
            self.block_table[row, kept:] = -1

    def _held_pages(self) -> list[list[int]]:
        """Return the pages of each row; of a cache that was freed none are its own."""
        if self._pages is None:
            raise ValueError("this cache was freed, and its pages are others' now: build a new one")
        return self._pages
