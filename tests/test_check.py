"""What a check makes of what learners do: states, messages, the score card."""

import numpy as np
import pytest
import torch

import attncourse.check
from attncourse.check import card, check, run_check, score_card
from attncourse.check.core import Broken, LocalLearner, exercise_check, fresh_rng, plain
from attncourse.check.expect import (
    expect_blind_to_future,
    expect_close,
    expect_number,
    expect_rows_sum_to_one,
    expect_tensor,
)
from tests import toy_course


@pytest.fixture(autouse=True)
def toy_checks(monkeypatch):
    for name, toy in toy_course.CHECKS.items():
        monkeypatch.setitem(attncourse.check.CHECKS, name, toy)
    monkeypatch.setattr(card, "_latest", {})


def verdict_on(function, name="toy.double"):
    toy = toy_course.CHECKS[name]
    return run_check(toy, LocalLearner(function, toy.function), torch.Generator().manual_seed(3))


def test_a_right_function_gets_all_points():
    verdict = verdict_on(lambda x: x + x)
    assert (verdict.state, verdict.points, verdict.possible) == ("passed", 2, 2)
    assert repr(verdict) == "toy.double: passed, 2 of 2 points"


def stub(x):
    raise NotImplementedError


def beyond_pytorch(x):
    raise NotImplementedError("'softmax' not implemented for 'Long'")


def hungry(x):
    raise MemoryError


def hoards(x):
    return torch.empty(1 << 60)


def leaves(x):
    raise SystemExit


def cyclic(x):
    return (loop := []).append(loop) or loop


@pytest.mark.parametrize(
    "function, state, words",
    [
        (None, "missing", "no function named double is defined"),
        (stub, "unsolved", "not solved yet"),
        (beyond_pytorch, "crashed", "not implemented for 'Long'"),
        (lambda: 1, "crashed", "takes 0 positional arguments but 1 was given"),
        (hungry, "out of memory", "MemoryError"),
        (hoards, "out of memory", "can't allocate memory"),
        (leaves, "crashed", "SystemExit"),
        (lambda x: None, "wrong", "is a NoneType, expected a tensor of shape (3, 5)"),
        (lambda x: object(), "wrong", "returned a object; return tensors"),
        (lambda x: np.array(["a"]), "wrong", "NumPy value that is no tensor"),
        (cyclic, "wrong", "RecursionError"),
        (lambda x: x[:2] * 2, "wrong", "has shape (2, 5), expected (3, 5)"),
        (lambda x: (x * 2).long(), "wrong", "torch.int64, expected floating point"),
        (lambda x: x * float("nan"), "wrong", "holds NaN at (0, 0)"),
        (lambda x: x.double() * 2, "wrong", "torch.float64, expected torch.bfloat16"),
        (lambda x: x * 2 + 1e-3, "wrong", "not twice the input (first at index (0, 0), 15 of 15 entries)"),
    ],
)
def test_each_way_to_fail_has_a_state_and_a_message(function, state, words):
    verdict = verdict_on(function)
    assert (verdict.state, verdict.points) == (state, 0)
    assert words in verdict.message


def test_an_error_shows_the_lines_that_the_learner_wrote_and_no_others():
    notebook = {"__name__": "__main__", "torch": torch}
    exec(compile("def double(x):\n    return torch.softmax(x, dim=7)", "<cell>", "exec"), notebook)
    message = verdict_on(notebook["double"]).message
    assert message.startswith("IndexError: Dimension out of range")
    assert message.endswith("line 2 of double") and "core.py" not in message


def test_a_judge_that_stumbles_over_the_result_says_so_instead_of_raising():
    toy = toy_course.CHECKS["toy.double"]
    stumbling = type(toy)("toy.stumbles", "double", 1, lambda learner, rng: learner(torch.ones(2)).abs())
    verdict = run_check(stumbling, LocalLearner(lambda x: [1, 2], "double"), torch.Generator())
    assert verdict.state == "wrong" and "not of the kind that the exercise asks for" in verdict.message


def test_a_function_cannot_change_the_inputs_that_it_is_judged_by():
    assert verdict_on(lambda x: x.mul_(0)).message.startswith("double changes its argument x in place")
    assert "in place" in verdict_on(lambda x: x.mul_(2)).message


