"""The test that places an optimization, on functions whose answer is known, and on every item that it is for."""

import pytest
import torch

from attncourse.lessons.mechanism_or_implementation.optimizations import ITEMS, WINDOW, causal, draw_qkv, in_window
from attncourse.lessons.mechanism_or_implementation.same_function import relative_difference, same_function


def draw(n, *, rng):
    return (torch.randn(n, generator=rng, dtype=torch.float64),)


def compare(candidate, standard, **told):
    return same_function(candidate, standard, draw, **{"sizes": [(1,), (5,)], **told})


def test_two_ways_to_write_a_function_are_one():
    found = compare(lambda x: (x + 1) ** 2, lambda x: x * x + 2 * x + 1)
    assert found.same and max(found.output, found.gradient) < 1e-12


def test_the_difference_is_relative_to_the_largest_entry():
    found = compare(lambda x: 1.25 * x, lambda x: x)
    assert not found.same
    assert found.output == pytest.approx(0.25) and found.gradient == pytest.approx(0.25)


def test_the_verdict_has_three_places_and_counts_gradients():
    factors = {"same function": 1 + 1e-12, "near": 1.1, "another function": 1.3}
    verdicts = [compare(lambda x, c=c: c * x, lambda x: x).verdict for c in factors.values()]
    assert verdicts == list(factors)
    stopped = compare(lambda x: 2 * x.detach() + 0 * x, lambda x: 2 * x)
    assert stopped.verdict == "another function" and stopped.apart == stopped.gradient


def test_the_worst_size_is_told():
    found = compare(lambda x: x + 0.1 * (len(x) == 5), lambda x: x, sizes=[(1,), (5,), (7,)])
    assert not found.same and found.size == (5,)


def test_gradients_tell_what_outputs_do_not():
    stopped = dict(candidate=lambda x: 2 * x.detach() + 0 * x, standard=lambda x: 2 * x)
    assert compare(**stopped).gradient == pytest.approx(1.0) and not compare(**stopped).same
    found = compare(**stopped, gradients=False)
    assert found.same and found.gradient is None


def test_an_input_that_is_not_read_has_a_gradient_of_zeros():
    def two(n, *, rng):
        return draw(n, rng=rng) * 2

    told = dict(sizes=[(3,)])
    assert same_function(lambda x, y: x, lambda x, y: x + 0 * y, two, **told).same
    assert not same_function(lambda x, y: x, lambda x, y: x + 1e-6 * (y - y.detach()), two, **told).same


def test_a_result_that_is_not_finite_is_another():
    assert compare(lambda x: x / 0, lambda x: x).output == float("inf")
    assert relative_difference(torch.ones(2), torch.zeros(2)) == float("inf")
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0.0


def test_the_same_seed_draws_the_same():
    noisy = [compare(lambda x: x + 1e-3, lambda x: x, seed=seed) for seed in (3, 3, 4)]
    assert noisy[0] == noisy[1] != noisy[2]


def test_a_window_is_invisible_to_short_texts():
    def windowed(n):
        return same_function(in_window, causal, draw_qkv, sizes=[(n, n)])

    assert windowed(WINDOW).same and not windowed(WINDOW + 1).same


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_has_its_place(name):
    item = ITEMS[name]
    found = item.place(draws=1)
    if name.startswith("quantised"):
        assert found.apart > 1e-3 and found.verdict == "near"
    elif item.listed == "mechanism":
        assert found.verdict == "another function"
    else:
        assert found.apart < 1e-13 and found.verdict == "same function"


def test_fewer_bits_are_further_away():
    apart = [ITEMS[f"quantised cache: {kind}"].place(draws=1).output for kind in ("int8", "fp8", "int4")]
    assert apart == sorted(apart)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(abs, abs, sizes=[]), "give a size and a draw, got 0 sizes and 3 draws"),
        (lambda: compare(abs, abs, draws=0), "got 2 sizes and 0 draws"),
        (lambda: compare(lambda x: x[:1], lambda x: x, sizes=[(2,)]), r"shapes \(1,\) and \(2,\)"),
        (
            lambda: same_function(abs, abs, lambda n, *, rng: (torch.randn(n),), sizes=[(2,)]),
            "inputs must be float64, or rounding decides",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
