"""An instructor's word on a submission whose check cells were changed: its points are a mark all the same."""

from collections.abc import Collection
from pathlib import Path

from .records import read_record, record_path, write_record

ACCEPTED = "accepted by the instructor as it is"


def check_accepted(files: Collection[str], handed: Collection[str]) -> None:
    """Refuse names that nothing was handed in under, before anything is marked.

    Raises:
        ValueError: there is no such file in what was handed in.
    """
    if missing := sorted({*files} - {*handed}):
        raise ValueError(f"--accept takes files as grades.csv names them, and none is named {', '.join(missing)}")


def accept(files: Collection[str], out: Path) -> None:
    """Turn the state of these records from tampered to marked; the notes keep what was found.

    A record that is in another state stays as it is. Points are those of the checks, which never ran in the notebook.
    """
    for file in files:
        record = read_record(record_path(out, file))
        if record is not None and record["state"] == "tampered":
            write_record(record_path(out, file), record | {"state": "marked", "notes": [*record["notes"], ACCEPTED]})
