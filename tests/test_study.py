"""A recorded study comes back as it was written, says where it comes from, and is fetched where it is not here."""

import io
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from attncourse.models.study import STUDIES, read_study, record_over_seeds, write_study


def test_a_study_comes_back_with_its_machine_and_command(tmp_path):
    write_study("trained", {"seed": [0, 1], "right": [0.5, 0.75]}, seconds=125, command="python -m x", folder=tmp_path)
    study = read_study("trained", folder=tmp_path)
    assert study.results == {"seed": [0, 1], "right": [0.5, 0.75]}
    assert study.machine in study.caption and "torch" in study.caption and "`python -m x`, 2 minutes" in study.caption
    assert [path.name for path in tmp_path.iterdir()] == ["trained.json"]


@pytest.mark.parametrize(("said", "seeds"), [([], 2), (["--seeds", "3"], 3)])
def test_a_command_over_seeds_records_how_many_it_took(said, seeds, tmp_path, monkeypatch, capsys):
    def measure(*, seeds):
        return {"right": list(range(seeds))}

    monkeypatch.setattr("sys.argv", ["study.py", *said])
    record_over_seeds("s", measure, command="python -m x", about="One line.\nMore.", seeds=2, folder=tmp_path)
    study = read_study("s", folder=tmp_path)
    assert study.results == {"right": list(range(seeds))} and study.command == f"python -m x --seeds {seeds}"
    assert str(tmp_path / "s.json") in capsys.readouterr().out


def test_what_is_no_study_is_said_so(tmp_path):
    (tmp_path / "half.json").write_text('{"results": {}', encoding="utf-8")
    (tmp_path / "other.json").write_text('{"results": {}}', encoding="utf-8")
    for name in ("half", "other"):
        with pytest.raises(ValueError, match=f"{name} is no recorded study"):
            read_study(name, folder=tmp_path)


def test_a_study_that_is_not_here_is_fetched_from_the_repository(tmp_path, monkeypatch):
    path = write_study("far", {"right": 1}, seconds=1, command="c", folder=tmp_path)
    asked = []

    def fetch(address, timeout):
        asked.append(address)
        if "far" not in address:
            raise urllib.error.URLError("no network")
        return io.BytesIO(path.read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    assert read_study("far", folder=tmp_path / "empty").results == {"right": 1}
    assert asked[0].startswith("https://github.com/") and asked[0].endswith("/book/measurements/studies/far.json")
    with pytest.raises(FileNotFoundError, match=r"the study near is not in .*and https.*no network"):
        read_study("near", folder=tmp_path / "empty")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_study_names_the_command_that_makes_it(path: Path):
    study = read_study(path.stem)
    assert study.command.startswith("python -m attncourse.lessons.") and study.machine and study.seconds > 0
    assert json.dumps(study.results) != "{}"
