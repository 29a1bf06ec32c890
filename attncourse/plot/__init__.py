"""Every figure that the book draws. Each function takes computed values, draws them, and returns its axes or figure."""

from .alignment import accuracy_and_time, alignments, local_windows, predicted_and_measured
from .bottleneck import accuracy_against_length, decay, influence_by_place, influence_maps, learning_curves
from .heatmap import signed_heatmap, weights_heatmap
from .lookup import memory_against_length, reading, saturation, soft_lookup
from .selection import accuracy_bands, draws_against_weights, estimator_quality, soft_samples
from .slider import slider
from .style import COLORS, use_style

__all__ = [
    "COLORS",
    "accuracy_against_length",
    "accuracy_and_time",
    "accuracy_bands",
    "alignments",
    "decay",
    "draws_against_weights",
    "estimator_quality",
    "influence_by_place",
    "influence_maps",
    "learning_curves",
    "local_windows",
    "memory_against_length",
    "predicted_and_measured",
    "reading",
    "saturation",
    "signed_heatmap",
    "slider",
    "soft_lookup",
    "soft_samples",
    "use_style",
    "weights_heatmap",
]
