"""Which position may see which, as a grid of blocks of which few are live: the object that every sparse pattern is.

A block of pairs that nobody sees is not in the lists. A whole block needs no mask; a partial one carries its own. So what
a pattern costs is proportional to its live blocks, in memory as in time.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from attncourse._shared.masks import causal_mask
from attncourse._shared.validate import check_widths, require

WHOLE = -1  # in place of the index of an element mask


class BlockLists(NamedTuple):
    """The lists hold live blocks line by line:
    line i has blocks[starts[i] : starts[i + 1]], those before middles[i] whole.
    """

    starts: Int[Tensor, " lines+1"]
    middles: Int[Tensor, " lines"]
    blocks: Int[Tensor, " live"]
    mask_of: Int[Tensor, " live"]


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """A pattern says who sees whom among n positions.
    It is made by `from_rule`, `from_mask`, `from_blocks` and the named patterns.

    Attributes:
        n: how many positions; attention over fewer uses the first of them.
        block: side of a block; the last one may be cut short.
        rows: block of queries of each live block, ascending.
        columns: block of keys of each live block.
        mask_of: index into masks of each live block, or -1 where every pair of it is visible. A row's whole blocks come
            before its partial ones.
        masks: (partial, block, block), True = visible, False outside the n positions.
    """

    n: int
    block: int
    rows: Int[Tensor, " live"]
    columns: Int[Tensor, " live"]
    mask_of: Int[Tensor, " live"]
    masks: Bool[Tensor, "partial block block"]

    @property
    def n_blocks(self) -> int:
        """Return the number of blocks along a side of the grid."""
        return -(-self.n // self.block)

    @property
    def device(self) -> torch.device:
        """Return where the lists and masks are."""
        return self.columns.device

    def to(self, device) -> "BlockPattern":
        """Return the same pattern on another device."""
        moved = (x.to(device) for x in (self.rows, self.columns, self.mask_of, self.masks))
        return BlockPattern(self.n, self.block, *moved)

    @cached_property
    def causal(self) -> bool:
        """Return whether no position sees a later one."""
        if (self.columns > self.rows).any():
            return False
        diagonal = self.columns == self.rows
        later = self._elements(self.mask_of[diagonal]).triu(1)
        place = torch.arange(self.block, device=self.device)
        exists = place < self._sides(self.rows[diagonal])[:, None]
        return not (later & exists[:, None]).any()

    @cached_property
    def by_query(self) -> BlockLists:
        """Return, for each block of queries, the blocks of keys that it sees."""
        return _lists(self.rows, self.columns, self.mask_of, self.n_blocks)

    @cached_property
    def by_key(self) -> BlockLists:
        """Return, for each block of keys, the blocks of queries that see it."""
        order = torch.argsort(2 * self.columns + (self.mask_of != WHOLE), stable=True)
        return _lists(self.columns[order], self.rows[order], self.mask_of[order], self.n_blocks)

    def count(self) -> int:
        """Return how many pairs of positions see each other."""
        whole = self.mask_of == WHOLE
        areas = self._sides(self.rows[whole]) * self._sides(self.columns[whole])
        return int(areas.sum() + self.masks.sum())

    @property
    def density(self) -> float:
        """Return the share of the n * n pairs that are visible."""
        return self.count() / self.n**2

    @property
    def block_density(self) -> float:
        """Return the share of the blocks that are live: what is computed, in place of what is wanted."""
        return len(self.columns) / self.n_blocks**2

    def dense_mask(self, t: int | None = None, s: int | None = None) -> Bool[Tensor, "t s"]:
        """Return every pair as a boolean: the t queries, last of the first s positions,
        against these (default: all n by all n).

        Query i stands at position s - t + i; one that stands before position 0 sees nothing.
        """
        s = self.n if s is None else s
        t = s if t is None else t
        require(0 <= s <= self.n and t >= 0, f"the pattern has {self.n} positions, got t={t}, s={s}")
        grid = self.masks.new_zeros(self.n_blocks, self.n_blocks, self.block, self.block)
        grid[self.rows, self.columns] = self._elements(self.mask_of)
        square = rearrange(grid, "r c i j -> (r i) (c j)")[:s, :s]
        above = square.new_zeros(max(t - s, 0), s)
        return torch.cat([above, square[max(s - t, 0) :]])

    def first(self, s: int) -> "BlockPattern":
        """Return the pattern among the first s positions."""
        require(1 <= s <= self.n, f"the pattern has {self.n} positions, got s={s}")
        if s == self.n:
            return self
        inside = torch.maximum(self.rows, self.columns) * self.block < s
        rows, columns, mask_of = self.rows[inside], self.columns[inside], self.mask_of[inside]
        whole = mask_of == WHOLE
        parts = [
            (rows[whole], columns[whole], whole[whole], self.masks[:0]),
            _classify(self.masks[mask_of[~whole]], rows[~whole], columns[~whole], s),
        ]
        return _assemble(s, self.block, parts)

    def __or__(self, other: "BlockPattern") -> "BlockPattern":
        """Return the pairs visible in either."""
        return self._combine(other, torch.logical_or)

    def __and__(self, other: "BlockPattern") -> "BlockPattern":
        """Return the pairs visible in both."""
        return self._combine(other, torch.logical_and)

    def reach(self) -> Int[Tensor, "n n"]:
        """Return in [i, j] after how many layers of this pattern position i can depend on position j; -1 where never.

        A position has itself after no layer, since a layer adds to what it was given.
        """
        sees = self.dense_mask().float()
        layers = torch.full((self.n, self.n), -1, device=self.device)
        new = torch.eye(self.n, dtype=torch.bool, device=self.device)
        for depth in itertools.count():
            if not new.any():
                break
            layers[new] = depth
            new = (new.float() @ sees > 0) & (layers < 0)
        return layers

    def layers_needed(self) -> int | None:
        """Return the layers until every position can depend on every other (on every earlier one if causal);
        None where never.
        """
        layers = self.reach()
        if self.causal:
            layers = layers[causal_mask(self.n, self.n, device=self.device)]
        return None if (layers < 0).any() else int(layers.max())

    def _sides(self, blocks: Tensor) -> Tensor:
        """Return how many positions blocks of these indices hold: the last may be cut short."""
        return (self.n - blocks * self.block).clamp(max=self.block)

    def _elements(self, mask_of: Tensor) -> Bool[Tensor, "m block block"]:
        """Return the masks of live blocks, of whole ones too."""
        elements = self.masks.new_ones(len(mask_of), self.block, self.block)
        partial = mask_of != WHOLE
        elements[partial] = self.masks[mask_of[partial]]
        return elements

    def _combine(self, other: "BlockPattern", operation: Callable) -> "BlockPattern":
        require(
            isinstance(other, BlockPattern) and (self.n, self.block) == (other.n, other.block),
            f"patterns combine with patterns of as many positions and the same block, got {self} and {other}",
        )
        here, there = (x.rows * x.n_blocks + x.columns for x in (self, other))
        at = torch.cat([here, there]).unique()
        mine, theirs = self._at(at, here), other._at(at, there)
        rows, columns = at // self.n_blocks, at % self.n_blocks
        return _assemble(self.n, self.block, [_classify(operation(mine, theirs), rows, columns, self.n)])

    def _at(self, wanted: Tensor, live: Tensor) -> Bool[Tensor, "m block block"]:
        """Return the elements of the blocks at these places of the grid (ascending), of dead ones too."""
        elements = self.masks.new_zeros(len(wanted), self.block, self.block)
        elements[torch.searchsorted(wanted, live)] = self._elements(self.mask_of)
        return elements

    def __repr__(self) -> str:
        whole = int((self.mask_of == WHOLE).sum())
        return (
            f"BlockPattern(n={self.n}, block={self.block}, causal={self.causal}, {self.count()} pairs, "
            f"{whole} whole and {len(self.masks)} partial of {self.n_blocks**2} blocks)"
        )


def from_rule(
    rule: Callable[[Tensor, Tensor], Tensor], n: int, *, causal: bool = False, block: int = 64
) -> BlockPattern:
    """Return the pattern in which position i sees position j where rule(i, j) is True.

    Args:
        n: positions.
        block: side of a block.
        rule: from queries (rows, 1) and keys (columns,), integers, to booleans that broadcast to (rows, columns).
        causal: nobody sees what comes later, whatever the rule says.

    Raises:
        ValueError: n or block is below 1; the rule gives no booleans.
    """
    check_widths(n=n, block=block)
    parts = []
    for row, top in enumerate(range(0, n, block)):
        bottom = min(top + block, n)
        end = bottom if causal else n
        i, j = torch.arange(top, bottom)[:, None], torch.arange(end)
        visible = rule(i, j)
        require(
            isinstance(visible, Tensor) and visible.dtype == torch.bool,
            f"a rule gives booleans, got {getattr(visible, 'dtype', type(visible))}",
        )
        count = -(-end // block)
        strip = torch.zeros(block, count * block, dtype=torch.bool)
        strip[: bottom - top, :end] = visible & (j <= i) if causal else visible
        elements = rearrange(strip, "i (c j) -> c i j", j=block)
        parts.append(_classify(elements, torch.full((count,), row), torch.arange(count), n))
    return _assemble(n, block, parts)


def from_mask(mask: Bool[Tensor, "t s"], *, block: int = 64) -> BlockPattern:
    """Return the pattern of a dense mask, True = visible, whose t rows are the last of s positions.

    Args:
        block: side of a block.

    Raises:
        ValueError: the mask is not boolean and (t, s) with 1 <= t <= s.
    """
    fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 2
    require(
        fits and 1 <= mask.shape[0] <= mask.shape[1],
        "mask must be boolean and (t, s) with 1 <= t <= s, "
        f"got {getattr(mask, 'dtype', type(mask))} {tuple(getattr(mask, 'shape', ()))}",
    )
    t, s = mask.shape
    square = torch.cat([mask.new_zeros(s - t, s), mask]).cpu()
    return from_rule(lambda i, j: square[i, j], s, block=block).to(mask.device)


def from_blocks(live: Bool[Tensor, "blocks blocks"], n: int, *, causal: bool = False, block: int = 64) -> BlockPattern:
    """Return the pattern of n positions that sees whole blocks, where `live` is True; if causal, their past half.

    Args:
        block: side of a block.

    Raises:
        ValueError: the grid is not the square of n / block, rounded up.
    """
    check_widths(n=n, block=block)
    n_blocks = -(-n // block)
    require(
        live.shape == (n_blocks, n_blocks) and live.dtype == torch.bool,
        f"{n} positions in blocks of {block} need booleans ({n_blocks}, {n_blocks}), got {live.dtype} {tuple(live.shape)}",
    )
    rows, columns = (live.tril() if causal else live).nonzero().T
    cut = (rows == columns) if causal else torch.zeros_like(rows, dtype=torch.bool)
    past = torch.ones(block, block, dtype=torch.bool, device=live.device).tril()
    diagonal = past.expand(int(cut.sum()), block, block)
    parts = [
        (rows[~cut], columns[~cut], ~cut[~cut], past[None][:0]),
        _classify(diagonal, rows[cut], columns[cut], n),
    ]
    return _assemble(n, block, parts)


def _classify(elements, rows, columns, n):
    """Return the live ones of candidate blocks: their rows and columns, which are whole, and the masks of the others."""
    block = elements.shape[-1]
    heights, widths = ((n - block * x).clamp(max=block) for x in (rows, columns))
    place = torch.arange(block, device=elements.device)
    inside = (place < heights[:, None])[:, :, None] & (place < widths[:, None])[:, None, :]
    elements = elements & inside
    counts = elements.sum(dim=(1, 2))
    live, whole = counts > 0, counts == heights * widths
    return rows[live], columns[live], whole[live], elements[live & ~whole]


def _assemble(n, block, parts) -> BlockPattern:
    """Return one pattern of the parts' live blocks: by rows, whole ones first."""
    rows, columns, whole, masks = (torch.cat(x) for x in zip(*parts, strict=True))
    mask_of = torch.where(whole, WHOLE, (~whole).cumsum(0) - 1)
    n_blocks = -(-n // block)
    order = torch.argsort((2 * rows + ~whole) * n_blocks + columns)
    return BlockPattern(n, block, rows[order], columns[order], mask_of[order], masks)


def _lists(lines, blocks, mask_of, n_lines) -> BlockLists:
    edges = torch.arange(n_lines + 1, device=lines.device)
    starts = torch.searchsorted(lines, edges)
    whole = torch.zeros_like(starts[1:]).index_add(0, lines, (mask_of == WHOLE).to(starts.dtype))
    narrow = (x.int() for x in (starts, starts[:-1] + whole, blocks, mask_of))
    return BlockLists(*narrow)
