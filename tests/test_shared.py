"""Masks, the softmax over them, and the merge: against loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncourse._shared.masks import (
    apply_mask,
    blank_padding,
    causal_mask,
    length_mask,
    masked_softmax,
    narrow_mask,
    window_mask,
)
from attncourse._shared.merge import merge_partial
from attncourse._shared.precision import as_autocast, autocast_dtype, outside_autocast, wide
from attncourse.testing import relative_error


@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 5), (3, 7), (7, 3)])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_masks_are_aligned_to_the_end(t, s, window):
    mask = causal_mask(t, s) if window is None else window_mask(t, s, window=window)
    for i in range(t):
        for j in range(s):
            position = s - t + i
            seen = j <= position and (window is None or j > position - window)
            assert bool(mask[i, j]) == seen


def test_a_window_counts_the_querys_own_key():
    assert window_mask(6, 6, window=2).sum(dim=-1).tolist() == [1, 2, 2, 2, 2, 2]


def test_length_mask_is_a_row_of_batches():
    assert length_mask(torch.tensor([0, 2]), 3)[:, 0, 0].tolist() == [[False] * 3, [True, True, False]]


def test_blank_padding_removes_nan_and_its_gradient():
    x = torch.ones(2, 1, 3, 2, dtype=torch.float64)
    x[1, :, 1:] = torch.nan
    x.requires_grad_()
    blanked = blank_padding(x, torch.tensor([3, 1]))
    assert blanked.isfinite().all()
    blanked.sum().backward()
    assert x.grad[1, 0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_masked_softmax_agrees_with_softmax_and_gives_zeros_where_nothing_is_seen():
    scores = torch.randn(2, 1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(masked_softmax(scores), torch.softmax(scores, dim=-1))
    scores[0, 0, 1] = -torch.inf
    scores.requires_grad_()
    weights = masked_softmax(scores)
    assert weights[0, 0, 1].tolist() == [0] * 5
    weights.square().sum().backward()
    assert scores.grad.isfinite().all()


def test_a_mask_of_floats_is_added():
    scores = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    assert apply_mask(scores, torch.tensor([1.5, -torch.inf], dtype=torch.float64))[0, 0, 0].tolist() == [
        1.5,
        -math.inf,
    ]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 2**31))
def test_any_split_merges_to_the_unsplit_result(parts, seed):
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, sum(parts), generator=rng, dtype=torch.float64) * 3
    values = torch.randn(sum(parts), 3, generator=rng, dtype=torch.float64)

    def attend(scores, values):
        if scores.shape[-1] == 0:
            return torch.zeros(4, 3, dtype=torch.float64), torch.full((4,), -torch.inf, dtype=torch.float64)
        return torch.softmax(scores, dim=-1) @ values, scores.logsumexp(dim=-1)

    out, lse = attend(scores[:, :0], values[:0])
    for piece_scores, piece_values in zip(scores.split(parts, dim=1), values.split(parts), strict=True):
        out, lse = merge_partial(out, lse, *attend(piece_scores, piece_values))
    whole, whole_lse = attend(scores, values)
    torch.testing.assert_close(out, whole)
    torch.testing.assert_close(lse, whole_lse)


def test_the_merge_has_gradients_also_beside_an_empty_part():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 2, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    lse_a, lse_b = (torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(merge_partial, (a, lse_a, b, lse_b))
    out, _ = merge_partial(a, lse_a, b, torch.full((3,), -torch.inf, dtype=torch.float64))
    assert relative_error(out, a) == 0


def test_a_narrower_mask_keeps_what_is_finite_finite():
    mask = torch.tensor([-torch.inf, torch.finfo(torch.float32).min, -1e9, -1.0, 2.0])
    for dtype in (torch.float16, torch.bfloat16):
        narrow = narrow_mask(mask, dtype)
        assert narrow.dtype == dtype
        assert narrow.isfinite().tolist() == [False, True, True, True, True]
        assert narrow[3:].tolist() == [-1.0, 2.0]


def test_sums_keep_their_precision_under_autocast():
    @outside_autocast
    def product(x):
        return wide(x) @ wide(x)

    x = torch.full((2, 2), 1.00390625)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == autocast_dtype(x.device) == torch.bfloat16
        assert torch.equal(product(x), product.__wrapped__(x.double()).float())
        assert (
            as_autocast(x, x.double())[0].dtype == torch.bfloat16
            and as_autocast(x, x.double())[1].dtype == torch.float64
        )
    assert autocast_dtype(x.device) is None and autocast_dtype(torch.device("meta")) is None
    assert wide(x.half()).dtype == torch.float32 and wide(x.double()).dtype == torch.float64
