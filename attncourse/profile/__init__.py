"""Measuring: time as paired medians, memory as the peak of what a call allocates, and the device's name."""

from .device import describe_device
from .memory import peak_memory
from .timing import median_seconds

__all__ = ["describe_device", "median_seconds", "peak_memory"]
