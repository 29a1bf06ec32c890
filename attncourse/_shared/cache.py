"""What a layer asks of a key-value cache, whatever its layout: the room `kv_cache` has the layouts."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class CacheShape:
    """A shape says what one layer keeps of a token: for each of its streams n_kv_heads vectors.

    Args:
        n_kv_heads: heads of each stream; 1 where all query heads share one.
        widths: width of each stream: (dk, dv) of keys and values, (kv_lora_rank, qk_rope_head_dim) of latents.
    """

    n_kv_heads: int
    widths: tuple[int, ...]


@runtime_checkable
class KeyValueCache(Protocol):
    """A cache holds what one layer keeps of a batch of sequences, each as long as its own `lengths` says."""

    lengths: Int[Tensor, " b"]
    """How many tokens of each sequence went in (`cache_seqlens`)."""

    window: int | None
    """A query sees so many tokens of what the cache holds, its own included; None where nothing is ever forgotten."""

    sinks: int
    """First tokens that every query sees, whatever the cache's window."""

    capacity: int | None
    """The longest sequence that there is room for; None where any number of tokens may go in."""

    storage: tuple[tuple[Tensor, ...], ...]
    """Each stream as it lies, in the tensors of its codec (one where vectors lie as they are): (b, g, size, ...), with
    position p of a sequence in slot p where `in_order`; or where there is a block table pages, (n_pages, g, size, ...)."""

    block_table: Int[Tensor, "b pages"] | None
    """The pages of each sequence, in order, -1 for none; None where a sequence has a row of the storage."""

    in_slots: bool
    """Whether a slot of `storage` holds the vector of one token, in the tensors of its codec."""

    in_order: bool
    """Whether `view` gives position j in place j, of every sequence, and a query sees all that stands before it."""

    def append(self, *streams: Tensor, counts: Int[Tensor, " b"] | None = None) -> None:
        """Add c tokens to every sequence; of row b only the first counts[b] are tokens.

        Args:
            streams: (b, g, c, width) each, as many as the cache's shape has widths.
            counts: integers from 0 to c (default: c, all are tokens).

        Raises:
            ValueError: a shape, batch, dtype or device that is not the cache's, or no room; then nothing is written.
        """

    def view(self) -> tuple[Tensor, ...]:
        """Return each stream as (b, g, s, width), s the longest length; what stands beyond a sequence's own is padding."""

    def positions(self) -> Int[Tensor, "b s"]:
        """Return where the tokens that `view` gives stand in their sequences; -1 for padding."""


def visible_in_cache(
    queries: Int[Tensor, "b t"], keys: Int[Tensor, "b s"], *, window: int | None = None, sinks: int = 0
) -> Bool[Tensor, "b 1 t s"]:
    """Return who sees whom by position, (b, 1, t, s): keys not after the query and none that is padding.

    Args:
        queries: positions of the queries.
        keys: positions of the keys; -1 for padding.
        window: only the last so many, the query's own included (default: all).
        sinks: tokens at the sequence's begin that are seen beside the window.
    """
    distance = queries[:, :, None] - keys[:, None, :]
    visible = (distance >= 0) & (keys >= 0)[:, None, :]
    if window is not None:
        visible = visible & ((distance < window) | (keys < sinks)[:, None, :])
    return visible[:, None]


def visible_through(
    cache: KeyValueCache, queries: Int[Tensor, "b t"], *, window: int | None = None, sinks: int = 0
) -> Bool[Tensor, "b 1 t s"]:
    """Return who sees whom of what a cache holds: what a layer's window and sinks let through, and the cache's own.

    A ring holds more than its window, as much as the text's last piece was long. If all of that were seen, the output
    would hang on how the text was cut.

    Args:
        queries: positions of the queries.
        window: keys that a query sees, its own included (default: all).
        sinks: tokens at the sequence's begin that are seen beside the window.
    """
    keys = cache.positions()
    visible = visible_in_cache(queries, keys, window=window, sinks=sinks)
    if cache.window is None:
        return visible
    return visible & visible_in_cache(queries, keys, window=cache.window, sinks=cache.sinks)


def read_cache(
    cache: KeyValueCache, queries: Int[Tensor, "b t"], *, dtype: torch.dtype, window: int | None = None, sinks: int = 0
) -> tuple[tuple[Tensor, ...], Bool[Tensor, "b 1 t s"]]:
    """Return what a cache holds, with zeros where no query looks, and what queries at these positions see of it.

    Args:
        queries: positions of the queries.
        dtype: that in which the streams are returned.
        window: keys that a query sees, its own included (default: all).
        sinks: tokens at the sequence's begin that are seen beside the window.
    """
    visible = visible_through(cache, queries, window=window, sinks=sinks)
    unseen = ~visible.any(dim=2)[..., None]  # may hold anything, and a weight of 0 times NaN is NaN
    # No other dtype than the cache's own, but under autocast.
    return tuple(x.masked_fill(unseen, 0.0).to(dtype) for x in cache.view()), visible
