"""Systems of one layer per stack, to count what they multiply: one sequence, or sources encoded apart and then read."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attncourse.models.blocks import Stack


class OneStack:
    """Sources (p, s, d) and a text (1, t, d) stand in one sequence, which one causal layer reads."""

    def __init__(self, d: int, n_heads: int, *, context: int):
        self.stacks = (Stack(d, n_heads, n_layers=1, context=context, causal=True, impl="reference"),)

    def __call__(self, sources: Float[Tensor, "p s d"], text: Float[Tensor, "1 t d"]) -> Float[Tensor, "1 n d"]:
        """Return features of all tokens, the sources' first."""
        return self.stacks[0](torch.cat([rearrange(sources, "p s d -> 1 (p s) d"), text], dim=1))


class TwoStacks:
    """Each source (s, d) is read by itself; a causal layer reads the text, and all sources by cross-attention."""

    def __init__(self, d: int, n_heads: int, *, context: int):
        plain = dict(n_layers=1, context=context, impl="reference")
        self.stacks = Stack(d, n_heads, **plain), Stack(d, n_heads, causal=True, d_context=d, **plain)

    def __call__(self, sources: Float[Tensor, "p s d"], text: Float[Tensor, "1 t d"]) -> Float[Tensor, "1 t d"]:
        """Return features of the text's tokens."""
        encoder, decoder = self.stacks
        return decoder(text, rearrange(encoder(sources), "p s d -> 1 (p s) d"))


def parameters_in_products(system: OneStack | TwoStacks) -> int:
    """Return how many entries the matrices of a system have."""
    return sum(p.numel() for stack in system.stacks for p in stack.parameters() if p.ndim == 2)


@torch.no_grad()
def multiplications(call: Callable[[], object]) -> int:
    """Return the multiplications in the matrix products of a call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2
