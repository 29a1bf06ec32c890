"""The key-value cache: what it costs, by arithmetic from a published config."""

from .configs import MODELS, PublicModel
from .cost import CacheCost, LayerCost, cost

__all__ = ["MODELS", "CacheCost", "LayerCost", "PublicModel", "cost"]
