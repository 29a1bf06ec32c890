"""A submission's mark: its cells run in a worker, each check judges here what the worker's functions return."""

import time
from dataclasses import dataclass, field, replace

from attncourse.check import CHECKS, Verdict, run_check
from attncourse.check.core import STATES, Check, Tampered, TimedOut, fresh_rng, shortcut_taken

from .sandbox import Sandbox
from .shortcuts import shortcut
from .submission import Release, Submission, cells_to_run
from .transport import OUTCOMES, Ended, RemoteLearner, Worker, printable

# A submission's state is the first of these that one of its parts is in.
GRAVEST_FIRST = ("tampered", "timed out", "out of memory", "crashed")


@dataclass(frozen=True)
class Judged:
    """One check's verdict, the seed that drew its inputs, and how long it took."""

    verdict: Verdict
    seed: int
    seconds: float


@dataclass
class Mark:
    """What grading one submission found; `notes` say what was wrong with the notebook itself."""

    state: str
    checks: list[Judged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def mark(submission: Submission, release: Release, sandbox: Sandbox) -> Mark:
    """Grade one submission. Never raises for what a learner did.

    Raises:
        RuntimeError: no worker starts.
    """
    if submission.unreadable:
        return Mark("unreadable", notes=[submission.unreadable])
    if not submission.unit:
        return Mark("unknown unit", notes=["neither its metadata nor its cells name a unit that was handed out"])
    started = time.monotonic()
    withheld = release.withheld[submission.unit]
    run = _Run(submission, sandbox, withheld, started + sandbox.limits.submission_seconds)
    result = Mark("marked", notes=release.differences(submission))
    try:
        for check in (c for c in CHECKS.values() if c.unit == submission.unit):
            result.checks.append(run.judge(check))
    finally:
        run.close()
    states = {judged.verdict.state for judged in result.checks}
    if result.notes or any(state == "tampered" for state, _ in run.failed.values()):
        states.add("tampered")
    result.state = next((state for state in GRAVEST_FIRST if state in states), "marked")
    result.notes += [f"the cell {name} failed: {reason}" for name, (_, reason) in run.failed.items()]
    result.seconds = time.monotonic() - started
    return result


class _Run:
    """The workers of one submission, one at a time: another is started when a check or a cell has ended the last."""

    def __init__(self, submission: Submission, sandbox: Sandbox, withheld: tuple[str, ...], deadline: float):
        self._sandbox, self._withheld, self._deadline = sandbox, withheld, deadline
        self._cells = list(cells_to_run(submission))
        self._worker: Worker | None = None
        self._deadly: set[str] = set()
        self.failed: dict[str, tuple[str, str]] = {}

    def judge(self, check: Check) -> Judged:
        """One check, with inputs of its own; its clock starts when a worker stands ready."""
        rng, seed = fresh_rng()
        if taken := shortcut((source for _, _, source in self._cells), check.function, check.forbids):
            message = shortcut_taken(check.function, taken)
            return Judged(Verdict(check.name, "wrong", 0, check.points, message), seed, 0.0)
        try:
            worker = self._prepared_worker()
        except TimedOut as error:
            return Judged(Verdict(check.name, "timed out", 0, check.points, str(error)), seed, 0.0)
        began = time.monotonic()
        deadline = min(began + check.seconds, self._deadline)
        verdict = run_check(check, RemoteLearner(worker, check, deadline), rng)
        return Judged(self._explained(check, verdict), seed, time.monotonic() - began)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _explained(self, check: Check, verdict: Verdict) -> Verdict:
        """The verdict as a record can hold it; a missing function is put down to the cell that should define it."""
        if verdict.state == "timed out":
            return replace(verdict, message=f"{check.function} did not return within {check.seconds:.0f} s")
        grade_id = check.name.replace(".", "-")
        if verdict.state == "missing" and grade_id in self.failed:
            state, reason = self.failed[grade_id]
            return replace(verdict, state=state, message=f"the cell {grade_id} failed: {reason}")
        return replace(verdict, message=printable(verdict.message))

    def _prepared_worker(self) -> Worker:
        """A live worker in which every cell has run, but for those that end it."""
        while self._worker is None or not self._worker.alive:
            self.close()
            if time.monotonic() >= self._deadline:
                raise TimedOut(f"the submission used up its {self._sandbox.limits.submission_seconds:.0f} s")
            self._worker = Worker(self._sandbox, self._withheld)
            self._run_cells(self._worker)
        return self._worker

    def _run_cells(self, worker: Worker) -> None:
        """Run the cells in order; one that ends the worker is not run again, and leaves it to be replaced."""
        for number, cell, source in self._cells:
            name = cell.grade_id or f"number {number}"
            if name in self._deadly:
                continue
            deadline = min(time.monotonic() + self._sandbox.limits.cell_seconds, self._deadline)
            try:
                answer = worker.ask({"op": "cell", "name": f"cell {name}", "source": source}, deadline)
            except (TimedOut, Tampered, Ended) as error:
                self._deadly.add(name)
                self.failed[name] = (STATES[error.outcome if isinstance(error, Ended) else type(error)], str(error))
                return
            if answer["outcome"] in OUTCOMES:
                self.failed[name] = (answer["outcome"], answer["message"])
