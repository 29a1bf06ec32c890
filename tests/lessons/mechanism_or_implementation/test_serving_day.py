"""The simulated day against days worked out by hand, and against a simulation that goes through every step."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncourse.lessons.mechanism_or_implementation.serving_day import (
    Busy,
    Day,
    Pages,
    Request,
    Stretches,
    draw_requests,
    simulate_day,
    while_somebody_waits,
)

SMALL = [Request(0, 1, 3), Request(1, 2, 2), Request(1, 1, 1)]


def test_a_small_day_in_stretches():
    day = simulate_day(SMALL, Stretches(8, lambda request: 4), steps=4, every=1)
    assert day.steps == [0, 1, 2, 3, 4]
    assert day.running == [1, 2, 2, 1, 0]
    # The third finds the two stretches taken until both end at step 3.
    assert day.waiting == [0, 1, 1, 0, 0]
    assert day.tokens == [1, 4, 6, 1, 0]
    assert day.taken == [4, 8, 8, 4, 0]
    assert (day.finished, day.evictions) == (3, 0)


def test_a_small_day_in_pages():
    memory = Pages(8, 2)
    day = simulate_day(SMALL, memory, steps=4, every=1)
    assert day.running == [1, 2, 2, 1, 0] and day.waiting == [0, 1, 1, 0, 0]
    assert day.tokens == [1, 4, 6, 1, 0] and day.taken == [2, 8, 8, 2, 0]
    assert memory.pool.n_free == 4, "all pages came back"


def test_the_latest_gives_way_and_goes_on_with_what_it_wrote():
    requests = [Request(0, 1, 3), Request(1, 1, 2)]
    day = simulate_day(requests, Pages(5, 1), steps=6, every=1)
    # At step 2 the first has 3 tokens and needs a fourth page; the second has 2 tokens and leaves its two pages.
    assert day.running == [1, 2, 1, 1, 0, 0, 0] and day.waiting == [0, 0, 1, 0, 0, 0, 0]
    assert day.tokens == [1, 3, 3, 2, 0, 0, 0]
    assert (day.finished, day.evictions) == (2, 1)


def test_an_exact_stretch_goes_where_it_first_fits_and_gaps_may_be_too_small():
    memory = Stretches(10, lambda request: request.total)
    a, b, c = (memory.enter(Request(0, n - 1, 1), n - 1) for n in (3, 4, 3))
    assert (a, b, c) == ((0, 3), (3, 4), (7, 3))
    memory.leave(a)
    memory.leave(c)
    assert memory.enter(Request(0, 4, 1), 4) is None, "six tokens are free, but no five in a row"
    assert memory.enter(Request(0, 1, 1), 1) == (0, 2) and memory.taken == 6


def test_the_looks_count_at_which_somebody_waits():
    day = simulate_day(SMALL, Pages(8, 2), steps=4, every=1)  # somebody waits at steps 1 and 2
    assert while_somebody_waits(day, capacity=8) == Busy(taken=1.0, tokens=5 / 8, running=2)


def naive_day(requests, n_pages, size, steps):
    """Every step in turn, pages as counts: leave, grow, arrive, enter, look."""
    needed = lambda tokens: -(-tokens // size)  # noqa: E731
    running, waiting, seen, finished, evictions = {}, {}, [], 0, 0
    for step in range(steps + 1):
        for i in list(running):
            running[i][0] += 1
            if running[i][0] == requests[i].total:
                del running[i]
                finished += 1
        for i in sorted(running):
            if i in running and running[i][0] == running[i][1] * size:
                while i in running and sum(pages for _, pages in running.values()) == n_pages:
                    last = max(running)
                    waiting[last] = running.pop(last)[0]
                    evictions += 1
                if i in running:
                    running[i][1] += 1
        waiting.update({i: request.prompt for i, request in enumerate(requests) if request.arrival == step})
        for i in sorted(waiting):
            free = n_pages - sum(pages for _, pages in running.values())
            if needed(waiting[i] + 1) > free:
                break
            tokens = waiting.pop(i)
            running[i] = [tokens, needed(tokens + 1)]
        tokens, pages = (sum(each[j] for each in running.values()) for j in (0, 1))
        seen.append((len(running), len(waiting), tokens, size * pages))
    return seen, finished, evictions


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_events_and_single_steps_agree(seed, size):
    draw = random.Random(seed)
    n_pages = -(-16 // size) + draw.randrange(6)
    requests = sorted(Request(draw.randrange(40), draw.randint(1, 8), draw.randint(1, 8)) for _ in range(15))
    memory = Pages(n_pages * size, size)
    day = simulate_day(requests, memory, steps=90, every=1)
    seen, finished, evictions = naive_day(requests, n_pages, size, 90)
    assert list(zip(day.running, day.waiting, day.tokens, day.taken, strict=True)) == seen
    assert (day.finished, day.evictions) == (finished, evictions)


def test_requests_follow_the_rule():
    steps = 100_000
    requests = draw_requests(steps=steps, mean_gap=20, longest=400, rng=torch.Generator().manual_seed(0))
    assert len(requests) == pytest.approx(steps / 20, rel=0.1)
    night = sum(request.arrival < steps / 4 or request.arrival >= 3 * steps / 4 for request in requests)
    assert night / len(requests) == pytest.approx(0.5 - 1 / torch.pi, abs=0.03)
    assert all(request.prompt >= 1 and request.answer >= 1 and request.total <= 400 for request in requests)
    assert any(request.total == 400 for request in requests)
    short = draw_requests(steps=steps, mean_gap=20, longest=10**6, rng=torch.Generator().manual_seed(0))
    prompts, answers = (sorted(x)[len(short) // 2] for x in zip(*((r.prompt, r.answer) for r in short), strict=True))
    assert (prompts, answers) == (pytest.approx(150, rel=0.1), pytest.approx(200, rel=0.1))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate_day([Request(0, 0, 1)], Pages(8, 2), steps=1, every=1), "a prompt and an answer"),
        (lambda: simulate_day([Request(0, 5, 4)], Pages(8, 2), steps=1, every=1), "no memory of 8 tokens holds"),
        (lambda: simulate_day(SMALL, Stretches(8, lambda r: 3), steps=1, every=1), "must hold the whole request"),
        (lambda: simulate_day(SMALL, Stretches(8, lambda r: 9), steps=1, every=1), "must hold the whole request"),
        (lambda: simulate_day(SMALL, Pages(8, 2), steps=1, every=0), "every must be an integer of at least 1, got 0"),
        (lambda: Stretches(8, len).grow((0, 4)), "as long as it ever will be"),
        (lambda: while_somebody_waits(Day(waiting=[0]), capacity=1), "nobody ever waited"),
        (lambda: draw_requests(steps=9, mean_gap=0, longest=4, rng=torch.Generator()), "give a positive gap"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
