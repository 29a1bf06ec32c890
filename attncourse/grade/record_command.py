"""`python -m attncourse record DIR LEARNER [UNIT]`: what a record says, for an appeal."""

import argparse
from difflib import get_close_matches
from pathlib import Path

from .files import first_line
from .marks import Learner, Record, has_mark


def add_parsers(commands) -> None:
    """Add the shell's `record` to the commands."""
    parser = commands.add_parser(
        "record",
        description="Print every record of one learner: what was marked, when, in which sandbox, and each verdict with "
        "the seed of its inputs. For whoever marks: a seed gives hidden inputs away.",
        epilog="example: python -m attncourse record grades/ ada softmax_attention",
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="the folder that `grade --out DIR` wrote")
    parser.add_argument("learner", metavar="LEARNER", help="as in grades.csv, or the name or id on Canvas or Moodle")
    parser.add_argument("unit", nargs="?", metavar="UNIT", help="only this unit")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the learner's records.

    Raises:
        ValueError: there is none; the message names what comes near.
    """
    records = find_records(args.out, args.learner, args.unit)
    print("\n\n".join(as_text(record) for record in records))
    return 0


def find_records(out: Path, learner: str, unit: str | None = None) -> list[Record]:
    """Return every record of a learner (of one unit), by whatever name or id they go.

    Raises:
        ValueError: there is none; the message names what comes near.
    """
    from .records import read_records  # which needs the extra for graders, as --help does not

    known: dict[str, str] = {}
    theirs = []
    for record in read_records(out):
        names = {name.casefold(): name for name in _names(record)}
        known |= names
        if learner.casefold() in names:
            theirs.append(record)
    if not theirs:
        near = [first_line(known[key], 80) for key in get_close_matches(learner.casefold(), known, n=5, cutoff=0.5)]
        raise ValueError(f"no record of {learner!r} in {out}" + (f"; near are {', '.join(near)}" if near else ""))
    found = [record for record in theirs if unit is None or record["unit"] == unit]
    if not found:
        units = ", ".join(sorted({record["unit"] or "none" for record in theirs}))
        raise ValueError(f"no record of {learner!r} for the unit {unit!r} in {out}; there are those of {units}")
    return found


def _names(record: Record) -> list[str]:
    who = Learner.of(record)
    return [name for name in (who.learner, who.name, who.canvas_id, who.moodle_id) if name]


def as_text(record: Record) -> str:
    """Return one record, readably."""
    who, grader = Learner.of(record), record["grader"]
    names = " / ".join(first_line(name, 80) for name in dict.fromkeys(_names(record)))
    points = f"{record['points']} of {record['possible']} points" + ("" if has_mark(record) else ", which are no mark")
    lines = [
        f"{names}: {record['unit'] or 'unknown unit'}, {record['state']}, {points}",
        f"  file     {first_line(record['file'])}",
        f"  SHA-256  {record['content'] or 'none: it was not read'}",
        f"  marked   {record['graded']} in {record['seconds']:.1f} s",
        f"  grader   attncourse {grader['attncourse']}, torch {grader['torch']}, checks {record['version']}",
        f"  sandbox  {record['sandbox']}",
        f"  page     feedback/{who.slug}.html",
    ]
    lines += [f"  note     {first_line(note, 300)}" for note in record["notes"]]
    for check in record["checks"]:
        lines.append(f"  {check['check']}: {check['state']}, {check['points']} of {check['possible']} points")
        lines.append(f"    seed {check['seed']}, {check['seconds']:.2f} s")
        lines += [f"    | {first_line(line, 300)}" for line in check["message"].splitlines()]
        lines += ["    with a picture of expected against got, on the page"] if check["picture"] else []
    return "\n".join(lines)
