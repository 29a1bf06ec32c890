"""Every figure that the book draws. Each function takes computed values, draws them, and returns its axes or figure."""

from .heatmap import signed_heatmap, weights_heatmap
from .lookup import memory_against_length, reading, saturation, soft_lookup
from .slider import slider
from .style import COLORS, use_style

__all__ = [
    "COLORS",
    "memory_against_length",
    "reading",
    "saturation",
    "signed_heatmap",
    "slider",
    "soft_lookup",
    "use_style",
    "weights_heatmap",
]
