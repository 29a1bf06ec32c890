"""The processor's memory is measured level by level, and stands in one table with the GPUs'."""

from attncourse.lessons.kv_cache import hierarchy
from attncourse.lessons.kv_cache.hierarchy import (
    cache_sizes,
    hierarchy_table,
    machine_levels,
    read_rates,
)
from attncourse.profile.device_facts import KIB, MIB, Level, chip_levels


def test_cache_sizes_are_those_of_the_system_without_the_one_of_instructions(tmp_path):
    for i, (kind, level, size) in enumerate([("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "2M")]):
        (tmp_path / f"index{i}").mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (tmp_path / f"index{i}" / name).write_text(f"{text}\n", encoding="utf-8")
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
