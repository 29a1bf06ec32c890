"""Checks of the unit `mechanism_or_implementation`: the online softmax, separating inputs, traffic, room, bits."""

import torch
from torch import Tensor

from ..core import exercise_check, exercise_unit
from ..draw import integer, normal
from ..expect import expect, expect_close, expect_number, expect_tensor

exercise_unit(
    "mechanism_or_implementation",
    title="Mechanism or implementation?",
    chapter="mechanism_or_implementation",
    minutes=75,
    prerequisites=("kv_cache",),
)


def _step_expected(top, total, mixed, scores, values):
    """One step by its formulas, with a row that has seen nothing left as it was."""
    new = torch.maximum(top, scores.amax(dim=1))
    finite = new.masked_fill(new == -torch.inf, 0.0)
    rescale, weights = torch.exp(top - finite), torch.exp(scores - finite[:, None])
    return new, rescale * total + weights.sum(dim=1), rescale[:, None] * mixed + weights @ values


@exercise_check("mechanism_or_implementation.rescale", function="take_tile", points=2, section="the-online-softmax")
def rescale(learner, rng):
    """Write one step of the online softmax: a tile of keys into the running maximum, sum and mixture."""
    t, dv = 5, 3
    for hidden in (False, True):
        state = torch.full((t,), -torch.inf, dtype=torch.float64), *(torch.zeros(s).double() for s in ((t,), (t, dv)))
        for tile in range(4):
            scores, values = 8 * normal(rng, t, 3 + tile), normal(rng, 3 + tile, dv)
            if hidden and tile % 2 == 0:
                scores[:2] = -torch.inf
            got = learner(*state, scores, values)
            expect(isinstance(got, tuple | list) and len(got) == 3, "return three tensors: top, total, mixed")
            state = _judge_state(got, state, scores, values, case=f"tile {tile}: ")


def _judge_state(got, state, scores, values, *, case: str) -> tuple[Tensor, ...]:
    """The new state, which must be the expected one."""
    top, total, mixed = state
    wanted = _step_expected(*state, scores, values)
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
    expect_close(got[1], wanted[1], case + "total is not the sum of exp(score - top)")
    seen = wanted[1].clamp_min(1e-300)[:, None]
    expect(
        right[2] or not torch.allclose(got[2], wanted[2] / seen),
        case + "mixed is divided by total already: then the next tile cannot be added",
    )
    expect_close(got[2], wanted[2], case + "mixed is not the sum of exp(score - top) value")
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
    """Candidate and standard of each pair that the exercise describes."""

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


@exercise_check("mechanism_or_implementation.separate", function="separate", points=3, section="a-test-that-decides")
def separate(learner, rng):
    """Construct inputs that tell two functions apart, or say that there are none."""
    names = ("window", "whole blocks", "from the start", "no maximum", "reordered")
    for i in torch.randperm(len(names), generator=rng).tolist():
        name, number = names[i], integer(rng, 5, 12)
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


def _matrix(x, what: str) -> Tensor:
    expect(isinstance(x, Tensor) and x.ndim == 2 and x.numel() > 0, f"{what} must be a matrix with an entry")
    expect(bool(x.isfinite().all()), f"{what} must be finite")
    return x.double()


def _why_not(name: str, q, k, v) -> str:
    return "all your values are equal, so that every mixture is" if bool((v == v[0]).all()) else WHY_NOT[name]


@exercise_check("mechanism_or_implementation.traffic", function="keys_outside", points=3, section="traffic-counted")
def traffic(learner, rng):
    """Count the bytes that tiled attention moves when the keys' loop is the outer one."""
    for _ in range(4):
        block, passes, itemsize = 16 * integer(rng, 1, 5), integer(rng, 4, 9), 2
        d, dv = (8 * torch.randperm(9, generator=rng)[:2] + 24).tolist()
        n = block * passes
        got = learner(n, d, dv, block, itemsize)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: bytes read, bytes written")
        read, written = (expect_number(x) for x in got)
        row, case = n * itemsize, f"n={n}, d={d}, dv={dv}, block={block}: "
        once, right, out = row * (d + dv), row * passes * (d + dv) + row * d, row * passes * dv
        expect((read, written) != (right / itemsize, out / itemsize), case + "those are numbers, not bytes")
        expect(read != right - row * (passes - 1) * d, case + "the queries pass by again for every block of keys")
        expect(read != right - row * (passes - 1) * dv, case + "an output that is changed again has to be read first")
        expect(read != right + row * dv, case + "at the first block of keys there is no output to read yet")
        expect(read != right - row * dv, case + "both keys and values are read")
        expect(read != right + (passes - 1) * once, case + "keys and values stay while the queries pass by")
        expect(read == right, case + "the bytes read are wrong")
        expect(written != row * dv, case + "each block of the output is written once for every block of keys")
        expect(written == out, case + "the bytes written are wrong")


