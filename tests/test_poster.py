"""The poster is drawn from what the rooms say and compute."""

import importlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser

from attncourse.__main__ import main
from attncourse._shared.cache import CacheShape
from attncourse._shared.picture import TOKENS
from attncourse.course.poster import draw_kept, draw_reads, poster
from attncourse.rooms import rooms, rooms_with

PICTURES = {room: importlib.import_module(f"attncourse.{room}.picture") for room in rooms_with("{}/picture.py")}


@pytest.fixture(scope="module")
def sheet():
    yield poster()
    plt.close("all")


def test_every_room_has_a_panel_with_what_it_says(sheet):
    written = [text.get_text() for text in sheet.texts]
    assert list(PICTURES) == list(rooms()), "a room without a picture.py is not on the sheet"
    for room in rooms().values():
        assert room.title in written and f"${room.formula}$" in written
        assert any(text.replace("\n", " ") == room.idea for text in written), room.idea
    assert len(sheet.axes) == len(rooms())


def test_no_text_runs_into_the_next_panel_or_off_the_sheet(sheet):
    sheet.canvas.draw()  # which places what an axis of equal aspect holds
    renderer = sheet.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in sheet.texts[2:]] + [
        text.get_window_extent(renderer) for ax in sheet.axes for text in [*ax.texts, ax.xaxis.label, ax.yaxis.label]
        if text.get_text()
    ]  # fmt: skip
    assert all(box.x0 > 0 and box.x1 < sheet.bbox.x1 and box.y0 > 0 for box in boxes)
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert not one.overlaps(other)


@pytest.mark.parametrize("room", PICTURES)
def test_a_picture_is_rows_of_weights_or_the_shape_of_what_is_kept(room):
    picture = PICTURES[room]
    if hasattr(picture, "kept"):
        assert isinstance(picture.kept(), CacheShape)
    else:
        weights = picture.reads()
        assert weights.shape == (TOKENS, TOKENS)
        sums = weights.sum(dim=1)
        assert ((sums - 1).abs().min(sums.abs()) < 1e-5).all(), "a row sums to 1, or is empty"


@pytest.mark.parametrize("room", rooms())
def test_formulas_can_be_set(room):
    MathTextParser("agg").parse(f"${rooms()[room].formula}$", dpi=72, prop=FontProperties())


def test_bars_are_as_many_and_as_long_as_what_is_kept():
    _, ax = plt.subplots()
    draw_kept(ax, CacheShape(2, (64, 64)))
    assert [bar.get_width() for bar in ax.patches] == [64] * 4
    assert "256 numbers per token" in [text.get_text() for text in ax.texts]
    _, ax = plt.subplots()
    draw_kept(ax, CacheShape(1, (64, 32)))
    assert [bar.get_width() for bar in ax.patches] == [64, 32]
    assert [text.get_text() for text in ax.texts] == ["latent", "rotated key", "96 numbers per token"]


def test_a_square_has_a_cell_per_pair():
    _, ax = plt.subplots()
    draw_reads(ax, torch.eye(3))
    assert ax.collections[0].get_array().reshape(3, 3).tolist() == torch.eye(3).tolist()
    assert ax.get_ylim() == (3, 0), "the first query is at the top"


def test_the_command_writes_what_the_ending_says(tmp_path, capsys):
    for ending, begins in ((".svg", b"<?xml"), (".pdf", b"%PDF")):
        assert main(["poster", str(tmp_path / f"sheet{ending}")]) == 0
        assert (tmp_path / f"sheet{ending}").read_bytes().startswith(begins)
    assert "written" in capsys.readouterr().out
