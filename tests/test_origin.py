"""The whole course names one origin, and one command points all of it at another."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from attncourse.course.origin import Origin, course_notebooks, origin_files, point_at, read_origin, write_generated

ROOT = Path(__file__).parents[1]


def copy_of_course(folder: Path) -> Path:
    for name in ("pyproject.toml", "_config.yml", "_toc.yml", "CITATION.cff", *(p.name for p in ROOT.glob("*.md"))):
        shutil.copy(ROOT / name, folder)
    for name in ("book", "solutions", "exercises"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "attncourse").mkdir()
    shutil.copy(ROOT / "attncourse" / "chapters.txt", folder / "attncourse")
    return folder


def cells_tagged(path: Path, tag: str) -> list:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def assert_agrees(root: Path, origin: Origin) -> None:
    assert read_origin(root) == origin
    config = (root / "_config.yml").read_text(encoding="utf-8")
    assert f"url: {origin.repository}\n" in config
    assert f"branch: {origin.tag}\n" in config
    for name in ("README.md", "book/exercises.md"):
        text = (root / name).read_text(encoding="utf-8")
        assert origin.colab_url("") in text, f"{name} has no launch button of {origin.slug} at {origin.tag}"
    for path in course_notebooks(root):
        (bootstrap,) = cells_tagged(path, "bootstrap")
        assert bootstrap.source == origin.bootstrap(), path
        assert bootstrap.cell_type == "code"
    for path in root.glob("exercises/*/*.ipynb"):
        (badge,) = cells_tagged(path, "colab-badge")
        assert origin.colab_url(path.relative_to(root).as_posix()) in badge.source


def test_the_course_agrees_with_its_origin():
    assert len(course_notebooks(ROOT)) >= 9
    assert_agrees(ROOT, read_origin(ROOT))


def test_what_is_generated_is_up_to_date(tmp_path):
    assert write_generated(copy_of_course(tmp_path)) == []


def test_point_at_moves_everything_and_back(tmp_path):
    root, old = copy_of_course(tmp_path), read_origin(ROOT)
    originals = {path: path.read_text(encoding="utf-8") for path in origin_files(root)}
    fork = Origin("https://github.com/a-teacher/attention-101", "fall-2026")
    changed = point_at(root, fork)
    assert {root / "README.md", root / "_config.yml", root / "pyproject.toml"} <= set(changed)
    assert_agrees(root, fork)
    for path in origin_files(root):
        assert old.slug not in path.read_text(encoding="utf-8"), f"{path} still names {old.slug}"
    point_at(root, old)
    assert {path: path.read_text(encoding="utf-8") for path in origin_files(root)} == originals


@pytest.mark.parametrize(
    "repository", ["github.com/a/b", "https://github.com/a", "https://github.com/a/b.git", "http://github.com/a/b"]
)
def test_a_repository_that_no_launch_button_can_use_is_refused(repository):
    with pytest.raises(ValueError, match="https://github.com/OWNER/NAME"):
        Origin(repository, "v1")


@pytest.mark.parametrize("tag", ["", "two words", "-x", "a;b"])
def test_a_tag_that_is_none_is_refused(tag):
    with pytest.raises(ValueError, match="git tag or branch"):
        Origin("https://github.com/a/b", tag)


def test_a_notebook_without_a_first_cell_is_named(tmp_path):
    root = copy_of_course(tmp_path)
    path = course_notebooks(root)[0]
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if "bootstrap" not in c.metadata.get("tags", [])]
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=path.name):
        write_generated(root)


# The first cell where the course is not installed.

BARE = """
import builtins, json, string, sys
sys.modules["attncourse"] = None
ran = []
class Shell:
    def run_line_magic(self, magic, line):  # with names put in, as IPython does
        ran.append((magic, string.Template(line).substitute(scope)))

scope, builtins.get_ipython = {}, Shell
try:
    exec(sys.stdin.read(), scope)
except ModuleNotFoundError as error:
    print(json.dumps([ran, str(error)]))
"""


@pytest.mark.parametrize("host", [None, "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_a_first_cell_without_the_course_installs_it_or_says_how(host):
    """On Binder, Studio Lab and Codespaces none of the variables is set; where it is, the installation fails here."""
    hosts = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
    environment = {k: v for k, v in os.environ.items() if k not in hosts} | ({host: "x"} if host else {})
    cell = TransformerManager().transform_cell(read_origin(ROOT).bootstrap())
    done = subprocess.run([sys.executable, "-c", BARE], input=cell, env=environment, capture_output=True, text=True)
    ran, said = json.loads(done.stdout)
    origin = read_origin(ROOT)
    wanted = f'"attncourse @ git+{origin.repository}@{origin.tag}"'
    assert f"run %pip install {wanted}, then" in said
    assert [wanted in line for _, line in ran] == ([True] if host else [])


def test_a_stray_notebook_is_no_chapter(tmp_path):
    root = copy_of_course(tmp_path)
    for name in ("Copy of kv_cache.ipynb", "stray.ipynb"):
        (root / "book" / name).write_text("no notebook at all", encoding="utf-8")
    assert [path.name for path in course_notebooks(root)] == [path.name for path in course_notebooks(ROOT)]
    assert write_generated(root) == []
