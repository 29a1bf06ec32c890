"""One module of checks a unit of exercises. All that lie here are imported; then they stand in the course's order."""

import pkgutil
from importlib import import_module

from attncourse.rooms import place_of

from ..core import CHECKS, UNITS

for module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

# By chapters, and those of one chapter by their names; a unit's checks keep the order of its file.
_units = sorted(UNITS.values(), key=lambda unit: (place_of(unit.chapter), unit.name))
_checks = sorted(CHECKS.values(), key=lambda check: _units.index(UNITS[check.unit]))
UNITS.clear()
UNITS.update({unit.name: unit for unit in _units})
CHECKS.clear()
CHECKS.update({check.name: check for check in _checks})
