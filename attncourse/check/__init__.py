"""Checks that exercises call: `check("additive.score")` says which property is broken and where."""

from . import units  # noqa: F401  (registers every check)
from .card import check, score_card
from .core import CHECKS, UNITS, Broken, Check, Unit, Verdict, exercise_check, exercise_unit, run_check
from .picture import Picture

__all__ = [
    "CHECKS",
    "UNITS",
    "Broken",
    "Check",
    "Picture",
    "Unit",
    "Verdict",
    "check",
    "exercise_check",
    "exercise_unit",
    "run_check",
    "score_card",
]
