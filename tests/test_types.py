"""The types fit: mypy finds nothing in what the course teaches, nor in what all of it shares."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from attncourse.rooms import rooms

ROOT = Path(__file__).parents[1]
WRONG = """\
import torch
from attncourse.softmax_attention import softmax_attention
x = torch.ones(1, 1, 2, 3)
out: torch.Tensor = softmax_attention(x, x, x, causal=True)
out = softmax_attention(x, x, x, return_lse=True)
"""


def run_mypy(*files: str) -> subprocess.CompletedProcess:
    """mypy on these files; on those of pyproject.toml where there are none."""
    return subprocess.run([sys.executable, "-m", "mypy", *files], cwd=ROOT, capture_output=True, text=True)


def test_mypy_finds_nothing():
    done = run_mypy()
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_a_wrong_line(tmp_path):
    """The annotations of what is checked reach who calls it, overloads too."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG, encoding="utf-8")
    done = run_mypy(str(wrong))
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line.partition("wrong.py:")[2][:1] for line in done.stdout.splitlines() if ": error:" in line] == ["5"]


def test_every_room_is_checked():
    """mypy takes every file of the package that no pattern excludes; of what it should check, kernels alone may be."""
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert mypy["files"] == ["attncourse"]
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("attncourse/**/*.py")}
    left_out = {path for path in files if any(re.search(pattern, path) for pattern in mypy["exclude"])}
    inside = {path for path in files if path.split("/")[1] in {*rooms(), "_shared", "check"}}
    assert files - left_out <= inside
    kernels = {"kernel.py", "cpu_kernel.py", "lanes.py"}
    assert {path.rpartition("/")[2] for path in inside & left_out} == kernels
