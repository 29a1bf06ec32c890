"""Which tiles the kernel loads."""

import torch

from attncourse.lessons.sliding_window.tiles import compiled_window, tile_sides, tiles_loaded
from attncourse.sliding_window import local_mask


def test_a_tile_is_loaded_exactly_if_it_holds_a_pair():
    q, k, v = torch.randn(3, 1, 1, 96, 16, generator=torch.Generator().manual_seed(0))
    rows, columns = tile_sides(q)
    for window in (1, 20, 96):
        pairs = local_mask(96, 96, window=window).view(96 // rows, rows, 96 // columns, columns)
        assert torch.equal(tiles_loaded(q, k, v, window=window), pairs.any(dim=3).any(dim=1))
    assert not v.isnan().any(), "the caller's values are as they were"


def test_a_tile_is_read_by_wide_reads_alone():
    built, (_, columns) = compiled_window(80)
    assert built.loop.copies == 2 * columns * 64 * 2 // (16 * 32 * built.warps) and built.loop.narrow == 0
    assert built.matrix == "mma"
