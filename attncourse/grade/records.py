"""What stays of a run: one JSON record a submission, written whole or not at all, and a table of all of them."""

import csv
import hashlib
import importlib.metadata
import io
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import attncourse
from attncourse.check import CHECKS

from .judge import Mark
from .sandbox import PACKAGE, Sandbox
from .submission import Submission

NOT_GRADED = "not graded"
LONGEST_NAME = 200


@cache
def grader() -> dict[str, str]:
    """What marked: versions, and a digest of this package's source, since a check may change between versions."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    torch = importlib.metadata.version("torch")
    return {"attncourse": attncourse.__version__, "source": digest.hexdigest(), "torch": torch}


def record_of(submission: Submission, mark: Mark, sandbox: Sandbox) -> dict[str, Any]:
    """The record of one marked submission."""
    verdicts = [judged.verdict for judged in mark.checks]
    return {
        "file": submission.file,
        "learner": submission.learner,
        "unit": submission.unit,
        "state": mark.state,
        "points": sum(v.points for v in verdicts),
        "possible": sum(v.possible for v in verdicts),
        "checks": [
            {
                "check": judged.verdict.check,
                "state": judged.verdict.state,
                "points": judged.verdict.points,
                "possible": judged.verdict.possible,
                "message": judged.verdict.message,
                "seed": judged.seed,
                "seconds": round(judged.seconds, 3),
            }
            for judged in mark.checks
        ],
        "notes": mark.notes,
        "seconds": round(mark.seconds, 3),
        "content": submission.content,
        "sandbox": sandbox.description,
        "grader": grader(),
    }


def record_path(out: Path, submission: Submission) -> Path:
    """Where a submission's record lies: as its notebook lies in the folder."""
    folder, _, name = submission.file.rpartition("/")
    if len(name.encode()) > LONGEST_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    return out / "records" / folder / f"{name}.json"


def still_valid(record: dict[str, Any] | None, submission: Submission, sandbox: Sandbox) -> bool:
    """Whether marking the submission again, the same way, would only repeat what the record says."""
    same = {"content": submission.content, "sandbox": sandbox.description, "grader": grader()}
    return record is not None and record["state"] != NOT_GRADED and all(record[key] == same[key] for key in same)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record at a path; none where there is none or it is no record."""
    try:
        record = json.loads(path.read_text())
        return record if {"content", "sandbox", "grader", "state"} <= set(record) else None
    except (OSError, ValueError, TypeError):
        return None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write one record."""
    _write_whole(path, json.dumps(record, indent=1) + "\n")


def write_table(path: Path, records: list[dict[str, Any]]) -> None:
    """grades.csv: one row a submission, one column a check that holds its state."""
    units = {record["unit"] for record in records}
    columns = [name for name, check in CHECKS.items() if check.unit in units]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["learner", "unit", "points", "possible", "state", *columns])
    for record in records:
        states = {check["check"]: check["state"] for check in record["checks"]}
        fixed = [record[key] for key in ("unit", "points", "possible", "state")]
        table.writerow([_inert(record["learner"]), *fixed, *(states.get(name, "") for name in columns)])
    _write_whole(path, text.getvalue())


def _inert(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)
