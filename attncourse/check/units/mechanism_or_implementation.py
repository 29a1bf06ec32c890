"""Checks of the unit `mechanism_or_implementation`: the online softmax, separating inputs, traffic, room, bits."""

import torch
from torch import Tensor

from ..core import exercise_check, exercise_unit
from ..draw import integer, normal, unlike_sizes
from ..expect import expect, expect_close, expect_no_mistake, expect_number, expect_tensor

exercise_unit(
    "mechanism_or_implementation",
    title="Mechanism or implementation?",
    chapter="mechanism_or_implementation",
    minutes=75,
    prerequisites=("kv_cache",),
)


def _step_expected(top, total, mixed, scores, values):
    """Return one step by its formulas, with a row that has seen nothing left as it was."""
    new = torch.maximum(top, scores.amax(dim=1))
    finite = new.masked_fill(new == -torch.inf, 0.0)
    rescale, weights = torch.exp(top - finite), torch.exp(scores - finite[:, None])
    return new, rescale * total + weights.sum(dim=1), rescale[:, None] * mixed + weights @ values


@exercise_check(
    "mechanism_or_implementation.rescale",
    function="take_tile",
    difficulty="medium",
    importance="core",
    points=2,
    section="the-online-softmax",
    may_change=(0, 1, 2),  # the running state
)
def rescale(learner, rng):
    """Write one step of the online softmax: a tile of keys into the running maximum, sum and mixture."""
    for hidden, far in ((False, False), (True, False), (True, True), (False, True)):
        t, dv, *tiles = unlike_sizes(rng, 6)
        state = torch.full((t,), -torch.inf, dtype=torch.float64), *(torch.zeros(s).double() for s in ((t,), (t, dv)))
        for tile, s in enumerate([*tiles, 1]):
            scores, values = _draw_scores(rng, t, s, far=far), normal(rng, s, dv)
            if hidden:
                scores[torch.rand(t, s, generator=rng) < 0.3] = -torch.inf
                scores[0] = -torch.inf  # this row never sees a key, others do now and then
                scores[1 + tile % 2] = -torch.inf
            got = learner(*state, scores, values)
            expect(isinstance(got, tuple | list) and len(got) == 3, "return three tensors: top, total, mixed")
            state = _judge_state(got, state, scores, values, case=f"tile {tile} of {s} keys: ")


def _draw_scores(rng, t: int, s: int, *, far: bool) -> Tensor:
    """Return scores with gaps of a few; where `far`, each query's lie around a number whose exp is infinite,
    or vanishes.
    """
    if not far:
        return 8 * normal(rng, t, s)
    levels = torch.tensor([800.0, 805.0, -800.0, -805.0, -2e9, 1e5], dtype=torch.float64)
    return levels[torch.arange(t) % 6 // 2 * 2 + torch.randint(0, 2, (t,), generator=rng)][:, None] + 3 * normal(
        rng, t, s
    )


def _judge_state(got, state, scores, values, *, case: str) -> tuple[Tensor, ...]:
    """Return the new state, which must be the expected one."""
    top, total, mixed = state
    wanted = _step_expected(top, total, mixed, scores, values)
    blind = wanted[0] == -torch.inf
    for x, right, name in zip(got, wanted, ("top", "total", "mixed"), strict=True):
        expect(
            not (isinstance(x, Tensor) and x.shape == right.shape and x[blind].isnan().any()),
            case + "a row that has seen no key yet holds NaN: exp(-inf - -inf) is none of its weights",
        )
        expect_tensor(x, tuple(right.shape), what=case + name)
    in_tile = scores.amax(dim=1)
    expect(
        not torch.allclose(got[0], in_tile) or torch.allclose(in_tile, wanted[0]),
        case + "top is the largest score of this tile, and should be the largest so far",
    )
    expect(torch.allclose(got[0], wanted[0]), case + "top is not the largest score so far")
    weights = torch.exp(scores - wanted[0].masked_fill(blind, 0.0)[:, None])
    # A mistake is named only where it made a difference: by chance it may not.
    right = [torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(got, wanted, strict=True)]
    rises = bool(((wanted[0] > top) & (top > -torch.inf)).any())
    if rises:
        expect(
            right[1] or not torch.allclose(got[1], total + weights.sum(dim=1)),
            case + "top rose and total still holds weights relative to the old one",
        )
        expect(
            right[2] or not torch.allclose(got[2], mixed + weights @ values),
            case + "top rose and mixed still holds weights relative to the old one",
        )
        back = torch.exp(wanted[0] - top)
        expect(
            right[1] or not torch.allclose(got[1], back * total + weights.sum(dim=1)),
            case + "when top rises, what stands so far must become smaller, not larger",
        )
    expect_close(got[1], wanted[1], case + "total is not the sum of exp(score - top)", rtol=1e-9, atol=1e-12)
    seen = wanted[1].clamp_min(1e-300)[:, None]
    expect(
        right[2] or not torch.allclose(got[2], wanted[2] / seen),
        case + "mixed is divided by total already: then the next tile cannot be added",
    )
    expect_close(got[2], wanted[2], case + "mixed is not the sum of exp(score - top) value", rtol=1e-9, atol=1e-12)
    return wanted


