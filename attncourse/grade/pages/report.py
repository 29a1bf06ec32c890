"""What an instructor reads of a class: how it went, what was hard and why, who has no mark, what was marked unconfined."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attncourse.check import CHECKS
from attncourse.check.drawing import png
from attncourse.plot.style import COLORS

from ..files import first_line
from ..marks import Learner, Record, counting, has_mark, in_order, title_of
from . import wording
from .page import as_data, write_page

SLOWEST = 5
MOST_ASIDE = 20
# states of a check whose message names what went wrong
TELLING = ("wrong", "crashed", "timed out", "out of memory", "tampered")


@dataclass(frozen=True)
class Aside:
    """This is a file that lay beside a learner's notebooks, and why it is none."""

    learner: str
    file: str
    reason: str


def write_class_report(out: Path, records: Iterable[Record], *, aside: Iterable[Aside] = ()) -> Path:
    """Write out/report.html. Records are taken one at a time and kept without their pictures.

    Where a learner handed in a unit more than once, the record that counts stands for all of them, and the page names it.
    """
    kept = [_without_pictures(record) for record in records]
    best = counting(kept)
    by_unit = defaultdict(list)
    for (_, unit), record in best.items():
        by_unit[unit].append(record)
    return write_page(
        out / "report.html",
        "report.html.j2",
        submissions=len(kept),
        learners=len({learner for learner, _ in best}),
        again=len(kept) - len(best),
        states=states_by_unit(kept),
        units=[_unit_shown(unit, by_unit[unit]) for unit in in_order(set(by_unit)) if unit],
        unmarked=_not_simply_marked(best),
        unclear=[(record["file"], note) for record in kept if (note := Learner.of(record).note)],
        several=_handed_in_again(kept, best),
        aside=_by_learner(aside),
        unconfined=[record["file"] for record in kept if record["sandbox"] == "unconfined"],
        time=time_taken(kept),
    )


def _without_pictures(record: Record) -> Record:
    return record | {"checks": [check | {"picture": None} for check in record["checks"]]}


def states_by_unit(records: list[Record]) -> list[tuple[str, dict[str, int]]]:
    """Return (title, how many submissions are in each state that occurs) of each unit in the course's order,
    then of none.
    """
    counts = Counter((record["unit"], record["state"]) for record in records)
    units = in_order({unit for unit, _ in counts})
    return [(title_of(u), {s: counts[u, s] for s in wording.SUBMISSION if counts[u, s]}) for u in units]


def _unit_shown(unit: str, records: list[Record]) -> dict[str, Any]:
    """Return a unit's section: its marks, and its checks from the hardest on."""
    points = [record["points"] for record in records if has_mark(record)]
    possible = max(record["possible"] for record in records)
    shown = {"title": title_of(unit), "learners": len(records), "marks": len(points), "possible": possible}
    shown["checks"] = hardest_first(records)
    if not points:
        return shown | {"picture": ""}
    drawn = as_data(png(distribution(points, possible), dpi=150))
    return shown | {"picture": drawn, "mean": mean(points), "median": median(points)}


def distribution(points: list[float], possible: float) -> Figure:
    """Draw how many learners reached how many points, with a line at the median."""
    figure = Figure(figsize=(6.6, 2.1), layout="constrained")
    ax = figure.subplots()
    ax.hist(points, bins=[p - 0.5 for p in range(ceil(possible) + 2)], color=COLORS[0], rwidth=0.86)
    ax.axvline(median(points), color=COLORS[1], linewidth=1.5)
    ax.annotate("median", (median(points), 1.0), xycoords=("data", "axes fraction"), xytext=(3, 3),
                textcoords="offset points", color=COLORS[1], fontsize=8)  # fmt: skip
    ax.set(xlim=(-0.6, possible + 0.6), xlabel="points", ylabel="learners")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    return figure


def hardest_first(records: list[Record]) -> list[dict[str, Any]]:
    """Return each check of a unit: how many passed of those judged, in which other states it is, the commonest trouble."""
    by_check: dict[str, list[dict]] = defaultdict(list)
    for record in records:
        for check in record["checks"]:
            by_check[check["check"]].append(check)
    shown = []
    for name, verdicts in by_check.items():
        states = Counter(verdict["state"] for verdict in verdicts)
        troubles = Counter(property_of(verdict) for verdict in verdicts if verdict["state"] in TELLING)
        shown.append(
            {
                "name": name,
                "asks": CHECKS[name].judge.__doc__.splitlines()[0] if name in CHECKS else "",
                "judged": len(verdicts),
                "passed": states["passed"],
                "rate": states["passed"] / len(verdicts),
                "others": [(n, state) for state, n in states.most_common() if state != "passed"],
                "trouble": troubles.most_common(1)[0] if troubles else None,
                "kinds": len(troubles),
                "seconds": median(verdict["seconds"] for verdict in verdicts),
            }
        )
    return sorted(shown, key=lambda check: check["rate"])


def property_of(verdict: dict[str, Any]) -> str:
    """Return the broken property of a verdict without the numbers of its run:
    two learners' leaks at other places are one.
    """
    number = r"(?<![\w.])[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?!\w)"
    return re.sub(number, "…", first_line(verdict["message"], most=160)) or verdict["state"]


def _not_simply_marked(best: dict[tuple[Learner, str], Record]) -> list[dict[str, Any]]:
    """Return who is in another state than marked and why, those without a mark first."""
    rows = [
        {"learner": learner.shown, "page": f"feedback/{learner.slug}.html", "file": record["file"], "unit": title_of(unit), "state": record["state"],
         "mark": f"{record['points']} of {record['possible']}" if has_mark(record) else "", "why": why(record)}
        for (learner, unit), record in best.items()
        if record["state"] != "marked"
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (bool(row["mark"]), row["state"], row["learner"]))


def _handed_in_again(records: list[Record], best: dict[tuple[Learner, str], Record]) -> list[dict[str, Any]]:
    """Return, for who handed in a unit more than once, the file that counts and the others."""
    files = defaultdict(list)
    for record in records:
        files[Learner.of(record), record["unit"]].append(record["file"])
    return [
        {"learner": learner.shown, "unit": title_of(unit), "counts": best[learner, unit]["file"],
         "others": [file for file in each if file != best[learner, unit]["file"]]}
        for (learner, unit), each in files.items() if len(each) > 1
    ]  # fmt: skip


def _by_learner(aside: Iterable[Aside]) -> list[tuple[str, list[Aside], int]]:
    """Return (learner, the first files, how many more there are) of each."""
    found = defaultdict(list)
    for one in aside:
        found[one.learner].append(one)
    return [(learner, each[:MOST_ASIDE], max(0, len(each) - MOST_ASIDE)) for learner, each in found.items()]


def why(record: Record) -> str:
    """Return what put a record into its state: the notes on the notebook, else what its checks say."""
    said = record["notes"] or [
        f"{check['check']}: {check['message']}" for check in record["checks"] if check["state"] == record["state"]
    ]
    return "; ".join(first_line(text) for text in said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else "")


def time_taken(records: list[Record]) -> dict[str, Any] | None:
    """Return seconds of all submissions together and of the middle one, and the slowest."""
    if not records:
        return None
    seconds = [record["seconds"] for record in records]
    slowest = sorted(records, key=lambda record: -record["seconds"])[:SLOWEST]
    return {
        "total": sum(seconds),
        "median": median(seconds),
        "slowest": [(record["file"], record["state"], record["seconds"]) for record in slowest],
    }
