"""The types fit: mypy finds nothing in what the course teaches, nor in what all of it shares."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from attncourse.rooms import rooms

ROOT = Path(__file__).parents[1]
# Each of these gives a tensor, and with the option a pair: the pair does not fit a tensor's name.
PAIRS = {
    "attncourse.softmax_attention": ("softmax_attention", "softmax_attention_blocked"),
    "attncourse.softmax_attention.kernel": ("softmax_attention_triton",),
    "attncourse.block_sparse": ("block_sparse_attention", "block_sparse_attention_blocked"),
    "attncourse.block_sparse.kernel": ("block_sparse_attention_triton",),
    "attncourse.linear_attention": ("linear_attention", "linear_attention_blocked"),
    "attncourse.linear_attention.kernel": ("linear_attention_triton",),
    "attncourse.grouped_query.kernel": ("grouped_query_decode_triton",),
    "attncourse.grouped_query.cpu_kernel": ("grouped_query_decode_numba",),
}


def run_mypy(*files: str) -> subprocess.CompletedProcess:
    """mypy on these files; on those of pyproject.toml where there are none."""
    return subprocess.run([sys.executable, "-m", "mypy", *files], cwd=ROOT, capture_output=True, text=True)


def test_mypy_finds_nothing():
    done = run_mypy()
    assert done.returncode == 0, done.stdout + done.stderr


def uses() -> str:
    """Return a module that uses each of PAIRS rightly, in one line, and wrongly in the next."""
    lines = ["import torch", "from attncourse.block_sparse import strided", "x = torch.ones(1, 1, 4, 16)"]
    lines.append("pattern = strided(4, stride=2)")
    for module, names in PAIRS.items():
        lines += [f"from {module} import {', '.join(names)}"]
        for name in names:
            given = "x, x, x, pattern=pattern" if name.startswith("block_sparse") else "x, x, x"
            flag = "return_state" if name.startswith("linear") else "return_lse"
            lines += [f"{name}_out: torch.Tensor = {name}({given})", f"{name}_out = {name}({given}, {flag}=True)"]
    return "\n".join(lines) + "\n"


def test_an_option_that_changes_the_result_changes_its_type(tmp_path):
    """The annotations of what is checked reach who calls it: mypy finds the wrong line of each, and no right one."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(uses(), encoding="utf-8")
    done = run_mypy(str(wrong))
    assert done.returncode == 1, done.stdout + done.stderr
    found = [
        int(line.partition("wrong.py:")[2].partition(":")[0]) for line in done.stdout.splitlines() if ": error:" in line
    ]
    lines = uses().splitlines()
    assert found == [number for number, line in enumerate(lines, 1) if "=True)" in line], done.stdout


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
