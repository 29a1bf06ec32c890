"""Every chapter ran without an error, and shows what is committed; `make test` runs them first, `run_chapters` otherwise."""

from pathlib import Path

import nbformat
import pytest

from attncourse.chapters import chapters
from tests.run_chapters import ROOT, open_cache


@pytest.fixture(scope="module")
def cache():
    return open_cache()


def text_of(cell) -> str:
    """The text that a cell shows, as one string: where a stream is cut into pieces is chance."""
    outputs = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return "".join(outputs).strip()


def differences(committed, executed) -> list[str]:
    """Cells that show another text than is committed, where that is to be compared, or anything on stderr."""
    found = []
    cells = (cell for cell in committed.cells if cell.cell_type == "code")
    for cell, ran in zip(cells, executed.cells, strict=True):
        if "nbval-check-output" in cell.metadata.get("tags", []) and text_of(cell) != text_of(ran):
            found.append(f"{cell.id} is committed with\n{text_of(cell)}\nand now shows\n{text_of(ran)}")
        if any(output.get("name") == "stderr" for output in ran.outputs):
            found.append(f"{cell.id} writes to stderr:\n{text_of(ran)}")
    return found


def executed(cache, path: Path):
    """The chapter as it ran, or a failure that shows where it stopped."""
    committed = nbformat.read(path, as_version=4)
    try:
        return cache.get_cache_bundle(cache.match_cache_notebook(committed).pk).nb
    except KeyError:
        record = next((r for r in cache.list_project_records() if r.uri == str(path)), None)
        stopped = record.traceback if record else None
        pytest.fail(stopped or f"{path.name} was not run as it stands: python -m tests.run_chapters", pytrace=False)


@pytest.mark.parametrize("name", chapters(ROOT))
def test_a_chapter_runs_and_shows_what_is_committed(name, cache):
    path = ROOT / "book" / f"{name}.ipynb"
    assert not differences(nbformat.read(path, as_version=4), executed(cache, path))
