"""What was handed in: every file of a folder or of a zip, and why one cannot be marked.

Understood are a plain folder (a notebook or a folder a learner), nbgrader's `submitted/<learner>/<unit>/`, and the
zips that Canvas and Moodle export. Nothing is unpacked to disk: a zip's names are labels here, never paths.
"""

import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from .identity import NOTEBOOK, PACKED, meant_as_notebook

LARGEST_FILE = 20 << 20
MOST_FILES = 100_000
# what editors, file managers and version control leave behind; hidden files are theirs, too
LEFT_BEHIND = ("__MACOSX", "Thumbs.db", "desktop.ini", "__pycache__")


class Unreadable(Exception):
    """The file is no notebook."""


Read = Callable[[], bytes]


@dataclass(frozen=True)
class Handed:
    """This is one file that was handed in: `file` names it within what was handed in; `read()` gives its bytes.

    `read` raises Unreadable with the reason why there are none. `path` is where it lay, folders first; it is empty
    where that says nothing, and may be the same for two files, whose `file` differs. `meant` is whether it was handed
    in to be marked, and not beside what was.
    """

    file: str
    read: Read
    path: tuple[str, ...] = ()
    meant: bool = True


@contextmanager
def open_submissions(path: Path, *, out: Path | None = None) -> Iterator[list[Handed]]:
    """Yield every file of a folder or zip, sorted by name; a zip stays open until the end of the `with`.

    Folders that hold no file or cannot be read stand among them, with the reason why nothing of them is marked. What a
    run writes into `out` was not handed in, though it may lie there.

    Raises:
        ValueError: there is no such folder or zip, it cannot be read, or it holds absurdly many files.
    """
    if path.is_dir():
        yield _labelled(_in_folder(path, out))
    elif path.is_file() and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                yield _labelled(_in_zip(archive, path))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is a broken zip: {error}") from error
    else:
        raise ValueError(f"{path} is {'no zip' if path.exists() else 'not there'}: name a folder or a zip")


def _labelled(found: Iterable[Handed]) -> list[Handed]:
    """Return each under a label of its own: two may share a name, and each is somebody's."""
    handed: dict[str, Handed] = {}
    for item in sorted(found, key=lambda item: item.file):
        label, number = item.file, 1
        while label in handed:
            number += 1
            label = f"{item.file} ({number})"
        handed[label] = replace(item, file=label)
    return list(handed.values())


def _left_behind(name: str) -> bool:
    """Return whether a program left a file or folder of this name behind."""
    return name.startswith(".") or name in LEFT_BEHIND


def _file(path: tuple[str, ...], read: Callable, *arguments) -> Handed:
    """Return a file that `read(*arguments)` reads if it is a notebook."""
    name = path[-1].lower()
    if name.endswith(NOTEBOOK):
        return Handed("/".join(path), lambda: read(*arguments), path)
    ending = PurePosixPath(name).suffix
    reason = f"it is no notebook: its name ends in {ending}, not in .ipynb" if ending else "it is no notebook (.ipynb)"
    if name.endswith(PACKED):
        reason = "it is packed, and what is within it is not looked at: hand in the notebook itself"
    return _refused(path, reason, meant=meant_as_notebook(name))


def _refused(path: tuple[str, ...], reason: str, *, meant: bool) -> Handed:
    def read() -> bytes:
        raise Unreadable(reason)

    return Handed("/".join(part for part in path if part), read, path, meant)


def _empty(folders: set[tuple[str, ...]], found: list[Handed]) -> Iterator[Handed]:
    """Yield the folders in which nothing was found, without those within them."""
    holding = {item.path[:n] for item in found for n in range(len(item.path))}
    lonely = folders - holding
    for path in lonely:
        if not any(path[:n] in lonely for n in range(len(path))):
            yield _refused((*path, ""), "the folder holds no file", meant=False)


