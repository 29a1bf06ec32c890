"""What there is to work on: units and exercises as the checks register them, chosen by name, as a table."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from typing import Any

from attncourse._shared.spelling import proposal
from attncourse.check import CHECKS, UNITS, Check, Unit

NAMES = 17  # characters of a line
NARROWEST = 24

EXAMPLE = """\
examples:
  attncourse exercises
  attncourse exercises short_history --json
"""


def checks_of(unit: str) -> list[Check]:
    """Return the checks of a unit, in its notebook's order."""
    return [check for check in CHECKS.values() if check.unit == unit]


def asks(check: Check) -> str:
    """Return what an exercise asks, in one sentence."""
    return check.judge.__doc__.splitlines()[0]


def choose(names: Iterable[str], chapters: Iterable[str]) -> tuple[list[str], list[Unit]]:
    """Return what names of chapters and units stand for:
    chapters in the order named, their units in the course's order.

    A chapter brings all its units; a unit comes alone, with its chapter. A name that is both is the chapter.

    Raises:
        ValueError: a name is neither; the message proposes what is spelled alike.
    """
    chapters = list(chapters)
    known, read, units = [*dict.fromkeys([*chapters, *UNITS])], [], set()
    for name in names:
        if name not in known:
            raise ValueError(f"no chapter or unit is named {name!r}; {proposal(name, known)}")
        read.append(name if name in chapters else UNITS[name].chapter)
        units |= {unit.name for unit in UNITS.values() if name in (unit.name, unit.chapter)}
    return [*dict.fromkeys(read)], [unit for unit in UNITS.values() if unit.name in units]


def described(unit: Unit) -> dict[str, Any]:
    """Return a unit and its exercises as plain values."""
    checks = checks_of(unit.name)
    return {
        "unit": unit.name,
        "title": unit.title,
        "chapter": unit.chapter,
        "minutes": unit.minutes,
        "prerequisites": list(unit.prerequisites),
        "points": sum(check.points for check in checks),
        "exercises": [
            {
                "name": c.name,
                "function": c.function,
                "points": c.points,
                "section": c.section,
                "difficulty": c.difficulty,
                "importance": c.importance,
                "asks": asks(c),
            }
            for c in checks
        ],
    }


def table(units: Iterable[Unit], *, width: int | None = None) -> str:
    """Return a row per exercise; what holds of a unit stands in its first row. Sentences wrap to fit `width`."""
    from tabulate import tabulate  # comes with the extra for instructors

    units = [described(unit) for unit in units]
    rows = []
    for unit in units:
        about = [unit["chapter"], unit["unit"], unit["minutes"], ", ".join(unit["prerequisites"])]
        for i, exercise in enumerate(unit["exercises"]):
            chapter, name, minutes, prerequisites = about if i == 0 else [""] * 4
            short = exercise["name"].partition(".")[2]
            rows.append([chapter, name, short, exercise["points"], minutes, prerequisites, exercise["asks"]])
    count = sum(len(unit["exercises"]) for unit in units)
    total = [sum(unit[key] for unit in units) for key in ("points", "minutes")]
    rows.append(["total", f"{len(units)} units", f"{count} exercises", *total, "", ""])
    headers = ["chapter", "unit", "exercise", "points", "minutes", "prerequisites", "what it asks"]
    sides = ["left"] * 3 + ["right"] * 2 + ["left"] * 2
    options = {"headers": headers, "tablefmt": "simple", "disable_numparse": True, "colalign": sides}
    text = tabulate(rows, **options)
    if width is None or max(map(len, text.splitlines())) <= width:
        return text
    options |= {"maxcolwidths": [NAMES, NAMES, None, None, None, NAMES, None], "break_on_hyphens": False}
    left = width - tabulate(rows, **options).index(headers[-1])
    options["maxcolwidths"][-1] = max(left, NARROWEST)
    return tabulate(rows, **options)


def add_parsers(commands) -> None:
    """Add the shell's `exercises` to the commands."""
    parser = commands.add_parser(
        "exercises",
        description="List every exercise: its chapter, unit, points, what it asks; of each unit the minutes it takes "
        "a learner who has read the chapter, and the units that it builds on.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="CHAPTER", help="only these chapters or units (default: all)")
    parser.add_argument("--json", action="store_true", help="for programs: a list of units with their exercises")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table, as wide as the terminal, or the JSON."""
    chapters = dict.fromkeys(unit.chapter for unit in UNITS.values())
    _, units = choose(args.names or chapters, chapters)
    if args.json:
        print(json.dumps([described(unit) for unit in units], indent=1))
    else:
        print(table(units, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0
