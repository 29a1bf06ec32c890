"""A trained decoder with its attention converted to latent attention, layer by layer."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse.latent.convert import latent_from_grouped
from attncourse.models.decoder import DecoderLM


@torch.no_grad()
def attention_inputs(model: DecoderLM, tokens: Int[Tensor, "b t"]) -> list[Float[Tensor, "bt d"]]:
    """Return what each block's self-attention reads while the model reads the tokens, one row per token."""
    seen = []

    def keep(layer: nn.Module, arguments, options):
        seen.append(arguments[0].flatten(0, 1))

    layers = [block.self_attention for block in model.stack.blocks]
    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def with_latent_attention(
    model: DecoderLM, kv_lora_rank: int, *, tokens: Int[Tensor, "b t"] | None = None
) -> DecoderLM:
    """Return a copy of the model whose every block caches latents of this rank; see `latent_from_grouped`.

    Args:
        tokens: text whose keys and values are kept best; without it, those of all inputs alike.

    Raises:
        ValueError: as `latent_from_grouped`, for a model with rotary positions, say.
    """
    converted = copy.deepcopy(model)
    blocks = converted.stack.blocks
    inputs = [None] * len(blocks) if tokens is None else attention_inputs(model, tokens)
    for block, seen in zip(blocks, inputs, strict=True):
        block.self_attention = latent_from_grouped(block.self_attention, kv_lora_rank, inputs=seen)
    return converted
