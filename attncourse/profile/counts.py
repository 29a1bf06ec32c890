"""Bytes and FLOPs by shapes, as `attncourse._shared.counts` has them, and those of a linear layer.

What a mechanism moves and computes its room says, in `case.py` or `cost.py`.
"""

from attncourse._shared.counts import Count, Size, attention_count, banded_pairs

__all__ = ["Count", "Size", "attention_count", "banded_pairs", "projection_count"]


def projection_count(rows: int, width_in: int, width_out: int, *, itemsize: int, bias: bool = True) -> Count:
    """Count a linear layer: its matrix read once, beside `rows` rows in and out."""
    numbers = rows * (width_in + width_out) + (width_in + bias) * width_out
    return Count(2 * rows * width_in * width_out, itemsize * numbers)