def test_gradients_are_judged():
    assert verdict_on(lambda x: x**3, "toy.cube").passed
    assert "no gradient flows back" in verdict_on(lambda x: x.detach() ** 3, "toy.cube").message
    half = verdict_on(lambda x: x**3 / 2 + x.detach() ** 3 / 2, "toy.cube")
    assert "the gradient is not that of the cube" in half.message


def test_plain_values_are_copies_of_plain_kinds():
    x = torch.ones(2, requires_grad=True)
    copy = plain({"a": [x, (1, 2.0, None, "s", True)], 3: np.float64(2)})
    assert not copy["a"][0].requires_grad and copy["a"][0].data_ptr() != x.data_ptr()
    assert copy["a"][1] == (1, 2.0, None, "s", True) and copy[3].item() == 2
    with pytest.raises(Broken, match="returned a set"):
        plain([{1}])


def test_check_finds_the_function_of_the_notebook_that_calls_it():
    notebook = {"check": check, "double": lambda x: 2 * x, "rows": lambda x: torch.softmax(x, dim=0)}
    assert eval("check('toy.double')", notebook).passed
    assert eval("check('toy.cube')", notebook).state == "missing"
    assert "softmax runs over the wrong axis" in eval("check('toy.rows')", notebook).message
    assert score_card("toy") == (
        "toy: 2 of 6 points\n"
        "  2/2  toy.double: passed\n"
        "  0/3  toy.rows: wrong\n"
        "  0/1  toy.cube: missing\n"
        "not verified here:\n"
        "  that a grader's own run, on other inputs and under limits, agrees"
    )


def test_the_score_card_counts_what_was_not_run():
    assert score_card("toy").splitlines()[1] == "  0/2  toy.double: not run"


def test_checking_leaves_the_random_numbers_of_the_notebook_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check("toy.double", lambda x: 2 * x)
    assert torch.equal(torch.rand(3), expected)


def test_every_run_draws_other_inputs():
    drawn = {torch.rand(1, generator=fresh_rng()[0]).item() for _ in range(20)}
    assert len(drawn) == 20
    rng, seed = fresh_rng()
    assert torch.equal(torch.rand(3, generator=rng), torch.rand(3, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.bad_input
def test_unknown_names_are_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match=r"no check is named 'toy.triple'; there are .*toy\.double"):
        check("toy.triple")
    with pytest.raises(ValueError, match=r"no unit is named 'tay'; there are .*toy"):
        score_card("tay")
    with pytest.raises(ValueError, match="exists already"):
        exercise_check("toy.double", function="double", points=1)(lambda learner, rng: None)


def broken(judgement, *args, **kwargs) -> str:
    with pytest.raises(Broken) as outcome:
        judgement(*args, **kwargs)
    return str(outcome.value)


def test_expectations_name_property_and_place():
    eye = torch.eye(3, dtype=torch.float64)
    assert broken(expect_tensor, 3.0, (2,)) == "the result is a float, expected a tensor of shape (2,)"
    assert "(1, 2)" in broken(expect_close, eye, eye + torch.tensor([[0, 0, 0], [0, 0, 1.0], [0, 0, 0]]), "off")
    assert broken(expect_rows_sum_to_one, eye - 0.5) == "a weight is negative, at (0, 1)"
    assert (
        broken(expect_rows_sum_to_one, eye * 0.5)
        == "rows sum to 0.50, not to 1: the weights are not normalised over the keys"
    )
    columns = torch.softmax(torch.randn(4, 3, dtype=torch.float64), dim=0)
    assert "softmax runs over the wrong axis" in broken(expect_rows_sum_to_one, columns)


@pytest.mark.parametrize("got", [True, "3", None, float("inf"), float("nan"), torch.ones(2)])
def test_what_is_no_number_is_refused(got):
    assert broken(expect_number, got).startswith("the result is")


def test_numbers_come_as_int_float_or_one_element():
    assert [expect_number(x) for x in (3, 2.5, torch.tensor([4.0]))] == [3, 2.5, 4.0]


def test_a_function_that_sees_the_future_is_caught_where_it_looks():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 3, generator=rng, dtype=torch.float64)
    causal = LocalLearner(lambda x: x.cumsum(dim=1), "f")
    expect_blind_to_future(causal, [x], moved=0, axis=1, rng=rng)

    def peeks(x):
        y = x.cumsum(dim=1)
        y[:, 2] += x[:, 5]
        return y

    said = broken(expect_blind_to_future, LocalLearner(peeks, "f"), [x], moved=0, axis=1, rng=rng)
    assert said == "position 2 saw position 5, its future"
