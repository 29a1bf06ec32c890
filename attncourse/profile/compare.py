"""Two records side by side: the ratio of each pair of times, and a verdict where it is beyond the noise."""

from dataclasses import dataclass

from tabulate import tabulate

from .record import Measurement, Record


@dataclass(frozen=True)
class Pair:
    """The same form at the same size in two records."""

    first: Measurement
    second: Measurement

    @property
    def ratio(self) -> float:
        """Second over first: below 1, the second is faster."""
        return self.second.seconds / self.first.seconds

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" where the quartiles of both do not overlap; else the difference may be noise."""
        if self.second.high < self.first.low:
            return "faster"
        if self.second.low > self.first.high:
            return "slower"
        return "within the noise"


def pair_records(first: Record, second: Record) -> tuple[list[Pair], list[Measurement], list[Measurement]]:
    """What both measured, in the first's order; what the first alone measured, and the second alone."""
    here, there = ({m.key: m for m in record.measurements if m.seconds is not None} for record in (first, second))
    pairs = [Pair(m, there[key]) for key, m in here.items() if key in there]
    return pairs, [m for key, m in here.items() if key not in there], [m for key, m in there.items() if key not in here]


def compare_records(first: Record, second: Record) -> str:
    """The table: both medians with their spread, the ratio and the verdict."""
    pairs, only_first, only_second = pair_records(first, second)
    rows = [
        [
            pair.first.mechanism, pair.first.form, pair.first.what, pair.first.dtype,
            *(f"{1e3 * m.seconds:.3g} ({1e3 * m.low:.3g}..{1e3 * m.high:.3g})" for m in (pair.first, pair.second)),
            f"{pair.ratio:.2f}", pair.verdict,
        ]
        for pair in pairs
    ]  # fmt: skip
    headers = ["mechanism", "form", "setting", "dtype", "A: ms (quartiles)", "B: ms (quartiles)", "B / A", "B is"]
    lines = [f"A: {first.caption}", f"B: {second.caption}"]
    if first.device.name != second.device.name:
        lines.append("The devices differ: the ratios say so, too.")
    lines.append(tabulate(rows, headers=headers, disable_numparse=True))
    for name, only in (("A", only_first), ("B", only_second)):
        if only:
            lines.append(f"{name} alone: " + ", ".join(f"{m.mechanism} {m.form} ({m.what})" for m in only))
    return "\n".join(lines)
