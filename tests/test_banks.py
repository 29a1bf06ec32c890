"""Every exercise's check tells its bank's right solutions from its wrong ones, and says what is wrong with these."""

import importlib
import re

import pytest
import torch

from attncourse.check import CHECKS, run_check
from attncourse.check.core import LocalLearner, plain
from tests.banks.kinds import Bank

SEEDS = (0, 1)
UNITS = sorted({check.unit for check in CHECKS.values()})
BANKS: dict[str, Bank] = {
    name: bank for unit in UNITS for name, bank in importlib.import_module(f"tests.banks.{unit}").BANK.items()
}
RIGHT = [pytest.param(name, f, id=f"{name}-{f.__name__}") for name, bank in BANKS.items() for f in bank.right]
WRONG = [pytest.param(name, w, id=f"{name}-{w.function.__name__}") for name, bank in BANKS.items() for w in bank.wrong]


class Recorder(LocalLearner):
    """A learner that keeps the arguments and the result of each call."""

    def __init__(self, check, function):
        super().__init__(function, check.function, check.forbids, check.may_change, check.kernel)
        object.__setattr__(self, "calls", [])

    def _run(self, args, kwargs, *measure):
        self.calls.append((plain(args), plain(kwargs), None))
        result = super()._run(args, kwargs, *measure)
        self.calls[-1] = (*self.calls[-1][:2], result)
        return result


def numbers_in(value) -> set[float]:
    """Every number that a plain value holds."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return set()
    if isinstance(value, torch.Tensor):
        return set(value.double().flatten().tolist()) | {float(n) for n in value.shape}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*map(numbers_in, value))
    return {float(value)}


def given_away(message: str, answer: set[float], known: set[float]) -> list[str]:
    """Numbers of a message that are numbers of the answer, and not ones that the learner has anyway."""

    def matches(text: str, values: set[float]) -> bool:
        decimals = len(text.partition(".")[2])
        return any(abs(float(text) - value) <= 0.5 * 10.0**-decimals for value in values if decimals or value % 1 == 0)

    tokens = re.findall(r"\d+(?:\.\d+)?", message)
    # one-digit numbers are places and sizes; no answer is told by one
    return [t for t in tokens if len(t) > 1 and matches(t, answer) and not matches(t, known)]


def test_every_exercise_has_a_bank():
    assert UNITS and BANKS.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_is_large_enough_and_each_mistake_has_its_own_message(name):
    bank = BANKS[name]
    assert len(bank.wrong) >= 5 and len(bank.right) >= 2
    assert len({f.__code__.co_code for f in bank.right}) == len(bank.right), "right ones are written differently"
    says = [wrong.says for wrong in bank.wrong]
    assert all(says) and len(set(says)) >= 5  # more ways to break the same property may share its message


@pytest.mark.parametrize("name, function", RIGHT)
@pytest.mark.parametrize("seed", SEEDS)
def test_right_solutions_pass(name, function, seed):
    check = CHECKS[name]
    verdict = run_check(check, check.learner(function), torch.Generator().manual_seed(seed))
    assert verdict.passed and verdict.points == check.points, verdict


# One draw: that a wrong program passes on none is what mutants ask, over many programs and several draws (tests/mutants.py).
@pytest.mark.parametrize("name, wrong", WRONG)
@pytest.mark.parametrize("seed", SEEDS[:1])
def test_wrong_solutions_fail_with_a_message_of_their_own(name, wrong, seed):
    check = CHECKS[name]
    learner = Recorder(check, wrong.function)
    verdict = run_check(check, learner, torch.Generator().manual_seed(seed))
    assert verdict.state in ("wrong", "crashed") and verdict.points == 0, verdict
    assert wrong.says in verdict.message, verdict
    others = [w.says for w in BANKS[name].wrong if w.says != wrong.says and wrong.says not in w.says]
    assert not any(other in verdict.message for other in others if other not in wrong.says), verdict
    args, kwargs, result = learner.calls[0 if BANKS[name].stateful else -1]
    answer = numbers_in(plain(BANKS[name].right[0](*args, **kwargs)))
    known = numbers_in(args) | numbers_in(kwargs) | numbers_in(plain(result))
    assert not given_away(verdict.message, answer, known), f"the message tells the answer: {verdict.message}"


def test_a_message_that_tells_the_answer_is_noticed():
    assert given_away("expected 144 multiplications", {144.0}, {12.0}) == ["144"]
    assert given_away("the entry should be 0.731", {0.7310586}, set()) == ["0.731"]
    assert given_away("rows sum to 0.93, 12 of 12 entries", {0.25, 1.0}, {0.93}) == []
