"""Small changes of right solutions fail their checks: a sample of all of them, which `make mutants` judges."""

import ast
import random

import pytest
import torch

from attncourse.check import CHECKS
from attncourse.check.core import Broken, Check
from tests import mutants
from tests.mutants import Mutant, changes, explanations, head, mutants_of, run, solution_lines, stale, states_of

SAMPLE = 1  # of each exercise; the full set takes over an hour


def changed(source: str) -> dict[str, str]:
    """What the changes of a function `f` make of its source, by what they say."""
    tree = ast.parse(source)
    found = changes(tree, set(range(1, 100)), "f")
    return {change: ast.unparse(ast.fix_missing_locations(new)) for _, change, new in found}


@pytest.mark.parametrize(
    "before, after",
    [
        ("x @ y.T", "y.T @ x"),
        ("x + y", "x - y"),
        ("x - x.amax()", "x"),
        ("x < y", "x <= y"),
        ("x[2:]", "x[2 + 1:]"),
        ("list(range(x))", "list(range(x - 1))"),
        ("g(x, y)", "g(y, x)"),
        ("x.sum(dim=-1)", "x.sum(dim=-0)"),
        ("x.sum(dim=-1)", "x.mean(dim=-1)"),
        ("x.sum(dim=-1, keepdim=True)", "x.sum(dim=-1)"),
        ("x.masked_fill(y, -torch.inf)", "x.masked_fill(y, -10000.0)"),
        ("x.detach()", "x"),
        ("torch.exp(x)", "x"),
        ("x if y else 0", "0"),
        ("not x", "x"),
        ("x and y", "x or y"),
    ],
)
def test_a_change_of_each_kind_is_made(before, after):
    found = changed(f"def f(x, y):\n    return {before}")
    assert found[f"return {before} => return {after}"] == f"def f(x, y):\n    return {after}"


def test_statements_are_dropped_and_arguments_detached_and_rounded():
    found = changed("def f(x):\n    y = x + 1\n    if y > 2:\n        y *= 3\n    return y")
    assert "y *= 3" not in found["y *= 3 => dropped"] and "y = x + 1" in found["y *= 3 => dropped"]
    assert "if y > 2" not in found["if y > 2: => dropped"]
    assert "x = x.detach()" in found["detach x"] and "x = x.float()" in found["float32 x"]
    assert "y > 2" not in found["if y > 2: => if y > 3:"] and "y *= 3" in found["if y > 2: => if y > 3:"]


def test_only_what_the_learner_writes_is_changed():
    source = f"def f(x):\n    y = x + 1\n    {mutants.BEGIN}\n    y = y * 2\n    {mutants.END}\n    return y"
    assert solution_lines(source) == {4} and solution_lines("a\nb") == {1, 2}
    found = [change for _, change, _ in changes(ast.parse(source), {4}, "g")]
    assert found and all(change.startswith("y = y * 2 =>") for change in found)
    assert head(ast.parse("for i in range(3):\n    pass").body[0]) == "for i in range(3):"


def judge_double(learner, rng):
    if not torch.equal(learner(torch.ones(3)), 2 * torch.ones(3)):
        raise Broken("not twice")


HANG = "def double(x):\n    while True:\n        pass"
END = "import os\n\ndef double(x):\n    os._exit(3)"
GREEDY = "import torch\n\ndef double(x):\n    return torch.zeros(1 << 34)"


@pytest.mark.parametrize(
    "source, state",
    [
        ("def double(x):\n    return x * 2", "passed"),
        ("def double(x):\n    return x * 3", "wrong"),
        ("double = 1 / 0", "missing"),
        (HANG, "raised KeyboardInterrupt"),
        (END, "ended"),
        (GREEDY, "out of memory"),
    ],
)
def test_a_mutant_that_hangs_or_ends_or_takes_memory_is_judged(monkeypatch, source, state):
    monkeypatch.setitem(CHECKS, "toy.double", Check("toy.double", "double", 1, judge_double))
    monkeypatch.setattr(mutants, "cells_of", lambda unit: [("toy-double", source)])
    monkeypatch.setattr(mutants, "SECONDS", 1)
    assert set(states_of(Mutant("toy.double", "", "", source), range(2))) == {state}


def test_an_explanation_holds_for_what_survives_alone(monkeypatch):
    said = {"double": {"a => b": "because", "detach": "no gradients", "c => d": "gone"}}
    monkeypatch.setattr(mutants, "explanations", lambda unit: said)
    monkeypatch.setitem(CHECKS, "toy.double", Check("toy.double", "double", 1, judge_double))
    made = [Mutant("toy.double", kind, change, "") for kind, change in (("x", "a => b"), ("detach", "detach x"))]
    assert [mutants.explained(mutant) for mutant in made] == ["because", "no gradients"]
    results = [mutants.Result(mutant, ("passed",), "said") for mutant in made]
    assert stale("toy", results) == ["toy.double: c => d"]
    assert stale("toy", [mutants.Result(made[0], ("wrong",)), results[1]]) == [
        "toy.double: a => b",
        "toy.double: c => d",
    ]


def test_every_explanation_is_a_sentence_about_a_mutant_that_is_made():
    units = {check.unit for check in CHECKS.values()}
    assert {path.stem for path in mutants.EQUIVALENT.glob("*.toml")} <= units
    for unit in units:
        for exercise, said in explanations(unit).items():
            made = {mutant.change for mutant in mutants_of(CHECKS[f"{unit}.{exercise}"])} | set(mutants.WHOLE_KINDS)
            assert said.keys() <= made, f"{unit}.{exercise} explains {sorted(said.keys() - made)}"
            assert all(len(reason.split()) >= 3 for reason in said.values()), f"{unit}.{exercise}: a whole sentence"


@pytest.mark.parametrize("name", CHECKS)
def test_a_sample_of_an_exercise_s_mutants_is_killed_or_explained(name):
    made = mutants_of(CHECKS[name])
    assert made, f"nothing of {name} can be changed"
    chosen = random.Random(name).sample(made, min(SAMPLE, len(made)))
    results = run(chosen, seeds=range(2), quiet=True)
    assert not [(r.mutant.change, r.states) for r in results if not r.killed and not r.reason]
