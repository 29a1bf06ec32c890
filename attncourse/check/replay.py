"""Tests that a learner writes, judged from outside: the test runs by the learner, the attention it tests by the check.

The learner's process cannot hold the attentions, broken ones among them, and the check cannot run the learner's code. So
a test is replayed: it runs from its beginning with the results of the calls that were answered, up to the next call.
"""

import functools
from collections.abc import Callable
from typing import Any

from .core import alike, plain
from .expect import expect

MOST_CALLS = 30


class _Unanswered(BaseException):
    """It leaves a test at the first call that has no result yet; not an Exception, which a test may catch."""


def by_replay(test: Callable[..., None]) -> Callable[..., Any]:
    """Turn test(attention, *more), which raises AssertionError where a property does not hold, into what a check calls.

    What comes back takes, in place of the attention, the list of results of its calls so far. It gives the arguments of
    all calls, and whether the property holds, None where a call is still to be answered. It also takes an attention, and
    is then the test itself.
    """

    @functools.wraps(test)
    def replayed(attention, *more):
        if callable(attention):
            return test(attention, *more)
        calls, results = [], list(attention)

        def answer(*args):
            calls.append(plain(list(args)))  # copies, which a test may change afterwards
            if len(calls) > len(results):
                raise _Unanswered
            return results[len(calls) - 1]

        holds: bool | None = True
        try:
            holds = test(answer, *more) is not False
        except AssertionError:
            holds = False
        except _Unanswered:
            holds = None
        return {"calls": calls, "holds": holds}

    return replayed


def outcome(learner, attention: Callable[..., Any], *more: Any) -> bool:
    """Return what a learner's test, decorated by `by_replay`, says of an attention: whether the property holds.

    Args:
        learner: the test.
        attention: what it is told to judge.
        more: further arguments of the test.

    Raises:
        Broken: the test asks too often, for something else when it runs again, or for nothing at all.
    """
    asked: list[tuple] = []
    results: list[Any] = []
    while True:
        got = learner(results, *more)
        expect(isinstance(got, dict) and {*got} == {"calls", "holds"}, "leave the line @by_replay above your test")
        calls, holds = got["calls"], got["holds"]
        expect(
            all(map(alike, asked, calls)),
            "run again, your test asks for something else: draw from a generator with a seed",
        )
        if holds is not None:
            expect(len(asked) > 0, "your test never calls the attention")
            expect(len(calls) == len(asked), "your test goes on where a call had to wait: catch no BaseException")
            return bool(holds)
        expect(len(asked) < MOST_CALLS, f"your test makes more than {MOST_CALLS} calls; each is slow, so choose them")
        asked.append(calls[-1])
        results.append(attention(*calls[-1]))
