"""Every room's kernels against float64, as the tests of the rooms have it: compiled on a GPU, interpreted in the dry form.

The tests are those that reach the device, of the files below. Several files are tested at once where there are cores for it:
most of the time is Triton's compiler's, and what is compared is no time.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from attncourse.rooms import rooms

from .parts import ROOT
from .report import Report, Told, told

# Rooms whose tests take longest on a GPU, the longest first: they are dealt to three processes where there are cores for it.
LONG = (
    "softmax_attention", "block_sparse", "kv_cache", "linear_attention", "latent", "global_local", "sliding_window",
    "hard_attention", "grouped_query",
)  # fmt: skip
SHARES = 3
# Files below tests/, the longest first: those of the rooms, and what beside them reaches the device.
TESTS = (
    *(f"test_{room}" for room in (*LONG, *(room for room in rooms() if room not in LONG))),
    "lessons/write_the_kernel/test_kernel",
    "test_plan",
    "test_shared_kernel",
    "test_decode_cases",
    "test_rope_scaling",
    "test_device",
)
# In the dry form the compiler is shown the first kernel of these rooms: it needs no GPU.
COMPILED = ("softmax_attention", "latent", "linear_attention")
MOST_AT_ONCE = 12


@dataclass(frozen=True)
class Tested:
    """These are a file's tests: how each ended, the exit code, None where pytest was killed."""

    name: str
    lines: list[dict]
    code: int | None

    @property
    def ended(self) -> list[dict]:
        """Return those that came to an end."""
        return [line for line in self.lines if line["outcome"] != "begun"]

    @property
    def counts(self) -> Counter:
        """Return how many passed, failed, and were skipped."""
        return Counter(line["outcome"] for line in self.ended)

    def failures(self) -> list[str]:
        """Return tests that failed, and what killed the file."""
        found = [f"{line['test']}: {line['why']}" for line in self.ended if line["outcome"] == "failed"]
        if self.code is None:
            begun = [line["test"] for line in self.lines if line["outcome"] == "begun"]
            unfinished = [test for test in begun if test not in {line["test"] for line in self.ended}]
            return [*found, f"{self.name}: no time was left, in {unfinished[-1] if unfinished else 'its beginning'}"]
        # 0: all passed, 1: some failed, 5: none was taken; 2: the file could not be read, which is noted as a line
        known = self.code in (0, 1, 5) or (self.code == 2 and any("::" not in line["test"] for line in self.ended))
        return found if known or found else [f"{self.name}: pytest ended with {self.code}, see its log"]


def options(*, dry: bool) -> list[str]:
    """Return pytest's options for which of a file's tests run: the dry form takes those that are marked for it."""
    if not dry:
        return ["--on-device"]
    return ["-m", "dry", "--first", "2"]


def shares(device: str, cores: int) -> list[tuple[str, str]]:
    """Return files and which share of their tests, "1/3"; the longest first.
    In the dry form those that can run without a GPU.
    """
    if device == "cpu":
        return [
            (name, "1/1")
            for name in TESTS
            if "mark.dry\n" in (ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8")
        ]
    n = SHARES if cores > MOST_AT_ONCE else 1
    long, short = TESTS[: len(LONG)], TESTS[len(LONG) :]
    return [(name, f"{i + 1}/{n}") for name in long for i in range(n)] + [(name, "1/1") for name in short]


def run_file(name: str, share: str, told: Told) -> Tested:
    """Run a share of a file's tests in a process of its own, until the time is over."""
    if told.left <= 0:
        return Tested(name, [], None)
    written = name.replace("/", "-") + ("" if share == "1/1" else f"-{share.replace('/', '-of-')}")
    lines = told.folder / f"{written}.jsonl"
    lines.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.pytest_lines", "-p", "no:cacheprovider", "--lines", str(lines),
        *options(dry=told.device == "cpu"), "--share", share, f"tests/{name}.py",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    with (told.folder / f"{written}.log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=told.left
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = None
    return Tested(name, read_lines(lines), code)


def read_lines(path: Path) -> list[dict]:
    """Return what the plugin wrote; a last line that was broken off is none."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def compile_some(report: Report, told: Told) -> None:
    """Run the compiler's gate for a few kernels, which needs no GPU."""
    for room in COMPILED:
        command = [sys.executable, "-m", "tests.compile_gate", "first", room]
        environment = os.environ | {"TRITON_INTERPRET": "0"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(told.left, 1)
            )
        except subprocess.TimeoutExpired:
            report.failures.append(f"{room} does not compile: no time was left")
            continue
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            report.failures.append(f"{room} does not compile: {last}"[:300])
            continue
        rows = json.loads(done.stdout.splitlines()[-1])
        columns = ("kernel", "case", "capability", "registers", "spills", "shared", "matrix")
        report.table(f"compiled: {room}", [{name: row[name] for name in columns} for row in rows])


def main() -> int:
    """Test, and say what was found as files end."""
    given = told(__doc__)
    report, cores = given.report, os.cpu_count() or 1
    report.save()
    if given.device == "cpu":
        compile_some(report, given)
        report.not_run.append("tests marked gpu, and compiled kernels: not run, needs a GPU")
    at_once = max(1, min(MOST_AT_ONCE, cores - 2 if cores > 4 else cores // 2))
    rows: dict[str, dict] = {}
    totals, missing = Counter(), Counter()
    with ThreadPoolExecutor(at_once) as pool:
        for tested in pool.map(lambda task: run_file(*task, given), shares(given.device, cores)):
            report.failures += tested.failures()
            totals += tested.counts
            missing += Counter(f"{tested.name}: {x['why']}" for x in tested.ended if x["outcome"] == "skipped")
            row = rows.setdefault(
                tested.name, {"tests": tested.name, "passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0}
            )
            for line in tested.ended:
                row[line["outcome"]] += 1
                row["seconds"] += line["seconds"]
            report.words = _words(totals)
            report.table("tests", [*rows.values()])
    report.not_run += [f"{why} ({n} tests)" for why, n in missing.items()]
    if totals["passed"] == 0:
        report.failures.append("no test has passed")
    return report.finish(_words(totals))


def _words(totals: Counter) -> str:
    return ", ".join(f"{totals[what]} {what}" for what in ("passed", "failed", "skipped"))


if __name__ == "__main__":
    sys.exit(main())
