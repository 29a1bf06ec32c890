"""A submission's mark: its cells run in a worker, each check judges here what the worker's functions return."""

import re
import time
from dataclasses import dataclass, field, replace

from attncourse.check import CHECKS, Verdict, run_check
from attncourse.check.core import STATES, Check, Tampered, TimedOut, fresh_rng, shortcut_taken

from .read.submission import Cell, Release, Submission, cells_to_run
from .wall.sandbox import Sandbox
from .wall.transport import OUTCOMES, Ended, RemoteLearner, Worker, printable

# A submission's state is the first of these that one of its parts is in.
GRAVEST_FIRST = ("tampered", "timed out", "out of memory", "crashed")


@dataclass(frozen=True)
class Judged:
    """Judged holds one check's verdict, the seed that drew its inputs, and how long it took."""

    verdict: Verdict
    seed: int
    seconds: float


@dataclass
class Mark:
    """A mark is what grading one submission found; `notes` say what was wrong with the notebook itself."""

    state: str
    checks: list[Judged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def mark(submission: Submission, release: Release, sandbox: Sandbox) -> Mark:
    """Grade one submission, and never raise for what a learner did. Never raises for what a learner did.

    Raises:
        RuntimeError: no worker starts.
    """
    if submission.unreadable:
        return Mark("unreadable", notes=[submission.unreadable])
    if not submission.unit:
        return Mark("unknown unit", notes=["neither its metadata nor its cells name a unit that was handed out"])
    started = time.monotonic()
    run = _Run(submission, release, sandbox, started + sandbox.limits.submission_seconds)
    tampered = release.differences(submission)
    try:
        checks = [run.judge(check) for check in CHECKS.values() if check.unit == submission.unit]
    finally:
        run.close()
    states = {judged.verdict.state for judged in checks}
    if tampered or any(failure.state == "tampered" for failure in run.failed.values()):
        states.add("tampered")
    state = next((state for state in GRAVEST_FIRST if state in states), "marked")
    notes = tampered + [
        f"the check cell {grade_id} has lost its metadata and is otherwise as released: nothing was tampered with"
        for grade_id in release.unlabelled(submission)
    ]
    notes += [f"the cell {failure.name} failed: {failure.reason}" for failure in run.failed.values()]
    return Mark(state, checks, notes, time.monotonic() - started)


@dataclass(frozen=True)
class _Failure:
    """A failure says which cell failed, with which state, and why."""

    name: str
    state: str
    reason: str
    cell: Cell

    def would_define(self, check: Check) -> bool:
        """Return whether the check's function should have come from this cell."""
        # blanks, not \s, which would read on over empty lines from each of them
        definition = rf"^[ \t]*(async[ \t]+)?def[ \t]+{re.escape(check.function)}\b"
        defines = re.search(definition, self.cell.source, re.MULTILINE)
        return self.cell.grade_id == check.name.replace(".", "-") or defines is not None


class _Run:
    """A run holds the workers of one submission, one at a time:
    another is started when a check or a cell has ended the last.
    """

    def __init__(self, submission: Submission, release: Release, sandbox: Sandbox, deadline: float):
        self._sandbox, self._imports, self._deadline = sandbox, release.imports[submission.unit], deadline
        self._cells = cells_to_run(submission)
        self._forbidding = [check for check in CHECKS.values() if check.unit == submission.unit and check.forbids]
        self._worker: Worker | None = None
        self._deadly: set[int] = set()
        # verdicts on functions that reach what their check forbids; known when the cells have been read
        self._taken: dict[str, Verdict] | None = None
        self.failed: dict[int, _Failure] = {}

    def judge(self, check: Check) -> Judged:
        """Judge one check, with inputs of its own; its clock starts when a worker stands ready."""
        rng, seed = fresh_rng()
        try:
            worker = self._prepared_worker()
        except TimedOut as error:
            return Judged(Verdict(check.name, "timed out", 0, check.points, str(error)), seed, 0.0)
        if check.name in self._taken:
            return Judged(self._taken[check.name], seed, 0.0)
        began = time.monotonic()
        deadline = min(began + check.seconds, self._deadline)
        verdict = run_check(check, RemoteLearner(worker, check, deadline), rng)
        return Judged(self._explained(check, verdict), seed, time.monotonic() - began)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _explained(self, check: Check, verdict: Verdict) -> Verdict:
        """Return the verdict as a record can hold it; a missing function is put down to the cell that should define it."""
        if verdict.state == "timed out":
            return replace(verdict, message=f"{check.function} did not return within {check.seconds:.0f} s")
        failure = next((failure for failure in self.failed.values() if failure.would_define(check)), None)
        if verdict.state == "missing" and failure is not None:
            return replace(verdict, state=failure.state, message=f"the cell {failure.name} failed: {failure.reason}")
        return replace(verdict, message=printable(verdict.message))

    def _prepared_worker(self) -> Worker:
        """Return a live worker in which every cell has run, but for those that end it."""
        while self._worker is None or not self._worker.alive:
            self.close()
            if time.monotonic() >= self._deadline:
                raise TimedOut(f"the submission used up its {self._sandbox.limits.submission_seconds:.0f} s")
            self._worker = Worker(self._sandbox, self._imports)
            if self._taken is None:
                self._read_cells(self._worker)
            if self._worker.alive:
                self._run_cells(self._worker)
        return self._worker

    def _read_cells(self, worker: Worker) -> None:
        """Have the cells read, in a worker that no cell has run in yet, so that what it says of them can be trusted."""
        if self._forbidding and not self._run_cells(worker, only_read=True):
            return
        self._taken = {}
        for check in self._forbidding:
            request = {"op": "shortcut", "function": check.function, "forbids": check.forbids}
            deadline = min(time.monotonic() + self._sandbox.limits.cell_seconds, self._deadline)
            try:
                taken = worker.ask(request, deadline).get("value")
            except (TimedOut, Tampered, Ended):
                self._taken[check.name] = Verdict(
                    check.name, "timed out", 0, check.points, f"the code of {check.function} could not be read in time"
                )
                return
            if taken:
                message = shortcut_taken(check.function, str(taken))
                self._taken[check.name] = Verdict(check.name, "wrong", 0, check.points, message)

    def _run_cells(self, worker: Worker, *, only_read: bool = False) -> bool:
        """Run or read each cell in order; False where one ended the worker, which is then passed over for good."""
        for number, cell in self._cells:
            if number in self._deadly:
                continue
            deadline = min(time.monotonic() + self._sandbox.limits.cell_seconds, self._deadline)
            name = cell.grade_id or f"number {number}"
            try:
                answer = worker.run_cell(f"cell {number}", cell.source, deadline, only_read=only_read)
            except (TimedOut, Tampered, Ended) as error:
                self._deadly.add(number)
                state = STATES[error.outcome if isinstance(error, Ended) else type(error)]
                self.failed[number] = _Failure(name, state, str(error), cell)
                return False
            if not only_read and answer["outcome"] in OUTCOMES:
                self.failed[number] = _Failure(name, answer["outcome"], answer["message"], cell)
        return True
