"""One function decides on which device the course works, and nothing else asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attncourse
from attncourse.profile import describe_device, median_seconds, peak_memory
from attncourse.profile.command import check_device

ROOT = Path(__file__).parents[1]


def test_the_variable_decides(monkeypatch):
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "cpu")
    assert attncourse.device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert attncourse.device() == "cpu"
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "cuda")
    assert attncourse.device() == "cuda"
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "")
    assert attncourse.device() == "cuda"


@pytest.mark.bad_input
def test_a_device_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "gpu")
    with pytest.raises(ValueError, match="ATTNCOURSE_DEVICE must be cpu or cuda, or not be set, got 'gpu'"):
        attncourse.device()
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="asks for cuda, and PyTorch sees no GPU"):
        attncourse.device()


def test_nothing_else_asks():
    folders = ("attncourse", "benchmarks", "book", "solutions", "tests")
    sources = [p for f in folders for kind in ("*.py", "*.ipynb") for p in (ROOT / f).rglob(kind)]
    asking = {p.relative_to(ROOT) for p in sources if "cuda.is_available()" in p.read_text(encoding="utf-8")}
    assert asking == {Path("attncourse/_shared/device.py"), Path("tests/test_device.py")}


def in_pretence(code: str) -> subprocess.CompletedProcess:
    """Run where PyTorch tells the course of a GPU that is not there."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "pretend_gpu"), str(ROOT)])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_the_pretence_finds_what_asks_pytorch():
    asks = "import torch; torch.ones(1, device='cuda' if torch.cuda.is_available() else 'cpu')"
    assert in_pretence(asks).returncode != 0
    assert in_pretence(asks.replace("'cuda' if torch.cuda.is_available() else 'cpu'", "'cpu'")).returncode == 0


@pytest.mark.skipif(attncourse.device() == "cuda", reason="there is a GPU")
def test_tensors_on_a_cpu_are_measured_there_whatever_else_the_machine_has():
    code = """
import torch
import attncourse
from attncourse.profile import describe_device, median_seconds, peak_memory
from attncourse.softmax_attention.kernel import softmax_attention_triton

assert torch.cuda.is_available() and attncourse.device() == "cpu"
assert peak_memory(lambda: torch.ones(1000)) >= 4000
assert "thread" in describe_device()
assert median_seconds({"x": lambda: torch.ones(10)}, rounds=1)["x"] > 0
softmax_attention_triton(*torch.ones(3, 1, 1, 4, 16))
"""
    done = in_pretence(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_measured_there():
    x = torch.ones(1000, 1000, device="cuda")
    assert 4_000_000 <= peak_memory(lambda: x * 2) < 5_000_000
    assert 4_000_000 <= peak_memory(lambda: torch.ones(1000, 1000)) < 5_000_000
    assert torch.cuda.get_device_name() in describe_device("cuda") and "thread" in describe_device()
    assert median_seconds({"x": lambda: x @ x}, rounds=2)["x"] > 0


@pytest.mark.bad_input
def test_a_gpu_that_is_asked_for_and_not_used_is_told_apart_from_none(monkeypatch):
    monkeypatch.setenv("ATTNCOURSE_DEVICE", "cpu")
    with pytest.raises(ValueError, match="PyTorch sees; ATTNCOURSE_DEVICE says cpu"):
        check_device("cuda")
    monkeypatch.delenv("ATTNCOURSE_DEVICE")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="PyTorch sees; there is none"):
            check_device("cuda")
