"""`attncourse new-exercise NAME`: a small exercise that works, laid down where its author edits it.

Source notebook, check and bank hold one complete example, so that release, grading and tests are green from the start.
"""

import argparse
import ast
import json
import keyword
import os
import re
from dataclasses import dataclass
from pathlib import Path

from attncourse._shared.spelling import proposal
from attncourse._shared.validate import require

from .chapters import chapters, sections_of, title_of
from .checkout import no_checkout
from .origin import Origin, read_origin
from .templates import template

POINTS = 2
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
TOTALS = re.compile(r"\w+ exercises?, \d+ points, about (\d+) minutes")

TITLE = """\
# {title}: exercises

These belong to the chapter *{chapter}*. {totals}. Write the functions; the
cell below each one checks yours with fresh random inputs and says which property is broken and where."""

TASK = """\
## {number}. {title} ({points} points)

Turn scores into weights: for each query, positive numbers over the keys that sum to 1 and are proportional to the
exponential of its scores. Scores of about a thousand must not overflow.

- `scores`: shape `(t, s)`
- returns the weights, shape `(t, s)`"""

SOLUTION = """\
def {function}(scores):
    ### BEGIN SOLUTION
    exponentials = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    return exponentials / exponentials.sum(dim=-1, keepdim=True)
    ### END SOLUTION"""

CHECK = """\
check("{name}")
### BEGIN HIDDEN TESTS
assert check("{name}").passed, check("{name}")
### END HIDDEN TESTS"""

EXAMPLES = """\
examples:
  attncourse new-exercise windows --chapter short_history --title "Windows" --minutes 30
  attncourse new-exercise windows.radius
"""


@dataclass(frozen=True)
class Places:
    """Places say where the parts of a unit lie in a checkout."""

    root: Path
    unit: str

    @property
    def notebook(self) -> Path:
        return self.root / "solutions" / self.unit / f"{self.unit}.ipynb"

    @property
    def checks(self) -> Path:
        return self.root / "attncourse" / "check" / "units" / f"{self.unit}.py"

    @property
    def bank(self) -> Path:
        return self.root / "tests" / "banks" / f"{self.unit}.py"


