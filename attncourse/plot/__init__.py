"""Figures of several chapters. Each function takes computed values, draws them, and returns its axes or figure.

What one chapter alone draws stands in its lesson: `attncourse.lessons.<chapter>.figures`.
"""

from .against_length import memory_against_length, seconds_against_length
from .alignment import alignments
from .heatmap import signed_heatmap, weights_heatmap
from .seeds import seed_dots
from .slider import slider
from .style import COLORS, use_style

__all__ = [
    "COLORS",
    "alignments",
    "memory_against_length",
    "seconds_against_length",
    "seed_dots",
    "signed_heatmap",
    "slider",
    "use_style",
    "weights_heatmap",
]
