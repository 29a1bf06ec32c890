"""The kernels that the chapter's cells hold compile for chips that are not here; its race is timed and held to a roofline."""

import ast
import importlib
import re
import sys

import nbformat
import pytest
import torch

from attncourse.profile.counts import Count
from attncourse.profile.roofline import Roofline
from tests.run_chapters import ROOT

written = pytest.importorskip("attncourse.lessons.write_the_kernel.written", reason="Triton is on Linux alone")
race = importlib.import_module("attncourse.lessons.write_the_kernel.race")

TILES = {
    "add_one_kernel": {"BLOCK": 1024},
    "address_kernel": {"BLOCK": 64},
    "copy_kernel": {"ROWS": 32, "COLS": 32},
    "softmax_kernel": {"BLOCK": 1024},
    "matmul_kernel": {"BLOCK": 64, "STRIP": 16},
    "one_tile_kernel": {"D": 64, "BLOCK_T": 16, "BLOCK_S": 64},
    "long_softmax_kernel": {"BLOCK": 1024},
    "flash_kernel": {"D": 64, "BLOCK_T": 32, "BLOCK_S": 32},
}


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """What is decorated by triton.jit in the notebook, as a module of its own."""
    cells = nbformat.read(ROOT / "book" / "write_the_kernel.ipynb", as_version=4).cells
    codes = [re.sub(r"^( *)[%!].*", r"\1pass", c.source, flags=re.MULTILINE) for c in cells if c.cell_type == "code"]
    found = [
        f"@triton.jit\n{ast.get_source_segment(code, node)}"
        for code in codes
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef) and [ast.unparse(d) for d in node.decorator_list] == ["triton.jit"]
    ]
    (tmp_path / "of_the_chapter.py").write_text("\n\n".join([written.HEAD, *found]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("of_the_chapter")
    yield {name: getattr(module, name) for name in vars(module) if name.endswith("_kernel")}
    monkeypatch.delitem(sys.modules, "of_the_chapter")


def test_kernel_every_cell_of_the_chapter_compiles(kernels):
    assert set(kernels) == set(TILES)
    compiled = written.compile_written([written.Asked(kernels[name], 80, tiles) for name, tiles in TILES.items()])
    assert [c.case for c in compiled] == [*TILES]
    for c in compiled:
        assert c.spills == 0, c.case
        assert (c.matrix == "mma") == ("BLOCK_T" in TILES[c.case] or "STRIP" in TILES[c.case]), c.case
    (product,) = (c for c in compiled if c.case == "matmul_kernel")
    assert product.loop.copies > product.loop.narrow == 0  # 16 divides the sizes, so that reads are wide


def test_kernel_that_is_written_wrong_says_so(kernels):
    asked = written.Asked(kernels["add_one_kernel"], 80, {"BLOCK": 48})
    with pytest.raises(RuntimeError, match="power of 2"):
        written.compile_written([asked])


def test_a_race_is_held_to_the_roofline_of_its_device():
    x = torch.ones(256, 256)
    roofline = race.measured_roofline("cpu", torch.float32)
    assert roofline.bandwidth > 1e8 and roofline.flops > 1e8
    count = Count(flops=2 * 256**3, bytes=3 * x.nbytes)
    laps = race.race(
        {"once": lambda: x @ x, "thrice": lambda: x @ x @ x @ x}, count, roofline, device="cpu", seconds=0.05
    )
    assert laps["thrice"].seconds > 1.5 * laps["once"].seconds
    for lap in laps.values():
        assert lap.share == pytest.approx(roofline.seconds(count) / lap.seconds)


def test_the_share_is_the_rooflines_time_over_the_calls(monkeypatch):
    monkeypatch.setattr(race, "_median", lambda call, **_: race.Timing(*[call()] * 3))
    laps = race.race({"slow": lambda: 8.0}, Count(flops=10, bytes=40), Roofline(bandwidth=10, flops=10), device="cuda")
    assert laps["slow"] == race.Lap(seconds=8.0, share=0.5)
