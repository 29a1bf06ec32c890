"""What one chapter alone uses is its lesson's; what two use, or the package's own commands, stands below all lessons."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from attncourse.__main__ import COMMANDS
from attncourse.check import UNITS
from tests.test_rooms import PACKAGE, ROOT, imported_modules, imported_names

CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
LESSONS = sorted(path.parent.name for path in PACKAGE.glob("lessons/*/__init__.py"))
SHARED = ("plot", "models", "profile")
FILES = sorted(PACKAGE.rglob("*.py"))


def folder_of(name: str) -> str:
    """The folder of the package in which a module of this full name is; empty where it is in none."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == PACKAGE.name else ""


def module_of(path: Path) -> str:
    """The full name of a file's module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def code_of(chapter: str) -> str:
    """The code cells of a chapter, without IPython's own lines."""
    cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return re.sub(r"^( *)[%!].*", r"\1pass", code, flags=re.MULTILINE)


def chapter_of(path: Path) -> str | None:
    """The chapter whose own a file of the package is: its lesson's, or one of the checks of its exercises."""
    above, folder = path.parent.parent.name, path.parent.name
    if (above, folder) == ("check", "units"):
        return UNITS[path.stem].chapter if path.stem in UNITS else None
    return folder if above == "lessons" else None


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_its_chapters_name(lesson):
    assert lesson in CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_uses_no_lesson_but_its_own(chapter):
    assert lessons_among(imported_names(code_of(chapter))) <= {chapter}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_lesson_is_used_by_itself_and_its_checks_alone(path):
    assert lessons_among(imported_modules(path)) <= {chapter_of(path)}


def lessons_among(names: Iterable[str]) -> set[str]:
    """The lessons that modules of these names belong to."""
    return {name.split(".")[2] for name in names if name.startswith("attncourse.lessons.")}


@cache
def handed_on(folder: str) -> dict[str, str]:
    """What a folder's own module hands on, by its full name there: the module that it is from."""
    nodes = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")).body
    return {
        f"attncourse.{folder}.{alias.name}": f"attncourse.{folder}.{node.module}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def behind(names: Iterable[str]) -> set[str]:
    """Full names of the modules of `SHARED` that these modules are, or use, by way of whatever is no single chapter's.

    A name that a folder hands on counts for the module that it is from, not for all of the folder.
    """
    files = {module_of(path): path for path in FILES}
    passed_by = {f"attncourse.{folder}" for folder in SHARED}
    waiting, found = list(names), set()
    while waiting:
        name = waiting.pop()
        name = handed_on(folder_of(name)).get(name, name) if folder_of(name) in SHARED else name
        if name in files and name not in found | passed_by and chapter_of(files[name]) is None:
            found.add(name)
            waiting += imported_modules(files[name])
    return {name for name in found if folder_of(name) in SHARED}


def test_what_one_lesson_alone_uses_stands_in_it():
    used_by = defaultdict(set)
    for chapter in CHAPTERS:
        own = [path for path in FILES if chapter_of(path) == chapter]
        for name in behind(imported_names(code_of(chapter)).union(*map(imported_modules, own))):
            used_by[name].add(chapter)
    # `make` and python -m run these, and what tests and benchmarks are made of
    tools = [path for path in ROOT.glob("tests/*.py") if not path.stem.startswith("test_")]
    tools += (ROOT / "benchmarks").rglob("*.py")
    commands = {module for module, _ in COMMANDS.values()}
    needed = behind({*commands, "attncourse.check.core"}.union(*map(imported_modules, tools)))
    assert len(used_by) > 20 and len(needed) > 10
    lonely = {name: chapters for name, chapters in used_by.items() if len(chapters) == 1 and name not in needed}
    assert lonely == {}
