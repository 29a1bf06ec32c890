"""Writing tokens into slots and reading them back: all that a layout does with its storage.

A store is a tuple of tensors (n, g, size, ...), n blocks of `size` slots, as its codec says; slot j of block i has the
number i * size + j. A layout is the rule from a token's position to a number, -1 where there is no token (vLLM's
`slot_mapping`, Kwon et al. 2023, https://arxiv.org/abs/2309.06180, section 4.3).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attncourse._shared.validate import has_values

from .codec import Codec


def check_slots(store: tuple[Tensor, ...], slots: Int[Tensor, "b c"]) -> None:
    """Check that slots are those of the storage `store`, or -1."""
    n, size = store[0].shape[0], store[0].shape[2]
    if has_values(slots):
        low, high = (int(x) for x in slots.aminmax())
        if low < -1 or high >= n * size:
            raise ValueError(
                f"slots must lie in 0..{n * size - 1} or be -1, for {n} blocks of {size}, got {slots.tolist()}"
            )


def check_tokens(store: tuple[Tensor, ...], x: Tensor, slots: Tensor, *, codec: Codec) -> None:
    """Check that x are as many tokens as there are slots, of the heads, width and dtype that the storage was made for.

    Args:
        store: the codec's tensors, (n, g, size, ...).
        x: tokens (b, g, c, width).
        slots: (b, c) integers.
        codec: how a vector is stored.
    """
    g, held = store[0].shape[1], tuple((field.shape[3], field.dtype) for field in store)
    if x.ndim != 4 or (x.shape[0], x.shape[2]) != slots.shape or x.shape[1] != g:
        raise ValueError(
            f"tokens must be (b, {g}, c, width) for slots (b, c), got {tuple(x.shape)} for {tuple(slots.shape)}"
        )
    wanted = codec.fields(x.shape[3], x.dtype)
    if held != wanted:
        raise ValueError(f"{codec} stores such tokens in {wanted} (width and dtype of each tensor), got {held}")
    check_slots(store, slots)


def page_slots(
    block_table: Int[Tensor, "b pages"], positions: Int[Tensor, "b s"], *, page_size: int
) -> Int[Tensor, "b s"]:
    """Return the slot of each position by the table:
    block_table[b, p // page_size] * page_size + p % page_size, -1 for -1.

    Args:
        page_size: tokens of a page.

    Raises:
        ValueError: a position beyond the table, or one whose page is not there.
    """
    column, columns = positions.clamp_min(0) // page_size, block_table.shape[1]
    if has_values(positions) and int(column.max()) >= columns:
        raise ValueError(
            f"the block table has {columns} pages of {page_size} tokens a row, got positions {positions.tolist()}"
        )
    page = block_table.long().gather(1, column.long())
    if has_values(positions):
        absent = ((page < 0) & (positions >= 0)).any(dim=-1)
        if absent.any():
            raise ValueError(f"no page holds some of the positions of rows {absent.nonzero()[:, 0].tolist()}")
    return torch.where(positions >= 0, page * page_size + positions % page_size, -1)


def kv_cache_append(
    store: tuple[Tensor, ...], x: Float[Tensor, "b g c width"], slots: Int[Tensor, "b c"], *, codec: Codec
) -> None:
    """Write token i of sequence b into slot slots[b, i], encoded; tokens with slot -1 nowhere.

    Args:
        store: the codec's tensors, (n, g, size, ...).
        codec: how a vector is stored.

    Raises:
        ValueError: a slot beyond the storage, or tokens that are not of its kind; then nothing is written.
    """
    check_tokens(store, x, slots, codec=codec)
    rows, columns = (slots >= 0).nonzero(as_tuple=True)
    numbers, size = slots[rows, columns], store[0].shape[2]
    for field, part in zip(store, codec.encode(x[rows, :, columns]), strict=True):
        field[numbers // size, :, numbers % size] = part


def kv_cache_gather(
    store: tuple[Tensor, ...], slots: Int[Tensor, "b s"], *, codec: Codec, dtype: torch.dtype
) -> Float[Tensor, "b g s width"]:
    """Return the decoded tokens of these slots; zeros where a slot is -1.

    Args:
        store: the codec's tensors, (n, g, size, ...).
        codec: how a vector is stored.
        dtype: of the result.

    Raises:
        ValueError: a slot beyond the storage.
    """
    check_slots(store, slots)
    size, numbers = store[0].shape[2], slots.clamp_min(0)
    fields = (field[numbers // size, :, numbers % size].transpose(1, 2) for field in store)
    return codec.decode(*fields, dtype=dtype).masked_fill((slots < 0)[:, None, :, None], 0.0)
