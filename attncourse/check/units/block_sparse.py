"""Checks of the unit `block_sparse`: sets, blocks that are computed, composition, reach, and gathering."""

import torch

from attncourse.block_sparse import block_sparse_attention, from_blocks, from_mask

from ..core import READY_MADE_ATTENTION, Broken, Picture, exercise_check, exercise_unit
from ..expect import expect, expect_close, expect_memory, expect_number, expect_tensor, place

exercise_unit(
    "block_sparse",
    title="Sparse patterns",
    chapter="sparse_patterns",
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


@exercise_check("block_sparse.strided", function="strided_set", points=2, section="strided-fixed-dilated-random")
def strided(learner, rng):
    """Write the strided pattern as the sorted list of the positions that one query sees."""
    n = int(torch.randint(20, 26, (1,), generator=rng))
    for stride in (4, 5, 7):
        got = [learner(i, stride) for i in range(n)]
        for i, positions in enumerate(got):
            case = f"for position {i} and stride {stride}"
            whole = isinstance(positions, list) and all(type(j) is int for j in positions)
            expect(whole, f"{case}, return a list of integers")
            expect(all(j >= 0 for j in positions), f"{case}, a position before the first is in the list")
            expect(all(j <= i for j in positions), f"{case}, a position of the future is in the list")
            expect(len(set(positions)) == len(positions), f"{case}, a position is in the list more than once")
            expect(positions == sorted(positions), f"{case}, the list is not in ascending order")
        seen, allowed = _as_mask(got, n), _as_mask(_strided_sets(n, stride), n)
        picture, rows, back = Picture(seen, allowed), torch.arange(n)[:, None], torch.arange(n)
        band = (rows - back >= 0) & (rows - back <= stride)
        for wrong, part, message in (
            (allowed & ~seen, band, "the band lacks a position: it reaches back by the stride, both ends included"),
            (allowed & ~seen, ~band, "the column lacks a position: every stride-th, counted from the query"),
            (seen & ~allowed, ~band, "a position is in the list that is neither in the band nor in the column"),
        ):
            if (wrong & part).any():
                raise Broken(f"for position {place(wrong & part)[0]} and stride {stride}, {message}", picture)


@exercise_check(
    "block_sparse.computed", function="pairs", points=2, section="blocks-because-machines-do-not-do-single-pairs"
)
def computed(learner, rng):
    """Predict what a pattern costs: pairs that are wanted, and pairs that its live blocks compute."""
    for n, block in ((24, 4), (23, 5), (13, 8), (7, 16)):
        mask = torch.rand(n, n, generator=rng) < 0.06
        mask[n - 1, n - 1] = True
        mask[0, 1] = True
        got = learner(mask, block)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: pairs wanted, then pairs computed")
        wanted, paid = (expect_number(x) for x in got)
        expect(wanted == int(mask.sum()), f"for {n} positions the number of wanted pairs is not that of the mask")
        pattern = from_mask(mask, block=block)
        case = f"for {n} positions in blocks of {block}"
        sides = (n - torch.arange(pattern.n_blocks) * block).clamp(max=block)
        truth = int((sides[pattern.rows] * sides[pattern.columns]).sum())
        expect(paid != wanted or paid == truth, f"{case}: a live block is computed whole, not only its wanted pairs")
        expect(paid != len(pattern.rows) or paid == truth, f"{case}: those are blocks; count the pairs in them")
        expect(paid != n * n or paid == truth, f"{case}: dead blocks are counted too, and nobody computes them")
        cut = truth != len(pattern.rows) * block**2
        full = len(pattern.rows) * block**2
        expect(
            not cut or paid != full, f"{case}: the last block is cut short, and counts as far as there are positions"
        )
        kept = n // block * block
        inner = from_mask(mask[:kept, :kept], block=block) if kept else None
        without = len(inner.rows) * block**2 if kept else 0
        expect(kept == n or paid != without, f"{case}: the last positions, which fill no block, are left out")
        expect(paid == truth, f"{case}: the number of computed pairs is wrong")


@exercise_check("block_sparse.compose", function="big_bird", points=2, section="strided-fixed-dilated-random")
def compose(learner, rng):
    """Compose a band, random blocks and global blocks into one grid of live blocks."""
    for _ in range(3):
        m = int(torch.randint(9, 13, (1,), generator=rng))
        radius, n_global = 1, 2
        chosen = torch.stack([torch.randperm(m, generator=rng)[:2] for _ in range(m)])
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


@exercise_check("block_sparse.layers", function="layers_needed", points=3, section="how-far-does-it-reach")
def layers(learner, rng):
    """Count layers until every position depends on its whole past; None where that never happens."""
    n = 21
    past = torch.ones(n, n, dtype=torch.bool).tril()
    at = torch.arange(n)
    back = at[:, None] - at
    masks = {
        "a band of 4 keys": ((back >= 0) & (back <= 3), 7),
        "the strided pattern of stride 4": (_as_mask(_strided_sets(n, 4), n), 2),
        "the whole past": (past, 1),
        "a band of 2 keys": ((back >= 0) & (back <= 1), 20),
        "each position and the one before it, itself left out": (back == 1, 20),
        "every fourth position": ((back >= 0) & (back % 4 == 0), None),
        "a single position": (torch.ones(1, 1, dtype=torch.bool), 0),
    }
    for name, (mask, wanted) in masks.items():
        got = learner(mask)
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


def _rows_of(live):
    return [row.nonzero()[:, 0].tolist() for row in live]


@exercise_check(
    "block_sparse.gather",
    function="attend_live",
    points=3,
    section="gather-what-is-live",
    forbids=READY_MADE_ATTENTION,
)
def gather(learner, rng):
    """Attend to the live blocks of each block of queries, and hold no other score."""
    for n, block, m in ((24, 4, 6), (23, 4, 6), (30, 7, 5)):
        live = torch.rand(m, m, generator=rng) < 0.4
        live[at := torch.arange(m), at] = True
        live[2] = False
        live[0, :3], live[0, -1] = torch.tensor([True, False, True]), False
        q, k, v = (torch.randn(n, d, generator=rng, dtype=torch.float64) for d in (5, 5, 3))
        got = learner(q, k, v, _rows_of(live), block)
        case = f"with {n} positions in blocks of {block}"
        expect(isinstance(got, torch.Tensor), f"return a tensor, not a {type(got).__name__}")
        expect(tuple(got.shape) == (n, 3), f"{case}, the output has shape {tuple(got.shape)}, expected ({n}, 3)")
        empty = slice(2 * block, 3 * block)
        expect(not got[empty].isnan().any(), f"{case}, block 2 sees nothing and gives NaN; its rows are zeros")
        expect(not got[empty].any(), f"{case}, block 2 sees nothing, and its rows are not zeros")
        wanted = _whole_blocks(q, k, v, live, block)
        expect_close(
            got[:block], wanted[:block], f"{case}, the first block's output is not attention to its live blocks"
        )
        expect_close(got, wanted, f"{case}, the output is not attention to the live blocks")
    n, block = 4096, 64
    m = n // block
    live = (torch.arange(m)[:, None] - torch.arange(m)).abs() <= 1
    q, k, v = (torch.randn(n, 16, generator=rng) for _ in range(3))
    message = f"with {n} positions, of which each sees at most three blocks of {block}, all scores at once are too many"
    expect_memory(learner, [q, k, v, _rows_of(live), block], at_most=4 * n * n // 4, message=message)
    wanted = _whole_blocks(q.double(), k.double(), v.double(), live, block).float()
    got = expect_tensor(learner(q, k, v, _rows_of(live), block), (n, 16), what="the output")
    expect_close(got, wanted, "the output of a long band is not attention to the live blocks", rtol=1e-3, atol=1e-4)


def _whole_blocks(q, k, v, live, block):
    pattern = from_blocks(live, len(q), block=block)
    return block_sparse_attention(*(x[None, None] for x in (q, k, v)), pattern=pattern)[0, 0]


@exercise_check(
    "block_sparse.kinds", function="kinds", points=2, section="blocks-because-machines-do-not-do-single-pairs"
)
def kinds(learner, rng):
    """Repair a function that tells dead, partial and whole blocks apart, and errs at the edge."""
    names = ("dead", "partial", "whole")
    for n, block in ((12, 4), (14, 4), (9, 4), (5, 8)):
        m = -(-n // block)
        truth = torch.randint(0, 3, (m, m), generator=rng)
        truth.fill_diagonal_(2)
        if m > 2:
            truth[0, :2], truth[1, 0], truth[2, 1] = torch.tensor([1, 0]), 1, 0
        mask = torch.zeros(n, n, dtype=torch.bool)
        for i in range(m):
            for j in range(m):
                part = mask[i * block : (i + 1) * block, j * block : (j + 1) * block]
                part[...] = truth[i, j] > 0
                if part.numel() > 1 and truth[i, j] == 1:
                    part[-1, -1] = False  # the only hidden pair
                elif truth[i, j] == 1:
                    truth[i, j] = 2
        got = learner(mask, block)
        case = f"for {n} positions in blocks of {block}"
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
