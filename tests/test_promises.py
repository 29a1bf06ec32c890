"""What the rooms promise: every room that is measured has a file, and a measurement is judged by its kind."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.promises import measured_row
from benchmarks.promises.__main__ import judge
from benchmarks.promises.measured_row import Row


def test_every_room_that_is_measured_has_a_file_and_every_file_is_of_one():
    own = {"__init__", "__main__", "measured_row"}
    assert {path.stem for path in Path(measured_row.__file__).parent.glob("*.py")} - own == {*measured_row.ROOMS}
    for room in measured_row.ROOMS:
        assert callable(importlib.import_module(f"benchmarks.promises.{room}").measure)
        assert importlib.util.find_spec(f"attncourse.{room}.reference")


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted", "unit", "verdict"),
    [
        (1.0, 4.0, 3.0, "speedup", ("4.00x", "at least 3x", "met")),
        (2.0, 4.0, 3.0, "speedup", ("2.00x", "at least 3x", "missed")),
        (2.0, 1.0, 2.2, "growth", ("2.00x", "at most 2.2x", "met")),
        (4.0, 1.0, 2.2, "growth", ("4.00x", "at most 2.2x", "missed")),
        (1e6, float("inf"), 10.0, "memory", ("theirs is out of memory", "at least 10x", "met")),
        (float("inf"), 1e6, 10.0, "memory", ("", "at least 10x", "out of memory")),
        (30e9, 40e9, 0.7, "bandwidth", ("0.75x", "at least 0.7x", "met")),
        (20e9, 40e9, 0.7, "bandwidth", ("0.50x", "at least 0.7x", "missed")),
        (1.0, float("nan"), 1.0, "speedup", ("", "at least 1x", "could not run")),
    ],
)
def test_a_row_is_judged_by_its_kind(ours, theirs, wanted, unit, verdict):
    assert judge(Row("what", ours, theirs, wanted, unit)) == verdict
