"""Folders that are written whole or not at all, in the place of nothing that somebody could miss."""

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from attncourse._shared.validate import require

from .assignment import FILE, read_fields


def write_zip(path: Path, folder: Path) -> None:
    """Write every file of a folder; the bytes depend on names and contents alone, not on clock, system or zlib."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, file.read_bytes())


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path there."""
    files = sorted(p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())
    return {p.relative_to(folder).as_posix(): _digest(p) for p in files}


def _digest(path: Path) -> str:
    # a link is never ours, wherever it leads
    return "link" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def refuse_to_lose(out: Path) -> None:
    """Pass where `out` is nothing, an empty folder, or an assignment's with its files as they were written.

    Raises:
        ValueError: replacing the folder would lose something else.
    """
    if not out.exists() and not out.is_symlink():
        return
    require(out.is_dir() and not out.is_symlink(), f"--out must be a folder, got {out}")
    found = digests(out)
    if not found:
        return
    require(FILE in found, f"--out must be new, empty or an earlier assignment's folder, got {out} without {FILE}")
    written = read_fields(out / FILE)["files"]
    others = [name for name, digest in found.items() if name != FILE and written.get(name) != digest]
    require(
        not others,
        f"{out} must hold only what assign wrote, unchanged, before it is replaced, got {', '.join(others[:5])}; "
        "move these away, or name another folder",
    )


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Make a new folder beside `out` that takes its place when the block ends well, and is gone when it does not."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{kind}.{os.getpid()}") for kind in ("new", "old"))
    try:
        new.mkdir()
        yield new
        earlier = out.exists()
        if earlier:
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if earlier:
                old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
