"""Every figure that the book draws. Each function takes computed values, draws them, and returns its axes or figure."""

from .alignment import accuracy_and_time, alignments, local_windows, predicted_and_measured
from .bottleneck import accuracy_against_length, decay, influence_by_place, influence_maps, learning_curves
from .heads import ablation, head_maps, two_heads
from .heatmap import signed_heatmap, weights_heatmap
from .lookup import memory_against_length, reading, saturation, soft_lookup
from .slider import slider
from .style import COLORS, use_style
from .systems import connectivity, gaze, loss_and_baselines, passages_read, shares, weight_by_distance

__all__ = [
    "COLORS",
    "ablation",
    "accuracy_against_length",
    "accuracy_and_time",
    "alignments",
    "connectivity",
    "decay",
    "gaze",
    "head_maps",
    "influence_by_place",
    "influence_maps",
    "learning_curves",
    "local_windows",
    "loss_and_baselines",
    "memory_against_length",
    "passages_read",
    "predicted_and_measured",
    "reading",
    "saturation",
    "shares",
    "signed_heatmap",
    "slider",
    "soft_lookup",
    "two_heads",
    "use_style",
    "weight_by_distance",
    "weights_heatmap",
]
