"""Where a token stands, told to attention: the embeddings that layers take as `rope`, and published frequencies for them."""

from ._shared.rope import LearnedPositions, RotaryEmbedding, rotary_angles, rotate_half_split, rotate_interleaved
from ._shared.rope_scaling import linear_frequencies, llama3_frequencies, yarn_frequencies, yarn_magnitude

__all__ = [
    "LearnedPositions",
    "RotaryEmbedding",
    "linear_frequencies",
    "llama3_frequencies",
    "rotary_angles",
    "rotate_half_split",
    "rotate_interleaved",
    "yarn_frequencies",
    "yarn_magnitude",
]
