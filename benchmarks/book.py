"""The chapters that have GPU cells, each executed in a process of its own. Which these are, their cells say."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .notebook import CellRun, code_cells
from .parts import ROOT
from .report import Told, told

BOOK = ROOT / "book"
# A chapter asks for the device, or names it.
ON_GPU = re.compile(r"\bdevice\(\)|\bcuda\b")
MOST_AT_ONCE = 10


def chapters(folder: Path = BOOK) -> list[Path]:
    """Return the notebooks in which a code cell works on the device."""
    return [path for path in sorted(folder.glob("*.ipynb")) if any(_on_gpu(cell) for _, cell in code_cells(path))]


def _on_gpu(cell: dict) -> bool:
    return ON_GPU.search("".join(cell["source"])) is not None


@dataclass(frozen=True)
class ChapterRun:
    """The run of a chapter: which cells have run, of how many, and in which one it was killed, if it was."""

    name: str
    cells: list[CellRun]
    total: int
    killed_in: int | None = None

    @property
    def problems(self) -> list[str]:
        """Return what is wrong, in lines."""
        found = [f"{self.name}, {cell.problem}" for cell in self.cells if cell.problem]
        if self.killed_in is not None:
            found.append(f"{self.name}, cell {self.killed_in}: no time was left, or it ended its process")
        elif len(self.cells) < self.total or not self.total:
            found.append(f"{self.name}: it was not begun, or ended before its first cell: see its log")
        return found

    @property
    def row(self) -> dict:
        """Return a line of the table."""
        slowest = max(self.cells, key=lambda cell: cell.seconds, default=CellRun(0))
        return {
            "chapter": self.name, "cells": f"{len(self.cells)} of {self.total}", "wrong": len(self.problems),
            "seconds": round(sum(cell.seconds for cell in self.cells), 1), "slowest": f"cell {slowest.cell}, {slowest.seconds:.1f} s",
            "GPU GB": round(max((cell.gpu_bytes for cell in self.cells), default=0) / 1e9, 1),
        }  # fmt: skip


def run_chapter(path: Path, told: Told) -> ChapterRun:
    """Execute a chapter where its notebook lies, until the time is over."""
    result = told.folder / f"{path.stem}.json"
    result.unlink(missing_ok=True)
    if told.left > 0:
        command = [sys.executable, "-m", "benchmarks.notebook", str(path), str(result)]
        # One thread each, as chapters are executed for the book; they choose more by themselves.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        with (told.folder / f"{path.stem}.log").open("w", encoding="utf-8") as log:
            try:
                subprocess.run(
                    command, cwd=path.parent, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=told.left
                )
            except subprocess.TimeoutExpired:
                log.write("\nkilled: no time was left\n")
    return read_run(path.stem, result)


def read_run(name: str, result: Path) -> ChapterRun:
    """Return what a chapter's process wrote."""
    if not result.exists():
        return ChapterRun(name, [], 0)
    found = json.loads(result.read_text(encoding="utf-8"))
    return ChapterRun(name, [CellRun(**cell) for cell in found["cells"]], found["total"], found["running"])


def main() -> int:
    """Execute them side by side where there are cores, and once more alone what was not right: chapters measure times."""
    given = told(__doc__)
    report, runs = given.report, {}
    report.save()
    paths = {path.stem: path for path in chapters()}

    def note(run: ChapterRun) -> None:
        runs[run.name] = run
        report.failures = [problem for run in runs.values() for problem in run.problems]
        right = sum(not run.problems for run in runs.values())
        report.words = f"{right} of {len(paths)} chapters ran, every cell"
        report.table("chapters", [run.row for run in runs.values()])
        print(run.row)

    at_once = max(1, min(MOST_AT_ONCE, 2 * (os.cpu_count() or 1) // 3))
    with ThreadPoolExecutor(at_once) as pool:
        for run in pool.map(lambda path: run_chapter(path, given), paths.values()):
            note(run)
    for name in [name for name, run in runs.items() if run.problems and run.killed_in is None and at_once > 1]:
        if given.left > 1:
            again = run_chapter(paths[name], given)
            if not again.problems or again.killed_in is None:
                note(again)
    slow = sorted(((cell.seconds, run.name, cell.cell) for run in runs.values() for cell in run.cells), reverse=True)
    report.table("slowest cells", [{"chapter": n, "cell": c, "seconds": s} for s, n, c in slow[:15]])
    if given.device == "cpu":
        report.not_run.append("what cells do on a GPU alone: not run, needs a GPU")
    return report.finish(report.words)


if __name__ == "__main__":
    sys.exit(main())