def _attend(q, k, v, visible=None):
    scores = q @ k.T * q.shape[1] ** -0.5
    return torch.softmax(scores if visible is None else scores.masked_fill(~visible, -torch.inf), dim=-1) @ v


def _places(q, k):
    return torch.arange(len(q))[:, None], torch.arange(len(k))


def _aligned_to_the_end(q, k):
    rows, columns = _places(q, k)
    return columns <= rows + len(k) - len(q)


def _pair(name: str, number: int):
    """Return candidate and standard of each pair that the exercise describes."""

    def windowed(q, k, v):
        rows, columns = _places(q, k)
        visible = _aligned_to_the_end(q, k)
        return _attend(q, k, v, visible & (columns > rows + len(k) - len(q) - number))

    def whole_blocks(q, k, v):
        kept = len(k) // number * number or len(k)
        return _attend(q, k[:kept], v[:kept])

    def from_the_start(q, k, v):
        rows, columns = _places(q, k)
        return _attend(q, k, v, columns <= rows)

    def causal(q, k, v):
        return _attend(q, k, v, _aligned_to_the_end(q, k))

    def no_maximum(q, k, v):
        weights = torch.exp(q @ k.T * q.shape[1] ** -0.5)
        return weights @ v / weights.sum(dim=1, keepdim=True)

    def reordered(q, k, v):
        order = torch.arange(len(k)).roll(number)
        return _attend(q, k[order], v[order])

    return {
        "window": (windowed, causal),
        "whole blocks": (whole_blocks, _attend),
        "from the start": (from_the_start, causal),
        "no maximum": (no_maximum, _attend),
        "reordered": (reordered, _attend),
    }[name]


WHY_NOT = {
    "window": "no query of yours stands further from its first key than the window reaches",
    "whole blocks": "your number of keys is a multiple of the block, or less than one block",
    "from the start": "with as many queries as keys both masks are one",
    "no maximum": "none of your scores is so large that exp overflows",
}


@exercise_check(
    "mechanism_or_implementation.separate",
    function="separate",
    difficulty="hard",
    importance="core",
    points=3,
    section="a-test-that-decides",
)
def separate(learner, rng):
    """Construct inputs that tell two functions apart, or say that there are none."""
    names = ("window", "whole blocks", "from the start", "no maximum", "reordered")
    # What is right for one number need not be for another.
    numbers = [*range(2, 13), integer(rng, 13, 18), integer(rng, 18, 25)]
    jobs = [(name, number) for number in _shuffled(rng, numbers) for name in _shuffled(rng, names)]
    for name, number in jobs:
        got, case = learner(name, number), f"{name!r} with number={number}: "
        if name == "reordered":
            expect(got is None, case + "softmax and sum do not care for the order of the keys, so return None")
            continue
        expect(got is not None, case + "there are inputs that tell the two apart")
        expect(isinstance(got, tuple | list) and len(got) == 3, case + "return q, k, v or None")
        q, k, v = (_matrix(x, case + what) for x, what in zip(got, "qkv", strict=True))
        shapes = f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        expect(q.shape[1] == k.shape[1] and len(k) == len(v), case + f"q (t, d), k (s, d), v (s, dv), {shapes}")
        expect(len(q) <= len(k) <= 100, case + f"at most as many queries as keys, and at most a hundred keys, {shapes}")
        candidate, standard = (form(q, k, v) for form in _pair(name, number))
        expect(bool(standard.isfinite().all()), case + "the standard form itself is not finite for your inputs")
        apart = not torch.allclose(candidate, standard, rtol=1e-6, atol=1e-8)
        expect(apart, case + "both give the same for your inputs: " + _why_not(name, q, k, v))


def _shuffled(rng, items) -> list:
    return [items[i] for i in torch.randperm(len(items), generator=rng).tolist()]


