"""Checks of the unit `block_sparse`: sets, blocks that are computed, composition, reach, and gathering."""

import torch

from attncourse.block_sparse import block_sparse_attention, block_sparse_attention_blocked, from_blocks, from_mask

from ..core import READY_MADE_ATTENTION, Broken, exercise_check, exercise_unit
from ..draw import hard_scores, integer, normal, unlike_sizes
from ..expect import expect, expect_close, expect_memory, expect_no_mistake, expect_number, expect_tensor, place
from ..picture import Picture

exercise_unit(
    "block_sparse",
    title="Sparse patterns",
    chapter="block_sparse",
    minutes=80,
    prerequisites=("self_cross_causal",),
)


def _strided_sets(n, stride):
    return [sorted({*range(max(0, i - stride), i + 1), *range(i % stride, i + 1, stride)}) for i in range(n)]


def _as_mask(sets, n):
    mask = torch.zeros(len(sets), n, dtype=torch.bool)
    for i, positions in enumerate(sets):
        mask[i, positions] = True
    return mask


@exercise_check(
    "block_sparse.strided",
    function="strided_set",
    difficulty="easy",
    importance="core",
    points=2,
    section="strided-fixed-dilated-and-random-patterns",
)
def strided(learner, rng):
    """Write the strided pattern as the sorted list of the positions that one query sees."""
    n = integer(rng, 20, 26)
    for stride in (4, 5, 7, 1, 2, integer(rng, 8, 12), n + 3):
        at = list(range(n)) if stride < 7 else [0, 1, stride - 1, stride, *(integer(rng, 30, 90) for _ in range(4))]
        got = [_integers(learner(i, stride), f"for position {i} and stride {stride}") for i in at]
        for i, positions in zip(at, got, strict=True):
            case = f"for position {i} and stride {stride}"
            expect(all(j >= 0 for j in positions), f"{case}, a position before the first is in the list")
            expect(all(j <= i for j in positions), f"{case}, a position of the future is in the list")
            expect(len(set(positions)) == len(positions), f"{case}, a position is in the list more than once")
            expect(positions == sorted(positions), f"{case}, the list is not in ascending order")
        length = max(at) + 1
        wanted = _strided_sets(length, stride)
        seen, allowed = _as_mask(got, length), _as_mask([wanted[i] for i in at], length)
        picture, rows, back = Picture(seen, allowed), torch.tensor(at)[:, None], torch.arange(length)
        band = (rows - back >= 0) & (rows - back <= stride)
        for wrong, part, message in (
            (allowed & ~seen, band, "the band lacks a position: it reaches back by the stride, both ends included"),
            (allowed & ~seen, ~band, "the column lacks a position: every stride-th, counted from the query"),
            (seen & ~allowed, ~band, "a position is in the list that is neither in the band nor in the column"),
        ):
            if (wrong & part).any():
                raise Broken(f"for position {at[place(wrong & part)[0]]} and stride {stride}, {message}", picture)


def _integers(positions, case):
    """Return the list that came back, of plain integers."""
    fits = isinstance(positions, list | tuple)
    if fits:
        positions = [j.item() if isinstance(j, torch.Tensor) and j.numel() == 1 else j for j in positions]
    expect(fits and all(type(j) is int for j in positions), f"{case}, return a list of integers")
    return positions


@exercise_check(
    "block_sparse.computed",
    function="pairs",
    difficulty="medium",
    importance="core",
    points=2,
    section="block-sparsity-whole-partial-and-dead-blocks",
)
def computed(learner, rng):
    """Predict what a pattern costs: pairs that are wanted, and pairs that its live blocks compute."""
    for n, block in ((24, 4), (23, 5), (13, 8), (7, 16), *_cuts(rng)):
        alive = [(0, 1), (n - 1, n - 1)], [(0, n - 1)], [(n - 1, 0)], []
        for pairs in alive:
            mask = torch.rand(n, n, generator=rng) < 0.06 * bool(pairs)
            for i, j in pairs:
                mask[i, j] = True
            _expect_counts(learner, mask, n, block)


def _cuts(rng):
    """Return (n, block): nothing left over, little, much, blocks of one position, one block, and one larger than all."""
    side, many = integer(rng, 5, 9), integer(rng, 2, 4)
    return ((many * side, side), (many * side + 1, side), (many * side - 1, side), (side, 1), (side, side), (3, side))


