"""The package as pip installs it: what the wheel holds, and what its commands say away from a clone."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import attncourse

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attncourse"
NEEDS_A_CLONE = (
    ["assign", "additive", "--out", "assignment"],
    ["grade", "here", "--out", "grades"],
    ["release"],
    ["bootstrap"],
    ["point-at", "--repository", "https://github.com/a/b", "--tag", "v1"],
    ["new-exercise", "windows", "--chapter", "short_history"],
    ["where", "latent"],
)
WORKS_ANYWHERE = (
    ["exercises"],
    ["cache", "--model", "deepseek-v3"],
    ["choose", "--length", "4096"],
    *([command, "--help"] for command in ("record", "profile", "compare", "bench", "tune")),
)
EACH = """
import sys
from attncourse.__main__ import main
for command in {commands!r}:
    try:
        code = main(command)
    except SystemExit as end:
        code = end.code
    print("\\n#", code or 0, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this working tree, built by the setuptools that is installed here, without a network."""
    setuptools = pytest.importorskip("setuptools", reason="a wheel is built by setuptools, which is not installed")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip(f"pyproject.toml is of setuptools 77 and newer, here is {setuptools.__version__}")
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(PACKAGE, folder / "attncourse", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "dist"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "."], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder for the search path that holds what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_whole_package_and_nothing_else(installed):
    def files(package: Path) -> set[Path]:
        return {p.relative_to(package) for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}

    assert files(installed / "attncourse") == files(PACKAGE)
    assert (installed / "attncourse" / "py.typed").exists()
    assert sorted(p.name for p in installed.iterdir()) == [
        "attncourse",
        f"attncourse-{attncourse.__version__}.dist-info",
    ]


def test_its_metadata_name_version_licence_and_source(installed):
    (path,) = installed.glob("*.dist-info/METADATA")
    said = Parser().parsestr(path.read_text(encoding="utf-8"))
    assert said["Version"] == attncourse.__version__
    assert said["License-Expression"] == "MIT" and said["License-File"] == "LICENSE"
    assert {url.partition(",")[0] for url in said.get_all("Project-URL")} == {"Source", "Issues", "Changelog"}
    assert "Typing :: Typed" in said.get_all("Classifier")


def run_each(commands, installed: Path, here: Path) -> list[tuple[str, int]]:
    """What each command says on stderr, and its exit code, where only the wheel is installed."""
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(here), "PYTHONUTF8": "1"}
    ask = [sys.executable, "-c", EACH.format(commands=commands)]
    done = subprocess.run(ask, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.split("\n# ")
    codes = [int(after.partition("\n")[0]) for after in said[1:]]
    return list(zip([said[0], *(after.partition("\n")[2] for after in said[1:])], codes, strict=False))


def test_a_command_that_needs_a_clone_says_so_in_a_sentence(installed, tmp_path):
    (tmp_path / "here").mkdir()
    for command, (says, code) in zip(NEEDS_A_CLONE, run_each(NEEDS_A_CLONE, installed, tmp_path), strict=True):
        assert code == 2, (command, says)
        assert says.startswith("attncourse: ") and says.strip().count("\n") == 0, (command, says)
        assert "clone your fork and run this in it, or say --" in says, (command, says)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["here"]


def test_the_other_commands_work_without_one(installed, tmp_path):
    for command, (says, code) in zip(WORKS_ANYWHERE, run_each(WORKS_ANYWHERE, installed, tmp_path), strict=True):
        assert (says, code) == ("", 0), command
