"""What is handed in: whose a file is, folders, nbgrader's layout, the zips of Canvas and Moodle, zips that attack."""

import errno
import io
import os
import shutil
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest

from attncourse.grade.read.identity import Identity, identify
from attncourse.grade.read.intake import LARGEST_FILE, Handed, Unreadable, name_leads_out, open_submissions
from attncourse.grade.records import record_path
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
    assert read_all(tmp_path) == {
        "a/x.ipynb": b"a/x.ipynb",
        "b.ipynb": b"b.ipynb",
        "notes.txt": "it is no notebook: its name ends in .txt, not in .ipynb",
    }


TREE = {
    "ada/additive.ipynb": b"1",
    "ada/.ipynb_checkpoints/additive-checkpoint.ipynb": b"old",
    "__MACOSX/ada/._additive.ipynb": b"x",
    "ada/__MACOSX/._additive.ipynb": b"x",
    "ada/.DS_Store": b"x",
    "bob.ipynb": b"2",
    "cy/additive.IPYNB": b"3",
    "dee/additive.ipynb.json": b"4",
    "eve/additive.txt": b"5",
    "fay/all.zip": b"6",
    "gus/homework": b"7",
    "hal/.hidden.ipynb": b"8",
    "ida/.ipynb_checkpoints/x/y.ipynb": b"9",
}


@pytest.mark.parametrize(
    "pack",
    [lambda folder, members: zip_of(folder / "a.zip", members), lambda folder, members: tree_of(folder / "a", members)],
)
def test_nothing_that_was_handed_in_is_lost_in_a_folder_or_a_zip(tmp_path, pack):
    assert read_all(pack(tmp_path, TREE)) == {
        "ada/additive.ipynb": b"1",
        "bob.ipynb": b"2",
        "cy/additive.IPYNB": b"3",
        "dee/additive.ipynb.json": "it is no notebook: its name ends in .json, not in .ipynb",
        "eve/additive.txt": "it is no notebook: its name ends in .txt, not in .ipynb",
        "fay/all.zip": "it is packed, and what is within it is not looked at: hand in the notebook itself",
        "gus/homework": "it is no notebook (.ipynb)",
        "hal": "the folder holds no file",
        "ida": "the folder holds no file",
    }


def tree_of(folder: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_folders_that_cannot_be_read_or_are_links_are_told(tmp_path, monkeypatch):
    folder = tree_of(tmp_path / "in", {"ada/additive.ipynb": b"1", "bob/additive.ipynb": b"2"})
    (folder / "cy").symlink_to(tmp_path)
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "bob":  # root reads whatever its mode says
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert read_all(folder) == {
        "ada/additive.ipynb": b"1",
        "bob": "the folder cannot be read: Permission denied",
        "cy": "it is a link to a folder",
    }
    monkeypatch.setattr(os, "scandir", lambda path: refusing(folder / "bob"))
    with pytest.raises(ValueError, match="cannot be read: Permission denied"), open_submissions(folder / "bob"):
        pass


def test_what_a_run_writes_was_not_handed_in(tmp_path):
    tree_of(tmp_path, {"ada.ipynb": b"1", "grades/report.html": b"", "grades/records/x.json": b""})
    with open_submissions(tmp_path, out=tmp_path / "grades") as handed:
        assert [item.file for item in handed] == ["ada.ipynb"]


@pytest.mark.parametrize("name", ["José-additive.ipynb", "渡辺.ipynb", "Größe/Ω.ipynb"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_in_a_zip_is_read_as_it_was_meant(tmp_path, name, form):
    """Many programs write UTF-8 and do not say so; Python says so."""
    path = zip_of(tmp_path / "a.zip", {unicodedata.normalize(form, name): b"1"})
    assert read_all(path) == {name: b"1"}
    data = bytearray(path.read_bytes())
    for start, flag in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        data[data.find(start) + flag] &= ~8
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() != [unicodedata.normalize(form, name)]
    assert read_all(path) == {name: b"1"}


def test_a_name_of_code_page_437_stays_one_and_an_extra_field_says_more(tmp_path):
    def with_raw_name(raw: bytes, extra: bytes = b"") -> Path:
        info = zipfile.ZipInfo("X" * len(raw))
        info.extra = extra
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(info, b"1")
        data = (tmp_path / "a.zip").read_bytes().replace(b"X" * len(raw), raw)
        (tmp_path / "a.zip").write_bytes(data)
        return tmp_path / "a.zip"

    raw = "Größe.ipynb".encode("cp437")
    assert read_all(with_raw_name(raw)) == {"Größe.ipynb": b"1"}
    meant = "Ω.ipynb".encode()
    extra = struct.pack("<HHBL", 0x7075, 5 + len(meant), 1, zlib.crc32(raw)) + meant
    assert read_all(with_raw_name(raw, extra)) == {"Ω.ipynb": b"1"}
    other = struct.pack("<HHBL", 0x7075, 5 + len(meant), 1, zlib.crc32(b"renamed since")) + meant
    assert read_all(with_raw_name(raw, other)) == {"Größe.ipynb": b"1"}


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


@pytest.mark.parametrize(
    "members",
    [
        {"x/ada.ipynb": b"1", "x\\ada.ipynb": b"2"},
        {"ada.ipynb": b"1", "./ada.ipynb": b"2"},
        {"../up.ipynb": b"1", "up/up.ipynb": b"2"},
        {"José.ipynb": b"1", unicodedata.normalize("NFD", "José.ipynb"): b"2"},
        {"ada.ipynb": b"1", "/ada.ipynb": b"2", "ada.ipynb (2)": b"3"},
    ],
)
def test_each_member_has_a_label_and_a_record_of_its_own(tmp_path, members):
    with open_submissions(zip_of(tmp_path / "a.zip", members)) as handed:
        labels = [item.file for item in handed]
    assert len(set(labels)) == len({record_path(tmp_path, label) for label in labels}) == len(members)


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
