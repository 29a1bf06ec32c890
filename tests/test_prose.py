"""The prose of code obeys the rules of CONTRIBUTING.md, as far as a syntax tree can tell."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attncourse"
HELPERS = [path for path in (ROOT / "tests").glob("*.py") if not path.name.startswith("test_")]
EVERY = [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *HELPERS]
FILES = sorted(EVERY)
# A public function explains its arguments in the rooms, in what they share, and in what draws and judges for exercises.
EXPLAINED = {*(path.parent for path in PACKAGE.glob("*/reference.py")), PACKAGE / "_shared", PACKAGE / "check"}

FRAGMENTS = {"Of", "As", "By", "From", "To", "For", "In", "On", "At", "Whether"}
FRAGMENTS |= {"What", "How", "Which", "Where", "Whose", "Who", "Whom", "Why"}
# Triton's and numba's functions take no annotations, and the records of kernels go by their whole text; an overload only types.
COMPILED = re.compile(r"jit|intrinsic|inlined|compiled|overload")
# Annotations that explain themselves: axes, and the sizes and draws of all cases.
SHAPED = re.compile(r"\b(Float|Int|Int8|UInt8|Bool|Shaped)\[|\b(Size|Draw)\b")


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def is_compiled(node: ast.AST) -> bool:
    return any(COMPILED.search(ast.unparse(decorator)) for decorator in node.decorator_list)


def documented() -> Iterator[tuple[str, str]]:
    """Yield where it stands, and the docstring, of each class and function that is not compiled."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not is_compiled(node):
                yield f"{path.relative_to(ROOT)}:{node.name}", ast.get_docstring(node) or ""


def points_elsewhere(text: str) -> int:
    return len(re.findall(r"\bas in\b|\bas the reference\b", text, flags=re.IGNORECASE))


def parameters(function: ast.FunctionDef) -> list[str]:
    """Return the names of those whose annotation does not explain them."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [one.arg for one in every if one and not (one.annotation and SHAPED.search(ast.unparse(one.annotation)))]


def unexplained(tree: ast.Module) -> Iterator[str]:
    """Yield the parameters of public functions that are in no word of their docstring."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not is_compiled(node):
            words = set(re.findall(r"\w+", ast.get_docstring(node) or ""))
            yield from (f"{node.name}({name})" for name in parameters(node) if name not in words)


def test_a_first_sentence_is_no_fragment():
    assert [(where, text.splitlines()[0]) for where, text in documented() if text[: text.find(" ")] in FRAGMENTS] == []


def test_a_docstring_points_elsewhere_at_most_once():
    assert [where for where, text in documented() if points_elsewhere(text) > 1] == []


def test_a_default_is_said_as_one():
    assert [str(path) for path in FILES if "unless told" in path.read_text(encoding="utf-8").lower()] == []


def test_a_public_function_explains_its_arguments():
    """Its docstring names each one, but for tensors whose annotation says their axes."""
    found = {str(path): [*unexplained(tree)] for path, tree in trees().items() if path.parent in EXPLAINED}
    assert {path: names for path, names in found.items() if names} == {}
