"""The book's build: its configuration refuses what a reader must not see, and the check of the built pages sees it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from attncourse.course.chapters import chapters, pages
from tests.check_built_book import defects, lost_addresses, main

ROOT = Path(__file__).parents[1]


def build_book_of(folder: Path, *cells: str) -> subprocess.CompletedProcess:
    """Build one chapter of these code cells under the course's own configuration, as `make book` does."""
    (folder / "book").mkdir(exist_ok=True)
    (folder / "_build" / "offline").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "_config.yml", folder)
    shutil.copy(ROOT / "book" / "references.bib", folder / "book")
    shutil.copytree(ROOT / "book" / "_extensions", folder / "book" / "_extensions", dirs_exist_ok=True)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\n", encoding="utf-8")
    title = nbformat.v4.new_markdown_cell("# Title", id="title")
    code = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=[title, *code]), folder / "book" / "index.ipynb")
    command = [Path(sys.executable).parent / "jupyter-book", "build", "book", "--config", "_config.yml"]
    command += ["--toc", folder / "_toc.yml", "--path-output", ".", "-W", "-n", "--keep-going"]
    return subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)


def test_a_chapter_that_runs_is_built_and_a_second_time_from_the_cache(tmp_path):
    for executed in (True, False):
        done = build_book_of(tmp_path, "print(6 * 7)")
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("Executing notebook" in done.stdout + done.stderr) == executed
        shutil.rmtree(tmp_path / "_build" / ".doctrees")
    assert "42" in (tmp_path / "_build" / "html" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("cell", ["1 / 0", "import sys; print('noise', file=sys.stderr)"], ids=["raises", "stderr"])
def test_a_cell_that_raises_or_writes_to_stderr_fails_the_build_the_second_time_too(cell, tmp_path):
    for _ in range(2):
        assert build_book_of(tmp_path, cell).returncode != 0


def test_every_page_of_the_contents_has_a_source():
    for name in pages(ROOT):
        assert any((ROOT / "book" / f"{name}{suffix}").exists() for suffix in (".ipynb", ".md")), name
    assert len(chapters(ROOT)) >= 19


@pytest.mark.parametrize("name", chapters(ROOT))
def test_the_index_lists_a_chapter_with_the_minutes_that_it_says(name):
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| \[\]\({name}\.ipynb\) \| .+ \| (\d+) \|$", index, re.MULTILINE)
    assert row, f"the index has no row for {name}"
    first = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells[0].source
    said = re.search(r"\*\*Time:\*\* about (\d+) minutes", first)
    assert said is None or said[1] == row[1]


@pytest.mark.parametrize(
    ("body", "defect"),
    [
        ('<div class="cell_output"><div class="output traceback">x</div></div>', "traceback"),
        ('<div class="cell_output"><div class="output stderr">x</div></div>', "stderr"),
        ('<img src="https://example.org/a.png">', "from outside: https://example.org/a.png"),
        ('<script src="//example.org/a.js"></script>', "from outside"),
        ('<img src="_images/missing.png">', "points to nothing: _images/missing.png"),
    ],
)
def test_the_check_of_built_pages_names_the_defect(body, defect, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
    assert any(defect in found for found in defects(page))


def test_a_clean_page_has_no_defect_and_a_missing_one_is_named(tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text(
        '<html><body><img src="data:image/png;base64,AAAA"><a href="https://example.org">x</a></body></html>',
        encoding="utf-8",
    )
    assert defects(page) == []
    assert main(tmp_path) == 1
    said = capsys.readouterr().out
    assert "softmax_attention: not built" in said and "query_key_value: does not lead to softmax_attention.html" in said


def test_an_old_address_is_lost_where_it_leads_elsewhere_or_to_nothing(tmp_path):
    redirects = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]["redirects"]
    for old, new in redirects.items():
        (tmp_path / f"{old}.html").write_text(f'<meta http-equiv="refresh" content="0; url={new}">', encoding="utf-8")
        (tmp_path / new).write_text("", encoding="utf-8")
    assert lost_addresses(tmp_path) == []
    (tmp_path / "softmax_attention.html").unlink()
    (tmp_path / "sparse_patterns.html").write_text("elsewhere", encoding="utf-8")
    assert [line.partition(":")[0] for line in lost_addresses(tmp_path)] == ["query_key_value", "sparse_patterns"]


def test_launch_buttons_are_configured():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert config["repository"]["path_to_book"] == "book"
