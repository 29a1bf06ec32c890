"""What the systems of one layer multiply, and that they are what they are said to be."""

import pytest
import torch

from attncourse.lessons.real_systems.costs import OneStack, TwoStacks, multiplications, parameters_in_products


@pytest.mark.parametrize(("p", "s", "t", "d"), [(1, 3, 2, 4), (3, 5, 7, 8)])
def test_counts_are_the_formulas(p, s, t, d):
    n = p * s + t
    sources, text = torch.randn(p, s, d), torch.randn(1, t, d)
    one, two = OneStack(d, 2, context=n), TwoStacks(d, 2, context=n)
    assert multiplications(lambda: one(sources, text)) == 12 * n * d**2 + 2 * n**2 * d
    pairs = p * s**2 + t * p * s + t**2
    assert multiplications(lambda: two(sources, text)) == 14 * n * d**2 + 2 * pairs * d
    assert (parameters_in_products(one), parameters_in_products(two)) == (12 * d**2, 28 * d**2)


def test_sources_apart_do_not_read_each_other_and_in_the_prompt_the_second_reads_the_first():
    sources, text = torch.randn(2, 3, 8), torch.randn(1, 2, 8)
    moved = sources.clone()
    moved[0] = torch.randn(3, 8)
    one, two = OneStack(8, 2, context=8), TwoStacks(8, 2, context=8)
    with torch.no_grad():
        before, after = one(sources, text), one(moved, text)
        assert not torch.allclose(before[0, 3:6], after[0, 3:6])  # the second source's features
        encoder = two.stacks[0]
        torch.testing.assert_close(encoder(sources)[1], encoder(moved)[1])
        assert not torch.allclose(two(sources, text), two(moved, text))
