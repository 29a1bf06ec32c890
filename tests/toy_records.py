"""Records as `grade` writes them, of the toy unit and of whole invented classes."""

import random
from dataclasses import replace
from typing import Any

from attncourse.check import CHECKS, UNITS, Unit
from attncourse.grade.marks import Record
from tests import toy_course

SEED = 31337_000_777


def register_toys(monkeypatch) -> None:
    """Register the toy unit as one of the course's, for a test."""
    monkeypatch.setitem(UNITS, "toy", Unit("toy", "Toys", chapter="softmax_attention", minutes=5))
    for name, check in toy_course.CHECKS.items():
        monkeypatch.setitem(CHECKS, name, replace(check, section="who-may-look-where"))


def check_record(check: str, state: str = "passed", message: str = "", **more: Any) -> dict[str, Any]:
    """Return one check of a record; a pass has all points, everything else none."""
    possible = (toy_course.CHECKS | CHECKS)[check].points
    points = possible if state == "passed" else 0
    return {
        "check": check,
        "state": state,
        "points": points,
        "possible": possible,
        "message": message,
        "picture": None,
        "seed": SEED,
        "seconds": 0.25,
    } | more


def record(
    learner: str = "ada", *checks: dict[str, Any], unit: str = "toy", state: str = "marked", **more: Any
) -> Record:
    """Return one record; without checks one of a submission in which nothing was judged."""
    identity = {"name": "", "canvas_id": "", "moodle_id": ""} | more.pop("identity", {})
    return {
        "file": f"{learner}/{unit}.ipynb",
        "learner": learner,
        "identity": identity,
        "unit": unit,
        "state": state,
        "points": sum(check["points"] for check in checks),
        "possible": sum(check["possible"] for check in checks),
        "checks": list(checks),
        "notes": [],
        "seconds": 1.5,
        "content": "0123456789abcdef" * 4,
        "version": "1",
        "sandbox": "bubblewrap: own namespaces",
        "grader": {"attncourse": "0.1.0", "torch": "2.13.0"},
        "graded": "2026-11-24T15:00:00+00:00",
    } | more


def toy(
    learner: str = "ada", double: str = "passed", rows: str = "passed", cube: str = "passed", **more: Any
) -> Record:
    """Return a record of the toy unit by the states of its three checks."""
    states = {"toy.double": double, "toy.rows": rows, "toy.cube": cube}
    return record(learner, *(check_record(name, state, f"{state}!") for name, state in states.items()), **more)


def invented_class(size: int, *, unit: str = "softmax_attention", seed: int = 0) -> list[Record]:
    """Return a class of learners of every kind, in the proportions that a class has."""
    rng = random.Random(seed)
    checks = [name for name, check in CHECKS.items() if check.unit == unit]
    return [_invented(f"learner-{number:05}", unit, checks, rng) for number in range(size)]


def _invented(learner: str, unit: str, checks: list[str], rng: random.Random) -> Record:
    state = rng.choices(
        ["marked", "crashed", "timed out", "out of memory", "tampered", "unreadable", "unknown unit", "not graded"],
        [80, 9, 3, 2, 2, 2, 1, 1],
    )[0]
    more = {"seconds": round(rng.lognormvariate(0.5, 0.8), 3), "identity": {"name": f"Learner {learner[-5:]}"}}
    if state in ("unreadable", "unknown unit", "not graded"):
        return record(
            learner, unit="" if state != "not graded" else unit, state=state, notes=[f"it is {state}"], **more
        )
    verdicts = [_verdict(name, rng.random() > 0.15 * (i + 1), rng) for i, name in enumerate(checks)]
    if state in ("crashed", "timed out", "out of memory"):
        verdicts[-1] = check_record(checks[-1], state, "IndexError: index 9 is out of bounds\n  line 3 of merge: x[9]")
    notes = [f"the check cell {unit}-cost-check was edited"] if state == "tampered" else []
    return record(learner, *verdicts, unit=unit, state=state, notes=notes, **more)


def _verdict(name: str, right: bool, rng: random.Random) -> dict[str, Any]:
    if right:
        return check_record(name)
    here, there = rng.sample(range(9), 2)
    kind = rng.choices(["leak", "sum", "unsolved"], [5, 3, 2])[0]
    if kind == "unsolved":
        return check_record(name, "unsolved", "not solved yet")
    if kind == "sum":
        return check_record(
            name, "wrong", f"rows sum to {1 + rng.random():.2f}, not to 1: the weights are not normalised"
        )
    expected = [[float(j <= i) for j in range(6)] for i in range(6)]
    got = [[float(j <= i + 1) for j in range(6)] for i in range(6)]
    picture = {"got": got, "expected": expected, "rows": "query", "columns": "key"}
    message = f"position {min(here, there)} saw position {max(here, there)}, its future"
    return check_record(name, "wrong", message, picture=picture)
