"""The simulated cache against a plain list, and the traffic of attention against what its authors derive."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncourse.lessons.mechanism_or_implementation.traffic import (
    Access,
    bytes_moved,
    flash_attention_accesses,
    largest_block,
    simulate_cache,
    standard_attention_accesses,
)

HUGE = 2**40


def simulate_by_list(accesses, capacity):
    """The same cache as a list from the oldest to the newest, of tiles of one byte."""
    cached, changed, read, written = [], set(), 0, 0
    for access in accesses:
        name = (access.matrix, access.tile)
        if name in cached:
            cached.remove(name)
        elif not access.write:
            read += 1
        cached.append(name)
        if access.write:
            changed.add(name)
        if len(cached) > capacity:
            oldest = cached.pop(0)
            written += oldest in changed
            changed.discard(oldest)
    return read, written + len(changed)


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_the_cache_drops_what_was_used_least_recently(capacity, seed):
    draw = random.Random(seed)
    accesses = [Access("A", (draw.randrange(8),), 1, draw.random() < 0.3) for _ in range(60)]
    traffic = simulate_cache(accesses, capacity=capacity)
    assert (traffic.read, traffic.written) == simulate_by_list(accesses, capacity)
    assert traffic.total == traffic.read + traffic.written


@pytest.mark.parametrize("accesses", [standard_attention_accesses, flash_attention_accesses])
def test_a_cache_that_holds_everything_reads_the_inputs_once(accesses):
    n, d, itemsize = 64, 8, 2
    traffic = simulate_cache(accesses(n, d, block=8, itemsize=itemsize), capacity=HUGE)
    assert traffic.read == 3 * n * d * itemsize
    scores = 2 * n * n * itemsize if accesses is standard_attention_accesses else 0
    assert traffic.written == n * d * itemsize + scores


def test_flash_attention_reads_the_keys_once_for_each_block_of_queries():
    n, d, block, itemsize = 256, 16, 32, 4
    capacity = 4 * block * d * itemsize  # a block of each of Q, K, V and O
    traffic = simulate_cache(flash_attention_accesses(n, d, block=block, itemsize=itemsize), capacity=capacity)
    whole = n * d * itemsize
    # All keys and values for each block of queries, but those that are still there when the next block begins.
    assert traffic.read == pytest.approx(whole + 2 * whole * (n // block), rel=0.1)
    assert traffic.written == whole


def test_standard_attention_moves_the_square():
    n, d, block, itemsize = 512, 16, 32, 4
    capacity = 8 * block * block * itemsize
    traffic = simulate_cache(standard_attention_accesses(n, d, block=block, itemsize=itemsize), capacity=capacity)
    square = n * n * itemsize
    assert traffic.written >= 2 * square  # S and P go out ...
    assert traffic.read >= 2 * square  # ... and come in again
    flash = simulate_cache(flash_attention_accesses(n, d, block=block, itemsize=itemsize), capacity=capacity)
    assert traffic.total > 5 * flash.total


def test_more_cache_never_moves_more():
    for accesses in (standard_attention_accesses, flash_attention_accesses):
        totals = [simulate_cache(accesses(128, 16, block=16, itemsize=2), capacity=2**k).total for k in range(11, 18)]
        assert totals == sorted(totals, reverse=True) and totals[0] > totals[-1]


def test_the_largest_block_fits_and_twice_as_much_does_not():
    for capacity in (2**k for k in range(9, 22)):
        block = largest_block(1024, 16, capacity=capacity, itemsize=2)
        assert 2 * (4 * 16 * block + block**2) <= capacity and 1024 % block == 0
        assert block == 1024 or 2 * (4 * 16 * 2 * block + (2 * block) ** 2) > capacity


@pytest.mark.parametrize("accesses", [standard_attention_accesses, flash_attention_accesses])
def test_bytes_moved_takes_the_largest_block(accesses):
    capacity = 2 * (4 * 16 * 8 + 16**2)  # blocks of 16 rows of width 8, two bytes per number
    wanted = simulate_cache(accesses(64, 8, block=16, itemsize=2), capacity=capacity).total
    assert bytes_moved(accesses, 64, 8, capacity=capacity) == wanted
    assert bytes_moved(accesses, 64, 8, capacity=capacity - 1) > wanted


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate_cache([Access("A", (0,), 9)], capacity=8), "a tile of 9 bytes does not fit a cache of 8"),
        (lambda: simulate_cache([], capacity=0), "capacity must be an integer of at least 1, got 0"),
        (
            lambda: list(flash_attention_accesses(10, 4, block=4, itemsize=2)),
            "must divide the length, got n=10, block=4",
        ),
        (lambda: largest_block(8, 4, capacity=16, itemsize=1), "a cache of 16 bytes does not hold a row each"),
        (lambda: list(standard_attention_accesses(8, 0, block=4, itemsize=2)), "d must be an integer"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
