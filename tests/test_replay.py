"""Tests that learners write, replayed: the verdict is that of the test run directly, and what cannot be replayed is said."""

import pytest
import torch

from attncourse.check.core import Broken, LocalLearner, Unsolved
from attncourse.check.replay import MOST_CALLS, by_replay, outcome


def replay(test, attention, *more):
    return outcome(LocalLearner(test, test.__name__), attention, *more)


@by_replay
def is_double(f, factor):
    x = torch.arange(3.0)
    assert torch.equal(f(x), factor * x)
    assert torch.equal(f(x + 1), factor * (x + 1))


def double(x):
    return 2 * x


def double_at_first(x):
    return 2 * x if x[0] == 0 else x


@pytest.mark.parametrize(("f", "holds"), [(double, True), (double_at_first, False), (torch.clone, False)])
def test_the_verdict_is_that_of_the_test_itself(f, holds):
    assert replay(is_double, f, 2.0) is holds
    if holds:
        is_double(f, 2.0)
    else:
        with pytest.raises(AssertionError):
            is_double(f, 2.0)


def test_every_call_is_answered_once_and_in_order():
    seen = []

    def spy(x):
        seen.append(x.tolist())
        return 2 * x

    assert replay(is_double, spy, 2.0)
    assert seen == [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]


def test_false_is_a_verdict_and_an_exception_handler_cannot_swallow_a_waiting_call():
    @by_replay
    def says_false(f):
        return bool(f(torch.ones(1)) == 1)

    @by_replay
    def catches(f):
        try:
            return bool(f(torch.ones(1)) == 2)
        except Exception:
            return False

    assert replay(says_false, double) is False and replay(catches, double) is True


def test_what_cannot_be_replayed_is_said():
    @by_replay
    def without_seed(f):
        f(torch.rand(3)), f(torch.rand(3))

    @by_replay
    def without_end(f):
        for i in range(MOST_CALLS + 1):
            f(torch.tensor(float(i)))

    @by_replay
    def without_calls(f):
        pass

    @by_replay
    def swallows(f):
        f(torch.ones(1))
        try:
            f(torch.zeros(1))
        except BaseException:
            return True

    def undecorated(results):
        return True

    for test, says in [
        (without_seed, "draw from a generator with a seed"),
        (without_end, f"more than {MOST_CALLS} calls"),
        (without_calls, "never calls the attention"),
        (swallows, "catch no BaseException"),
        (undecorated, "leave the line @by_replay"),
    ]:
        with pytest.raises(Broken, match=says):
            replay(test, double)


def test_a_stub_is_unsolved_and_nan_is_like_nan():
    @by_replay
    def stub(f):
        raise NotImplementedError

    @by_replay
    def asks_with_nan(f):
        return bool(f(torch.tensor([torch.nan])).isnan() & f(torch.ones(1)).eq(2))

    with pytest.raises(Unsolved):
        replay(stub, double)
    assert replay(asks_with_nan, double)