def new_exercise(
    root: Path, name: str, *, chapter: str | None = None, title: str | None = None, minutes: int | None = None
) -> list[Path]:
    """Lay down a unit with one exercise, or one exercise more in a unit, and return the files written.
    Nothing is overwritten.

    Args:
        root: a checkout of the course.
        name: UNIT or UNIT.EXERCISE.
        chapter: the page that a new unit belongs to; a new unit needs one.
        title: a new unit's (default: its name).
        minutes: what a new unit takes (default: 30).

    Raises:
        ValueError: a name is taken or not snake_case, the chapter does not exist, or an option does not apply.
    """
    unit, dot, exercise = name.partition(".")
    exercise = exercise if dot else "example"
    for part in (unit, exercise):
        require(
            bool(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", part)) and not keyword.iskeyword(part),
            f"a name must be UNIT or UNIT.EXERCISE, both in snake_case, got {name!r}",
        )
    places = Places(root, unit)
    if not places.checks.parent.is_dir():
        raise no_checkout("the checks", root)
    if places.checks.exists():
        require(bool(dot), f"a new unit's name must be free, got {unit!r}; {unit}.EXERCISE adds an exercise to it")
        given = [
            key for key, value in (("chapter", chapter), ("title", title), ("minutes", minutes)) if value is not None
        ]
        require(
            not given, f"the unit {unit!r} exists and must keep its chapter, title and minutes, got {', '.join(given)}"
        )
        texts = one_more(places, exercise)
    else:
        pages = chapters(root)
        require(chapter in pages, f"a new unit must belong to a chapter, got {chapter!r}; {proposal(chapter, pages)}")
        minutes = 30 if minutes is None else minutes
        require(minutes > 0, f"a unit must take at least a minute, got {minutes}")
        texts = a_new_unit(places, exercise, chapter, title or spelled_out(unit), minutes)
    for path, text in texts.items():
        _write(path, text)
    return [*texts]


def a_new_unit(places: Places, exercise: str, chapter: str, title: str, minutes: int) -> dict[Path, str]:
    """Return the text of each file that a new unit adds or changes."""
    new = (places.notebook, places.checks, places.bank)
    taken = [path for path in new if path.exists()]
    require(not taken, f"a new unit's files must not exist yet, got {', '.join(map(str, taken))}")
    notebook = source_notebook(
        places.unit,
        exercise,
        read_origin(places.root),
        chapter=title_of(places.root, chapter),
        title=title,
        minutes=minutes,
    )
    return {
        places.notebook: notebook,
        places.checks: rendered("checks.py.j2", places, exercise, chapter, title, minutes),
        places.bank: rendered("bank.py.j2", places, exercise, chapter),
    }


def one_more(places: Places, exercise: str) -> dict[Path, str]:
    """Return the text of each file of a unit with one exercise more, at its end.

    Raises:
        ValueError: the exercise exists, a name that it would define is taken, or a file has no place for it.
    """
    checks, bank = places.checks.read_text(encoding="utf-8"), places.bank.read_text(encoding="utf-8")
    chapter = re.search(r'chapter="(\w+)"', checks)
    require(chapter is not None, f"a unit must name its chapter, and {places.checks} does not")
    imports, mark, judge = rendered("checks.py.j2", places, exercise, chapter[1]).partition("@exercise_check")
    functions, entry = _bank_parts(rendered("bank.py.j2", places, exercise, chapter[1]), places.bank)
    bank_imports, bank_mark, functions = functions.partition(f"# {places.unit}.")
    functions = bank_mark + functions
    their_functions, their_entries = _bank_parts(bank, places.bank)
    for ours, theirs, path in ((mark + judge, checks, places.checks), (functions, bank, places.bank)):
        taken = defined(ours) & defined(theirs)
        require(not taken, f"an exercise's names must be free, got {', '.join(sorted(taken))}, which {path} has")
    sections = [with_imports(their_functions, bank_imports, places.bank), functions]
    entries = their_entries.removesuffix(_END) + entry.removeprefix(_BEGIN)
    return {
        places.notebook: with_cells(places.notebook.read_text(encoding="utf-8"), places.unit, exercise),
        places.checks: _apart(with_imports(checks, imports, places.checks), mark + judge),
        places.bank: _apart(*sections, entries),
    }


_BEGIN, _END = "BANK = {\n", "}\n"


def _bank_parts(source: str, path: Path) -> tuple[str, str]:
    """Return a bank's functions, and its dictionary."""
    functions, begin, entries = source.partition(f"\n{_BEGIN}")
    require(bool(begin) and entries.endswith(f"\n{_END}"), f"a bank must end in a dictionary BANK, and {path} does not")
    return functions, _BEGIN + entries


def _apart(*parts: str) -> str:
    return "\n\n\n".join(part.strip() for part in parts) + "\n"


def rendered(name: str, places: Places, exercise: str, chapter: str, title: str = "", minutes: int = 0) -> str:
    """Return one file of a new unit with this exercise."""
    return template(name).render(
        unit=places.unit,
        exercise=exercise,
        function=_function(places.unit, exercise),
        points=POINTS,
        chapter=chapter,
        section=next(iter(sections_of(places.root, chapter)), ""),
        title=repr(title) if '"' in title else json.dumps(title, ensure_ascii=False),  # in the formatter's quotes
        minutes=minutes,
    )


def _function(unit: str, exercise: str) -> str:
    return f"{unit}_{exercise}"


def spelled_out(name: str) -> str:
    """Return a name as a heading."""
    return name.replace("_", " ").capitalize()


def defined(source: str) -> set[str]:
    """Return names that a module binds at its top."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def with_imports(source: str, needing: str, path: Path) -> str:
    """Return `source`, its imports grown by the names that `needing` imports from the same modules."""
    theirs = {_module(node): node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)}
    lines = source.splitlines(keepends=True)
    wanted = [node for node in ast.parse(needing).body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(wanted, key=lambda node: -theirs[_module(node)].lineno if _module(node) in theirs else 0):
        line = ast.unparse(node)
        require(_module(node) in theirs, f"{path} must have the line `{line}` before an exercise can be added to it")
        place = theirs[_module(node)]
        names = {alias.name for alias in place.names}
        missing = {alias.name for alias in node.names} - names
        if missing:
            lines[place.lineno - 1 : place.end_lineno] = [_import_line(_module(node), names | missing)]
    return "".join(lines)


def _module(node: ast.Import | ast.ImportFrom) -> str:
    return "." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name


def _import_line(module: str, names: set[str]) -> str:
    ordered = sorted(names, key=lambda name: (name.upper() != name, name[0].islower(), name))
    line = f"from {module} import {', '.join(ordered)}\n"
    if len(line) <= 121:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")\n"


def totals(exercises: int, points: int, minutes: int) -> str:
    """Return what a unit's first cell says of its size."""
    number = NUMBERS[exercises] if exercises < len(NUMBERS) else str(exercises)
    return f"{number} exercise{'s' * (exercises != 1)}, {points} points, about {minutes} minutes"


def source_notebook(unit: str, exercise: str, origin: Origin, *, chapter: str, title: str, minutes: int) -> str:
    """Return the text of a new unit's source notebook."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    heading = TITLE.format(title=title, chapter=chapter.partition(":")[0], totals=totals(1, POINTS, minutes))
    bootstrap = {"tags": ["bootstrap", "hide-input"]}
    badge = origin.badge(f"exercises/{unit}/{unit}.ipynb")
    cells = [
        new_markdown_cell(heading, id="title"),
        new_markdown_cell(badge, id="colab-badge", metadata={"tags": ["colab-badge"]}),
        new_code_cell(origin.bootstrap(), id="bootstrap", metadata=bootstrap),
        new_code_cell("import torch\n\nfrom attncourse.check import check, score_card", id="imports"),
        *exercise_cells(unit, exercise, number=1),
        new_markdown_cell("## Your score card", id="card-title"),
        new_code_cell(f'print(score_card("{unit}"))', id="card"),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata)) + "\n"


def exercise_cells(unit: str, exercise: str, *, number: int) -> list:
    """Return an exercise's task, its solution and its check, as nbgrader's source format has them."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    grade_id = f"{unit}-{exercise}"
    free = {"grade": False, "grade_id": grade_id, "locked": False, "schema_version": 3, "solution": True, "task": False}
    graded = free | {
        "grade": True,
        "grade_id": f"{grade_id}-check",
        "locked": True,
        "points": POINTS,
        "solution": False,
    }
    task = TASK.format(number=number, title=spelled_out(exercise), points=POINTS)
    solution, check = SOLUTION.format(function=_function(unit, exercise)), CHECK.format(name=f"{unit}.{exercise}")
    return [
        new_markdown_cell(task, id=f"{exercise}-task"),
        new_code_cell(solution, id=f"{exercise}-solution", metadata={"nbgrader": free}),
        new_code_cell(check, id=f"{exercise}-check", metadata={"nbgrader": graded}),
    ]


def with_cells(text: str, unit: str, exercise: str) -> str:
    """Return a source notebook with one exercise more behind its last, counted in its first cell."""
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    graded = [i for i, cell in enumerate(notebook.cells) if cell.metadata.get("nbgrader", {}).get("grade")]
    points = sum(notebook.cells[i].metadata.nbgrader.points for i in graded) + POINTS
    count = len(graded) + 1
    first = notebook.cells[0]
    first.source = TOTALS.sub(lambda said: totals(count, points, int(said[1])), first.source)
    notebook.cells[graded[-1] + 1 : graded[-1] + 1] = exercise_cells(unit, exercise, number=count)
    return nbformat.writes(notebook) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def add_parsers(commands) -> None:
    """Add the shell's `new-exercise` to the commands."""
    parser = commands.add_parser(
        "new-exercise",
        description="Lay down a small exercise that works: its cells in solutions/, its check in "
        "attncourse/check/units/, its bank in tests/banks/. Edit them into your own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="UNIT (with one exercise) or UNIT.EXERCISE, in snake_case")
    parser.add_argument("--chapter", help="the page of the book that a new unit belongs to")
    parser.add_argument("--title", help="a new unit's title (default: its name)")
    parser.add_argument("--minutes", type=int, metavar="N", help="what a new unit takes a learner (default: 30)")
    parser.add_argument("--root", type=Path, default=Path("."), help="a checkout of the course (default: here)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lay it down, and say what to do next."""
    for path in new_exercise(args.root, args.name, chapter=args.chapter, title=args.title, minutes=args.minutes):
        print(f"wrote {path}")
    unit, dot, _ = args.name.partition(".")
    print("edit these, run `make exercises bootstrap`, then:")
    print(f"  python -m pytest tests/test_banks.py tests/test_exercises.py -k {unit}")
    if not dot:
        print(f"a unit holds at least three exercises: attncourse new-exercise {unit}.EXERCISE adds one")
        print("its place in the course is its chapter's; units of one chapter stand by their names")
    return 0
