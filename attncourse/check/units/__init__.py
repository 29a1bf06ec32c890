"""One module of checks a unit of exercises, in the order in which the course takes them."""

# isort: off
from . import why_attention
from . import softmax_attention
from . import additive
from . import multiplicative
from . import self_cross_causal
from . import multi_head
from . import linear_attention
# isort: on

__all__ = [
    "additive",
    "linear_attention",
    "multi_head",
    "multiplicative",
    "self_cross_causal",
    "softmax_attention",
    "why_attention",
]
