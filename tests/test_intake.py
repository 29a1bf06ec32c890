"""What is handed in: whose a file is, folders, nbgrader's layout, the zips of Canvas and Moodle, zips that attack."""

import io
import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from attncourse.grade.intake import (
    LARGEST_FILE,
    Handed,
    Identity,
    Unreadable,
    identify,
    name_leads_out,
    open_submissions,
)
from tests.toy_course import RIGHT, grade, hand_in

UNITS = ["additive", "softmax_attention"]


@pytest.mark.parametrize(
    "file, name, numbers",
    [
        ("ada.ipynb", "ada", {}),
        ("ada-softmax_attention.ipynb", "ada", {}),
        ("softmax_attention_ada.ipynb", "ada", {}),
        ("ada/softmax_attention.ipynb", "ada", {}),
        ("ada/additive.ipynb", "ada", {}),
        ("ada/Copy of softmax_attention (1).ipynb", "ada", {}),
        ("section 1/ada_additive.ipynb", "section 1/ada", {}),
        ("group/ada.ipynb", "group/ada", {}),
        ("additive.ipynb", "additive", {}),
        ("submitted/ada/additive/additive.ipynb", "ada", {}),
        ("ada/additive/additive.ipynb", "ada", {}),
        ("lovelaceada_4711_99_softmax_attention.ipynb", "lovelaceada", {"canvas_id": "4711"}),
        ("lovelaceada_LATE_4711_99_softmax_attention-1.ipynb", "lovelaceada", {"canvas_id": "4711"}),
        ("Ada Lovelace_77_assignsubmission_file_/additive.ipynb", "Ada Lovelace", {"moodle_id": "77"}),
        ("Ada Lovelace_77_assignsubmission_file/x.ipynb", "Ada Lovelace", {"moodle_id": "77"}),
        ("Größe Ω_7_assignsubmission_file_additive.ipynb", "Größe Ω", {"moodle_id": "7"}),
    ],
)
def test_whose_a_file_is(file, name, numbers):
    assert identify(file, UNITS) == Identity(name, **numbers)


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read_all(path: Path) -> dict[str, bytes | str]:
    """Bytes of each file that was handed in, or the reason why there are none."""

    def content(item: Handed) -> bytes | str:
        try:
            return item.read()
        except Unreadable as error:
            return str(error)

    with open_submissions(path) as handed:
        return {item.file: content(item) for item in handed}


def test_a_folder_gives_its_notebooks_sorted_and_no_hidden_ones(tmp_path):
    for name in ("b.ipynb", "a/x.ipynb", ".hidden.ipynb", ".ipynb_checkpoints/b.ipynb", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert read_all(tmp_path) == {"a/x.ipynb": b"a/x.ipynb", "b.ipynb": b"b.ipynb"}


def test_a_zip_gives_the_same_as_the_folder(tmp_path):
    members = {"ada/additive.ipynb": b"1", "__MACOSX/ada/._additive.ipynb": b"x", "bob.ipynb": b"2", "readme.txt": b"3"}
    assert read_all(zip_of(tmp_path / "a.zip", members)) == {"ada/additive.ipynb": b"1", "bob.ipynb": b"2"}


@pytest.mark.parametrize(
    "name",
    ["../evil.ipynb", "a/../../evil.ipynb", "/etc/evil.ipynb", "\\evil.ipynb", "C:\\evil.ipynb", "a\\..\\..\\e.ipynb"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused_and_the_rest_is_read(tmp_path, name):
    assert name_leads_out(name)
    read = read_all(zip_of(tmp_path / "a.zip", {name: b"evil", "ada.ipynb": b"1"}))
    assert read.pop("ada.ipynb") == b"1"
    ((label, reason),) = read.items()
    assert "leads out of the folder" in reason
    assert not label.startswith("/") and ".." not in label.split("/")


def test_names_with_dots_that_lead_nowhere_are_fine():
    assert not any(map(name_leads_out, ["a..b.ipynb", "...ipynb", "v1.2/x.ipynb"]))


def test_a_bomb_is_not_unpacked(tmp_path):
    """Twenty kilobytes that would be gigabytes, whatever their header says of their size."""
    bomb = zip_of(tmp_path / "a.zip", {"bomb.ipynb": bytes(LARGEST_FILE * 3), "ada.ipynb": b"1"})
    assert bomb.stat().st_size < 1 << 20
    assert read_all(bomb) == {"ada.ipynb": b"1", "bomb.ipynb": "the file is larger than 20 MiB"}
    data = bytearray(bomb.read_bytes())
    honest = struct.pack("<I", LARGEST_FILE * 3)
    while (at := data.find(honest)) >= 0:
        data[at : at + 4] = struct.pack("<I", 100)
    bomb.write_bytes(data)
    read = read_all(bomb)
    assert read["ada.ipynb"] == b"1"
    assert isinstance(read["bomb.ipynb"], str) or len(read["bomb.ipynb"]) <= 100, "no more than its header says"


def test_a_member_that_is_broken_or_encrypted_is_unreadable_alone(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"ada.ipynb": b"1" * 1000, "bob.ipynb": b"2" * 1000})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("bob.ipynb").header_offset + 30 + len("bob.ipynb")
    data = bytearray(path.read_bytes())
    data[start : start + 5] = b"\xff" * 5
    path.write_bytes(data)
    read = read_all(path)
    assert read["ada.ipynb"] == b"1" * 1000 and "cannot be unpacked" in read["bob.ipynb"]
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1  # the first member's flag of encryption
    path.write_bytes(data)
    assert read_all(path)["ada.ipynb"] == "it is encrypted"


def test_two_members_of_one_name_are_two_submissions(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("ada.ipynb", b"1")
        archive.writestr("ada.ipynb", b"2")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    assert sorted(read_all(tmp_path / "a.zip").values()) == [b"1", b"2"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "data, words", [(None, "is not there"), (b"no zip", "is no zip"), (b"PK\x05\x06" + bytes(17), "no zip")]
)
def test_what_is_neither_folder_nor_zip_is_refused(tmp_path, data, words):
    if data is not None:
        (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=words), open_submissions(tmp_path / "a.zip"):
        pass


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_class_is_graded_from_what_canvas_and_moodle_export(course, tmp_path):
    notebook = hand_in(course, tmp_path / "x.ipynb", **RIGHT).read_bytes()
    members = {
        "lovelaceada_4711_99_toy.ipynb": notebook,
        "Grace Hopper_78_assignsubmission_file_/toy.ipynb": notebook,
        "../../../evil.ipynb": notebook,
    }
    records = grade(course, zip_of(tmp_path / "class.zip", members), tmp_path / "out")
    assert {name: (r["state"], r["points"]) for name, r in records.items()} == {
        "lovelaceada": ("marked", 6),
        "Grace Hopper": ("marked", 6),
        "up/up/up/evil": ("unreadable", 0),
    }
    assert records["lovelaceada"]["identity"]["canvas_id"] == "4711"
    assert records["Grace Hopper"]["identity"]["moodle_id"] == "78"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["class.zip", "out", "x.ipynb"]