@exercise_check(
    "mechanism_or_implementation.served", function="served_at_once", points=2, section="layouts-a-day-of-requests"
)
def served(learner, rng):
    """Count the requests that fit a memory at once, in stretches for the longest and in pages."""
    for case_number in range(4):
        page, longest = 16 * integer(rng, 1, 4), 500 + integer(rng, 0, 300)
        memory = longest * integer(rng, 3, 6) + integer(rng, page, longest - page)
        lengths = _draw_lengths(memory, page, longest, rng=rng)
        got = learner(lengths, memory, longest, page)
        expect(isinstance(got, tuple | list) and len(got) == 2, "return two numbers: in stretches, in pages")
        stretches, pages = (expect_number(x) for x in got)
        case = f"case {case_number}: "
        expect(stretches == int(stretches) and pages == int(pages), case + "there are no parts of a request")
        expect(stretches != memory // longest + 1, case + "a stretch that does not fit whole is none")
        expect(
            stretches != _admitted(lengths, memory),
            case + "a stretch has room for the longest, whatever is in it: you count the tokens that stand",
        )
        expect(stretches == memory // longest, case + "the number in stretches is wrong")
        right = _admitted([-(-n // page) for n in lengths], memory // page)
        for what, other in (
            ("a page that is begun is taken: a request's last one is rarely full", [n // page for n in lengths]),
            ("a request whose tokens just fill its pages needs no further one", [n // page + 1 for n in lengths]),
        ):
            found = _admitted(other, memory // page)
            expect(pages != found or found == right, case + what)
        overtaking = _admitted([-(-n // page) for n in lengths], memory // page, overtake=True)
        expect(pages != overtaking or overtaking == right, case + "nobody overtakes one who finds no room")
        expect(pages != stretches, case + "in pages a request takes what its tokens need, and not the longest")
        expect(pages == right, case + "the number in pages is wrong")


def _admitted(sizes: list[int], room: int, *, overtake: bool = False) -> int:
    """How many of these fit, in order; those after one that does not fit only if they may overtake."""
    count = 0
    for size in sizes:
        if size <= room:
            room, count = room - size, count + 1
        elif not overtake:
            break
    return count


def _draw_lengths(memory: int, page: int, longest: int, *, rng) -> list[int]:
    """Lengths, some of them whole pages, for which every way to count gives another number."""
    while True:
        drawn = [integer(rng, 1, longest // 3) for _ in range(80)]
        lengths = [-(-n // page) * page if integer(rng, 0, 3) == 0 else n for n in drawn]
        lengths = [longest if i % 7 == 6 else n for i, n in enumerate(lengths)]
        pages = memory // page
        ways = (
            _admitted([-(-n // page) for n in lengths], pages),
            _admitted([n // page for n in lengths], pages),
            _admitted([n // page + 1 for n in lengths], pages),
            _admitted([-(-n // page) for n in lengths], pages, overtake=True),
            memory // longest,
            memory // longest + 1,
        )
        if len(set(ways)) == len(ways):
            return lengths


@exercise_check(
    "mechanism_or_implementation.bits", function="fewest_bits", points=2,
    section="few-bits-an-approximation-and-its-bound",
)  # fmt: skip
def bits(learner, rng):
    """Find the fewest bits for which the bound on every score stays below a tolerance."""
    for wanted in torch.randperm(3, generator=rng).add(5).tolist():
        for just_met in (True, False):
            q, k, tolerance, mistakes = _draw_bits(wanted, just_met, rng=rng)
            got = expect_number(learner(q, k, tolerance))
            case = "the tolerance is just met: " if just_met else "one bit less just misses the tolerance: "
            expect(got == int(got), case + "a code has a whole number of bits")
            for what, found in mistakes.items():
                expect(got != found or found == wanted, case + what)
            expect(got <= wanted, case + "fewer bits keep to the tolerance as well")
            expect(got >= wanted, case + "with so few bits a score may leave the tolerance")


def _draw_bits(wanted: int, just_met: bool, *, rng) -> tuple[Tensor, Tensor, float, dict[str, int]]:
    """A query, keys, a tolerance that asks for `wanted` bits, and what each mistake finds: no two the same."""
    while True:
        q, k = normal(rng, 16), normal(rng, 9, 16)
        k[integer(rng, 0, 9)] *= 12  # a key with large entries, which a mean over keys forgets
        bound = q.abs().sum() / 2 * (k.amax(dim=1) - k.amin(dim=1)) / 4  # of each key, times 2^bits - 1
        tolerance = float(bound.max()) * (1.0001 / (2**wanted - 1) if just_met else 0.9999 / (2 ** (wanted - 1) - 1))

        def fewest(times, lost=1, tolerance=tolerance):
            return next(b for b in range(1, 40) if float(times) <= tolerance * (2**b - lost))

        mistakes = {
            "an entry is off by at most half a step": fewest(2 * bound.max()),
            "scores are divided by the square root of the width": fewest(4 * bound.max()),
            "the errors of the entries may all add up, beyond the length of q": fewest(
                bound.max() * q.norm() / q.abs().sum()
            ),
            "every key must keep to the tolerance, not their mean": fewest(bound.mean()),
            "with two to the bits codes there is one step less than codes": fewest(bound.max(), lost=0),
        }
        seen = [found for found in mistakes.values() if found != wanted]
        if len(set(seen)) == len(seen):
            return q, k, tolerance, mistakes
