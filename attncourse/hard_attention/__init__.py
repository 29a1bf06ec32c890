"""Hard attention (Xu et al. 2015, https://arxiv.org/abs/1502.03044, section 4.1), and gradients through its choice.

The kernel is imported from `attncourse.hard_attention.kernel`, since it needs Triton.
"""

from .estimators import (
    Choice,
    Quality,
    best_baseline,
    exact_gradient,
    quality,
    relaxed_gradients,
    score_function_gradients,
    score_function_variance,
    soft_gradient,
    straight_through_gradients,
)
from .frequencies import chi_square_test
from .module import HardAttention
from .reference import (
    expected_cost,
    gumbel_noise,
    gumbel_softmax,
    hard_attention,
    hard_attention_loop,
    log_probability,
    moving_baseline,
    relaxed_attention,
    sampled_attention,
    score_function_loss,
    select,
    straight_through,
    straight_through_attention,
)
from .selection import HardRead, take_rows

__all__ = [
    "Choice",
    "HardAttention",
    "HardRead",
    "Quality",
    "best_baseline",
    "chi_square_test",
    "exact_gradient",
    "expected_cost",
    "gumbel_noise",
    "gumbel_softmax",
    "hard_attention",
    "hard_attention_loop",
    "log_probability",
    "moving_baseline",
    "quality",
    "relaxed_attention",
    "relaxed_gradients",
    "sampled_attention",
    "score_function_gradients",
    "score_function_loss",
    "score_function_variance",
    "select",
    "soft_gradient",
    "straight_through",
    "straight_through_attention",
    "straight_through_gradients",
    "take_rows",
]
