"""Tensor parallelism: devices share out the query heads of a layer, and each keeps the key/value heads that these read."""

from collections.abc import Sequence
from dataclasses import dataclass

from attncourse._shared.validate import require


@dataclass(frozen=True)
class Part:
    """A part of a layer is what one device has of it: its query heads, and the key/value heads that they read."""

    queries: tuple[int, ...]
    kept: tuple[int, ...]


def parts_of(reads: Sequence[int], devices: int) -> list[Part]:
    """Return each device's part; neighbouring query heads go together.

    Args:
        reads: for each query head the key/value head that it reads.
        devices: how many; they divide the query heads.
    """
    require(len(reads) % devices == 0, f"the devices must divide the {len(reads)} query heads, got {devices}")
    each = len(reads) // devices
    queries = [range(device * each, (device + 1) * each) for device in range(devices)]
    return [Part(tuple(own), tuple(sorted({reads[i] for i in own}))) for own in queries]


def stored(parts: Sequence[Part]) -> float:
    """Return how many times all devices together keep what one would keep once."""
    kept = [head for part in parts for head in part.kept]
    return len(kept) / len(set(kept))
