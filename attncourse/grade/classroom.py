"""All submissions of a run: which need marking, a record as soon as each is done, progress with the time left."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .intake import Handed, Unreadable, identify
from .judge import Mark
from .pool import Lost, Pool
from .records import NOT_GRADED, read_record, record_of, record_path, remove_partial, still_valid, write_record
from .task import Settings, content_of, grade_bytes


def grade_all(handed: list[Handed], out: Path, settings: Settings, pool: Pool, *, again: bool) -> None:
    """A record in `out` of everything that was handed in.

    What a record there already says of the same bytes, marked by the same checks, is kept, unless asked `again`.
    """
    remove_partial(out)
    with tqdm(total=len(handed), unit="submission", smoothing=0.05) as progress:
        for file, record in pool.map(grade_bytes, _waiting(handed, out, settings, again, progress)):
            if isinstance(record, Lost):
                mark = Mark(NOT_GRADED, notes=[str(record)])
                identity = identify(file, settings.release.checks)
                record = record_of(file, "", identity, "", mark, settings.confinement)
            write_record(record_path(out, file), record)
            progress.update()


def _waiting(handed: list[Handed], out: Path, settings: Settings, again: bool, progress: tqdm) -> Iterator[tuple]:
    """(file, arguments of grade_bytes) of each submission that needs marking, read only when its turn comes."""
    for item in handed:
        data, unreadable = b"", ""
        try:
            data = item.read()
        except Unreadable as error:
            unreadable = str(error)
        record = None if again else read_record(record_path(out, item.file))
        if still_valid(record, content_of(data), settings.confinement):
            # what was marked before says nothing about how long the rest will take
            progress.initial += 1
            progress.update()
        else:
            yield item.file, (item.file, data, unreadable, settings)


def records_of(handed: list[Handed], out: Path) -> Iterator[dict[str, Any]]:
    """The records of what was handed in, in its order, one at a time; without those that are not there yet."""
    for item in handed:
        record = read_record(record_path(out, item.file))
        if record is not None:
            yield record
