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


@torch.no_grad()
def keys_and_values(model: DecoderLM, tokens: Int[Tensor, "b t"]) -> list[Float[Tensor, "bt m"]]:
    """Return what each block's heads make of the tokens, keys beside values, before any conversion."""
    layers = [block.self_attention for block in model.stack.blocks]
    weights = [torch.cat([layer.w_k.weight, layer.w_v.weight]) for layer in layers]
    return [x @ weight.T for x, weight in zip(attention_inputs(model, tokens), weights, strict=True)]


@torch.no_grad()
def left_out(model: DecoderLM, converted: DecoderLM, *, tokens: Int[Tensor, "b t"]) -> float:
    """Return the share of the squared length of a multi-head model's keys and values that its conversion leaves out.

    Each converted layer reads what the layer that it replaces reads in the model, so errors do not add up. The result is
    the mean over layers.
    """
    shares = []
    for block, x, wanted in zip(
        converted.stack.blocks, attention_inputs(model, tokens), keys_and_values(model, tokens), strict=True
    ):
        latent = block.self_attention.kv_a(x)
        keys, values = (torch.einsum("nr,hwr->nhw", latent, w).flatten(1) for w in block.self_attention.up_projections)
        missing = wanted - torch.cat([keys, values], dim=1)
        shares.append(float(missing.square().sum() / wanted.square().sum()))
    return sum(shares) / len(shares)


def directions(x: Float[Tensor, "n m"], *, share: float = 0.95) -> int:
    """Return how many directions hold this share of the squared length of the rows of x, their mean taken off."""
    squares = torch.linalg.svdvals((x - x.mean(dim=0)).double()).square()
    return 1 + int((squares.cumsum(dim=0) < share * squares.sum()).sum())
