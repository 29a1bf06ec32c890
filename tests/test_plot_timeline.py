"""The timeline says what the bibliography says."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pytest

from attncourse.plot import use_style
from attncourse.plot.timeline import read_mechanisms, timeline

BIBLIOGRAPHY = Path(__file__).parents[1] / "book" / "references.bib"


def test_mechanisms_come_in_order_of_appearance():
    found = read_mechanisms(BIBLIOGRAPHY)
    assert [name for _, name, _ in found][:3] == [
        "additive attention",
        "hard attention",
        "multiplicative attention",
    ]
    dates = [date for date, _, _ in found]
    assert dates == sorted(dates)
    assert dates[0] == pytest.approx(2014 + 8.5 / 12)  # arXiv 1409.0473: September 2014
    assert all(paper.endswith(str(int(date))) for date, _, paper in found)


def test_every_mechanism_is_drawn():
    found = read_mechanisms(BIBLIOGRAPHY)
    drawn = "\n".join(text.get_text() for text in timeline(found).texts)
    for _, mechanism, paper in found:
        assert f"{mechanism}\n{paper}" in drawn


def test_labels_neither_overlap_nor_leave_the_figure_and_can_be_read():
    with matplotlib.rc_context():
        use_style()
        ax = timeline(read_mechanisms(BIBLIOGRAPHY))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    for i, box in enumerate(boxes):
        assert ax.figure.bbox.x0 <= box.x0 and box.x1 <= ax.figure.bbox.x1, ax.texts[i].get_text()
        assert not any(box.overlaps(other) for other in boxes[:i]), ax.texts[i].get_text()
    # the index shows the figure 704 pixels wide in a window of 1300
    pixels_per_point = 704 / (ax.figure.get_figwidth() * 72)
    assert all(text.get_fontsize() * pixels_per_point >= 9 for text in ax.texts)


def test_a_bibliography_without_mechanisms_is_named(tmp_path):
    empty = tmp_path / "empty.bib"
    empty.write_text("@article{a, title = {A}, year = {2000}}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.bib names a mechanism"):
        read_mechanisms(empty)


def test_an_entry_without_an_arxiv_number_is_named(tmp_path):
    bibliography = tmp_path / "one.bib"
    bibliography.write_text(
        "@article{a, title = {A}, year = {2000}, keywords = {x}, url = {https://example.org}}", encoding="utf-8"
    )
    with pytest.raises(ValueError, match="entry 'a'"):
        read_mechanisms(bibliography)
