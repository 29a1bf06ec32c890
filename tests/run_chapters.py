"""Execute the book's chapters, each once for the tests and the build: `python -m tests.run_chapters`.

What they show goes into jupyter-cache, where `make test` compares it with what is committed and `make book` takes it from.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from tabulate import tabulate

from attncourse import device
from attncourse.course.chapters import chapters

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "_build" / ".jupyter_cache"


def surroundings(root: Path) -> str:
    """Return a hash of what a chapter's outputs depend on beside its cells:
    the package, the recorded measurements, the versions.
    """
    digest = hashlib.sha256(f"{sys.version} {device()} {os.environ.get('PYTHONPATH')}".encode())
    # of the environment's own folder: what else lies on the search path differs between one process and another
    installed = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    for name, version in sorted((d.metadata["Name"], d.version) for d in installed):
        digest.update(f"{name} {version}\n".encode())
    folders = (root / "attncourse", root / "book" / "measurements")
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix != ".pyc":
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def open_cache(root: Path = ROOT, folder: Path = CACHE):
    """Return the cache of executed chapters, emptied where it was filled in other surroundings."""
    stamp, now = folder / "surroundings.sha256", surroundings(root)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != now:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stamp.write_text(now, encoding="utf-8")
    return get_cache(folder)


def run_chapters() -> None:
    """Execute every chapter of the contents that the cache lacks; of one that fails the cache keeps the traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = open_cache()
    paths = [str(ROOT / "book" / f"{name}.ipynb") for name in chapters(ROOT)]
    for path in paths:
        cache.add_nb_to_project(path)
    # Side by side, and what fails once more alone: a chapter measures times.
    for executor in ("local-parallel", "local-serial"):
        load_executor(executor, cache, logger=logging.getLogger()).run_and_cache(filter_uris=paths, timeout=300)
    taken = seconds(cache)
    print(tabulate(taken.items(), headers=["chapter", "seconds"], floatfmt=".0f"))
    print(f"{sum(taken.values()) / 60:.1f} minutes in all, of which two ran at once")


def seconds(cache) -> dict[str, float]:
    """Return how long each chapter of the contents took when it was executed; those that failed are left out."""
    found = {}
    for name in chapters(ROOT):
        with contextlib.suppress(KeyError):
            record = cache.match_cache_notebook(nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4))
            found[name] = record.data["execution_seconds"]
    return found


if __name__ == "__main__":
    run_chapters()
