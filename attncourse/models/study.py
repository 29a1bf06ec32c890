"""Recorded studies: results of training that takes longer than a chapter may, with the machine that they come from.

A chapter's lesson measures one (`python -m attncourse.lessons.<chapter>.study`), `book/measurements/studies/` holds it, and
the chapter draws it beside one seed that runs live.
"""

import argparse
import datetime
import importlib.metadata
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attncourse.profile.device import cpu_name
from attncourse.profile.device_facts import versions
from attncourse.profile.record import write_json

STUDIES = Path(__file__).parents[2] / "book" / "measurements" / "studies"


@dataclass(frozen=True)
class Study:
    """A study is the results of one study, and where they come from.

    Attributes:
        results: what was found, as JSON holds it: numbers, strings, lists, and dictionaries by string.
        seconds: that the whole study took.
        machine, versions, date, command: what it ran on, with, when, and by what.
    """

    results: dict[str, Any]
    seconds: float
    machine: str
    versions: dict[str, str]
    date: str
    command: str

    @property
    def caption(self) -> str:
        """Return where the numbers come from, to stand under a figure."""
        software = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"recorded on {self.date}: {self.machine}; {software}; `{self.command}`, {self.seconds / 60:.0f} minutes"


def write_study(name: str, results: dict[str, Any], *, seconds: float, command: str, folder: Path = STUDIES) -> Path:
    """Write a study of this machine and moment as `<name>.json`, whole or not at all, and return its path."""
    study = Study(results, round(seconds, 1), cpu_name(), versions(), datetime.date.today().isoformat(), command)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json(asdict(study), path)
    return path


def record_over_seeds(
    name: str, measure: Callable[..., dict[str, Any]], *, command: str, about: str, seeds: int, folder: Path = STUDIES
) -> None:
    """Be the command of a study whose only option is how many seeds: measure, and write what came out.

    Args:
        measure: called with seeds=...; its results are written.
        command: what the user typed before the options; the record names it with them.
        about: the first line of its docstring; `--help` shows that.
        seeds: how many there are by default.
    """
    parser = argparse.ArgumentParser(prog=command, description=about.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=seeds, help="how many (default: %(default)s)")
    seeds = parser.parse_args().seeds
    began = time.perf_counter()
    results = measure(seeds=seeds)
    seconds = time.perf_counter() - began
    print("written:", write_study(name, results, seconds=seconds, command=f"{command} --seeds {seeds}", folder=folder))


def read_study(name: str, *, folder: Path = STUDIES) -> Study:
    """Return the study of this name: from a checkout, or where the package was installed alone from the repository.

    Raises:
        FileNotFoundError: it is neither here nor could it be fetched; the message says from where.
        ValueError: what was found is no study.
    """
    path = folder / f"{name}.json"
    text = path.read_text(encoding="utf-8") if path.exists() else _fetched(name)
    try:
        return Study(**json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{name} is no recorded study: {error}") from error


def _fetched(name: str) -> str:
    about = importlib.metadata.metadata("attncourse")
    repository = dict(line.split(", ", 1) for line in about.get_all("Project-URL"))["Source"]
    address = f"{repository}/raw/v{about['Version']}/book/measurements/studies/{name}.json"
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError) as error:
        raise FileNotFoundError(f"the study {name} is not in {STUDIES}, and {address} gave {error}") from error
