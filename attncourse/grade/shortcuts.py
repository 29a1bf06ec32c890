"""Which names a function of a notebook reaches, found by reading its cells: where a forbidden shortcut hides.

Nothing is run here. What a reader of the source cannot see (a name put together from pieces) the worker's own guard
still meets when it is called.
"""

import ast
from collections.abc import Iterable

# Ways around the guard, which no exercise needs.
EVASIONS = ("DisableTorchFunction", "DisableTorchFunctionSubclass", "_disabled_torch_function_impl")


def names_reached(sources: Iterable[str], function: str) -> set[str]:
    """Names, attributes, imported names and strings that are names in `function` and in all it uses of these cells.

    Cells that are no Python are passed over: they define nothing.
    """
    definitions: dict[str, list[ast.AST]] = {}
    for source in sources:
        for name, node in _definitions(source):
            definitions.setdefault(name, []).append(node)
    reached, waiting = set(), [function]
    while waiting:
        for node in definitions.pop(waiting.pop(), []):
            new = _mentioned(node) - reached
            reached |= new
            waiting += new
    return reached


def shortcut(sources: Iterable[str], function: str, forbids: tuple[str, ...]) -> str:
    """The first forbidden name that the function reaches; "" where it reaches none."""
    if not forbids:
        return ""
    reached = {part for name in names_reached(sources, function) for part in name.split(".")}
    return next((name for name in (*forbids, *EVASIONS) if name in reached), "")


def _definitions(source: str) -> list[tuple[str, ast.AST]]:
    """Top-level names of a cell, and the statements that give them their meaning."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = []
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append((statement.name, statement))
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            found += [((alias.asname or alias.name).partition(".")[0], statement) for alias in statement.names]
        else:
            stored = (n for n in ast.walk(statement) if isinstance(getattr(n, "ctx", None), ast.Store))
            # of table["a"] = f and table.a = f the table is what later code mentions
            bound = {part.id for target in stored for part in ast.walk(target) if isinstance(part, ast.Name)}
            found += [(name, statement) for name in bound]
    return found


def _mentioned(node: ast.AST) -> set[str]:
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Attribute):
            names.add(part.attr)
        elif (
            isinstance(part, ast.Constant)
            and isinstance(part.value, str)
            and part.value.replace(".", "").isidentifier()
        ):
            names.add(part.value)  # getattr(module, "name")
        elif isinstance(part, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in part.names}
    return names
