"""Every figure that the book draws. Each function takes computed values, draws them, and returns its axes or figure."""

from .against_length import memory_against_length, seconds_against_length
from .alignment import accuracy_and_time, alignments, local_windows, predicted_and_measured
from .bottleneck import accuracy_against_length, decay, influence_by_place, influence_maps, learning_curves
from .connectivity import connections, reach_maps, steps_against_distance
from .heatmap import signed_heatmap, weights_heatmap
from .hubs import hub_patterns, reach_against_layers
from .lookup import reading, saturation, soft_lookup
from .next_token import loss_by_place
from .slider import slider
from .style import COLORS, use_style

__all__ = [
    "COLORS",
    "accuracy_against_length",
    "accuracy_and_time",
    "alignments",
    "connections",
    "decay",
    "hub_patterns",
    "influence_by_place",
    "influence_maps",
    "learning_curves",
    "local_windows",
    "loss_by_place",
    "memory_against_length",
    "predicted_and_measured",
    "reach_against_layers",
    "reach_maps",
    "reading",
    "saturation",
    "seconds_against_length",
    "signed_heatmap",
    "slider",
    "soft_lookup",
    "steps_against_distance",
    "use_style",
    "weights_heatmap",
]
