"""Every figure that the book draws. Each function takes computed values, draws them, and returns its axes or figure."""

from .against_length import memory_against_length, seconds_against_length
from .alignment import accuracy_and_time, alignments, local_windows, predicted_and_measured
from .bandwidth import bandwidth_reached, chip_use, floor_and_wall, step_against_context, tokens_against_batch
from .bottleneck import accuracy_against_length, decay, influence_by_place, influence_maps, learning_curves
from .cache import (
    block_tables,
    bytes_over_passes,
    cache_slots,
    error_and_loss,
    roofline,
    slot_timeline,
    step_time,
)
from .cache_cost import bars_by_design, bounds_and_measured, cache_against_context, decode_roofline, step_times
from .choosing import attributions, least_times, savings, weightings
from .connectivity import connections, reach_maps, steps_against_distance
from .heads import ablation, head_maps, two_heads
from .heatmap import signed_heatmap, weights_heatmap
from .hubs import hub_patterns, reach_against_layers
from .implementation import against_bits, day_of_requests, differences, traffic_against_cache
from .kernels import running_softmax, tile_maps, verdict_grid, weight_maps
from .latent import crossover_of_forms, energy_against_rank, latent_diagram, loss_against_rank
from .local import accuracy_by_distance, pattern_maps, reach_by_layers
from .lookup import reading, saturation, soft_lookup
from .next_token import loss_by_place
from .patterns import accuracy_by_place, block_pattern_maps, layers_maps
from .recall import accuracy_against_pairs, error_against_features, loss_by_position, weights_by_rule
from .selection import accuracy_bands, draws_against_weights, estimator_quality, soft_samples
from .sharing import conversion_losses, head_sharing, loss_against_cache, step_against_heads
from .slider import slider
from .style import COLORS, use_style
from .systems import diagrams, gaze, loss_and_baselines, passages_read, shares, weight_by_distance

__all__ = [
    "COLORS",
    "ablation",
    "accuracy_against_length",
    "accuracy_against_pairs",
    "accuracy_and_time",
    "accuracy_bands",
    "accuracy_by_distance",
    "accuracy_by_place",
    "against_bits",
    "alignments",
    "attributions",
    "bandwidth_reached",
    "bars_by_design",
    "block_pattern_maps",
    "block_tables",
    "bounds_and_measured",
    "bytes_over_passes",
    "cache_against_context",
    "cache_slots",
    "chip_use",
    "connections",
    "conversion_losses",
    "crossover_of_forms",
    "day_of_requests",
    "decay",
    "decode_roofline",
    "diagrams",
    "differences",
    "draws_against_weights",
    "energy_against_rank",
    "error_against_features",
    "error_and_loss",
    "estimator_quality",
    "floor_and_wall",
    "gaze",
    "head_maps",
    "head_sharing",
    "hub_patterns",
    "influence_by_place",
    "influence_maps",
    "latent_diagram",
    "layers_maps",
    "learning_curves",
    "least_times",
    "local_windows",
    "loss_against_cache",
    "loss_against_rank",
    "loss_and_baselines",
    "loss_by_place",
    "loss_by_position",
    "memory_against_length",
    "passages_read",
    "pattern_maps",
    "predicted_and_measured",
    "reach_against_layers",
    "reach_by_layers",
    "reach_maps",
    "reading",
    "roofline",
    "running_softmax",
    "saturation",
    "savings",
    "seconds_against_length",
    "shares",
    "signed_heatmap",
    "slider",
    "slot_timeline",
    "soft_lookup",
    "soft_samples",
    "step_against_context",
    "step_against_heads",
    "step_time",
    "step_times",
    "steps_against_distance",
    "tile_maps",
    "tokens_against_batch",
    "traffic_against_cache",
    "two_heads",
    "use_style",
    "verdict_grid",
    "weight_by_distance",
    "weight_maps",
    "weightings",
    "weights_by_rule",
    "weights_heatmap",
]
