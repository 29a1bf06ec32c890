"""`attncourse assign CHAPTER... --out DIR`: what an instructor hands out, in one folder.

DIR/index.html says what to read, what to solve, and until when; DIR/exercises holds the notebooks; DIR/handout.zip
is both, for a learning management system; DIR/assignment.json tells `grade` what each check counts.
"""

import argparse
from dataclasses import replace
from datetime import date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from attncourse._shared.validate import require
from attncourse.check import UNITS, Unit

from .assignment import FILE, Assignment, check_points, is_past, parse_due, shown_due
from .catalogue import asks, checks_of, choose
from .chapters import chapters, title_of
from .checkout import checkout, no_checkout
from .folders import digests, refuse_to_lose, whole_folder, write_zip
from .origin import Origin, read_origin
from .templates import template

ZIP = "handout.zip"

EXAMPLES = """\
examples:
  attncourse assign short_history --due 2027-03-05 --out assignment-1
  attncourse assign softmax_attention additive --due 2027-03-05T23:59 --out assignment-2
  attncourse assign additive --points additive=20 --out assignment-3
"""


def assign(
    root: Path,
    names: list[str],
    out: Path,
    *,
    due: date | datetime | None = None,
    points: list[str] | None = None,
    title: str = "",
    origin: Origin | None = None,
    book: str = "",
) -> Assignment:
    """Write the folder of an assignment, whole or not at all, in the place of an earlier one or of nothing.

    Args:
        root: a checkout of the course.
        names: chapters or units; a chapter brings all its units.
        out: the folder.
        due: until when.
        points: "UNIT.EXERCISE=N" gives an exercise N points, "UNIT=N" shares N among the unit's in proportion.
        title: what the page is headed (default: the chapters' titles).
        origin: where learners open the notebooks (default: where the checkout says).
        book: address of the built book, to link its pages (default: the chapters link to the repository).

    Raises:
        ValueError: a name, a date, points, the release or the folder cannot be used; the message says which and why.
    """
    from attncourse import __version__

    if not ((root / "exercises").is_dir() and (root / "book").is_dir()):
        raise no_checkout("chapters and exercises", root)
    require(due is None or not is_past(due), f"the due date must not be past, got {due and shown_due(due)}")
    read, units = choose(names, chapters(root))
    require(bool(units), f"an assignment must hold exercises, and {', '.join(read)} has none")
    weights = weighed([unit.name for unit in units], points or [])
    titles = {chapter: title_of(root, chapter) for chapter in read}
    origin, title = origin or read_origin(root), title or "; ".join(titles.values())
    refuse_to_lose(out)
    with whole_folder(out) as folder:
        for unit in units:
            target = folder / "exercises" / unit.name / f"{unit.name}.ipynb"
            target.parent.mkdir(parents=True)
            target.write_text(handed_out(root, unit.name, weights[unit.name]), encoding="utf-8")
        about = Assignment(title, tuple(read), weights, due, __version__, origin)
        (folder / "index.html").write_text(page(about, titles, book=book), encoding="utf-8")
        write_zip(folder / ZIP, folder)
        about = replace(about, files=digests(folder))
        (folder / FILE).write_text(about.as_json(), encoding="utf-8")
    return about


def weighed(units: list[str], overrides: list[str]) -> dict[str, dict[str, float]]:
    """Return the points of each check of each unit, after the overrides.

    Raises:
        ValueError: an override is no "NAME=N", names nothing handed out, comes twice, or a unit's beside its
            exercise's.
    """
    points = {unit: {check.name: check.points for check in checks_of(unit)} for unit in units}
    seen: set[str] = set()
    for text in overrides:
        name, _, number = text.partition("=")
        unit, _, exercise = name.partition(".")
        require(
            name in points or name in points.get(unit, {}),
            f"points must read UNIT=N or UNIT.EXERCISE=N of what is handed out "
            f"({', '.join([*points, *(check for checks in points.values() for check in checks)])}), got {text!r}",
        )
        value = _number(name, number)
        require(
            not seen & ({name, unit} if exercise else {name, *points[unit]}),
            f"points must be given once, for a unit or for its exercises, got {text!r} beside {sorted(seen)}",
        )
        seen.add(name)
        points[unit] = points[unit] | {name: value} if exercise else shared(points[unit], value)
    return points


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = text
    check_points(name, value)
    return _without_point(value)


def _without_point(value: float) -> float:
    return int(value) if value == int(value) else value


def shared(points: dict[str, int], total: float) -> dict[str, float]:
    """Return `total` in proportion to `points`, in hundredths that sum to it;
    what is left goes to the largest remainders.
    """
    hundredths = round(total * 100)
    exact = {name: Fraction(hundredths * value, sum(points.values())) for name, value in points.items()}
    parts = {name: int(value) for name, value in exact.items()}
    left = hundredths - sum(parts.values())
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[:left]:
        parts[name] += 1
    return {name: _without_point(part / 100) for name, part in parts.items()}


