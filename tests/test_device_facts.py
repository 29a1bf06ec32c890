"""Which printed rates a GPU gets: by its whole name, as drivers give it."""

from types import SimpleNamespace

import pytest
import torch

from attncourse.profile.device_facts import (
    CHIPS,
    DRIVER_NAMES,
    KIB,
    MIB,
    PRINTED,
    chip_levels,
    device_facts,
    printed_rates,
)

KNOWN = {
    "NVIDIA H200": "H200",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA A100-SXM4-80GB": "A100-SXM4-80GB",
    "NVIDIA A100 80GB PCIe": "A100 80GB PCIe",
    "NVIDIA A100-SXM4-40GB": "A100",
    "A100-SXM4-40GB": "A100",
    "NVIDIA A100-PCIE-40GB": "A100",
    "NVIDIA L4": "L4",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla V100-SXM2-32GB": "V100",
    "Tesla T4": "T4",
}  # fmt: skip
# Each holds the name of a chip whose rates are not its own.
OTHERS = [
    "NVIDIA L40", "NVIDIA L40S", "NVIDIA L40G", "NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e", "NVIDIA H100 NVL",
    "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA A100-SXM-64GB",
    "NVIDIA A100X", "Tesla V100-PCIE-16GB", "Tesla V100S-PCIE-32GB", "Tesla V100-FHHL-16GB", "NVIDIA T400", "NVIDIA T400 4GB",
    "Tesla T40 24GB", "NVIDIA T4G", "NVIDIA H20", "NVIDIA H800", "NVIDIA A10G", "NVIDIA GeForce RTX 4090", "NVIDIA B200",
    "AMD Instinct MI300X", "h100", "",
]  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_chip_gets_its_own_rates(name):
    assert printed_rates(name) is PRINTED[KNOWN[name]]


@pytest.mark.parametrize("name", OTHERS)
def test_a_chip_of_another_name_gets_none(name):
    assert printed_rates(name) is None


def test_every_row_is_reached_by_a_name():
    assert set(DRIVER_NAMES.values()) == set(PRINTED) == set(KNOWN.values())


def test_the_facts_of_a_gpu_are_those_of_its_name(monkeypatch):
    gpu = SimpleNamespace(name="NVIDIA L40S", total_memory=48 * 10**9, multi_processor_count=142, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    assert device_facts("cuda").printed is None and device_facts("cuda").capability == "8.9"
    gpu.name = "NVIDIA L4"
    assert device_facts("cuda").printed is PRINTED["L4"]


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
