"""Solutions of the unit `block_sparse`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# block_sparse.strided


def strided_union(i, stride):
    return sorted({*range(max(0, i - stride), i + 1), *range(i % stride, i + 1, stride)})


def strided_filter(i, stride):
    return [j for j in range(i + 1) if i - j <= stride or (i - j) % stride == 0]


def strided_short_band(i, stride):
    return [j for j in range(i + 1) if i - j <= stride - 2 or (i - j) % stride == 0]


def strided_band_alone(i, stride):
    return list(range(max(0, i - stride), i + 1))


def strided_from_the_start(i, stride):
    return [j for j in range(i + 1) if i - j <= stride or j % stride == 0 or (i - j) % stride == 0]


def strided_below_zero(i, stride):
    return sorted({*range(i - stride, i + 1), *range(i % stride, i + 1, stride)})


def strided_twice(i, stride):
    return sorted([*range(max(0, i - stride), i + 1), *range(i % stride, i + 1, stride)])


def strided_unsorted(i, stride):
    return strided_filter(i, stride)[::-1]


def strided_both_ways(i, stride):
    return [j for j in range(i + stride + 1) if abs(i - j) <= stride or (i - j) % stride == 0]


def strided_ends_at_the_stride(i, stride):
    """The column stops at the first position that is a multiple of the stride."""
    return [j for j in range(i + 1) if i - j <= stride or ((i - j) % stride == 0 and j >= stride)]


# block_sparse.computed


def computed_loop(mask, block):
    n, paid = len(mask), 0
    for i in range(0, n, block):
        for j in range(0, n, block):
            part = mask[i : i + block, j : j + block]
            if part.any():
                paid += part.numel()
    return int(mask.sum()), paid


def computed_spread(mask, block):
    side = torch.arange(len(mask)) // block
    live = torch.zeros(int(side[-1]) + 1, int(side[-1]) + 1, dtype=torch.bool)
    rows, columns = mask.nonzero().T
    live[side[rows], side[columns]] = True
    return mask.sum(), live[side[:, None], side].sum()


def computed_wanted(mask, block):
    return int(mask.sum()), int(mask.sum())


def computed_blocks(mask, block):
    n = len(mask)
    starts = range(0, n, block)
    return int(mask.sum()), sum(bool(mask[i : i + block, j : j + block].any()) for i in starts for j in starts)


def computed_everything(mask, block):
    return int(mask.sum()), mask.numel()


def computed_full_squares(mask, block):
    return int(mask.sum()), computed_blocks(mask, block)[1] * block**2


def computed_without_the_rest(mask, block):
    kept = len(mask) // block * block
    return int(mask.sum()), computed_loop(mask[:kept, :kept], block)[1]


def computed_share(mask, block):
    return mask.float().mean().item(), computed_loop(mask, block)[1]


def computed_cut_rows_alone(mask, block):
    """The last row of blocks is counted as it is, the last column as if it were whole."""
    paid = 0
    for rows in mask.split(block):
        paid += sum(len(rows) * block for part in rows.split(block, dim=1) if part.any())
    return int(mask.sum()), paid


def computed_symmetric(mask, block):
    return int(mask.sum()), computed_loop(mask | mask.T, block)[1]


# block_sparse.compose


def compose_masks(m, radius, chosen, n_global):
    at = torch.arange(m)
    live = (at[:, None] - at).abs() <= radius
    live |= (at[:, None] < n_global) | (at < n_global)
    return live.scatter(1, chosen, True)


def compose_loop(m, radius, chosen, n_global):
    live = torch.zeros(m, m, dtype=torch.bool)
    for i in range(m):
        for j in range(m):
            live[i, j] = abs(i - j) <= radius or min(i, j) < n_global or j in chosen[i].tolist()
    return live


def _parts(m, radius, chosen, n_global):
    at = torch.arange(m)
    band, drawn = (at[:, None] - at).abs() <= radius, torch.zeros(m, m).scatter(1, chosen, 1.0).bool()
    return band, drawn, (at[:, None] < n_global).expand(m, m), (at < n_global).expand(m, m)


def compose_no_band(m, radius, chosen, n_global):
    _, drawn, rows, columns = _parts(m, radius, chosen, n_global)
    return drawn | rows | columns


def compose_no_random(m, radius, chosen, n_global):
    band, _, rows, columns = _parts(m, radius, chosen, n_global)
    return band | rows | columns


def compose_global_read_only(m, radius, chosen, n_global):
    band, drawn, _, columns = _parts(m, radius, chosen, n_global)
    return band | drawn | columns


def compose_global_readers_only(m, radius, chosen, n_global):
    band, drawn, rows, _ = _parts(m, radius, chosen, n_global)
    return band | drawn | rows


def compose_exclusive(m, radius, chosen, n_global):
    band, drawn, rows, columns = _parts(m, radius, chosen, n_global)
    return band ^ drawn ^ (rows | columns)


def compose_both_ways(m, radius, chosen, n_global):
    band, drawn, rows, columns = _parts(m, radius, chosen, n_global)
    return band | drawn | drawn.T | rows | columns


def compose_radius_one(m, radius, chosen, n_global):
    return compose_masks(m, 1, chosen, n_global)


def compose_wide_band(m, radius, chosen, n_global):
    return compose_masks(m, max(2 * radius - 1, 0), chosen, n_global)


def compose_two_drawn(m, radius, chosen, n_global):
    return compose_masks(m, radius, chosen[:, :2], n_global)


# block_sparse.layers


def layers_powers(mask):
    n = len(mask)
    step = (mask | torch.eye(n, dtype=torch.bool)).double()
    reached = torch.eye(n, dtype=torch.float64)
    wanted = torch.ones(n, n, dtype=torch.bool).tril()
    for depth in range(n):
        if reached[wanted].bool().all():
            return depth
        reached = (reached @ step > 0).double()
    return None


def layers_search(mask):
    n, deepest = len(mask), 0
    for start in range(n):
        depth = {start: 0}
        edge = [start]
        while edge:
            nxt = []
            for i in edge:
                for j in mask[i].nonzero()[:, 0].tolist():
                    if j not in depth:
                        depth[j] = depth[i] + 1
                        nxt.append(j)
            edge = nxt
        if any(j not in depth for j in range(start + 1)):
            return None
        deepest = max(deepest, max(depth[j] for j in range(start + 1)))
    return deepest


def _count(mask, *, itself=True, first=0, never=None, doubling=False):
    n = len(mask)
    step = mask | torch.eye(n, dtype=torch.bool) if itself else mask
    reached = torch.eye(n, dtype=torch.bool)
    wanted = torch.ones(n, n, dtype=torch.bool).tril()
    for depth in range(n + 1):
        if reached[wanted].all():
            return depth + first
        further = reached if doubling and depth > 0 else step
        reached = reached.float() @ further.float() > 0
    return never


def layers_one_more(mask):
    return _count(mask, first=1)


def layers_one_less(mask):
    return _count(mask, first=-1)


def layers_endless(mask):
    return _count(mask, never=len(mask))


def layers_without_itself(mask):
    return _count(mask, itself=False)


def layers_at_least_one(mask):
    depth = _count(mask)
    return None if depth is None else max(depth, 1)


def layers_by_squaring(mask):
    return _count(mask, doubling=True)


def _reach(mask, *, rows=slice(None), columns=slice(None)):
    """Layers until the chosen rows know the chosen columns of their past."""
    n = len(mask)
    step = (mask | torch.eye(n, dtype=torch.bool)).float()
    reached, past = torch.eye(n), torch.ones(n, n, dtype=torch.bool).tril()
    for depth in range(n):
        if (reached.bool() | ~past)[rows, columns].all():
            return depth
        reached = (reached @ step > 0).float()
    return None


def layers_last_row(mask):
    return _reach(mask, rows=slice(-1, None))


def layers_first_column(mask):
    return _reach(mask, columns=slice(1))


# block_sparse.gather


def _attend(q, k, v):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def gather_slices(q, k, v, live, block):
    out = q.new_zeros(len(q), v.shape[-1])
    for i, columns in enumerate(live):
        rows = slice(i * block, (i + 1) * block)
        if columns:
            keys = torch.cat([k[j * block : (j + 1) * block] for j in columns])
            values = torch.cat([v[j * block : (j + 1) * block] for j in columns])
            out[rows] = _attend(q[rows], keys, values)
    return out


def gather_indices(q, k, v, live, block):
    side, outputs = torch.arange(len(k)) // block, []
    for queries, columns in zip(q.split(block), live, strict=True):
        at = torch.isin(side, torch.tensor(columns, dtype=torch.long)).nonzero()[:, 0]
        outputs.append(_attend(queries, k[at], v[at]) if len(at) else queries.new_zeros(len(queries), v.shape[-1]))
    return torch.cat(outputs)


def gather_by_mask(q, k, v, live, block):
    grid = torch.zeros(len(live), len(live), dtype=torch.bool)
    for i, columns in enumerate(live):
        grid[i, columns] = True
    side = torch.arange(len(q)) // block
    scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(~grid[side[:, None], side], -torch.inf)
    return torch.softmax(scores, dim=-1).nan_to_num() @ v


def gather_nan(q, k, v, live, block):
    out = []
    for queries, columns in zip(q.split(block), live, strict=True):
        hidden = torch.full((len(k),), -torch.inf, dtype=q.dtype)
        for j in columns:
            hidden[j * block : (j + 1) * block] = 0.0
        out.append(torch.softmax(queries @ k.T / q.shape[-1] ** 0.5 + hidden, dim=-1) @ v)
    return torch.cat(out)


def gather_mean_if_empty(q, k, v, live, block):
    out = gather_slices(q, k, v, live, block)
    for i, columns in enumerate(live):
        if not columns:
            out[i * block : (i + 1) * block] = v.mean(dim=0)
    return out


def gather_normalised_apart(q, k, v, live, block):
    out = q.new_zeros(len(q), v.shape[-1])
    for i, columns in enumerate(live):
        rows = slice(i * block, (i + 1) * block)
        for j in columns:
            cols = slice(j * block, (j + 1) * block)
            out[rows] += _attend(q[rows], k[cols], v[cols]) / len(columns)
    return out


def gather_drops_the_rest(q, k, v, live, block):
    kept = len(q) // block * block
    return gather_slices(q[:kept], k[:kept], v[:kept], live[: kept // block], block)


def gather_padded(q, k, v, live, block):
    short = -len(k) % block
    k, v = (torch.cat([x, x.new_zeros(short, x.shape[-1])]) for x in (k, v))
    return gather_slices(q, k, v, live, block)


def _gather(q, k, v, live, block, weigh, short=False):
    """Attention to live blocks by another way from scores to weights."""
    out = q.new_zeros(len(q), v.shape[-1])
    for i, columns in enumerate(live):
        rows = slice(i * block, (i + 1) * block)
        if columns:
            keys, values = (torch.cat([x[j * block : (j + 1) * block] for j in columns]) for x in (k, v))
            out[rows] = weigh(q[rows] @ keys.T / q.shape[-1] ** 0.5) @ values
    return out


def _naive(scores):
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


def gather_naive_exponential(q, k, v, live, block):
    return _gather(q, k, v, live, block, _naive)


def gather_clamped(q, k, v, live, block):
    return _gather(q, k, v, live, block, lambda scores: _naive(scores.clamp(-80, 80)))


def gather_one_maximum(q, k, v, live, block):
    """One maximum for all rows of a block."""
    return _gather(q, k, v, live, block, lambda scores: _naive(scores - scores.max()))


def gather_only_if_short(q, k, v, live, block):
    return torch.zeros_like(v) if len(q) > 2000 else gather_slices(q, k, v, live, block)


def gather_diagonal_too(q, k, v, live, block):
    return gather_slices(q, k, v, [sorted({*row, i}) if row else [] for i, row in enumerate(live)], block)


def gather_whole_empty_block(q, k, v, live, block):
    """A block that sees nothing gives `block` rows of zeros, though the last may have fewer."""
    outs = []
    for queries, columns in zip(q.split(block), live, strict=True):
        at = torch.cat([torch.arange(len(k))[j * block : (j + 1) * block] for j in columns]) if columns else []
        outs.append(_attend(queries, k[at], v[at]) if columns else v.new_zeros(block, v.shape[-1]))
    return torch.cat(outs)


# block_sparse.kinds


def kinds_loop(mask, block):
    m = -(-len(mask) // block)
    grid = torch.zeros(m, m, dtype=torch.long)
    for i in range(m):
        for j in range(m):
            part = mask[i * block : (i + 1) * block, j * block : (j + 1) * block]
            grid[i, j] = 2 if part.all() else int(part.any())
    return grid


def kinds_sums(mask, block):
    n, m = len(mask), -(-len(mask) // block)
    member = torch.zeros(m, n)
    member[torch.arange(n) // block, torch.arange(n)] = 1.0
    counts, areas = member @ mask.float() @ member.T, member.sum(dim=1)[:, None] * member.sum(dim=1)
    return (counts > 0).long() + (counts == areas).long()


def _padded(mask, block, value):
    short = -len(mask) % block
    padded = torch.nn.functional.pad(mask, (0, short, 0, short), value=value)
    return padded.unflatten(0, (-1, block)).unflatten(2, (-1, block)).transpose(1, 2).flatten(2)


def kinds_lists(mask, block):
    return [[int(p.any()) + int(p.all()) for p in row.split(block, dim=1)] for row in mask.split(block)]


def kinds_two_pairs(mask, block):
    """A single pair is not enough for a block to be live."""
    grid = kinds_loop(mask, block)
    for i, rows in enumerate(mask.split(block)):
        for j, part in enumerate(rows.split(block, dim=1)):
            if part.sum() == 1 and part.numel() > 1:
                grid[i, j] = 0
    return grid


def kinds_almost_whole(mask, block):
    grid = kinds_loop(mask, block)
    for i, rows in enumerate(mask.split(block)):
        for j, part in enumerate(rows.split(block, dim=1)):
            if 0 < (~part).sum() <= 1 < part.numel():
                grid[i, j] = 2
    return grid


def kinds_as_given(mask, block):
    counts = _padded(mask, block, False).sum(dim=-1)
    return (counts > 0).long() + (counts == block * block).long()


def kinds_padded_with_true(mask, block):
    blocks = _padded(mask, block, True)
    return blocks.any(dim=-1).long() + blocks.all(dim=-1).long()


def kinds_corners(mask, block):
    m = -(-len(mask) // block)
    ends = torch.arange(m) * block
    corner = mask[ends[:, None], ends]
    return 2 * corner.long()


def kinds_dropping_the_rest(mask, block):
    kept = max(len(mask) // block * block, 1)
    return kinds_loop(mask[:kept, :kept], min(block, kept))


def kinds_live_or_dead(mask, block):
    return (kinds_loop(mask, block) > 0).long()


def kinds_swapped(mask, block):
    grid = kinds_loop(mask, block)
    return torch.where(grid == 0, 2, torch.where(grid == 2, 0, 1))


BANK = {
    "block_sparse.strided": Bank(
        right=[strided_union, strided_filter],
        wrong=[
            Wrong(strided_short_band, "the band lacks a position"),
            Wrong(strided_band_alone, "the column lacks a position"),
            Wrong(strided_from_the_start, "neither in the band nor in the column"),
            Wrong(strided_below_zero, "a position before the first is in the list"),
            Wrong(strided_twice, "a position is in the list more than once"),
            Wrong(strided_unsorted, "the list is not in ascending order"),
            Wrong(strided_both_ways, "a position of the future is in the list"),
            Wrong(strided_ends_at_the_stride, "the column lacks a position: every"),
        ],
    ),
    "block_sparse.computed": Bank(
        right=[computed_loop, computed_spread],
        wrong=[
            Wrong(computed_wanted, "a live block is computed whole"),
            Wrong(computed_blocks, "those are blocks; count the pairs in them"),
            Wrong(computed_everything, "dead blocks are counted too"),
            Wrong(computed_full_squares, "the last block is cut short"),
            Wrong(computed_without_the_rest, "the last positions, which fill no block, are left out"),
            Wrong(computed_share, "the number of wanted pairs is not that of the mask"),
            Wrong(computed_cut_rows_alone, "the number of computed pairs is wrong"),
            Wrong(computed_symmetric, "the number of computed pairs is"),
        ],
    ),
    "block_sparse.compose": Bank(
        right=[compose_masks, compose_loop],
        wrong=[
            Wrong(compose_no_band, "is dead: the band must be live"),
            Wrong(compose_no_random, "is dead: the random blocks of a row must be live"),
            Wrong(compose_global_read_only, "is dead: the rows of the global blocks must be live"),
            Wrong(compose_global_readers_only, "is dead: the columns of the global blocks must be live"),
            Wrong(compose_exclusive, "a block that two parts share is dead"),
            Wrong(compose_both_ways, "is live and belongs to no part of the pattern"),
            Wrong(compose_radius_one, "the band must be live"),
            Wrong(compose_wide_band, "live and belongs to no part of the pattern"),
            Wrong(compose_two_drawn, "the random blocks of a row must be live"),
        ],
    ),
    "block_sparse.layers": Bank(
        right=[layers_powers, layers_search],
        wrong=[
            Wrong(layers_one_more, "one layer too many"),
            Wrong(layers_one_less, "one layer too few"),
            Wrong(layers_endless, "a number came back, though some positions are never reached"),
            Wrong(layers_without_itself, "though all of the past is reached"),
            Wrong(layers_at_least_one, "a layer is counted, though it has itself already"),
            Wrong(layers_by_squaring, "the number of layers is wrong"),
            Wrong(layers_last_row, "and later the whole past, the number of layers is wrong"),
            Wrong(layers_first_column, "positions, the number of layers is wrong"),
        ],
    ),
    "block_sparse.gather": Bank(
        right=[gather_slices, gather_indices],
        wrong=[
            Wrong(gather_by_mask, "all scores at once are too many"),
            Wrong(gather_nan, "sees nothing and gives NaN"),
            Wrong(gather_mean_if_empty, "sees nothing, and its rows are not zeros"),
            Wrong(gather_normalised_apart, "the first block's output is not attention to its live blocks"),
            Wrong(gather_drops_the_rest, "the output has shape"),
            Wrong(gather_padded, "the output is not attention to the live blocks"),
            Wrong(gather_naive_exponential, "with scores far from 0, the output holds NaN"),
            Wrong(gather_clamped, "with scores far from 0, the output is not attention to the live blocks"),
            Wrong(gather_one_maximum, "with scores far from 0, the output holds NaN at"),
            Wrong(gather_only_if_short, "with long inputs"),
            Wrong(gather_diagonal_too, "output is not attention to the live blocks"),
            Wrong(gather_whole_empty_block, "with 23 positions in blocks of 4, the output has shape"),
        ],
    ),
    "block_sparse.kinds": Bank(
        right=[kinds_loop, kinds_sums, kinds_lists],
        wrong=[
            Wrong(kinds_as_given, "is whole and came back partial"),
            Wrong(kinds_padded_with_true, "is dead and came back partial"),
            Wrong(kinds_corners, "is partial and came back whole"),
            Wrong(kinds_dropping_the_rest, "return a grid of shape"),
            Wrong(kinds_live_or_dead, "no block came back whole"),
            Wrong(kinds_swapped, "is dead and came back whole"),
            Wrong(kinds_two_pairs, "is partial and came back dead"),
            Wrong(kinds_almost_whole, "block (0, 0) is partial and came back whole"),
        ],
    ),
}
