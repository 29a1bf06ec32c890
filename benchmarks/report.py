"""What a part of the run found, in a file that is written anew as it goes: whatever ends the part leaves it."""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate

FILE = "report.json"


@dataclass
class Report:
    """A report is what a part found until now.

    Attributes:
        folder: where the part writes.
        done: whether it came to its end.
        words: its result in a line.
        failures: checks that did not hold; with any, the part has failed.
        not_run: what was left out, by name and why.
        tables: a title and a table in Markdown each.
    """

    folder: Path
    done: bool = False
    words: str = ""
    failures: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        """Write it, whole or not at all."""
        write_json(self.folder / FILE, {k: v for k, v in asdict(self).items() if k != "folder"})

    def finish(self, words: str) -> int:
        """Say that the part has come to its end, and return its exit code."""
        self.done, self.words = True, words
        self.save()
        print(words)
        return 1 if self.failures else 0

    def table(self, title: str, rows: list[dict]) -> None:
        """Add or replace a table of rows that have the same keys, and save; numbers keep four digits."""
        self.tables[title] = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", missingval="-")
        self.save()


def read_report(folder: Path) -> Report:
    """Return what a part that has ended left; an empty one where it left nothing."""
    path = folder / FILE
    return Report(folder, **json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Report(folder)


def write_json(path: Path, content) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


@dataclass(frozen=True)
class Told:
    """This is what a part is told: where to write, for which device, and until when."""

    folder: Path
    device: str
    deadline: float

    @property
    def left(self) -> float:
        """Return the seconds until the part should have ended by itself."""
        return self.deadline - time.monotonic()

    @property
    def report(self) -> Report:
        """Return an empty report in its folder."""
        return Report(self.folder)


def told(description: str | None) -> Told:
    """Return the arguments of a part's process, which `benchmarks.parts` gives it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where it writes")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--seconds", type=float, required=True, help="by when it should have ended")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    return Told(args.folder, args.device, time.monotonic() + args.seconds)
