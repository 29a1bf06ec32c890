"""A chapter and an exercise start from nothing but what Colab has, and leave Colab's torch and triton alone.

A fresh virtual environment gets torch, triton, numpy, matplotlib and ipykernel, as they are installed here. The environment
variable that marks Colab is set, git is told to fetch the course's GitHub address from a local repository, and the notebooks
run as they are.
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
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from attncourse.course.origin import read_origin

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


def with_requirements(names) -> dict[str, importlib.metadata.Distribution]:
    """The distributions that these are installed with here, themselves included."""
    found, waiting = {}, [*names]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = distribution = importlib.metadata.distribution(name)
        needed = map(Requirement, distribution.requires or ())
        waiting += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def install_again(distribution, site: Path) -> None:
    """A distribution's files once more, as links: what is removed or replaced there stays here."""
    here = Path(distribution.locate_file(""))
    for file in distribution.files:
        if ".." in file.parts:  # commands and manuals
            continue
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(here / file, site / file)


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def colab(tmp_path_factory, published) -> dict:
    """The environment of a fresh Colab: its interpreter, the variables it sets, and the versions it came with."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for distribution in with_requirements(PREINSTALLED).values():
        install_again(distribution, site)
    reached = subprocess.run(
        [python, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "einops"], capture_output=True, text=True
    )
    if reached.returncode != 0:
        pytest.skip("no package index can be reached: " + reached.stderr.strip().splitlines()[-1])
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
    # recorded studies come from the repository's web address, which git's stand-in does not serve
    studies = "book/measurements/studies"
    shutil.copytree(published / studies, site / studies)
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
    chapter = run_notebook(published / "book" / "softmax_attention.ipynb", colab, monkeypatch)
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
