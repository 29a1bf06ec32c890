"""A cache while a model writes: a picture of its slots after each pass."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from attncourse.models.caches import new_caches
from attncourse.models.decoder import DecoderLM
from attncourse.models.generate import generate
from attncourse.models.text import decode

from .figures import cache_slots


def growing_cache(
    model: DecoderLM, prompts: Sequence[Int[Tensor, " _"]], *, steps: int, capacity: int, seed: int = 0
) -> dict[str, Figure]:
    """Return pictures of the slots while each prompt grows by `steps` drawn tokens: the first four passes, then some."""
    frames, kept = {}, []

    def keep(b):
        kept[:] = new_caches(model, b, capacity=capacity)
        return kept

    def note_slots(reads):
        name = f"step {len(frames)}" if frames else "the prompts are read"
        frames[name] = kept[0].positions(), [read.stop - read.start for read in reads]

    rng = torch.Generator().manual_seed(seed)
    written = generate(model, prompts, steps=steps, caches=keep, on_pass=note_slots, temperature=0.5, rng=rng)
    texts = [decode(prompt) + decode(row) for prompt, row in zip(prompts, written, strict=True)]
    return {
        name: cache_slots(positions, texts, capacity=capacity, fresh=fresh)
        for i, (name, (positions, fresh)) in enumerate(frames.items())
        if i < 4 or i % 5 == 3
    }
