"""Time, memory and the device's name: against known numbers."""

import platform
import subprocess
import sys
import time

import pytest
import torch

from attncourse.profile import describe_device, median_seconds, peak_memory


def test_peak_memory_is_the_peak_and_not_the_sum():
    megabyte = 1_000_000

    def one_after_another():
        for _ in range(5):
            torch.empty(megabyte, dtype=torch.uint8)

    def two_at_once():
        a = torch.empty(megabyte, dtype=torch.uint8)
        return a, torch.empty(megabyte, dtype=torch.uint8)

    assert megabyte <= peak_memory(one_after_another) < 1.1 * megabyte
    assert 2 * megabyte <= peak_memory(two_at_once) < 2.1 * megabyte


def test_peak_memory_sees_the_square_of_attention():
    q = torch.randn(300, 8)
    assert peak_memory(lambda: torch.softmax(q @ q.T, dim=-1) @ q) >= 2 * 300 * 300 * 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept():
    script = """
import ctypes, resource, torch
from attncourse.profile.memory import keep_freed_memory

def faults_in_the_end():
    faults = []
    for _ in range(40):  # a heap settles after some
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2_000_000)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults[-5:])

ctypes.CDLL(None).mallopt(-3, 2**17)  # M_MMAP_THRESHOLD: what is larger is fresh each time
print(faults_in_the_end())
keep_freed_memory()
print(faults_in_the_end())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    fresh, kept = map(int, run.stdout.split())
    assert fresh > 1000  # 8 MB in pages of 4 KiB
    assert kept < 100


def test_median_seconds_tells_a_slow_call_from_a_fast_one():
    seconds = median_seconds({"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.002)}, rounds=3)
    assert 0.02 <= seconds["slow"] < 0.2
    assert seconds["fast"] < seconds["slow"] / 2


def test_candidates_take_turns():
    order = []
    median_seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1)
    assert order == ["a", "b"] * 3


@pytest.mark.bad_input
def test_no_rounds_is_an_error():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        median_seconds({"a": lambda: None}, rounds=0)


def test_the_device_is_named_with_its_version():
    assert torch.__version__ in describe_device()
