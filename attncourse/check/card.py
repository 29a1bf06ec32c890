"""The self-check that a notebook calls, and the score card it fills."""

import sys
from collections.abc import Callable

from .core import CHECKS, Verdict, fresh_rng, run_check

_latest: dict[str, Verdict] = {}


def check(name: str, function: Callable | None = None) -> Verdict:
    """Check the function of one exercise with fresh random inputs; the verdict prints itself.

    Args:
        name: "<unit>.<exercise>", as in "additive.score".
        function: what to check (default: the caller's function of the name that the exercise asks for).

    Raises:
        ValueError: there is no check of that name.
    """
    if name not in CHECKS:
        raise ValueError(f"no check is named {name!r}; there are {', '.join(sorted(CHECKS))}")
    wanted = CHECKS[name]
    if function is None:
        function = sys._getframe(1).f_globals.get(wanted.function)
    rng, _ = fresh_rng()
    _latest[name] = run_check(wanted, wanted.learner(function), rng)
    return _latest[name]


def score_card(unit: str) -> str:
    """Return points reached of points possible in a unit, each check's verdict, and what was not verified here.

    Raises:
        ValueError: there is no unit of that name.
    """
    wanted = [c for c in CHECKS.values() if c.unit == unit]
    if not wanted:
        raise ValueError(f"no unit is named {unit!r}; there are {', '.join(sorted({c.unit for c in CHECKS.values()}))}")
    verdicts = [_latest.get(c.name, Verdict(c.name, "not run", 0, c.points)) for c in wanted]
    reached, possible = sum(v.points for v in verdicts), sum(v.possible for v in verdicts)
    lines = [f"{unit}: {reached} of {possible} points"]
    lines += [f"  {v.points}/{v.possible}  {v.check}: {v.state}" for v in verdicts]
    lines += ["not verified here:", "  that a grader's own run, on other inputs and under limits, agrees"]
    lines += [f"  {c.name}: {c.not_verified}" for c in wanted if c.not_verified]
    return "\n".join(lines)
