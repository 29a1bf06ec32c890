"""Every chapter ran without an error, and shows what is committed; `make test` runs them first, `run_chapters` otherwise."""

import warnings
from pathlib import Path

import nbformat
import pytest

from attncourse.course.chapters import chapters
from tests.run_chapters import ROOT, open_cache, seconds
from tests.test_chapter_rules import CHAPTERS as REWRITTEN


@pytest.fixture(scope="module")
def executed_chapters():
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
def test_a_chapter_runs_and_shows_what_is_committed(name, executed_chapters):
    path = ROOT / "book" / f"{name}.ipynb"
    assert not differences(nbformat.read(path, as_version=4), executed(executed_chapters, path))


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_figure_is_described_for_those_who_do_not_see_it(name, executed_chapters):
    committed = [c for c in nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells if c.cell_type == "code"]
    ran = executed(executed_chapters, ROOT / "book" / f"{name}.ipynb").cells
    missing = [
        cell.id
        for cell, seen in zip(committed, ran, strict=True)
        if any("image/png" in output.get("data", {}) for output in seen.outputs)
        and len(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").split()) < 5
    ]
    assert missing == []


def test_a_chapter_takes_a_minute(executed_chapters):
    """Beside another one, on two cores; a slow machine is warned, not stopped."""
    slow = {name: round(taken) for name, taken in seconds(executed_chapters).items() if taken > 60}
    if slow:
        warnings.warn(f"chapters that took longer than 60 s here: {slow}", stacklevel=1)


def notebook(text: str, *, name: str = "stdout", tags: tuple[str, ...] = ("nbval-check-output",)):
    """A chapter of one cell that shows this text."""
    output = nbformat.v4.new_output("stream", name=name, text=text)
    cell = nbformat.v4.new_code_cell("1", id="cell", outputs=[output], metadata={"tags": list(tags)})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title", id="title"), cell])


def ran(text: str, **options):
    """The same as it comes out of the cache, which keeps code cells alone."""
    made = notebook(text, **options)
    made.cells = made.cells[1:]
    return made


def test_another_output_and_text_on_stderr_are_found():
    assert not differences(notebook("0.25\n"), ran("0.25\n"))
    assert "now shows\n0.26" in differences(notebook("0.25\n"), ran("0.26\n"))[0]
    assert not differences(notebook("0.25\n", tags=()), ran("0.26\n", tags=())), "only what is tagged is compared"
    assert "to stderr" in differences(notebook("", tags=()), ran("noise", name="stderr", tags=()))[0]


def test_the_cache_is_emptied_where_the_package_changes(tmp_path):
    root, folder = tmp_path / "a clone", tmp_path / "a clone" / "cache"
    for name in ("attncourse/room.py", "book/measurements/device.json"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("1", encoding="utf-8")
    path = root / "book" / "chapter.ipynb"
    nbformat.write(ran("1"), path)

    def kept() -> bool:
        return bool(open_cache(root, folder).list_cache_records())

    assert not kept()
    for changed in (path, root / "attncourse" / "room.py", root / "book" / "measurements" / "device.json"):
        open_cache(root, folder).cache_notebook_file(path, check_validity=False, overwrite=True)
        assert kept()
        changed.write_text(changed.read_text(encoding="utf-8") + " ", encoding="utf-8")
        assert kept() == (changed == path), changed
