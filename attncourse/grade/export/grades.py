"""grades.csv: all that was marked, as one table."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from attncourse.check import CHECKS

from ..files import inert, write_whole
from ..marks import Record


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write a row per submission, and a column per check that holds its state."""
    records = list(records)
    units = {record["unit"] for record in records}
    columns = [name for name, check in CHECKS.items() if check.unit in units]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["learner", "unit", "points", "possible", "state", *columns, "file"])
    for record in records:
        states = {check["check"]: check["state"] for check in record["checks"]}
        fixed = [record[key] for key in ("unit", "points", "possible", "state")]
        each = [states.get(name, "") for name in columns]
        table.writerow([inert(record["learner"]), *fixed, *each, inert(record["file"])])
    write_whole(path, text.getvalue())
