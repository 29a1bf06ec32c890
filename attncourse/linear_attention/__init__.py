"""Linear attention (Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236), with decay, and the delta rule.

The kernels are imported from `attncourse.linear_attention.kernel`, since they need Triton.
"""

from .blocked import delta_rule_blocked, linear_attention_blocked
from .features import RandomFeatures, draw_random_features, elu_plus_one, identity
from .module import DeltaRule, LinearAttention
from .reference import (
    delta_rule_attention,
    linear_attention,
    linear_attention_recurrent,
    linear_attention_step,
    linear_weights,
    retention_decay,
)
from .state import LinearState

__all__ = [
    "DeltaRule",
    "LinearAttention",
    "LinearState",
    "RandomFeatures",
    "delta_rule_attention",
    "delta_rule_blocked",
    "draw_random_features",
    "elu_plus_one",
    "identity",
    "linear_attention",
    "linear_attention_blocked",
    "linear_attention_recurrent",
    "linear_attention_step",
    "linear_weights",
    "retention_decay",
]
