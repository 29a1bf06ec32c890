"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, https://arxiv.org/abs/2405.04434).

The kernel is imported from `attncourse.latent.kernel`, since it needs Triton.
"""

from .blocked import latent_attention_blocked
from .cost import LatentShape, cheaper_form, crossover, latent_bytes, latent_flops
from .module import LatentAttention
from .reference import (
    absorb_query,
    expand_latent,
    expand_output,
    latent_attention,
    latent_attention_absorbed,
    latent_attention_loop,
)

__all__ = [
    "LatentAttention",
    "LatentShape",
    "absorb_query",
    "cheaper_form",
    "crossover",
    "expand_latent",
    "expand_output",
    "latent_attention",
    "latent_attention_absorbed",
    "latent_attention_blocked",
    "latent_attention_loop",
    "latent_bytes",
    "latent_flops",
]
