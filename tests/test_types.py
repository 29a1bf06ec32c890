"""The types fit: mypy finds nothing in what the course teaches, nor in what all of it shares."""

import subprocess
import sys
import tomllib
from pathlib import Path

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
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
    rooms = {f"attncourse/{path.parent.name}" for path in ROOT.glob("attncourse/*/reference.py")}
    assert {*checked} == rooms | {"attncourse/_shared", "attncourse/check"}
