"""An assignment: what a class was handed, until when, and what each check counts there.

`attncourse assign` writes it as assignment.json, `attncourse grade --assignment FILE` reads it. A check is all or
nothing, and an assignment never changes what it judges: a check that passes counts the assignment's points for it,
whatever it counts in the course.
"""

import json
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from attncourse._shared.validate import require

from .origin import Origin

FORMAT = "attncourse assignment 1"
FILE = "assignment.json"


@dataclass(frozen=True)
class Assignment:
    """An assignment has `points` of each unit, of each of its checks by name;
    `files` are the others in its folder, by SHA-256.
    """

    title: str
    chapters: tuple[str, ...]
    points: dict[str, dict[str, float]]
    due: date | datetime | None
    version: str
    origin: Origin
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        from attncourse.check import CHECKS

        require(bool(self.points), "an assignment must hold at least one unit, got none")
        for unit, points in self.points.items():
            registered = {name for name, check in CHECKS.items() if check.unit == unit}
            require(bool(registered), f"a unit must have checks in this course, got {unit!r}")
            require(
                points.keys() == registered,
                f"the unit {unit!r} must give points to its checks {sorted(registered)} and no others, "
                f"got {sorted(points)} (the assignment is of version {self.version})",
            )
            for name, value in points.items():
                check_points(name, value)

    @property
    def units(self) -> tuple[str, ...]:
        """Return the units, in the order in which they were handed out."""
        return tuple(self.points)

    def points_for(self, check_name: str) -> float:
        """Return what a pass of this check counts here.

        Raises:
            ValueError: the check's unit is not part of the assignment.
        """
        unit = check_name.partition(".")[0]
        require(
            check_name in self.points.get(unit, {}),
            f"a check must be of the assignment's units {', '.join(self.units)}, got {check_name!r}",
        )
        return self.points[unit][check_name]

    def possible(self, unit: str | None = None) -> float:
        """Return the points of one unit, or of all; exact to the hundredth."""
        units = self.units if unit is None else (unit,)
        total = round(sum(sum(self.points[name].values()) for name in units), 2)
        return int(total) if total == int(total) else total

    def as_json(self) -> str:
        """Return the text of assignment.json."""
        fields = {
            "format": FORMAT,
            "title": self.title,
            "due": self.due and self.due.isoformat(),
            "version": self.version,
            "repository": self.origin.repository,
            "tag": self.origin.tag,
            "chapters": list(self.chapters),
            "points": self.points,
            "files": self.files,
        }
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def read_assignment(path: Path) -> Assignment:
    """Return the assignment of an assignment.json.

    Raises:
        ValueError: the file is none, or its checks are no longer those of this course; the message says which.
        FileNotFoundError: there is no such file.
    """
    said = read_fields(path)
    try:
        return Assignment(
            title=said["title"],
            chapters=tuple(said["chapters"]),
            points=said["points"],
            due=parse_due(said["due"]) if said["due"] else None,
            version=said["version"],
            origin=Origin(said["repository"], said["tag"]),
            files=said["files"],
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


KINDS = {"title": str, "due": str | None, "version": str, "repository": str, "tag": str}
KINDS |= {"chapters": list, "points": dict, "files": dict}


def read_fields(path: Path) -> dict[str, Any]:
    """Return what an assignment.json says, each field of its kind, whether or not the course still has its checks.

    Raises:
        ValueError: the file is no assignment.json.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, IsADirectoryError) as error:
        raise ValueError(
            f"{path} must be an {FILE} as `attncourse assign` writes it, and is no JSON: {error}"
        ) from error
    found = said.get("format") if isinstance(said, dict) else said
    require(found == FORMAT, f"{path} must name the format {FORMAT!r}, got {str(found)[:60]!r}")
    for key, kind in KINDS.items():
        name = getattr(kind, "__name__", kind)
        require(isinstance(said.get(key, ...), kind), f"{path} must hold {key!r} as {name}, got {said.get(key)!r}")
    for unit, points in said["points"].items():
        require(isinstance(points, dict), f"{path} must give points by check for {unit!r}, got {points!r}")
    return said


def check_points(name: str, value: Any) -> None:
    """Check that points are a number, at least 0, with at most two decimals."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        number and 0 <= value < float("inf") and round(value, 2) == value,
        f"points must be a number, at least 0, with at most two decimals, got {name}={value}",
    )


def parse_due(text: str) -> date | datetime:
    """Return a date, or a date and time, in ISO 8601.

    Raises:
        ValueError: it is neither.
    """
    for kind in (date, datetime):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            continue
    raise ValueError(
        f"a due date must be an ISO date or date and time (2027-03-05, 2027-03-05T23:59, 2027-03-05T23:59+01:00), got {text!r}"
    )


def shown_due(due: date | datetime) -> str:
    """Return the time with its weekday: "Friday, 5 March 2027, 23:59 (UTC+01:00)"."""
    day = f"{due:%A}, {due.day} {due:%B %Y}"
    if not isinstance(due, datetime):
        return day
    return f"{day}, {due:%H:%M}" + (f" ({due.tzinfo})" if due.tzinfo else "")


def is_past(due: date | datetime) -> bool:
    """Return whether a time lies behind; a date lasts until its end, a time without a zone is this machine's."""
    if isinstance(due, datetime):
        return due < datetime.now(due.tzinfo)
    return due < date.today()
