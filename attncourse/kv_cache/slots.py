"""Writing tokens into slots and reading them back: all that a layout does with its storage.

A store is a tuple of tensors (n, g, size, ...), n blocks of `size` slots, as its codec says; slot j of block i has the
number i * size + j. A layout is the rule from a token's position to a number, -1 where there is no token (vLLM's
`slot_mapping`, Kwon et al. 2023, https://arxiv.org/abs/2309.06180, section 4.3).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .codec import Codec


def write_slots(
    store: tuple[Tensor, ...], x: Float[Tensor, "b g c width"], slots: Int[Tensor, "b c"], *, codec: Codec
) -> None:
    """Write token i of sequence b into slot slots[b, i], encoded; tokens with slot -1 nowhere."""
    rows, columns = (slots >= 0).nonzero(as_tuple=True)
    numbers, size = slots[rows, columns], store[0].shape[2]
    for field, part in zip(store, codec.encode(x[rows, :, columns]), strict=True):
        field[numbers // size, :, numbers % size] = part


def read_slots(
    store: tuple[Tensor, ...], slots: Int[Tensor, "b s"], *, codec: Codec, dtype: torch.dtype
) -> Float[Tensor, "b g s width"]:
    """The decoded tokens of these slots; zeros where a slot is -1."""
    size, numbers = store[0].shape[2], slots.clamp_min(0)
    fields = (field[numbers // size, :, numbers % size].transpose(1, 2) for field in store)
    return codec.decode(*fields, dtype=dtype).masked_fill((slots < 0)[:, None, :, None], 0.0)
