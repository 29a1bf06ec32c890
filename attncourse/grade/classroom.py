"""All submissions of a run: whose each is, which need marking, a record as soon as each is done, the time left."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .judge import Mark
from .marks import Learner
from .one_submission import Settings, content_of, grade_bytes
from .pool import Lost, Pool
from .read.identity import Collection, Identity, without_ending
from .read.intake import Handed, Unreadable
from .read.roster import Roster
from .records import NOT_GRADED, owned, read_record, record_of, record_path, remove_partial, still_valid, write_record

LOCK, WIDTH = ".attncourse.lock", 20


@contextmanager
def reserved(out: Path) -> Iterator[None]:
    """Hold the folder, made where there is none, as this run's alone. However a run ends, its hold ends with it.

    Raises:
        ValueError: it cannot be written, or another run holds it.
    """
    try:
        lock = _locked(out)
    except OSError as error:
        raise ValueError(f"--out must be a folder that can be written, got {out}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(lock)


def _locked(out: Path) -> int:
    out.joinpath("records").mkdir(parents=True, exist_ok=True)
    lock = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(lock, f"{os.getpid():<{WIDTH}}".encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, WIDTH, 0).decode().strip()
        os.close(lock)
        raise ValueError(
            f"another `attncourse grade` (process {holder}) writes into {out}: wait for it, or name another --out"
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock


def whose(
    handed: Iterable[Handed], units: Iterable[str], *, roster: Roster | None, root: str
) -> tuple[dict[str, Identity], list[str]]:
    """Return whose each file is, by its label; notes on the class as a whole."""
    handed = list(handed)
    placed = Collection({item.file: item.path for item in handed if item.path}, units, roster=roster, root=root)
    lost = {item.file: Identity(without_ending(item.file)) for item in handed if not item.path}
    return placed.identities | lost, placed.notes


def set_aside(handed: list[Handed], identities: dict[str, Identity]) -> tuple[list[Handed], list[tuple[Handed, str]]]:
    """Return what gets a record, and what lies beside a learner's notebooks without being one, with the reason.

    Who handed in nothing else has a record of that.
    """
    marked = [identities[item.file] for item in handed if item.meant]
    keys, names = {_learner(one).key for one in marked}, {one.name for one in marked}
    kept, aside = [], []
    for item in handed:
        owner = identities[item.file]
        above = (owner.name[:at] for at, letter in enumerate(owner.name) if letter == "/")
        if item.meant or (_learner(owner).key not in keys and names.isdisjoint(above)):
            kept.append(item)
        else:
            aside.append((item, _reason(item)))
    return kept, aside


def _learner(identity: Identity) -> Learner:
    return Learner(identity.name, identity.canvas_id, identity.moodle_id)


def _reason(item: Handed) -> str:
    try:
        item.read()
    except Unreadable as error:
        return str(error)
    return ""


def grade_all(
    handed: list[Handed],
    identities: dict[str, Identity],
    out: Path,
    settings: Settings,
    pool: Pool,
    *,
    again: bool,
) -> None:
    """Leave a record in `out` of everything that was handed in to be marked.

    What a record there already says of the same bytes, marked by the same checks, is kept, unless asked `again`.
    """
    remove_partial(out)
    with tqdm(total=len(handed), unit="submission", smoothing=0.05) as progress:
        waiting = _waiting(handed, identities, out, settings, again, progress)
        for file, record in pool.map(grade_bytes, waiting):
            if isinstance(record, Lost):
                mark = Mark(NOT_GRADED, notes=[str(record)])
                record = record_of(file, "", identities[file], "", mark, settings.confinement)
            write_record(record_path(out, file), owned(record, identities[file]))
            progress.update()


def _waiting(
    handed: list[Handed],
    identities: dict[str, Identity],
    out: Path,
    settings: Settings,
    again: bool,
    progress: tqdm,
) -> Iterator[tuple]:
    """Yield (file, arguments of grade_bytes) of each submission that needs marking, read only when its turn comes."""
    for item in handed:
        data, unreadable = b"", ""
        try:
            data = item.read()
        except Unreadable as error:
            unreadable = str(error)
        record = None if again else read_record(record_path(out, item.file))
        if still_valid(record, content_of(data), settings.confinement):
            # whose it is may be known better now, by a roster
            if record != (now := owned(record, identities[item.file])):
                write_record(record_path(out, item.file), now)
            # what was marked before says nothing about how long the rest will take
            progress.initial += 1
            progress.update()
        else:
            yield item.file, (item.file, data, unreadable, settings)


def records_of(handed: list[Handed], out: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of what was handed in, in its order, one at a time; without those that are not there yet."""
    for item in handed:
        record = read_record(record_path(out, item.file))
        if record is not None:
            yield record
