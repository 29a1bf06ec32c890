"""A chapter and an exercise start from nothing but what Colab has, and leave Colab's torch and triton alone.

A fresh virtual environment gets torch, triton, numpy, matplotlib and ipykernel. The environment variable that marks Colab
is set, git is told to fetch the course's GitHub address from a local repository, and the notebooks run as they are.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from attncourse.publish import read_origin

ROOT = Path(__file__).parents[1]
PREINSTALLED = ("torch", "triton", "numpy", "matplotlib", "tqdm", "ipykernel")


def run(*command, **options) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """This working tree as a git repository that carries the tag which the notebooks install."""
    folder, empty = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("empty")
    run("git", "init", "-q", "--bare", empty)
    # To an empty repository every file that is not ignored is new: so it is listed without this checkout's .git, too.
    listing = ("git", f"--git-dir={empty}", f"--work-tree={ROOT}", "ls-files", "-z", "--others", "--exclude-standard")
    for name in filter(None, run(*listing, cwd=ROOT).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run(*git, "commit", "-q", "-m", "the course", cwd=folder)
    run("git", "tag", read_origin(ROOT).tag, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def colab(tmp_path_factory, published) -> dict:
    """The environment of a fresh Colab: its interpreter, the variables it sets, and the versions it came with."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    # torch as pinned in CI, so that no other build of it is fetched
    pinned = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in PREINSTALLED]
    # bytecode is made of what is imported, not of all that is installed
    quickly = ("install", "-q", "--no-compile")
    installed = subprocess.run([python, "-m", "pip", *quickly, *pinned], capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip("no package index can be reached: " + installed.stderr.strip().splitlines()[-1])
    origin = read_origin(ROOT)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "PYTEST"))},
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLAB_RELEASE_TAG": "release-colab-test",
        "IPYTHONDIR": str(folder / "ipython"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{published}.insteadOf",
        "GIT_CONFIG_VALUE_0": origin.repository,
    }
    run(python, "-m", "ipykernel", "install", "--sys-prefix", "--name", "colab")
    return {"python": python, "environment": environment, "kernels": folder / "share" / "jupyter" / "kernels"}


def versions(python) -> dict[str, list | None]:
    """Installed versions and the place of the files: a reinstallation of the same version would show as well."""
    code = (
        "import importlib.metadata as m, json, os\n"
        "def stamp(n):\n"
        "    try: d = m.distribution(n)\n"
        "    except m.PackageNotFoundError: return None\n"
        "    return [d.version, os.stat(d.locate_file(f'{n}/__init__.py')).st_mtime_ns]\n"
        "print(json.dumps({n: stamp(n) for n in ('torch', 'triton', 'numpy')}))"
    )
    return json.loads(run(python, "-c", code))


def run_notebook(path: Path, colab: dict, monkeypatch) -> nbformat.NotebookNode:
    for key, value in colab["environment"].items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("JUPYTER_PATH", str(colab["kernels"].parent))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="colab").execute(cwd=str(colab["python"].parent))
    return notebook


def text_of(notebook) -> str:
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


def test_a_chapter_and_an_exercise_run_in_colab(colab, published, monkeypatch):
    assert sys.prefix not in run(colab["python"], "-c", "import sys; print(sys.path)")
    before = versions(colab["python"])
    chapter = run_notebook(published / "book" / "query_key_value.ipynb", colab, monkeypatch)
    assert "attncourse" in text_of(chapter)
    where = run(colab["python"], "-c", "import attncourse; print(attncourse.__file__)", cwd="/")
    assert str(ROOT) not in where, "the chapter ran with this checkout, not with what the first cell installed"
    exercise = run_notebook(published / "exercises" / "additive" / "additive.ipynb", colab, monkeypatch)
    assert "additive: 0 of" in text_of(exercise)
    assert versions(colab["python"]) == before


def test_a_colab_without_triton_gets_one_and_keeps_its_torch(colab, published, monkeypatch):
    run(colab["python"], "-m", "pip", "uninstall", "-q", "-y", "attncourse", "triton")
    before = versions(colab["python"])
    assert before["triton"] is None
    run_notebook(published / "exercises" / "additive" / "additive.ipynb", colab, monkeypatch)
    after = versions(colab["python"])
    assert after["triton"] is not None
    assert {**after, "triton": None} == before
