"""The levels of a chip's memory: each is larger and slower than the one before, and the processor's are measured."""

import pytest

from attncourse.profile import hierarchy
from attncourse.profile.device_facts import PRINTED
from attncourse.profile.hierarchy import (
    CHIPS,
    KIB,
    MIB,
    Level,
    cache_sizes,
    chip_levels,
    hierarchy_table,
    machine_levels,
    read_rates,
)


@pytest.mark.parametrize("chip", CHIPS)
def test_each_level_is_slower_than_the_one_before(chip):
    levels = chip_levels(chip)
    assert [level.name for level in levels] == ["registers", "L1", "L2", "memory"]
    rates = [level.bandwidth for level in levels if level.bandwidth is not None]
    assert rates == sorted(rates, reverse=True) and len(rates) >= 3
    assert levels[-1].bandwidth == PRINTED[chip].bandwidth and levels[-1].size > levels[-2].size
    assert all(level.source for level in levels)


def test_rates_follow_from_what_is_printed():
    """By hand: 108 multiprocessors at 1.41 GHz; 19.5 TFLOP/s are 9.75e12 multiply-adds of 12 bytes."""
    registers, shared, l2, memory = chip_levels("A100-SXM4-80GB")
    assert registers.bandwidth == pytest.approx(117e12) and registers.size == 27 * MIB
    assert shared.bandwidth == pytest.approx(108 * 128 * 1.41e9, rel=1e-2) and shared.size == 108 * 164 * KIB
    assert l2.bandwidth == pytest.approx(5120 * 1.41e9, rel=1e-2) and l2.size == 40 * MIB
    assert memory.bandwidth == 2039e9
    assert chip_levels("H100")[2].bandwidth is None and chip_levels("T4")[2].bandwidth == 1.27e12


def test_cache_sizes_are_those_of_the_system_without_the_one_of_instructions(tmp_path):
    for i, (kind, level, size) in enumerate([("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "2M")]):
        (tmp_path / f"index{i}").mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (tmp_path / f"index{i}" / name).write_text(f"{text}\n")
    assert cache_sizes(tmp_path) == {"L1": 48 * KIB, "L2": 2 * MIB}
    assert cache_sizes(tmp_path / "absent") == hierarchy.ASSUMED


def test_a_rate_is_bytes_by_seconds(monkeypatch):
    """A clock by which every call takes a second: as many bytes as were read are the bytes per second."""
    ticks = iter(range(1000))
    rates = read_rates([4096, 2**27], rounds=1, clock=lambda: next(ticks))
    assert rates == {4096: 64 * MIB, 2**27: 2**27}


def test_this_machine_has_its_caches_and_its_memory(monkeypatch):
    monkeypatch.setattr(hierarchy, "cache_sizes", lambda: {"L1": 32 * KIB, "L2": MIB, "L3": 8 * MIB})
    read = {}
    monkeypatch.setattr(hierarchy, "read_rates", lambda sizes, **told: read.setdefault("sets", {n: n for n in sizes}))
    levels = machine_levels()
    assert [level.name for level in levels] == ["L1", "L2", "L3", "memory"]
    assert list(read["sets"]) == [16 * KIB, MIB // 2, MIB, 32 * MIB]
    assert [level.bandwidth for level in levels] == list(read["sets"])


def test_the_table_has_a_row_per_level_and_a_column_per_machine():
    here = [Level("L1", 32 * KIB, 1.5e11, ""), Level("memory", 9e9, 2.5e10, "")]
    lines = hierarchy_table({"H100": chip_levels("H100"), "here": here}).splitlines()
    assert lines[0] == "| level | H100 | here |" and len(lines) == 2 + 5
    assert lines[2].startswith("| registers | 33 MiB, 401 TB/s |") and lines[2].endswith("|  |")
    assert "rate not printed" in lines[4] and "32 KiB, 150 GB/s" in lines[3] and "9 GB, 25 GB/s" in lines[6]