def _matrix(x, what: str) -> Tensor:
    expect(isinstance(x, Tensor) and x.ndim == 2 and x.numel() > 0, f"{what} must be a matrix with an entry")
    expect(bool(x.isfinite().all()), f"{what} must be finite")
    return x.double()


def _why_not(name: str, q, k, v) -> str:
    return "all your values are equal, so that every mixture is" if bool((v == v[0]).all()) else WHY_NOT[name]


@exercise_check(
    "mechanism_or_implementation.traffic",
    function="keys_outside",
    difficulty="hard",
    importance="useful",
    points=3,
    section="traffic-counted",
)
def traffic(learner, rng):
    """Count the bytes that tiled attention moves when the keys' loop is the outer one."""
    for itemsize in (2, *_shuffled(rng, [1, 4, 8])):
        for passes in (integer(rng, 4, 9), 1):
            block, d, dv = unlike_sizes(rng, 3, low=16, high=90)
            n = block * passes
            got = learner(n, d, dv, block, itemsize)
            expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: bytes read, bytes written")
            read, written = (expect_number(x) for x in got)
            row, case = n * itemsize, f"n={n}, d={d}, dv={dv}, block={block}, itemsize={itemsize}: "
            right, out = row * passes * (d + dv) + row * d, row * passes * dv
            expect(
                (read, written) != (right / itemsize, out / itemsize) or itemsize == 1,
                case + "those are numbers, not bytes",
            )
            mistakes = {
                "the queries pass by again for every block of keys": right - row * (passes - 1) * d,
                "an output that is changed again has to be read first": right - row * (passes - 1) * dv,
                "at the first block of keys there is no output to read yet": right + row * dv,
                "both keys and values are read": right - row * dv,
                "keys and values stay while the queries pass by": right + (passes - 1) * row * (d + dv),
            }
            expect_no_mistake(read, right, {case + what: value for what, value in mistakes.items()})
            expect(read == right, case + "the bytes read are wrong")
            once = {case + "each block of the output is written once for every block of keys": row * dv}
            expect_no_mistake(written, out, once)
            expect(written == out, case + "the bytes written are wrong")


