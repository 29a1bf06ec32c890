"""A set of measurements as a file: what was measured, on what, with which versions, when, and by which command."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .device_facts import DeviceFacts, Printed
from .limits import Limits
from .timing import Timing


@dataclass(frozen=True)
class Measurement:
    """A measurement is of one form of one mechanism at one size.

    Attributes:
        mechanism, form, what: what ran, and its setting in words.
        size: the shapes, as in `Size`.
        dtype: "float32", ...
        flops, bytes: counted from the shapes.
        predicted: seconds by the roofline of the limits measured on this device.
        limit: what the roofline says is short, "memory" or "compute".
        seconds, low, high: of one call from Python, the median and the quartiles; None where it did not run.
        peak_bytes: memory allocated at the peak, the result included; None where it did not run.
        problem: why it did not run, or None.
        replay, replay_low, replay_high: seconds of a step of a replayed CUDA graph, the median and the quartiles; None
            on a CPU, and where it could not be captured.
        replay_problem: why a graph was not replayed on a GPU, or None.
        cold: whether the inputs that took turns are at least three times as large as the GPU's second-level cache, so
            that each step read from memory; None where that was not asked: on a CPU, and in records of before.
        backend: which of PyTorch's fused attentions the form "torch" took, "flash", "cudnn", "efficient" or "math";
            None of other forms, and in records of before.
    """

    mechanism: str
    form: str
    what: str
    size: dict[str, int]
    dtype: str
    flops: int
    bytes: int
    predicted: float
    limit: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    peak_bytes: int | None = None
    problem: str | None = None
    replay: float | None = None
    replay_low: float | None = None
    replay_high: float | None = None
    replay_problem: str | None = None
    cold: bool | None = None
    backend: str | None = None

    @property
    def call(self) -> Timing | None:
        """Return the time of one call from Python; on a GPU with the host's work in it. None where it did not run."""
        return None if self.seconds is None else Timing(self.seconds, self.low, self.high)

    @property
    def graph(self) -> Timing | None:
        """Return the time of a step of a replayed graph: the device's work alone. None where there is no such time."""
        return None if self.replay is None else Timing(self.replay, self.replay_low, self.replay_high)

    @property
    def step(self) -> Timing | None:
        """Return what is held against a limit of the device:
        a step of the replayed graph where there is one, else a call.
        """
        return self.graph or self.call

    @property
    def fraction(self) -> float | None:
        """Return the share of the limit that was reached: predicted over measured time, by the clock of `step`."""
        return None if self.step is None else self.predicted / self.step.median

    @property
    def form_named(self) -> str:
        """Return the form, and which of PyTorch's fused attentions it took: "torch (cudnn)"."""
        return self.form if self.backend is None else f"{self.form} ({self.backend})"

    @property
    def shape(self) -> str:
        """Return sequences, queries and keys in short: "b 1, t 1, s 4096"."""
        return ", ".join(f"{axis} {self.size[axis]}" for axis in "bts" if axis in self.size)

    @property
    def key(self) -> tuple:
        """Return what makes two measurements of different records the same."""
        return self.mechanism, self.form, self.what, tuple(sorted(self.size.items())), self.dtype


@dataclass(frozen=True)
class Record:
    """A record is measurements of one device at one time."""

    device: DeviceFacts
    limits: Limits
    versions: dict[str, str]
    date: str
    command: str
    measurements: tuple[Measurement, ...]

    @property
    def caption(self) -> str:
        """Return where the numbers come from, to stand under a figure."""
        driver = f", driver {self.device.driver}" if self.device.driver else ""
        threads = f", {self.device.threads} thread{'s' * (self.device.threads > 1)}" if self.device.threads else ""
        software = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.device.name}{threads}{driver}; {software}; {self.date}"


def write_record(record: Record, path: str | os.PathLike) -> None:
    """Write the record as JSON, whole or not at all."""
    write_json(asdict(record), Path(path))


def write_json(fields: dict[str, Any], path: Path) -> None:
    """Write a file of JSON whole or not at all: who reads it meets the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_record(path: str | os.PathLike) -> Record:
    """Return what `write_record` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no record; the message says what is wrong.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        printed = fields["device"].pop("printed")
        device = DeviceFacts(**fields.pop("device"), printed=None if printed is None else Printed(**printed))
        rows = tuple(Measurement(**row) for row in fields.pop("measurements"))
        return Record(device=device, limits=Limits(**fields.pop("limits")), measurements=rows, **fields)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of measurements: {type(error).__name__}: {error}") from error


def read_records(folder: str | os.PathLike) -> list[Record]:
    """Return the records of a folder, oldest first; none where there is no folder.

    Raises:
        ValueError: as `read_record`.
    """
    return sorted(map(read_record, sorted(Path(folder).glob("*.json"))), key=lambda record: record.date)