def _expect_counts(learner, mask, n, block):
    got = learner(mask, block)
    expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: pairs wanted, then pairs computed")
    wanted, paid = (expect_number(x) for x in got)
    expect(wanted == int(mask.sum()), f"for {n} positions the number of wanted pairs is not that of the mask")
    pattern = from_mask(mask, block=block)
    case = f"for {n} positions in blocks of {block}"
    sides = (n - torch.arange(pattern.n_blocks) * block).clamp(max=block)
    truth = int((sides[pattern.rows] * sides[pattern.columns]).sum())
    kept = n // block * block
    inner = from_mask(mask[:kept, :kept], block=block) if kept else None
    mistakes = {
        "a live block is computed whole, not only its wanted pairs": wanted,
        "those are blocks; count the pairs in them": len(pattern.rows),
        "dead blocks are counted too, and nobody computes them": n * n,
        "the last block is cut short, and counts as far as there are positions": len(pattern.rows) * block**2,
        "the last positions, which fill no block, are left out": len(inner.rows) * block**2 if kept else 0,
    }
    expect_no_mistake(paid, truth, {f"{case}: {mistake}": value for mistake, value in mistakes.items()})
    expect(paid == truth, f"{case}: the number of computed pairs is wrong")


@exercise_check(
    "block_sparse.compose",
    function="big_bird",
    difficulty="medium",
    importance="useful",
    points=2,
    section="strided-fixed-dilated-and-random-patterns",
)
def compose(learner, rng):
    """Compose a band, random blocks and global blocks into one grid of live blocks."""
    drawn = (torch.randperm(4, generator=rng) + 1).tolist()
    cases = [(drawn[i], drawn[i - 1], drawn[i - 2]) for i in range(4)]  # each takes each value once
    for radius, n_global, r in [*cases, (0, drawn[0], drawn[1]), (drawn[2], 0, drawn[3])]:
        m = integer(rng, 13, 17)
        chosen = torch.stack([torch.randperm(m, generator=rng)[:r] for _ in range(m)])
        chosen[-1, 0] = m - radius - 2  # in no other part
        got = learner(m, radius, chosen, n_global)
        fits = isinstance(got, torch.Tensor) and tuple(got.shape) == (m, m) and got.dtype == torch.bool
        expect(fits, f"return booleans of shape ({m}, {m})")
        at = torch.arange(m)
        parts = {
            "the band": (at[:, None] - at).abs() <= radius,
            "the random blocks of a row": torch.zeros(m, m).scatter(1, chosen, 1.0).bool(),
            "the rows of the global blocks": (at[:, None] < n_global).expand(m, m),
            "the columns of the global blocks": (at < n_global).expand(m, m),
        }
        whole = torch.stack([*parts.values()]).any(dim=0)
        picture = Picture(got, whole, rows="block of queries", columns="block of keys")
        if (extra := got & ~whole).any():
            raise Broken(f"block {place(extra)} is live and belongs to no part of the pattern", picture)
        for name, part in parts.items():
            others = torch.stack([p for n, p in parts.items() if n != name]).any(dim=0)
            alone = part & ~others & ~got
            if alone.any():
                raise Broken(f"block {place(alone)} is dead: {name} must be live", picture)
        expect(torch.equal(got, whole), "a block that two parts share is dead: a union keeps what is in either")


@exercise_check(
    "block_sparse.layers",
    function="layers_needed",
    difficulty="medium",
    importance="extra",
    points=3,
    section="reach-how-many-layers-a-path-takes",
)
def layers(learner, rng):
    """Count layers until every position depends on its whole past; None where that never happens."""
    for name, mask in _causal_patterns(rng):
        got, wanted = learner(mask), _depth(mask)
        expect(got is None or isinstance(got, int | float | torch.Tensor), f"for {name}, return a number or None")
        if wanted is None:
            expect(got is None, f"for {name}, a number came back, though some positions are never reached")
            continue
        expect(got is not None, f"for {name}, None came back, though all of the past is reached")
        got = expect_number(got)
        expect(name != "a single position" or got == 0, f"for {name}, a layer is counted, though it has itself already")
        itself = "itself left out" in name
        expect(not itself or got == wanted, f"for {name}, the number is wrong: a layer adds to what it was given")
        expect(got != wanted + 1, f"for {name}, that is one layer too many")
        expect(got != wanted - 1, f"for {name}, that is one layer too few")
        expect(got == wanted, f"for {name}, the number of layers is wrong")


