"""What a module of this package is made of: the modules that it imports, and what these import."""

import ast
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from attncourse.rooms import PACKAGE, rooms

# How a layer names a kernel, which is imported when it is called.
NAMED = re.compile(rf"({PACKAGE.name}(?:\.\w+)+):\w+")


def imported_names(source: str | Iterable[ast.stmt], package: tuple[str, ...] = ()) -> set[str]:
    """Absolute names of all that a source or its statements import, inside functions too, and by the name of a form.

    Args:
        package: where relative names begin.
    """
    statements = ast.parse(source).body if isinstance(source, str) else source
    found = set()
    for node in (part for statement in statements for part in ast.walk(statement)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names = {f"{module}.{alias.name}" for alias in node.names}
            # where all of them are modules, nothing is taken from the package that holds them
            found |= names if all(map(file_of, names)) else {module, *names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (named := NAMED.fullmatch(node.value)):
            found.add(named[1])
    return found


def file_of(module: str) -> Path | None:
    """Return the file of a module of this package; none where there is none."""
    name, *parts = module.split(".")
    if name != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*parts)
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if parts and p.is_file()), None)


@cache
def _imports(path: Path) -> frozenset[str]:
    package = (PACKAGE.name, *path.relative_to(PACKAGE).parent.parts) if PACKAGE in path.parents else ()
    return frozenset(imported_names(path.read_text(encoding="utf-8"), package))


def files_behind(names: Iterable[str]) -> set[Path]:
    """Files of the named modules of this package and of all that they import from it, directly or not.

    A package that merely holds an imported module does not count: it would draw in all that it holds.
    """
    waiting, found = list(names), set()
    while waiting:
        path = file_of(waiting.pop())
        if path is not None and path not in found:
            found.add(path)
            waiting += _imports(path)
    return found


def files_needed(names: Iterable[str], *, without: tuple[str, ...] = ()) -> set[str]:
    """Files of this package, relative to it, without which the named modules cannot be imported and used.

    Unlike `files_behind`, with the packages that hold them, which Python imports first.

    Args:
        without: modules that are left out, with what they alone need.
    """
    waiting, found = [PACKAGE.name, *names], set()
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        if parts[0] != PACKAGE.name or any(f"{name}.".startswith(f"{left_out}.") for left_out in without):
            continue
        path = file_of(name) if len(parts) > 1 else PACKAGE / "__init__.py"
        if path is not None and (relative := path.relative_to(PACKAGE).as_posix()) not in found:
            found.add(relative)
            waiting += [".".join(parts[:-1]), *_imports(path)]
    return found


def parts_with_answers() -> set[str]:
    """Return the parts of this package in which exercises have answers: the rooms, and what is built from them."""
    lessons = {f"lessons.{path.parent.name}" for path in PACKAGE.glob("lessons/*/__init__.py")}
    return {*rooms(), "models", "lessons", "choose"} | lessons


@cache
def digest(source: Path) -> str:
    """Digest of a file and of all of this package that it needs: it changes whenever what the file does may change."""
    digest = hashlib.sha256(source.read_bytes())
    for path in sorted(files_behind(_imports(source))):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
