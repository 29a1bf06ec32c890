"""Two records side by side: the ratio of each pair of times, and a verdict where it is beyond the noise."""

from dataclasses import dataclass

from tabulate import tabulate

from .record import Measurement, Record
from .timing import Timing


@dataclass(frozen=True)
class Pair:
    """A pair is the same form at the same size in two records, by the same clock:
    "call" from Python, or "graph" replayed.
    """

    first: Measurement
    second: Measurement
    clock: str = "call"

    @property
    def times(self) -> tuple[Timing, Timing]:
        """Return the times of the first and of the second, by this clock."""
        return getattr(self.first, self.clock), getattr(self.second, self.clock)

    @property
    def form(self) -> str:
        """Return the form, and which of PyTorch's fused attentions each record took, where they say it."""
        names = dict.fromkeys((self.first.form_named, self.second.form_named))
        return " / ".join(names)

    @property
    def ratio(self) -> float:
        """Return second over first: below 1, the second is faster."""
        first, second = self.times
        return second.median / first.median

    @property
    def verdict(self) -> str:
        """Return  "faster" or "slower" where the quartiles of both do not overlap; else the difference may be noise."""
        first, second = self.times
        if second.high < first.low:
            return "faster"
        if second.low > first.high:
            return "slower"
        return "within the noise"


def pair_records(first: Record, second: Record) -> tuple[list[Pair], list[Measurement], list[Measurement]]:
    """Return what both measured by each clock, in the first's order;
    what the first alone measured, and the second alone.
    """
    here, there = ({m.key: m for m in record.measurements if m.call is not None} for record in (first, second))
    both = [(m, there[key]) for key, m in here.items() if key in there]
    pairs = [Pair(*two, clock) for two in both for clock in ("call", "graph") if all(getattr(m, clock) for m in two)]
    return pairs, [m for key, m in here.items() if key not in there], [m for key, m in there.items() if key not in here]


def compare_records(first: Record, second: Record) -> str:
    """Return the table: both medians with their spread, the ratio and the verdict;
    a line per clock that both were timed by.
    """
    pairs, only_first, only_second = pair_records(first, second)
    rows = [
        [
            pair.first.mechanism, pair.form, pair.first.what, pair.first.shape, pair.first.dtype, pair.clock,
            *(f"{1e3 * t.median:.3g} ({1e3 * t.low:.3g}..{1e3 * t.high:.3g})" for t in pair.times),
            f"{pair.ratio:.2f}", pair.verdict,
        ]
        for pair in pairs
    ]  # fmt: skip
    headers = ["mechanism", "form", "setting", "size", "dtype", "clock", "A: ms (quartiles)", "B: ms (quartiles)", "B / A",
               "B is"]  # fmt: skip
    lines = [f"A: {first.caption}", f"B: {second.caption}"]
    if first.device.name != second.device.name:
        lines.append("The devices differ: the ratios say so, too.")
    lines.append(tabulate(rows, headers=headers, disable_numparse=True))
    for name, only in (("A", only_first), ("B", only_second)):
        if only:
            lines.append(f"{name} alone: " + ", ".join(f"{m.mechanism} {m.form} ({m.what}, {m.shape})" for m in only))
    return "\n".join(lines)