def _causal_patterns(rng):
    """Return (name, mask): what is reached last, or never, is now at the end, now at the start, now in between."""
    n = integer(rng, 18, 24)
    at = torch.arange(n)
    back, past = at[:, None] - at, torch.ones(n, n, dtype=torch.bool).tril()

    def band(keys):
        return past & (back < keys)

    width, stride, middle = integer(rng, 4, 7), integer(rng, 3, 6), integer(rng, n // 2, n - 3)
    yield "a band of 3 keys", band(3)
    yield f"a band of {width} keys", band(width)
    yield f"the strided pattern of stride {stride}", _as_mask(_strided_sets(n, stride), n)
    yield "the whole past", past
    yield "a band of 2 keys", band(2)
    yield "each position and the one before it, itself left out", back == 1
    yield f"every {stride}-th position", past & (back % stride == 0)
    yield "a single position", torch.ones(1, 1, dtype=torch.bool)
    yield "a single position, itself left out", torch.zeros(1, 1, dtype=torch.bool)
    yield (
        "a band of 2 keys at first, and later the whole past",
        past & ((back < 2) | (at > middle)[:, None]),
    )
    yield f"a band of 2 keys, and the first {width} positions", band(2) | (past & (at < width))
    alone = torch.where((at == middle)[:, None], back == 0, past)
    yield "the whole past, which one position alone does not see", alone
    yield "the whole past without one position, which only itself sees", past & ((at != middle) | (back == 0))
    for share in (0.05, 0.1, 0.2):
        drawn = (torch.rand(n, n, generator=rng) < share) & past
        yield "random pairs and the position before", (drawn & (back != 0)) | (back == 1)
        yield "random pairs alone", drawn | (back == 0)


def _depth(mask):
    """Return layers until all of the past is reached, from each position by breadth; None where some of it never is."""
    sees, deepest = [set(row.nonzero()[:, 0].tolist()) for row in mask], 0
    for i in range(len(mask)):
        reached, depth = {i}, 0
        while not reached.issuperset(range(i)):
            further = reached.union(*(sees[j] for j in reached))
            if further == reached:
                return None
            reached, depth = further, depth + 1
        deepest = max(deepest, depth)
    return deepest


def _rows_of(live):
    return [row.nonzero()[:, 0].tolist() for row in live]


@exercise_check(
    "block_sparse.gather",
    function="attend_live",
    difficulty="hard",
    importance="useful",
    points=3,
    section="block-sparse-attention-gather-the-live-blocks",
    forbids=READY_MADE_ATTENTION,
    not_verified="how many pairs you compute: memory is measured, work is not",
)
def gather(learner, rng):
    """Attend to the live blocks of each block of queries, and hold no other score."""
    side, many = integer(rng, 5, 9), integer(rng, 4, 7)
    for n, block in ((24, 4), (23, 4), (30, 7), (many * side + 1, side), (many * side - 1, side), (4 * side, side)):
        m = -(-n // block)
        for empty in (2, m - 1):
            live = _drawn_blocks(rng, m, empty)
            q, k, v = _draw(rng, n)
            case = f"with {n} positions in blocks of {block}"
            got = _expect_rows(learner(q, k, v, _rows_of(live), block), n, v.shape[1], block, empty, case)
            wanted = _whole_blocks(q, k, v, live, block)
            expect_close(
                got[:block], wanted[:block], f"{case}, the first block's output is not attention to its live blocks"
            )
            expect_close(got, wanted, f"{case}, the output is not attention to the live blocks")
    _expect_every_or_no_block(learner, rng, side)
    _expect_exact_for_hard_scores(learner, rng, 5 * side - 2, side)
    arguments, wanted = _long(rng, 32, integer(rng, 34, 45))
    message = f"with {len(wanted)} positions in blocks of 32, the output is not attention to the live blocks"
    expect_close(learner(*arguments), wanted, message, rtol=1e-4, atol=1e-5)
    arguments, wanted = _long(rng, 64, integer(rng, 63, 66))
    n = len(wanted)
    message = f"with {n} positions, of which each sees at most four blocks of 64, all scores at once are too many"
    expect_memory(learner, arguments, wanted, at_most=n * n, message=message)


def _draw(rng, n):
    dk, dv = unlike_sizes(rng, 2, high=12)
    return normal(rng, n, dk), normal(rng, n, dk), normal(rng, n, dv)


def _drawn_blocks(rng, m, empty):
    """Return live blocks, not all of them on the diagonal; those of one row are none, and the first row has a gap."""
    live = torch.rand(m, m, generator=rng) < 0.5
    live[0, :3], live[0, -1] = torch.tensor([True, False, True]), False
    live[1] = torch.arange(m) > 1
    live[empty] = False
    return live


def _expect_rows(got, n, dv, block, empty, case):
    """Expect the output, whose rows of the block that sees nothing are zeros."""
    expect(isinstance(got, torch.Tensor), f"return a tensor, not a {type(got).__name__}")
    expect(tuple(got.shape) == (n, dv), f"{case}, the output has shape {tuple(got.shape)}, expected ({n}, {dv})")
    rows = got[empty * block : (empty + 1) * block]
    expect(not rows.isnan().any(), f"{case}, block {empty} sees nothing and gives NaN; its rows are zeros")
    expect(not rows.any(), f"{case}, block {empty} sees nothing, and its rows are not zeros")
    return got


def _expect_every_or_no_block(learner, rng, side):
    for n, live, what in (
        (3 * side - 1, torch.ones(3, 3, dtype=torch.bool), "all blocks are live"),
        (3 * side - 1, torch.zeros(3, 3, dtype=torch.bool), "no block is live"),
        (side - 2, torch.ones(1, 1, dtype=torch.bool), "one block is larger than the text"),
    ):
        q, k, v = _draw(rng, n)
        case = f"with {n} positions in blocks of {side}, where {what}"
        wanted = _whole_blocks(q, k, v, live, side)
        expect_close(
            learner(q, k, v, _rows_of(live), side), wanted, f"{case}, the output is not attention to the live blocks"
        )


def _expect_exact_for_hard_scores(learner, rng, n, block):
    dk, dv = unlike_sizes(rng, 2, high=12)
    v, live = normal(rng, n, dv), _drawn_blocks(rng, -(-n // block), 2)
    for case, q, k in hard_scores(rng, n, n, dk):
        got = expect_tensor(learner(q, k, v, _rows_of(live), block), (n, dv), what=f"{case}, the output")
        message = f"{case}, the output is not attention to the live blocks: let the softmax subtract a maximum"
        expect_close(got, _whole_blocks(q, k, v, live, block), message, rtol=1e-4, atol=1e-6)


def _long(rng, block, many):
    """Return arguments for a text of `many` blocks, the last cut short, of which a row sees at most four;
    and the result.
    """
    n, at = many * block - integer(rng, 1, block), torch.arange(many)
    live = ((at[:, None] - at).abs() <= 1) ^ (at == at.flip(0)[:, None])
    live[many // 3] = False
    q, k, v = (normal(rng, n, 16).float() for _ in range(3))
    wanted = _whole_blocks(q.double(), k.double(), v.double(), live, block).float()
    return [q, k, v, _rows_of(live), block], wanted


def _whole_blocks(q, k, v, live, block):
    """Return attention of one head to the live blocks; of long texts by blocks, which holds less."""
    pattern = from_blocks(live, len(q), block=block)
    attention = block_sparse_attention if len(q) < 1000 else block_sparse_attention_blocked
    return attention(*(x[None, None] for x in (q, k, v)), pattern=pattern)[0, 0]


@exercise_check(
    "block_sparse.kinds",
    function="kinds",
    difficulty="medium",
    importance="extra",
    points=2,
    section="block-sparsity-whole-partial-and-dead-blocks",
)
def kinds(learner, rng):
    """Repair a function that tells dead, partial and whole blocks apart, and errs at the edge."""
    names = ("dead", "partial", "whole")
    for n, block in ((12, 4), (14, 4), (9, 4), (5, 8), *_cuts(rng)):
        m = -(-n // block)
        mask, truth = _drawn_kinds(rng, n, block)
        got = learner(mask, block)
        case = f"for {n} positions in blocks of {block}"
        if isinstance(got, list | tuple):
            got = torch.tensor(got)
        fits = isinstance(got, torch.Tensor) and tuple(got.shape) == (m, m)
        expect(fits, f"{case}, return a grid of shape ({m}, {m})")
        expect(bool((got == 2).any()), f"{case}, no block came back whole, though those on the diagonal are")
        wrong = (got != truth).nonzero().tolist()
        if wrong:
            i, j = wrong[0]
            value = got[i, j].item()
            said = names[int(value)] if value in (0, 1, 2) else "of no known kind"
            edge = "cut short" if max(i, j) == m - 1 and n % block else "full-sized"
            raise Broken(f"{case}, the {edge} block ({i}, {j}) is {names[truth[i, j]]} and came back {said}")


def _drawn_kinds(rng, n, block):
    """Return a mask and what its blocks are;
    a partial one lacks a single pair, or has a single one, or about half of all.
    """
    m = -(-n // block)
    truth = torch.randint(0, 3, (m, m), generator=rng)
    truth.fill_diagonal_(2)
    if m > 2:
        truth[0, :2], truth[1, 0], truth[2, 1] = torch.tensor([1, 0]), 1, 0
        truth[0, m - 1], truth[m - 1, 0], truth[m - 1, 1], truth[1, m - 1] = 1, 1, 0, 2
    mask = torch.zeros(n, n, dtype=torch.bool)
    partial = 0
    for i in range(m):
        for j in range(m):
            part = mask[i * block : (i + 1) * block, j * block : (j + 1) * block]
            if truth[i, j] == 1 and part.numel() == 1:
                truth[i, j] = 2
            part[...] = truth[i, j] == 2
            if truth[i, j] == 1:
                flags = torch.arange(part.numel()) >= (1, part.numel() - 1, part.numel() // 2)[partial % 3]
                if partial > 0:
                    flags = flags[torch.randperm(part.numel(), generator=rng)]
                part[...] = flags.flip(0).reshape(part.shape)
                partial += 1
    return mask, truth
