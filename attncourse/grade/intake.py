"""What was handed in: the notebooks of a folder or of a zip, and whose each of them is.

Understood are a plain folder (a notebook or a folder a learner), nbgrader's `submitted/<learner>/<unit>/`, and the
zips that Canvas and Moodle export. Nothing is unpacked to disk: a zip's names are labels here, never paths.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

LARGEST_FILE = 20 << 20
MOST_FILES = 100_000
NOTEBOOK = ".ipynb"

# lastfirst_LATE_4711_81234_name.ipynb; Canvas numbers a second attempt name-1.ipynb
CANVAS = re.compile(r"(?P<name>[^_/]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<rest>.+)")
# First Last_1234567_assignsubmission_file/name.ipynb
MOODLE = re.compile(r"(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_file")
# what browsers and Colab add to the name of a copy
COPY = re.compile(r"^ *Copy of|\(\d+\) *$")


class Unreadable(Exception):
    """The file is no notebook."""


@dataclass(frozen=True)
class Identity:
    """Whose a submission is: a name, and the numbers by which Canvas or Moodle know the learner, where they say."""

    name: str
    canvas_id: str = ""
    moodle_id: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Handed:
    """One file that was handed in: `file` names it within what was handed in; `read()` gives its bytes.

    `read` raises Unreadable with the reason why there are none.
    """

    file: str
    read: Callable[[], bytes]


@contextmanager
def open_submissions(path: Path) -> Iterator[list[Handed]]:
    """Every notebook of a folder or zip, sorted by name; a zip stays open until the end of the `with`.

    Raises:
        ValueError: there is no such folder or zip, the zip is broken, or it holds absurdly many files.
    """
    if path.is_dir():
        yield list(_in_folder(path))
    elif path.is_file() and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                yield list(_in_zip(archive, path))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is a broken zip: {error}") from error
    else:
        raise ValueError(f"{path} is {'no zip' if path.exists() else 'not there'}: name a folder or a zip")


def _in_folder(folder: Path) -> Iterator[Handed]:
    found = []
    for where, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in files if name.endswith(NOTEBOOK) and not name.startswith(".")]
    for path in sorted(found):
        # names that are no text, which Python holds as lone surrogates, would fit into no record
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        yield Handed(name, lambda path=path: read_file(path))


def read_file(path: Path) -> bytes:
    """The file's bytes, without following a link: one could lead to the solutions."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return _bounded(file.read)
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror
        raise Unreadable(f"the file cannot be read: {reason}") from error


def _in_zip(archive: zipfile.ZipFile, path: Path) -> Iterator[Handed]:
    members = [m for m in archive.infolist() if m.filename.endswith(NOTEBOOK)]
    if len(archive.infolist()) > MOST_FILES:
        raise ValueError(f"{path} holds {len(archive.infolist())} files, more than {MOST_FILES}")
    members = [m for m in members if not PurePosixPath(m.filename).name.startswith((".", "._"))]
    seen: dict[str, int] = {}
    for member in sorted(members, key=lambda m: m.filename):
        # two members may share a name; each is somebody's
        seen[member.filename] = seen.get(member.filename, 0) + 1
        twice = f" ({seen[member.filename]})" if seen[member.filename] > 1 else ""
        yield Handed(_label(member.filename) + twice, lambda member=member: _read_member(archive, member))


def _label(name: str) -> str:
    """A member's name without what would lead out of a folder; a label that differs belongs to a refused member."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join("up" if part == ".." else part for part in parts)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if name_leads_out(member.filename):
        raise Unreadable(f"its name in the zip leads out of the folder: {member.filename[:200]!r}")
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
    """Whether unpacking a member of this name could write outside the folder that it is unpacked into."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0]


def _bounded(read: Callable[[int], bytes]) -> bytes:
    """What is there to read, if it is no more than a notebook may have: what a header says of its size does not count."""
    data = read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"the file is larger than {LARGEST_FILE >> 20} MiB")
    return data


def identify(file: str, units: Iterable[str]) -> Identity:
    """Whose a file is, by where it lay; never by what the notebook says of itself.

    Of a plain folder's `ada/softmax_attention.ipynb`, `ada.ipynb` and `ada-softmax_attention.ipynb` the learner is ada.
    """
    *folders, stem = file.removesuffix(NOTEBOOK).split("/")
    for part in (*folders, stem):
        if moodle := MOODLE.match(part):
            return Identity(moodle["name"], moodle_id=moodle["id"])
    if canvas := CANVAS.fullmatch(stem):
        return Identity(canvas["name"], canvas_id=canvas["id"])
    if folders[:1] == ["submitted"]:
        folders = folders[1:]
    units = sorted(units, key=len, reverse=True)
    if len(folders) > 1 and folders[-1] in units:
        folders = folders[:-1]
    if unit := next((unit for unit in units if unit in stem), ""):
        own = COPY.sub("", stem.replace(unit, " ")).strip("-_. ")
        named = [*folders, own] if own else folders
        return Identity("/".join(named or [stem]))
    return Identity("/".join([*folders, stem]))
