"""What every notebook calls: the package's source as the chapter's text, and the versions it ran with."""

import ast
import importlib.metadata
import inspect
import textwrap

from ._shared.device import device


def show(*functions, folded: bool = False):
    """Return the source of functions, kernels or classes of the package as highlighted text.

    Args:
        folded: show it under a line that opens it, without docstrings and without the checks of what comes in, for a
            reader who has just written a short version by hand. Default: open, whole, as it stands in the file.
    """
    from IPython.display import Markdown

    sources, places = [], []
    for function in functions:
        function = getattr(function, "fn", function)  # of a Triton kernel, the function that it was made of
        module = inspect.getmodule(function).__name__.replace(".", "/")
        source = textwrap.dedent(inspect.getsource(function)).rstrip()
        sources.append(f"# {module}.py\n{without_checks(source) if folded else source}")
        places.append(f"<code>{function.__qualname__}</code>")
    code = "```python\n" + "\n\n\n".join(sources) + "\n```"
    if not folded:
        return Markdown(code)
    return Markdown(f"<details><summary>The package's own: {', '.join(places)}</summary>\n\n{code}\n\n</details>")


def without_checks(source: str) -> str:
    """Return the source of functions or classes without docstrings, and without statements that only check.

    Those are calls of `check_...` and `require` whose result nobody takes, and an `if` that does nothing but raise.
    """
    lines, gone = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        idle = [statement for statement in body if _only_checks(statement)]
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            idle.append(body[0])
        if len(idle) < len(body):  # something has to stay
            gone |= {line for statement in idle for line in range(statement.lineno, statement.end_lineno + 1)}
    kept = [line for number, line in enumerate(lines, 1) if number not in gone]
    # where something went, neither two empty lines stay nor one below a heading
    return "\n".join(
        line for i, line in enumerate(kept) if line.strip() or (i and kept[i - 1].strip() and kept[i - 1][-1] != ":")
    )


def _only_checks(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return not statement.orelse and all(isinstance(inner, ast.Raise) for inner in statement.body)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        return name == "require" or name.startswith("check_")
    return False


def print_versions() -> None:
    """Print one line: the versions that this notebook runs with, and the device."""
    import torch

    versions = []
    for name in ("attncourse", "torch", "triton"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    print(", ".join([*versions, torch.cuda.get_device_name() if device() == "cuda" else "CPU"]))
