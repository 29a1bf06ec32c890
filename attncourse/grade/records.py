"""What stays of a run: one JSON record a submission, written whole or not at all."""

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import attncourse
from attncourse.check import CHECKS, Picture
from attncourse.course.assignment import Assignment

from .files import write_whole
from .imports import digest
from .judge import Judged, Mark
from .marks import Record
from .read.identity import Identity

NOT_GRADED = "not graded"
LARGEST_PICTURE = 64


@cache
def version_of(unit: str) -> str:
    """Return digest of what a unit's checks do: their source and all that it imports from the package."""
    sources = {inspect.getsourcefile(check.judge) for check in CHECKS.values() if check.unit == unit}
    return "-".join(digest(Path(source)) for source in sorted(sources))


def grader() -> dict[str, str]:
    """Return what marked, for whoever asks later."""
    return {"attncourse": attncourse.__version__, "torch": importlib.metadata.version("torch")}


def record_of(file: str, content: str, identity: Identity, unit: str, mark: Mark, confinement: str) -> Record:
    """Return the record of one marked submission."""
    return {
        "file": file,
        "learner": identity.name,
        "identity": identity.as_dict(),
        "unit": unit,
        "state": mark.state,
        "points": sum(judged.verdict.points for judged in mark.checks),
        "possible": sum(judged.verdict.possible for judged in mark.checks),
        "checks": [_check(judged) for judged in mark.checks],
        "notes": mark.notes,
        "seconds": round(mark.seconds, 3),
        "graded": datetime.now(UTC).isoformat(timespec="seconds"),
        "content": content,
        "version": version_of(unit),
        "sandbox": confinement,
        "grader": grader(),
    }


def _check(judged: Judged) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "check": verdict.check,
        "state": verdict.state,
        "points": verdict.points,
        "possible": verdict.possible,
        "message": verdict.message,
        "picture": _picture(verdict.picture),
        "seed": judged.seed,
        "seconds": round(judged.seconds, 3),
    }


def _picture(picture: Picture | None) -> dict[str, Any] | None:
    """Return a picture as JSON holds it: finite numbers, of a size that can be looked at."""
    if picture is None:
        return None
    got, expected = (
        x[:LARGEST_PICTURE, :LARGEST_PICTURE].double().nan_to_num().tolist() for x in (picture.got, picture.expected)
    )
    return {"got": got, "expected": expected, "rows": picture.rows, "columns": picture.columns}


def record_path(out: Path, file: str) -> Path:
    """Return where a submission's record lies:
    under a digest, since names that learners choose may be any file's or folder's.
    """
    return Path(out, "records", f"{hashlib.sha256(file.encode()).hexdigest()}.json")


def owned(record: Record, identity: Identity) -> Record:
    """Return the record as one of this learner's."""
    return record | {"learner": identity.name, "identity": identity.as_dict()}


def still_valid(record: Record | None, content: str, confinement: str) -> bool:
    """Return whether marking the same bytes again, by the same checks in the same sandbox,
    would only repeat the record.
    """
    if record is None or record["state"] == NOT_GRADED:
        return False
    now = {"content": content, "sandbox": confinement, "version": version_of(record["unit"])}
    return all(record[key] == now[key] for key in now)


def read_record(path: Path) -> Record | None:
    """Return the record at a path; none where there is none or it is no record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if {"content", "sandbox", "version", "state", "unit"} <= set(record) else None
    except (OSError, ValueError, TypeError):
        return None


def read_records(out: Path) -> Iterator[Record]:
    """Yield every record of a folder that `grade` wrote, one at a time, in the order of their files.

    Raises:
        ValueError: there is no record in the folder, or a file among them that is none.
    """
    paths = iter(sorted((out / "records").rglob("*.json")))
    first = next(paths, None)
    if first is None:
        raise ValueError(f"{out} holds no records; `python -m attncourse grade FOLDER --out {out}` writes them")
    for path in chain([first], paths):
        record = read_record(path)
        if record is None:
            raise ValueError(f"{path} is no record")
        yield record


def weighed(record: Record, assignment: Assignment) -> Record:
    """Return the record with the points that an assignment gives to its checks;
    as it is where its unit is no part of that.
    """
    if record["unit"] not in assignment.points:
        return record
    checks = []
    for check in record["checks"]:
        worth = assignment.points_for(check["check"])
        checks.append(check | {"points": worth if check["state"] == "passed" else 0, "possible": worth})
    totals = {key: round(sum(check[key] for check in checks), 2) for key in ("points", "possible")}
    return record | {"checks": checks} | totals


def write_record(path: Path, record: Record) -> None:
    """Write one record."""
    write_whole(path, json.dumps(record, indent=1) + "\n")


def remove_partial(out: Path) -> None:
    """Remove what a run that was killed while it wrote a file has left of it."""
    for folder in (out, out / "records", out / "feedback"):
        for path in folder.glob(".*.partial"):
            if path.is_file():
                path.unlink(missing_ok=True)
