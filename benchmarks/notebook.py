"""Execute a notebook without Jupyter: `python -m benchmarks.notebook FILE.ipynb RESULT.json`.

Its code cells run in order in one namespace, that of `__main__`, as in a kernel of Jupyter. Of Jupyter's own things there is
what the chapters use: the classes in which a cell shows something, nothing else. A line of magic raises when it is reached.
A cell that raises does not end the run: its traceback is kept, and the cells after it are tried.
"""

import ast
import contextlib
import io
import json
import linecache
import re
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from .report import write_json
from .stand_ins import stand_in_for_ipython

MOST_GPU_BYTES = 12 * 10**9  # so that a chapter runs on the GPU of a free notebook service


@dataclass
class CellRun:
    """This is what a code cell did.

    Attributes:
        cell: its place among all cells, from 0.
        seconds: that it took.
        printed: on stdout.
        traceback: of what it raised; "" for nothing.
        allowed: whether it may raise: its tag is raises-exception.
        differs: whether it prints something else than what is committed, where its tag says that it must not.
        gpu_bytes: what this process held of a GPU's memory at the most, while it ran or since a cell before.
    """

    cell: int
    seconds: float = 0.0
    printed: str = ""
    traceback: str = ""
    allowed: bool = False
    differs: bool = False
    gpu_bytes: int = 0

    @property
    def problem(self) -> str | None:
        """Return in a line what is wrong, or None."""
        if self.traceback and not self.allowed:
            return f"cell {self.cell}: {self.traceback.strip().splitlines()[-1][:200]}"
        if self.differs:
            return f"cell {self.cell}: it prints other words than are committed"
        if self.gpu_bytes > MOST_GPU_BYTES:
            return f"cell {self.cell}: {self.gpu_bytes / 1e9:.1f} GB of a GPU, and a chapter may take {MOST_GPU_BYTES / 1e9:g}"
        return None


def code_cells(path: Path) -> list[tuple[int, dict]]:
    """Return a notebook's code cells that hold anything, each with its place."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(i, c) for i, c in enumerate(cells) if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def parsed(source: str, name: str) -> ast.Module:
    """Return the cell as Python; where that fails, with its lines of magic made to raise.

    Raises:
        SyntaxError: it is no Python without them either.
    """
    try:
        return ast.parse(source, name)
    except SyntaxError:
        plain = re.sub(r"^(\s*)([%!].*)$", _raising, source, flags=re.MULTILINE)
        return ast.parse(plain, name)


def _raising(line: re.Match) -> str:
    return f"{line[1]}raise RuntimeError({'no magic runs here: ' + line[2]!r})"


def run_cell(i: int, cell: dict, namespace: dict, *, of: str) -> CellRun:
    """Execute one cell."""
    source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
    run, name = CellRun(i, allowed="raises-exception" in tags), f"<{of}, cell {i}>"
    # So that tracebacks, `inspect` and Triton find its lines.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    printed, begin = _Tee(sys.stdout), time.perf_counter()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(parsed(source, name), name, "exec"), namespace)
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit too: a cell does not end a kernel
        run.traceback = traceback.format_exc()
        print(run.traceback, file=sys.stderr)
    _close_figures()
    run.seconds, run.printed = round(time.perf_counter() - begin, 3), printed.getvalue()
    run.gpu_bytes = _gpu_bytes()
    committed = stored(cell)
    run.differs = "nbval-check-output" in tags and committed is not None and committed.strip() != run.printed.strip()
    return run


def _gpu_bytes() -> int:
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_reserved() if torch and torch.cuda.is_initialized() else 0


class _Tee(io.StringIO):
    """A tee keeps what is written, and hands it on."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def write(self, text: str) -> int:
        """Write to both."""
        self.stream.write(text)
        return super().write(text)


def stored(cell: dict) -> str | None:
    """Return what is committed of a cell's stdout, or None."""
    streams = [x for x in cell.get("outputs", []) if x.get("output_type") == "stream" and x.get("name") == "stdout"]
    return "".join("".join(x["text"]) for x in streams) if streams else None


def _close_figures() -> None:
    """Close all figures, which Jupyter does after each cell."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def run_notebook(path: Path, result: Path) -> list[CellRun]:
    """Execute a notebook; the result is written anew after each cell."""
    stand_in_for_ipython()
    main = ModuleType("__main__")
    main.__spec__ = None  # so that processes which are spawned do not look for it
    sys.modules["__main__"] = main
    cells, runs = code_cells(path), []
    for i, cell in cells:
        print(f"--- {path.stem}, cell {i}", flush=True)
        write(result, runs, total=len(cells), running=i)
        runs.append(run_cell(i, cell, vars(main), of=path.stem))
    write(result, runs, total=len(cells), running=None)
    return runs


def write(result: Path, runs: list[CellRun], *, total: int, running: int | None) -> None:
    """Write what has run until now."""
    write_json(result, {"cells": [asdict(run) for run in runs], "total": total, "running": running})


if __name__ == "__main__":
    done = run_notebook(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.exit(any(run.problem for run in done))
