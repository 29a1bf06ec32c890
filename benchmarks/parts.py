"""The parts of the run, each a process that is killed at its limit, and the summary that is renewed after each."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from .report import Report, read_report, write_json

ROOT = Path(__file__).parents[1]
# A part ends by itself this long before it would be killed; of a short limit, after nine tenths.
GRACE = 8.0


@dataclass(frozen=True)
class Part:
    """A part is a piece of the run that is a process of its own.

    Attributes:
        letter, name: what `--only` and folders call it.
        what: what it does, in words.
        minutes: its share of the limit on a GPU, and in the dry form; what earlier parts leave over is added.
        command: what to run; the folder and the limit are added.
    """

    letter: str
    name: str
    what: str
    minutes: tuple[float, float]
    command: tuple[str, ...]


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.{name}")


PARTS = (
    Part("a", "kernels", "every room's kernels against float64", (2.3, 7.0), _module("kernels")),
    Part("b", "decode", "the grid of decoding, as a record", (1.5, 2.0), _module("decode")),
    Part("c", "beside", "forward and backward beside PyTorch's own", (1.6, 2.0), _module("beside")),
    Part("d", "sweep", "tiles, warps and stages", (1.2, 2.0), _module("sweep")),
    Part("e", "book", "the chapters that have GPU cells", (1.4, 17.0), _module("book")),
)


@dataclass
class Outcome:
    """An outcome says how a part ended.

    Attributes:
        state: "passed", "failed", "killed at its limit", or "crashed" with the exit code.
        seconds, limit: that it took, and that it had.
        report: what it found.
    """

    part: Part
    state: str
    seconds: float
    limit: float
    report: Report

    @property
    def passed(self) -> bool:
        """Return whether it ran to its end and all its checks held."""
        return self.state == "passed"

    @property
    def line(self) -> str:
        """Return one line for a terminal."""
        words = self.report.words or "no result" if self.passed else "; ".join(self._wrong())
        return f"({self.part.letter}) {self.part.name}: {self.state} in {self.seconds:.0f} s: {words}"

    def _wrong(self) -> list[str]:
        failures = self.report.failures
        shown = failures[:3] + [f"and {len(failures) - 3} more"] * (len(failures) > 3)
        return shown or [self.report.words or "see its log"]


def run_part(part: Part, folder: Path, *, device: str, limit: float) -> Outcome:
    """Run a part for at most `limit` seconds; what it starts ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    soft = max(limit - GRACE, 0.9 * limit)
    command = [*part.command, str(folder), "--device", device, "--seconds", f"{soft:.1f}"]
    environment = os.environ | {"PYTHONPATH": _search_path(), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
    begin = time.monotonic()
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_all_of(process)
    report = read_report(folder)
    return Outcome(part, _state(code, report), time.monotonic() - begin, limit, report)


def _search_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _kill_all_of(process: subprocess.Popen) -> None:
    """End the process, and those of its own that are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _state(code: int | None, report: Report) -> str:
    if code is None:
        return "killed at its limit"
    if not report.done:
        return f"crashed (exit code {code})"
    return "failed" if report.failures or code != 0 else "passed"


@dataclass
class Run:
    """A run is parts one after another, and what is known of the machine.

    Attributes:
        out: the folder of everything that is written.
        facts: device, driver, versions, date, command, for the head of the summary.
    """

    out: Path
    device: str
    facts: dict[str, str]
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, parts: Sequence[Part], *, minutes: float, say: Callable[[str], None] = print) -> bool:
        """Run the parts in at most so many minutes, and return whether all of them passed."""
        shares = [part.minutes[self.device == "cpu"] for part in parts]
        end = time.monotonic() + 60 * minutes
        for i, part in enumerate(parts):
            # What is left, less the shares of those that follow.
            limit = end - time.monotonic() - 60 * minutes * sum(shares[i + 1 :]) / sum(shares)
            say(f"({part.letter}) {part.name}: {part.what}, at most {limit:.0f} s")
            self.outcomes.append(run_part(part, self.out / part.name, device=self.device, limit=limit))
            say(self.outcomes[-1].line)
            self.write(still=[p.name for p in parts[i + 1 :]])
        return all(outcome.passed for outcome in self.outcomes)

    def write(self, *, still: Sequence[str]) -> None:
        """Write the summary of what has ended, as Markdown and as JSON."""
        (self.out / "summary.md").write_text(self._markdown(still), encoding="utf-8")
        parts = [
            {
                "part": o.part.name, "state": o.state, "seconds": round(o.seconds, 1), "limit": round(o.limit, 1),
                "words": o.report.words, "failures": o.report.failures, "not_run": o.report.not_run,
            }
            for o in self.outcomes
        ]  # fmt: skip
        passed = not still and all(o.passed for o in self.outcomes)
        write_json(
            self.out / "summary.json", {**self.facts, "passed": passed, "still_to_run": [*still], "parts": parts}
        )

    def _markdown(self, still: Sequence[str]) -> str:
        rows = [
            [f"({o.part.letter}) {o.part.name}", o.state, round(o.seconds), round(o.limit), o.report.words]
            for o in self.outcomes
        ]
        head = [f"- {name}: {value}" for name, value in self.facts.items()]
        table = tabulate(rows, headers=["part", "state", "seconds", "at most", "result"], tablefmt="github")
        sections = [text for o in self.outcomes for text in _section(o)]
        later = [f"\nStill to run: {', '.join(still)}."] * bool(still)
        return "\n".join(["# What a GPU was asked", "", *head, "", table, *later, *sections, ""])


def _section(outcome: Outcome) -> list[str]:
    report = outcome.report
    lines = [f"\n## ({outcome.part.letter}) {outcome.part.name}: {outcome.part.what}", ""]
    lines += _listed("Did not hold", report.failures)
    for title, table in report.tables.items():
        lines += [f"### {title}", "", table, ""]
    return lines + _listed("Not run", report.not_run)


def _listed(title: str, items: list[str]) -> list[str]:
    return [f"{title}:", "", *(f"- {item}" for item in items), ""] if items else []
