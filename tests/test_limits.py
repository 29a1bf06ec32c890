"""What a plain read is: the fastest of a few, each of which reads all of it; and the kernel among them."""

import json
from dataclasses import asdict

import pytest
import torch

from attncourse.profile import limits
from attncourse.profile.compiled import Build, compile_elsewhere
from attncourse.profile.kernel import read_sums
from attncourse.profile.limits import READ_SHAPES, Limits, fastest_read, measure_limits, plain_reads


@pytest.mark.parametrize("n", [1, 15, 1024, 4096, 10_007])
@pytest.mark.parametrize(("block", "tiles"), [(16, 1), (64, 3), (1024, 4)])
def test_the_kernel_sums_each_program_s_tiles_and_nothing_behind_them(n, block, tiles, device):
    behind = torch.full((n + 5000,), float("nan"), device=device)
    x = behind[:n].copy_(torch.randn(n, generator=torch.Generator().manual_seed(n)))
    expected = [part.double().sum() for part in x.split(block * tiles)]
    out = read_sums(x, block=block, tiles=tiles, warps=1)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), torch.stack(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_sums_half_precision_in_float32(dtype, device):
    x = torch.full((5000,), 1.5, dtype=dtype, device=device)
    assert read_sums(x, block=64, tiles=100).tolist() == [7500.0]


def test_each_plain_read_reads_everything():
    x = torch.arange(3 * 4096, dtype=torch.float64)
    found = {name: read().sum() for name, read in plain_reads(x).items()}
    halves = x.chunk(2)
    assert found == {
        "sum": x.sum(),
        "largest element": x.max(),
        "matrix times vector": x.sum(),
        "inner product": (halves[0] * halves[1]).sum(),
    }
    assert set(plain_reads(x[:7])) == {"sum", "largest element", "matrix times vector"}


def test_the_fastest_read_is_the_one_that_counts(monkeypatch):
    reads = {"sum": lambda: 3.0, "quick": lambda: 2.0, "cannot": lambda: 1 / 0, "slow": lambda: 4.0}
    monkeypatch.setattr(limits, "plain_reads", lambda x: reads)
    monkeypatch.setattr(limits, "_large_seconds", lambda call, **told: call())
    x = torch.ones(100)
    assert fastest_read(x) == ("quick", reads["quick"], 400 / 2.0)
    monkeypatch.setattr(limits, "plain_reads", lambda x: {"sum": reads["cannot"], "quick": reads["quick"]})
    with pytest.raises(ZeroDivisionError):
        fastest_read(x)


def test_a_record_says_by_which_read_and_one_of_before_was_by_the_sum():
    found = measure_limits("cpu", dtypes=(torch.float32,), read_bytes=2**20, matrix=32)
    assert found.read_by in plain_reads(torch.ones(2**18))
    assert Limits(**json.loads(json.dumps(asdict(found)))) == found
    assert Limits(copy=1.0, read=2.0, matmul={}).read_by == "sum"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: read_sums(torch.ones(2, 3)),
            "x must be a contiguous \\(n,\\) of at least one element, got \\(2, 3\\)",
        ),
        (lambda: read_sums(torch.ones(8)[::2]), "with strides \\(2,\\)"),
        (lambda: read_sums(torch.ones(0)), "at least one element, got \\(0,\\)"),
        (lambda: read_sums(torch.ones(4, dtype=torch.float64)), "read_sums takes float32, float16 or bfloat16"),
        (lambda: read_sums(torch.ones(4), block=24), "block must be a power of two, got 24"),
        (lambda: read_sums(torch.ones(4), tiles=0), "tiles must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_on_old_chips_and_new_the_kernel_loads_16_bytes_at_once_and_spills_nothing():
    kernel = "attncourse.profile.kernel:_read_sums_kernel"
    builds = [
        Build(kernel, "", "fp32", dict(BLOCK=block, TILES=tiles), dict(num_warps=warps), chip, aligned=("n",))
        for chip in (75, 90)
        for block, tiles, warps in READ_SHAPES
    ]
    for build, compiled in zip(builds, compile_elsewhere(builds), strict=True):
        threads = 32 * build.options["num_warps"]
        loads = [line for line in compiled.lines("ld.global") if ".v4." in line]
        assert len(loads) * 4 * threads == build.constants["BLOCK"] * build.constants["TILES"], build
        assert compiled.spills == 0


@pytest.mark.gpu
def test_the_kernel_is_among_the_reads_of_a_gpu_and_none_fails():
    x = torch.ones(2**24, device="cuda")
    reads = plain_reads(x)
    assert sum(name.startswith("kernel") for name in reads) >= 3
    for read in reads.values():
        read()
    assert fastest_read(x, seconds=0.02)[2] > 0