def _in_folder(folder: Path, out: Path | None) -> list[Handed]:
    found, within, closed = [], set(), []
    for where, folders, files in os.walk(folder, onerror=closed.append):
        folders[:], files = ([name for name in names if not _left_behind(name)] for names in (folders, files))
        folders[:] = [name for name in folders if out is None or Path(where, name).resolve() != out.resolve()]
        for name in files:
            found.append(_file(_path(Path(where, name), folder), read_file, Path(where, name)))
        for name in folders:
            path = _path(Path(where, name), folder)
            if Path(where, name).is_symlink():
                # it is not followed, since it could lead to the solutions
                found.append(_refused((*path, ""), "it is a link to a folder", meant=True))
            within.add(path)
    for error in closed:
        if Path(error.filename) == folder:
            raise ValueError(f"{folder} cannot be read: {error.strerror}")
        path = _path(Path(error.filename), folder)
        found.append(_refused((*path, ""), f"the folder cannot be read: {error.strerror}", meant=True))
    return [*found, *_empty(within, found)]


def _path(path: Path, folder: Path) -> tuple[str, ...]:
    """Return folders and name; names that are no text, which Python holds as lone surrogates, would fit into no record."""
    parts = path.relative_to(folder).parts
    return tuple(_composed(os.fsencode(part).decode(errors="backslashreplace")) for part in parts)


def _composed(name: str) -> str:
    """Return one text for one name, however its letters were composed."""
    return unicodedata.normalize("NFC", name)


def read_file(path: Path) -> bytes:
    """Return the file's bytes, without following a link: one could lead to the solutions."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return _bounded(file.read)
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror
        raise Unreadable(f"the file cannot be read: {reason}") from error


def _in_zip(archive: zipfile.ZipFile, path: Path) -> list[Handed]:
    if len(archive.infolist()) > MOST_FILES:
        raise ValueError(f"{path} holds {len(archive.infolist())} files, more than {MOST_FILES}")
    found, within = [], set()
    for member in archive.infolist():
        name = member_name(member)
        parts = _parts(name)
        if any(map(_left_behind, parts)):
            # of what a learner's folder holds nothing else, the folder is there all the same
            parts = parts[: next(i for i, part in enumerate(parts) if _left_behind(part))]
        elif not name.endswith(("/", "\\")):
            found.append(_file(parts, _read_member, archive, name, member))
            if name_leads_out(name):
                found[-1] = replace(found[-1], path=())
            continue
        within |= {parts[:n] for n in range(1, len(parts) + 1)}
    return [*found, *_empty(within, found)]


def _parts(name: str) -> tuple[str, ...]:
    """Return folders and name of a member, without what would lead out of a folder."""
    parts = [part for part in _composed(name).replace("\\", "/").split("/") if part not in ("", ".")] or ["unnamed"]
    return tuple("up" if part == ".." else part for part in parts)


def member_name(member: zipfile.ZipInfo) -> str:
    """Return a member's name as it was meant, for many programs write UTF-8 and do not set the flag that says so.

    An extra field holds a name that is sure; without one, bytes that are UTF-8 are, and others are of code page 437.
    """
    if member.flag_bits & 0x800:
        return member.filename
    raw = member.filename.encode("cp437", "replace")
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 0x7075 and extra[5:9] == struct.pack("<L", zlib.crc32(raw)):
            return extra[9 : 4 + size].decode("utf-8", "replace")
        extra = extra[4 + size :]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return member.filename


def _read_member(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> bytes:
    if name_leads_out(name):
        raise Unreadable(f"its name in the zip leads out of the folder: {name[:200]!r}")
    if member.flag_bits & 1:
        raise Unreadable("it is encrypted")
    try:
        with archive.open(member) as file:
            return _bounded(file.read)
    except Unreadable:
        raise
    except Exception as error:
        # whatever a stranger's bytes make of the reader (zlib, lzma, bz2: each has errors of its own), the rest goes on
        raise Unreadable(f"it cannot be unpacked: {str(error)[:200]}") from error


def name_leads_out(name: str) -> bool:
    """Return whether unpacking a member of this name could write outside the folder that it is unpacked into."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0]


def _bounded(read: Callable[[int], bytes]) -> bytes:
    """Return what is there to read, if it is no more than a notebook may have:
    what a header says of its size does not count.
    """
    data = read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"the file is larger than {LARGEST_FILE >> 20} MiB")
    return data
