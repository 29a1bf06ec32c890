"""Bytes as people write them: KB is 1000 of them, KiB 1024."""

import re

UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_bytes(text: str) -> float:
    """Return how many bytes a text such as "80GB", "79.6 GiB" or "3.35TB/s" says.

    Raises:
        ValueError: it says none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?(?:i?B)?)(?:/s)?", text.strip(), re.IGNORECASE)
    unit = match[2].upper() if match else None
    if match is None or unit not in UNITS:
        raise ValueError(f"a size must read like 80GB, 79.6GiB or 3.35TB/s, got {text!r}")
    return float(match[1]) * UNITS[unit]


def format_bytes(size: float) -> str:
    """Return a size in the largest unit that leaves at least 1 before the point: "70.272 KB"; bytes are whole."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} B" if unit == "B" else f"{size:.3f} {unit}"
        size /= 1000
    return f"{size:,.3f} TB"


def format_seconds(seconds: float) -> str:
    """Return `seconds` in the unit that people say it in: "5.81 ms", "12.3 s", "13.9 min", "2.5 h"."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size * (2 if size > 1 else 1):
            return f"{seconds / size:,.3g} {unit}"
    return f"{1e3 * seconds:,.3g} ms"
