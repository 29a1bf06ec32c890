"""What a key-value cache costs, by arithmetic from a published config: bytes stored, bytes read, products made.

Pope et al. 2022, https://arxiv.org/abs/2211.05102, for decoding against bandwidth and for what tensor parallelism can
and cannot split; DeepSeek-AI 2024, https://arxiv.org/abs/2405.04434, table 1, for the four designs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attncourse._shared.cache import CacheShape
from attncourse._shared.validate import check_widths, require

from .codec import Codec, Fp8, Int4, Int8, Plain
from .configs import MODELS
from .layers import Layer, read_config
from .layout import token_nbytes

# How vectors are stored under each name: the cache's dtype, and the codec with its group.
STORED: dict[str, tuple[torch.dtype, Callable[[int | None], Codec]]] = {
    "float32": (torch.float32, lambda group: Plain()),
    "bfloat16": (torch.bfloat16, lambda group: Plain()),
    "float16": (torch.float16, lambda group: Plain()),
    "float8_e4m3fn": (torch.float32, Fp8),
    "int8": (torch.float32, Int8),
    "int4": (torch.float32, Int4),
}


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer of attention, for one sequence, is what it stores, reads and computes.

    Args:
        design: "MHA", "GQA", "MQA" or "MLA"; "state" where it keeps no keys of tokens but a state of fixed size (linear
            attention, a state space, a convolution), "none" where it has no attention.
        kind: "full", "window" or "chunk"; "shared" where it reads what an earlier layer stores, "none" where it reads
            nothing.
        n_heads: query heads.
        shape: heads and widths that it reads, as a real cache takes them; no heads where it reads nothing.
        window: how many tokens it sees, of a window or a chunk; None for all.
        has_state: whether it keeps a state of fixed size, instead or beside; its bytes are not counted.
        bytes_per_token: stored of a token, scales and zeros included; 0 where nothing is.
        tokens: tokens that are held.
        bytes_read: read to decode one token.
        flops: operations on what is read to decode one token: every query head's scores and mixture.
    """

    design: str
    kind: str
    n_heads: int
    shape: CacheShape
    window: int | None
    has_state: bool
    bytes_per_token: int
    tokens: int
    bytes_read: int
    flops: int

    @property
    def elements_per_token(self) -> int:
        """Return the numbers stored of a token, whatever their precision."""
        return self.shape.n_kv_heads * sum(self.shape.widths) if self.bytes_per_token else 0

    def on_device(self, size: int, tensor_parallel: int) -> int:
        """Return a device's part of `size` bytes:
        its heads' share, or one head's where there are more devices than heads.

        Args:
            size: bytes of all heads.
            tensor_parallel: devices.
        """
        heads = max(1, self.shape.n_kv_heads // tensor_parallel)
        return size * heads // self.shape.n_kv_heads if size else 0


@dataclass(frozen=True)
class CacheCost:
    """The cost is the cache of a whole model, in bytes; "token" is one position of one sequence, through all layers.

    Not counted: block tables and lengths (4 bytes a page and a sequence), what an allocator wastes, the cache of a head
    for multi-token prediction, where a model has one, and states of fixed size, which no token adds to (`has_state`). A
    chunk is counted when it is full.
    """

    layers: tuple[LayerCost, ...]
    context: int
    batch: int
    dtype: str
    tensor_parallel: int

    @property
    def elements_per_token(self) -> int:
        """Return the numbers that one more token adds while no window is full."""
        return sum(layer.elements_per_token for layer in self.layers)

    @property
    def bytes_per_token(self) -> int:
        """Return the bytes that one more token adds while no window is full."""
        return sum(layer.bytes_per_token for layer in self.layers)

    @property
    def bytes_per_sequence(self) -> int:
        """Return the bytes of one sequence of `context` tokens, windows and pages considered."""
        return sum(layer.bytes_per_token * layer.tokens for layer in self.layers)

    @property
    def bytes_total(self) -> int:
        """Return the bytes of the batch, stored once."""
        return self.batch * self.bytes_per_sequence

    @property
    def bytes_per_sequence_on_device(self) -> int:
        """Return the bytes of one sequence on each of the tensor-parallel devices."""
        parts = (layer.on_device(layer.bytes_per_token, self.tensor_parallel) * layer.tokens for layer in self.layers)
        return sum(parts)

    @property
    def bytes_on_device(self) -> int:
        """Return the bytes of the batch on each of the tensor-parallel devices."""
        return self.batch * self.bytes_per_sequence_on_device

    @property
    def bytes_read_on_device(self) -> int:
        """Return the bytes that each device reads of its cache for one step:
        one more token of every sequence of the batch.
        """
        return self.batch * sum(layer.on_device(layer.bytes_read, self.tensor_parallel) for layer in self.layers)

    @property
    def copies(self) -> float:
        """Return how often all devices together store what one would store once; 1 where heads are shared out."""
        return self.tensor_parallel * self.bytes_per_sequence_on_device / self.bytes_per_sequence

    @property
    def flops_per_step(self) -> int:
        """Return the operations of attention to what is stored in one step, on all devices together.

        Latent attention is counted absorbed: scores and mixtures are made of the latents themselves.
        """
        return self.batch * sum(layer.flops for layer in self.layers)

    @property
    def flops_per_byte(self) -> float:
        """Return operations per byte that a device reads:
        while its own ratio is larger, reading is what takes the time.
        """
        return self.flops_per_step / self.tensor_parallel / self.bytes_read_on_device

    def seconds_per_step(self, bandwidth: float, *, weights: float = 0) -> float:
        """Return the least time of one step of the batch, in seconds: what each device reads, over its bandwidth.

        Args:
            bandwidth: bytes per second.
            weights: bytes of weights that a step reads besides, all devices together.
        """
        require(bandwidth > 0, f"bandwidth must be positive, in bytes a second, got {bandwidth}")
        return (self.bytes_read_on_device + weights / self.tensor_parallel) / bandwidth

    def sequences_that_fit(self, memory: float, *, weights: float = 0) -> int:
        """Return how many sequences of `context` tokens fit.

        Args:
            memory: bytes of each device.
            weights: bytes of the whole model, shared out evenly.

        Raises:
            ValueError: the weights alone are too large.
        """
        share = weights / self.tensor_parallel
        require(
            share <= memory,
            f"each device must hold its share of the weights, {share / 1e9:.4g} GB, in {memory / 1e9:.4g} GB of memory",
        )
        return int((memory - share) // self.bytes_per_sequence_on_device)


def cost(
    config: Mapping[str, Any] | str,
    *,
    context: int,
    batch: int = 1,
    dtype: str = "bfloat16",
    group: int | None = None,
    tensor_parallel: int = 1,
    page_size: int | None = None,
) -> CacheCost:
    """Return the cache of `batch` sequences of `context` tokens.

    Args:
        context: tokens of each sequence.
        batch: sequences.
        config: published sizes under Hugging Face's names (num_hidden_layers, num_key_value_heads, kv_lora_rank,
            sliding_window, layer_types, ...), or a name in `MODELS`. A `config.json` may be given as it is: what it
            leaves out is what the class of its model_type supplies.
        dtype: float32, bfloat16, float16, float8_e4m3fn, int8 or int4. The last three store a float32 scale per group,
            and the integers a float32 zero.
        group: entries of a vector that share a scale (default: a whole vector); it divides every width.
        tensor_parallel: devices that share out the query heads. Stored heads are shared out as far as they go; with
            fewer than devices, each device keeps a copy of the one that its query heads read.
        page_size: tokens of a page, where the cache is paged: then whole pages are held.

    Raises:
        ValueError: a size that is missing, not positive or does not fit the others; a field about layers, heads,
            windows, sharing or compression that is not understood; a model that keeps no keys of tokens.
    """
    layers = read_config(_named(config) if isinstance(config, str) else config)
    optional = {name: size for name, size in (("group", group), ("page_size", page_size)) if size is not None}
    check_widths(context=context, batch=batch, tensor_parallel=tensor_parallel, **optional)
    require(dtype in STORED, f"dtype must be one of {', '.join(STORED)}, got {dtype!r}")
    kind, codec = STORED[dtype]

    def priced(layer: Layer) -> LayerCost:
        _check_shares(layer, tensor_parallel)
        shapes = [CacheShape(layer.n_kv_heads, (stream.width,)) for stream in layer.streams]
        stored = [token_nbytes(shape, codec=codec(group), dtype=kind) for shape in shapes]
        return _priced(layer, stored, context=context, page_size=page_size)

    each = {layer: priced(layer) for layer in set(layers)}  # models have many layers and few kinds of them
    return CacheCost(tuple(each[layer] for layer in layers), context, batch, dtype, tensor_parallel)


def _named(name: str) -> dict[str, Any]:
    require(name in MODELS, f"no model is named {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name].config


def _priced(layer: Layer, stored: list[int], *, context: int, page_size: int | None) -> LayerCost:
    """Return the cost of one layer, of whose streams a token's take `stored` bytes;
    where it shares them, it reads and does not store.
    """
    seen = context if layer.window is None else min(context, layer.window)
    read = [seen if stream.most is None else min(seen, stream.most) for stream in layer.streams]
    stores = bool(layer.streams) and layer.kind != "shared"
    return LayerCost(
        layer.name,
        layer.kind,
        layer.n_heads,
        CacheShape(layer.n_kv_heads, tuple(stream.width for stream in layer.streams)),
        layer.window,
        layer.has_state,
        bytes_per_token=sum(stored) if stores else 0,
        tokens=_held(context, seen, page_size) if stores else 0,
        bytes_read=sum(n * size for n, size in zip(read, stored, strict=True)),
        flops=sum(n * stream.flops for n, stream in zip(read, layer.streams, strict=True)),
    )


def _held(context: int, seen: int, page_size: int | None) -> int:
    """Return the last `seen` tokens of `context`, or, where the cache is paged,
    all tokens on the pages that these touch.
    """
    if page_size is None:
        return seen
    return ((context - 1) // page_size - (context - seen) // page_size + 1) * page_size


def _check_shares(layer: Layer, tensor_parallel: int) -> None:
    if not layer.streams:
        return
    require(
        layer.n_heads % tensor_parallel == 0,
        f"the {tensor_parallel} devices must share out the {layer.n_heads} query heads evenly",
    )
    many, few = max(layer.n_kv_heads, tensor_parallel), min(layer.n_kv_heads, tensor_parallel)
    require(
        many % few == 0,
        f"the {layer.n_kv_heads} key/value heads must divide the {tensor_parallel} devices, or the devices the heads",
    )