def handed_out(root: Path, unit: str, points: dict[str, float]) -> str:
    """Return the text of a unit's released notebook;
    where points differ from the course's, nbgrader's metadata say so too.

    Raises:
        ValueError: the release is missing, or its checks are not those of the course.
    """
    import nbformat
    from nbgrader.utils import compute_checksum

    path = root / "exercises" / unit / f"{unit}.ipynb"
    require(path.exists(), f"each unit must be released, and {path} does not exist; run `make exercises`")
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    cells = {c.metadata.nbgrader.grade_id: c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade")}
    grade_ids = {f"{check.name.replace('.', '-')}-check": check for check in checks_of(unit)}
    released = {grade_id: cell.metadata.nbgrader.points for grade_id, cell in cells.items()}
    registered = {grade_id: check.points for grade_id, check in grade_ids.items()}
    require(
        released == registered,
        f"the release must have the checks and points of the course {registered}, got {released} in {path}; run `make exercises`",
    )
    if points == {check.name: check.points for check in checks_of(unit)}:
        return text
    for grade_id, check in grade_ids.items():
        marks = cells[grade_id].metadata.nbgrader
        marks.points = points[check.name]
        marks.checksum = compute_checksum(cells[grade_id])
    return nbformat.writes(notebook) + "\n"


def page(about: Assignment, titles: dict[str, str], *, book: str = "") -> str:
    """Return the page that learners open: one file, without anything from a network."""

    def in_book(chapter: str) -> str:
        stored = f"{about.origin.repository}/blob/{about.origin.tag}/book/{chapter}.ipynb"
        return f"{book.rstrip('/')}/{chapter}.html" if book else stored

    to_read = [
        {"title": title, "link": in_book(chapter), "colab": about.origin.colab_url(f"book/{chapter}.ipynb")}
        for chapter, title in titles.items()
    ]
    units = [unit_on_page(about, UNITS[unit]) for unit in about.units]
    return template("assignment.html.j2").render(
        about=about,
        due=about.due and shown_due(about.due),
        chapters=to_read,
        units=units,
        minutes=sum(unit["minutes"] for unit in units),
        overridden=any(c.points != about.points_for(c.name) for unit in about.units for c in checks_of(unit)),
    )


def unit_on_page(about: Assignment, unit: Unit) -> dict[str, Any]:
    """Return what the page says of one unit."""
    notebook = f"exercises/{unit.name}/{unit.name}.ipynb"
    return {
        "title": unit.title,
        "minutes": unit.minutes,
        "points": about.possible(unit.name),
        "prerequisites": [(UNITS[name].title, name in about.units) for name in unit.prerequisites],
        "notebook": notebook,
        "colab": about.origin.colab_url(notebook),
        "exercises": [
            {"name": c.name.partition(".")[2], "asks": asks(c), "points": about.points_for(c.name)}
            for c in checks_of(unit.name)
        ],
    }


def add_parsers(commands) -> None:
    """Add the shell's `assign` to the commands."""
    parser = commands.add_parser(
        "assign",
        description="Write DIR: index.html (what to read and solve, points, due date, links to Colab), exercises/ "
        "(the notebooks), handout.zip (both, for an LMS) and assignment.json (for grade --assignment).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="CHAPTER", help="a chapter with all its units, or one unit")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, empty, or an earlier assignment's")
    parser.add_argument("--due", metavar="DATE", help="2027-03-05, 2027-03-05T23:59 or 2027-03-05T23:59+01:00")
    parser.add_argument(
        "--points",
        action="append",
        metavar="NAME=N",
        help="UNIT.EXERCISE=N gives an exercise N points, UNIT=N shares N in proportion; may be repeated",
    )
    parser.add_argument("--title", default="", help="what the page is headed (default: the chapters' titles)")
    parser.add_argument("--repository", help="https://github.com/OWNER/NAME of your fork (default: the checkout's)")
    parser.add_argument("--tag", help="a git tag or branch of it (default: the checkout's)")
    parser.add_argument("--book", default="", metavar="URL", help="where your built book is served, to link its pages")
    parser.add_argument(
        "--root", type=Path, default=checkout() or Path("."), help="a checkout of the course (default: this one)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    due = parse_due(args.due) if args.due else None
    origin = None
    if args.repository or args.tag:
        known = read_origin(args.root)
        origin = Origin(args.repository or known.repository, args.tag or known.tag)
    about = assign(
        args.root, args.names, args.out, due=due, points=args.points, title=args.title, origin=origin, book=args.book
    )
    until = f", due {shown_due(about.due)}" if about.due else ""
    print(f"{about.title}: {', '.join(about.units)}, {about.possible()} points{until}")
    print(f"hand out {args.out / ZIP}, or {args.out / 'index.html'} with {args.out / 'exercises'}")
    print(f"later: attncourse grade SUBMISSIONS --assignment {args.out / FILE} --out GRADES")
    return 0
