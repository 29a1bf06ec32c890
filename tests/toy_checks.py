"""Registers the toy course's checks when it is imported: what `attncourse grade --checks tests.toy_checks` names."""

from attncourse.check import CHECKS, UNITS
from tests import toy_course

CHECKS.update(toy_course.CHECKS)
UNITS.update(toy_course.UNITS)
