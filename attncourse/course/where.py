"""`attncourse where`: every file of the course that belongs to a chapter, a room or an exercise."""

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path

from attncourse._shared.spelling import proposal
from attncourse.check import CHECKS, UNITS
from attncourse.rooms import rooms

from .checkout import checkout, no_checkout

# Where things of a name stand in a checkout, and what they are.
OF_CHAPTER = {
    "book/{}.ipynb": "the chapter",
    "attncourse/lessons/{}": "what this chapter alone uses: figures, models, tasks",
    "tests/lessons/{}": "the tests of that",
}
OF_ROOM = {
    "attncourse/{}": "the room: definition, module and kernels",
    "tests/test_{}.py": "its tests",
    "tests/compiled/{}.py": "the cases in which its kernels are compiled without a GPU",
    "tests/compiled/{}.json": "what the compiler makes of them, recorded",
    "benchmarks/promises/{}.py": "what it promises of time and memory, measured",
}
OF_UNIT = {
    "solutions/{0}/{0}.ipynb": "the exercises with their solutions, which are written here",
    "exercises/{0}/{0}.ipynb": "the exercises as learners get them, generated",
    "attncourse/check/units/{}.py": "their checks",
    "tests/banks/{}.py": "right and wrong solutions that the checks must tell apart",
    "tests/equivalent/{}.toml": "changed solutions that stay right, each explained",
}

EXAMPLE = """\
examples:
  attncourse where latent
  attncourse where hard_attention
  attncourse where kv_cache.pages
"""


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the shell's `where` to the commands."""
    parser = commands.add_parser(
        "where",
        description="List the files and folders of a checkout that belong to a chapter of the book, a room of the package, "
        "a unit of exercises or one exercise, and what each of them is. A chapter brings its units, a unit its chapter "
        "and its room.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="a chapter, room or unit, or an exercise as unit.exercise")
    parser.add_argument(
        "--root", type=Path, default=checkout() or Path("."), help="a checkout of the course (default: this one)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one line per path."""
    found = belonging(args.name, args.root)
    width = max(map(len, found))
    print("\n".join(f"{path:{width}}  {what}" for path, what in found.items()))
    return 0


def belonging(name: str, root: Path) -> dict[str, str]:
    """Return paths below a checkout that exist and belong to what has this name, and what each of them is.

    Raises:
        ValueError: nothing has this name, or `root` is no checkout.
    """
    if not (root / "book").is_dir():
        raise no_checkout("the book", root)
    chapters = sorted(path.stem for path in (root / "book").glob("*.ipynb"))
    known = [*dict.fromkeys([*chapters, *rooms(), *UNITS, *CHECKS])]
    if name not in known:
        raise ValueError(f"no chapter, room or exercise is named {name!r}; {proposal(name, known)}")
    units = [unit for unit in UNITS.values() if name.partition(".")[0] == unit.name or name == unit.chapter]
    places = [
        *_places(OF_CHAPTER, [name, *(unit.chapter for unit in units)], chapters),
        *_places(OF_ROOM, [name, *(unit.name for unit in units)], rooms()),
        *_places(OF_UNIT, [unit.name for unit in units], UNITS),
    ]
    found = {path: what for path, what in places if (root / path).exists()}
    if name in CHECKS:
        found[f"attncourse/check/units/{units[0].name}.py"] += f", this one's from line {_first_line(name)}"
    return found


def _places(kind: dict[str, str], names: list[str], known) -> Iterator[tuple[str, str]]:
    """Yield each path of this kind with what it is, of those names that are known."""
    for name in dict.fromkeys(name for name in names if name in known):
        for path, what in kind.items():
            yield path.format(name), what


def _first_line(name: str) -> int:
    return inspect.getsourcelines(CHECKS[name].judge)[1]