@exercise_check(
    "mechanism_or_implementation.served",
    function="served_at_once",
    difficulty="medium",
    importance="useful",
    points=2,
    section="layouts-a-day-of-requests",
)
def served(learner, rng):
    """Count the requests that fit a memory at once, in stretches for the longest and in pages."""
    for case_number, room in enumerate(("whole stretches", "some", "part of a page", "last page", "no stretch")):
        page, longest = 16 * integer(rng, 1, 4), 500 + integer(rng, 0, 300)
        memory = longest * (integer(rng, 9, 13) if room == "whole stretches" else integer(rng, 3, 6))
        if room == "no stretch":
            memory = longest - integer(rng, 1, page)
        elif room != "whole stretches":
            memory += integer(rng, page, longest - page)
        if room == "part of a page" and memory % page == 0:
            memory += 1
        lengths = _draw_lengths(memory, page, longest, told=TOLD.get(room, slice(0, 3)), rng=rng)
        got = learner(lengths, memory, longest, page)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: in stretches, in pages")
        stretches, pages = (expect_number(x) for x in got)
        case = f"case {case_number}: "
        expect(stretches == int(stretches) and pages == int(pages), case + "there are no parts of a request")
        mistakes = {
            "a stretch that does not fit whole is none": -(-memory // longest),
            "a stretch has room for the longest, whatever is in it: you count the tokens that stand": _admitted(
                lengths, memory
            ),
            "a stretch is as long as the longest that is allowed, also if no such request came": memory // max(lengths),
        }
        expect_no_mistake(stretches, memory // longest, {case + what: value for what, value in mistakes.items()})
        expect(stretches == memory // longest, case + "the number in stretches is wrong")
        right, ways = _ways(lengths, memory, page)
        expect_no_mistake(pages, right, {case + what: value for what, value in ways.items()})
        expect(
            pages != stretches or pages == right,
            case + "in pages a request takes what its tokens need, and not the longest",
        )
        expect(pages == right, case + "the number in pages is wrong")


def _ways(lengths: list[int], memory: int, page: int) -> tuple[int, dict[str, int]]:
    """Return how many requests fit in pages, and how many each mistake counts."""
    pages, needed = memory // page, [-(-n // page) for n in lengths]
    return _admitted(needed, pages), {
        "a page that is begun is taken: a request's last one is rarely full": _admitted(
            [n // page for n in lengths], pages
        ),
        "a request whose tokens just fill its pages needs no further one": _admitted(
            [n // page + 1 for n in lengths], pages
        ),
        "nobody overtakes one who finds no room": _admitted(needed, pages, overtake=True),
        "only whole pages fit the memory": _admitted(needed, -(-memory // page)),
        "a request that takes the very last page has found room": _admitted(needed, pages - 1),
    }


def _admitted(sizes: list[int], room: int, *, overtake: bool = False) -> int:
    """Return how many of these fit, in order; those after one that does not fit only if they may overtake."""
    count = 0
    for size in sizes:
        if size <= room:
            room, count = room - size, count + 1
        elif not overtake:
            break
    return count


# Which of these ways to count must show, by the room that there is.
TOLD = {"part of a page": slice(3, 4), "last page": slice(4, 5), "no stretch": slice(0, 0)}


def _draw_lengths(memory: int, page: int, longest: int, *, told: slice, rng) -> list[int]:
    """Return lengths, some of them whole pages and none the longest, for which the mistakes that are told give other
    numbers, and no two mistakes the same.
    """
    while True:
        drawn = torch.randint(1, longest // 3, (80,), generator=rng)
        whole = torch.randint(0, 3, (80,), generator=rng) == 0
        rounded = torch.where(whole, (drawn + page - 1) // page * page, drawn)
        rounded[6::7] = longest - integer(rng, 90, 180)
        lengths = rounded.tolist()
        right, ways = _ways(lengths, memory, page)
        mistaken = [number for number in ways.values() if number != right]
        stretches = {memory // longest, memory // longest + 1, memory // max(lengths)}
        if right in [*ways.values()][told] or stretches & {right, *mistaken}:
            continue
        if len(set(mistaken)) == len(mistaken):
            return lengths


NAMED = (5, 6, 7)  # numbers of bits that no two mistakes take for the same number


@exercise_check(
    "mechanism_or_implementation.bits", function="fewest_bits", difficulty="medium", importance="extra", points=2,
    section="few-bits-an-approximation-and-its-bound",
)  # fmt: skip
def bits(learner, rng):
    """Find the fewest bits for which the bound on every score stays below a tolerance."""
    for wanted in (*_shuffled(rng, NAMED), *_shuffled(rng, [1, 2, 3, 4, 8, 9, 10, 11])):
        for just_met in (True, False) if wanted > 1 else (True,):
            q, k, tolerance, mistakes = _draw_bits(wanted, just_met, rng=rng)
            got = expect_number(learner(q, k, tolerance))
            case = "the tolerance is just met: " if just_met else "one bit less just misses the tolerance: "
            expect(got == int(got), case + "a code has a whole number of bits")
            if wanted in NAMED:
                expect_no_mistake(got, wanted, {case + what: found for what, found in mistakes.items()})
            expect(got <= wanted, case + "fewer bits keep to the tolerance as well")
            expect(got >= wanted, case + "with so few bits a score may leave the tolerance")


def _draw_bits(wanted: int, just_met: bool, *, rng) -> tuple[Tensor, Tensor, float, dict[str, int]]:
    """Return a query, keys, a tolerance that asks for `wanted` bits, and what each mistake finds:
    no two the same for NAMED.
    """
    while True:
        s, d = unlike_sizes(rng, 2, low=6, high=30)
        q, k = normal(rng, d), normal(rng, s, d) + 40 * normal(rng, s, 1)  # keys of one spread at different places
        k[integer(rng, 0, s)] *= 12  # a key with large entries, which a mean over keys forgets
        spread = k.amax(dim=1) - k.amin(dim=1)
        if k.amax() - k.amin() < 1.5 * spread.max():
            continue
        bound = q.abs().sum() / 2 * spread / d**0.5  # of each key, times 2^bits - 1
        tolerance = float(bound.max()) * (1.0001 / (2**wanted - 1) if just_met else 0.9999 / (2 ** (wanted - 1) - 1))

        def fewest(times, lost=1, tolerance=tolerance):
            return next(b for b in range(1, 60) if float(times) <= tolerance * (2**b - lost))

        mistakes = {
            "an entry is off by at most half a step": fewest(2 * bound.max()),
            "scores are divided by the square root of the width": fewest(d**0.5 * bound.max()),
            "the errors of the entries may all add up, beyond the length of q": fewest(
                bound.max() * q.norm() / q.abs().sum()
            ),
            "every key must keep to the tolerance, not their mean": fewest(bound.mean()),
            "with two to the bits codes there is one step less than codes": fewest(bound.max(), lost=0),
        }
        seen = [found for found in mistakes.values() if found != wanted]
        if wanted not in NAMED or len(set(seen)) == len(seen):
            return q, k, tolerance, mistakes
