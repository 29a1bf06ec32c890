"""A trained model with fewer key/value heads, to be trained a little further ("uptraining").

Ainslie et al. 2023, https://arxiv.org/abs/2305.13245, section 2.1: convert every attention of the checkpoint, then train
on with the original recipe for a small share of the original steps.
"""

import copy

import torch

from attncourse.grouped_query import grouped_from_multi_head
from attncourse.models.decoder import DecoderLM

WAYS = ("not converted", "mean", "first", "random")


def with_grouped_heads(
    model: DecoderLM, n_kv_heads: int, *, by: str = "mean", rng: torch.Generator | None = None
) -> DecoderLM:
    """Return a copy of the model in which each block's self-attention has n_kv_heads heads of keys and values.

    Args:
        model: of multi-head or grouped layers; it stays as it is.
        by, rng: how a group becomes one head, as in `attncourse.grouped_query.group_heads`.

    Raises:
        ValueError: as `grouped_from_multi_head`.
    """
    grouped = copy.deepcopy(model)
    for block in grouped.stack.blocks:
        block.self_attention = grouped_from_multi_head(block.self_attention, n_kv_heads, by=by, rng=rng)
    return grouped
