"""A day of requests at a server whose memory for keys and values is given out in one of several ways.

Discrete events on a clock that counts decoding steps: each running request writes a token a step. What a step costs, and the
reading of prompts, take no time here: the question is what fits, not how fast it is. Kwon et al. 2023,
https://arxiv.org/abs/2309.06180, sections 3 and 4, measure the same on a real server.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean
from typing import NamedTuple, Protocol

import torch

from attncourse._shared.cache import CacheShape
from attncourse._shared.validate import check_widths, require
from attncourse.kv_cache import PagePool
from attncourse.kv_cache.paged import pages_for


class Request(NamedTuple):
    """A request comes at a step, brings a prompt, and is written an answer; both in tokens."""

    arrival: int
    prompt: int
    answer: int

    @property
    def total(self) -> int:
        """Return the tokens at its end."""
        return self.prompt + self.answer


class Memory(Protocol):
    """A memory is room for keys and values, in tokens."""

    capacity: int
    taken: int
    """Tokens of room that running requests hold, filled or not."""

    def enter(self, request: Request, tokens: int) -> object | None:
        """Return a place for a request that has so many tokens and writes one more; None if there is none."""

    def room(self, place) -> int:
        """Return how many tokens the place holds."""

    def grow(self, place) -> bool:
        """Find more room for a place that is full; return False if there is none."""

    def leave(self, place) -> None:
        """Set the place free again."""


class Stretches:
    """These are contiguous: one stretch for as long as a request runs,
    of as many tokens as `wanted` says, where it first fits.
    """

    def __init__(self, capacity: int, wanted: Callable[[Request], int]):
        check_widths(capacity=capacity)
        self.capacity, self.wanted, self.taken = capacity, wanted, 0
        self._held: list[tuple[int, int]] = []  # start and size, in order

    def enter(self, request, tokens):
        size, start = self.wanted(request), 0
        require(
            request.total <= size <= self.capacity,
            f"a stretch must hold the whole request and fit the memory, got {size} for {request} and {self.capacity}",
        )
        for at, long in self._held:
            if at - start >= size:
                break
            start = at + long
        if start + size > self.capacity:
            return None
        self._held.append((start, size))
        self._held.sort()
        self.taken += size
        return start, size

    def room(self, place):
        return place[1]

    def grow(self, place):
        raise ValueError(f"a stretch is as long as it ever will be, got {place}")

    def leave(self, place):
        self._held.remove(place)
        self.taken -= place[1]


class Pages:
    """These are pages of a `PagePool`, taken when a request grows into them."""

    def __init__(self, capacity: int, page_size: int):
        check_widths(capacity=capacity, page_size=page_size)
        # The bookkeeping is the pool's own; what its pages hold is of no account here, so they are as small as can be.
        self.pool = PagePool(capacity // page_size, CacheShape(1, (1,)), page_size=page_size)
        self.capacity = self.pool.n_pages * page_size

    @property
    def taken(self) -> int:
        return (self.pool.n_pages - self.pool.n_free) * self.pool.page_size

    def enter(self, request, tokens):
        require(request.total <= self.capacity, f"no memory of {self.capacity} tokens holds {request}")
        needed = pages_for(tokens + 1, self.pool.page_size)
        return [self.pool.take() for _ in range(needed)] if needed <= self.pool.n_free else None

    def room(self, place):
        return len(place) * self.pool.page_size

    def grow(self, place):
        if self.pool.n_free == 0:
            return False
        place.append(self.pool.take())
        return True

    def leave(self, place):
        for page in place:
            self.pool.release(page)


@dataclass
class Day:
    """A day is what was seen every so many steps, and in all.

    Attributes:
        steps: when it was looked at.
        running, waiting: requests.
        tokens, taken: tokens that stand in the memory, and the room held for them.
        finished: requests that ended.
        evictions: times a request lost its place to an earlier one, and had to be read again.
    """

    steps: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    finished: int = 0
    evictions: int = 0


class Busy(NamedTuple):
    """This is a mean over the looks at which somebody waited: shares of the memory, and requests."""

    taken: float
    tokens: float
    running: float


def while_somebody_waits(day: Day, *, capacity: int) -> Busy:
    """Return how much of the memory was taken, how much held tokens, and how many ran, whenever somebody waited.

    Raises:
        ValueError: nobody ever waited.
    """
    looks = [i for i, waiting in enumerate(day.waiting) if waiting]
    require(bool(looks), "nobody ever waited")
    taken, tokens, running = (mean(values[i] for i in looks) for values in (day.taken, day.tokens, day.running))
    return Busy(taken / capacity, tokens / capacity, running)


@dataclass
class _Run:
    """A run is a stay in the memory: it began at a step with so many tokens."""

    number: int
    request: Request
    place: object
    began: int
    before: int

    def tokens(self, step: int) -> int:
        return self.before + step - self.began

    def step_of(self, tokens: int) -> int:
        return self.began + tokens - self.before


# Within a step: room is given back, then those who run take more, then those who wait come in.
LEAVES, GROWS, ENTERS, LOOK = range(4)


def simulate_day(requests: list[Request], memory: Memory, *, steps: int, every: int) -> Day:
    """Serve the requests in the order of arrival for so many steps; look every `every` steps.

    A request waits until the memory has a place for it, and nobody overtakes. Where a running one finds no room to grow,
    the latest arrival among the running loses its place and waits again, with what it has written (Kwon et al. 2023,
    section 4.5, recomputation).

    Raises:
        ValueError: a request that is empty or that the memory could never hold; steps or every below 1.
    """
    check_widths(steps=steps, every=every)
    for request in requests:
        require(min(request.prompt, request.answer) >= 1, f"a request has a prompt and an answer, got {request}")
    return _Server(sorted(requests, key=lambda request: request.arrival), memory, every=every).serve(steps)


class _Server:
    def __init__(self, requests: list[Request], memory: Memory, *, every: int):
        self.requests, self.memory, self.every, self.day = requests, memory, every, Day()
        self.running: dict[int, _Run] = {}  # by the request's number, the earlier the smaller
        self.waiting: list[tuple[int, int]] = []  # a heap of numbers, and the tokens that each has
        self.events = [(request.arrival, ENTERS, i) for i, request in enumerate(requests)]
        self.events.append((0, LOOK, 0))
        heapq.heapify(self.events)
        self.due: dict[
            int, tuple[int, int]
        ] = {}  # when and how each running request's one event comes that still counts

    def serve(self, steps: int) -> Day:
        while self.events and self.events[0][0] <= steps:
            step, kind, i = heapq.heappop(self.events)
            if kind == ENTERS:
                if i >= 0:
                    heapq.heappush(self.waiting, (i, self.requests[i].prompt))
                self.admit(step)
            elif kind == LOOK:
                self.look(step)
            elif self.due.get(i) == (step, kind):
                (self.finish if kind == LEAVES else self.grow)(self.running[i], step)
        return self.day

    def admit(self, step: int) -> None:
        """Let in those who wait, in order, as long as there is a place for the first."""
        while self.waiting:
            i, tokens = self.waiting[0]
            place = self.memory.enter(self.requests[i], tokens)
            if place is None:
                return
            heapq.heappop(self.waiting)
            self.running[i] = _Run(i, self.requests[i], place, step, tokens)
            self.plan(self.running[i])

    def plan(self, run: _Run) -> None:
        """Plan the next event of a running request: it ends, or its place is full."""
        total, room = run.request.total, self.memory.room(run.place)
        self.due[run.number] = run.step_of(min(total, room)), LEAVES if total <= room else GROWS
        heapq.heappush(self.events, (*self.due[run.number], run.number))

    def finish(self, run: _Run, step: int) -> None:
        self.stop(run)
        self.day.finished += 1
        heapq.heappush(self.events, (step, ENTERS, -1))

    def grow(self, run: _Run, step: int) -> None:
        while not self.memory.grow(run.place):
            latest = self.running[max(self.running)]
            self.stop(latest)
            heapq.heappush(self.waiting, (latest.number, latest.tokens(step)))
            self.day.evictions += 1
            if latest is run:
                return
        self.plan(run)

    def stop(self, run: _Run) -> None:
        self.memory.leave(run.place)
        del self.running[run.number], self.due[run.number]

    def look(self, step: int) -> None:
        day = self.day
        day.steps.append(step)
        day.running.append(len(self.running))
        day.waiting.append(len(self.waiting))
        day.tokens.append(sum(run.tokens(step) for run in self.running.values()))
        day.taken.append(self.memory.taken)
        heapq.heappush(self.events, (step + self.every, LOOK, 0))


def draw_requests(
    *, steps: int, mean_gap: float, longest: int, rng: torch.Generator, typical: tuple[int, int] = (150, 200)
) -> list[Request]:
    """Draw a day by rule: few requests at night and many at noon, most of them short, some long.

    Arrivals are a Poisson process whose rate follows 1 - cos over the day. Prompt and answer are log-normal around
    `typical` (their medians; a standard deviation is a factor of e), and cut so that together they are at most
    `longest`.

    Args:
        steps: of the day.
        mean_gap: steps between two arrivals, on the day's average.
    """
    check_widths(steps=steps, longest=longest)
    require(mean_gap > 0 and longest >= 2, f"give a positive gap and room for two tokens, got {mean_gap} and {longest}")
    requests, step = [], 0.0
    while True:
        # Draw at the noon's rate, twice the average, and keep each with the share that its hour has of it.
        step -= mean_gap / 2 * math.log1p(-float(torch.rand((), generator=rng)))
        if step >= steps:
            return requests
        if float(torch.rand((), generator=rng)) < (1 - math.cos(2 * math.pi * step / steps)) / 2:
            spread = torch.randn(2, generator=rng, dtype=torch.float64).tolist()
            prompt, answer = (max(1, round(n * math.exp(x))) for n, x in zip(typical, spread, strict=True))
            prompt = min(prompt, longest - 1)
            requests.append(Request(int(step), prompt, min(answer, longest - prompt)))
