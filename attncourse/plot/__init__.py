"""Every figure that the book draws. Each function takes computed values, draws them, and returns its axes."""

from .heatmap import signed_heatmap, weights_heatmap
from .style import COLORS, use_style

__all__ = ["COLORS", "signed_heatmap", "use_style", "weights_heatmap"]
