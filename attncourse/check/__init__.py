"""Checks that exercises call: `check("additive.score")` says which property is broken and where."""

from . import units  # noqa: F401  (registers every check)
from .card import check, score_card
from .core import CHECKS, Broken, Check, Verdict, exercise_check, run_check

__all__ = ["CHECKS", "Broken", "Check", "Verdict", "check", "exercise_check", "run_check", "score_card"]
