"""What the Makefile does before it does anything: it finds a home, and makes an environment that is whole.

A stand-in for Python notes what it is asked to do, so that nothing is installed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_IN = """#!/bin/sh
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "command = python -m venv $PWD/.venv" > .venv/pyvenv.cfg ;;
  "-c import pip") test ! -f .venv/no-pip ;;
  *"pip install"*) echo "$*" >> asked; touch .venv/installed-something; test ! -f broken-off ;;
  *'requires("torch")'*) test -f cuda ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def clone(tmp_path) -> Path:
    """A checkout in a path with blanks."""
    folder = tmp_path / "a b" / "the clone"
    folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (tmp_path / "python").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    return folder


def make(clone: Path, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess:
    variables = {k: v for k, v in (os.environ | environment).items() if v is not None and not k.startswith("MAKE")}
    command = ["make", f"PYTHON={clone.parents[1] / 'python'}", *arguments]
    return subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)


def installs(clone: Path) -> int:
    """How many times pip is asked to install when the environment is asked for."""
    (clone / "asked").unlink(missing_ok=True)
    done = make(clone, ".venv/.installed")
    assert done.returncode == 0, done.stdout + done.stderr
    return len((clone / "asked").read_text(encoding="utf-8").splitlines()) if (clone / "asked").exists() else 0


def test_a_whole_environment_is_made_once(clone):
    assert installs(clone) == 2
    assert installs(clone) == 0


def test_what_an_installation_that_broke_off_left_is_cleared_away(clone):
    (clone / "broken-off").touch()
    assert make(clone, ".venv/.installed").returncode != 0
    (clone / ".venv" / "half-a-package").touch()
    (clone / "broken-off").unlink()
    assert installs(clone) == 2
    assert not (clone / ".venv" / "half-a-package").exists()


def test_an_installation_that_breaks_off_while_it_renews_is_cleared_away_too(clone):
    installs(clone)
    os.utime(clone / "pyproject.toml", (2**32, 2**32))
    (clone / "broken-off").touch()
    assert make(clone, ".venv/.installed").returncode != 0
    (clone / "broken-off").unlink()
    os.utime(clone / "pyproject.toml", (0, 0))
    (clone / ".venv" / "half-a-package").touch()
    assert installs(clone) == 2
    assert not (clone / ".venv" / "half-a-package").exists()


@pytest.mark.parametrize("fault", ["no pip", "no python", "dangling python", "moved", "empty"])
def test_an_environment_that_is_none_is_made_anew(clone, fault):
    installs(clone)
    environment = clone / ".venv"
    match fault:
        case "no pip":
            (environment / "no-pip").touch()
        case "no python":
            (environment / "bin" / "python").unlink()
        case "dangling python":
            (environment / "bin" / "python").unlink()
            (environment / "bin" / "python").symlink_to(clone / "gone")
        case "moved":
            clone = clone.rename(clone.with_name("another clone"))
        case "empty":
            shutil.rmtree(environment)
            environment.mkdir()
    assert installs(clone) == 2
    assert installs(clone) == 0


@pytest.mark.parametrize("cuda", [False, True])
def test_a_pytorch_that_pins_a_triton_keeps_it(clone, cuda):
    """PyTorch's build for CUDA asks for one version of Triton: with another in the constraints pip finds no solution."""
    if cuda:
        (clone / "cuda").touch()
    installs(clone)
    constraints = (clone / ".venv" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("triton==") for line in constraints) == (not cuda)
    assert any(line.startswith("torch==") for line in constraints)


@pytest.mark.parametrize("home", [None, "", "/nonexistent", "/proc"])
def test_who_has_no_home_gets_one_in_the_build_folder(clone, home, tmp_path):
    show = ("--eval", "show: ; @echo $$HOME", "show")
    assert make(clone, *show, HOME=str(tmp_path)).stdout.strip() == str(tmp_path)
    if home == "/proc" and os.access(home, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert make(clone, *show, HOME=home).stdout.strip() == str(clone / "_build" / "home")
    assert (clone / "_build" / "home").is_dir()


def test_text_is_utf8_whatever_the_locale(clone):
    assert make(clone, "--eval", "show: ; @echo $$PYTHONUTF8", "show", LC_ALL="C").stdout.strip() == "1"
