"""The transformer's block, of which every model here is a stack: attend, then think, each beside a residual path.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.1. There each sublayer is normalized after its addition;
here before it ("pre-norm", Xiong et al. 2020, https://arxiv.org/abs/2002.04745), which trains without a warm-up.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse._shared.cache import KeyValueCache
from attncourse._shared.rope import LearnedPositions, RotaryEmbedding
from attncourse._shared.validate import check_widths, require
from attncourse.multi_head import MultiHeadAttention

POSITIONS = ("rotary", "learned")


class FeedForward(nn.Module):
    """Two layers work on each token by itself, (b, t, d) to (b, t, d), four times as wide between them."""

    def __init__(self, d_model: int):
        super().__init__()
        self.widen = nn.Linear(d_model, 4 * d_model)
        self.narrow = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Apply both layers, with GELU between them (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415)."""
        return self.narrow(nn.functional.gelu(self.widen(x)))


class Block(nn.Module):
    """A block adds to x self-attention, cross-attention where there is something else to read, and a feed-forward.

    Args:
        d_model: width of the tokens.
        n_heads: heads of each attention.
        causal: whether self-attention is blind to the future.
        rope: turns queries and keys of self-attention.
        d_context: width of what cross-attention reads; None for a block without it.
        impl: as in `MultiHeadAttention`.
        attention: a layer in place of multi-head self-attention, (b, t, d) to (b, t, d); it sees to its own causality,
            positions and heads.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        causal: bool = False,
        rope: RotaryEmbedding | None = None,
        d_context: int | None = None,
        impl: str = "torch",
        attention: nn.Module | None = None,
    ):
        super().__init__()
        self.norm_self = nn.LayerNorm(d_model)
        if attention is None:
            attention = MultiHeadAttention(d_model, n_heads, bias=True, causal=causal, rope=rope, impl=impl)
        self.self_attention = attention
        self.norm_cross = self.cross_attention = None
        if d_context is not None:
            self.norm_cross = nn.LayerNorm(d_model)
            self.cross_attention = MultiHeadAttention(d_model, n_heads, d_context=d_context, bias=True, impl=impl)
        self.norm_feed = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s dc"] | None = None,
        *,
        lengths: Int[Tensor, " b"] | None = None,
        context_lengths: Int[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        head_mask: Bool[Tensor, " h"] | Float[Tensor, " h"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return x after the block.

        Args:
            context: what cross-attention reads.
            lengths, context_lengths: how many tokens of x and of context exist.
            mask, head_mask: of self-attention, as in `MultiHeadAttention`.
            cache: what self-attention keeps of the tokens before x, and adds x to; for layers that take one.

        Raises:
            ValueError: a context without cross-attention, or cross-attention without a context.
        """
        require(
            (context is None) == (self.cross_attention is None),
            "a block reads a context exactly if it was built with d_context, "
            f"got {'no context' if context is None else 'a context'}",
        )
        masking = dict(key_lengths=lengths, mask=mask, head_mask=head_mask, cache=cache)
        # A layer is told only what it is to heed, so that one that cannot take it says so.
        masking = {name: value for name, value in masking.items() if value is not None}
        x = x + self.self_attention(self.norm_self(x), **masking)
        if context is not None:
            x = x + self.cross_attention(self.norm_cross(x), context, key_lengths=context_lengths)
        return x + self.feed_forward(self.norm_feed(x))


class Stack(nn.Module):
    """A stack is blocks one after another, told the tokens' places, and a last normalization: (b, t, d) to (b, t, d).

    Args:
        d_model, n_heads: width of the tokens, and heads of each attention.
        n_layers: number of blocks.
        context: the longest sequence.
        positions: "rotary" turns queries and keys; "learned" adds a vector to each token before the first block.
        causal: whether self-attention is blind to the future.
        d_context: width of what cross-attention reads; None for blocks without it.
        impl, attention: as in `Block`; `attention` makes each block's own.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_layers: int,
        context: int,
        positions: str = "rotary",
        causal: bool = False,
        d_context: int | None = None,
        impl: str = "torch",
        attention: Callable[[], nn.Module] | None = None,
    ):
        super().__init__()
        check_widths(d_model=d_model, n_heads=n_heads, n_layers=n_layers, context=context)
        require(positions in POSITIONS, f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
        self.context = context
        self.places = LearnedPositions(context, d_model) if positions == "learned" else None
        rope = RotaryEmbedding(d_model // n_heads) if positions == "rotary" else None
        self.blocks = nn.ModuleList(
            Block(
                d_model, n_heads, causal=causal, rope=rope, d_context=d_context, impl=impl,
                attention=None if attention is None else attention(),
            )
            for _ in range(n_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s dc"] | None = None,
        *,
        head_mask: Bool[Tensor, "layers h"] | Float[Tensor, "layers h"] | None = None,
        caches: Sequence[KeyValueCache] | None = None,
        **masking,
    ) -> Float[Tensor, "b t d"]:
        """Return x after the last block, normalized; `masking` is lengths, context_lengths and mask, as in `Block`.

        Args:
            caches: one a block, for what stands before x.

        Raises:
            ValueError: more tokens than the longest sequence, those in the caches included; a head_mask that is not
                (layers, h), or not a cache a block.
        """
        require(
            head_mask is None or len(head_mask) == len(self.blocks),
            f"head_mask must be ({len(self.blocks)}, heads), got {tuple(getattr(head_mask, 'shape', ()))}",
        )
        require(
            caches is None or len(caches) == len(self.blocks),
            f"caches must be one for each of the {len(self.blocks)} blocks, got {len(caches or ())}",
        )
        x = self._place(x, masking.get("lengths"), caches)
        for i, block in enumerate(self.blocks):
            own = {name: each[i] for name, each in (("head_mask", head_mask), ("cache", caches)) if each is not None}
            x = block(x, context, **own, **masking)
        return self.norm(x)

    def _place(self, x: Tensor, lengths: Tensor | None, caches: Sequence[KeyValueCache] | None) -> Tensor:
        """Return x with the vectors of its positions, where they are learned;
        each row's begin after what its caches hold.
        """
        t = x.shape[1]
        if not caches:
            require(t <= self.context, f"there are {self.context} positions, got {t} tokens")
            return x if self.places is None else self.places(x)
        held = caches[0].lengths
        counts = torch.full_like(held, t) if lengths is None else lengths
        require(
            int((held + counts).max()) <= self.context,
            f"there are {self.context} positions, got {counts.tolist()} tokens after {held.tolist()} in the caches",
        )
        if self.places is None:
            return x
        positions = held[:, None] + torch.arange(t, device=x.device)
        return self.places(x, positions.clamp_max(self.context - 1))  # only padding would stand beyond


@contextlib.contextmanager
def watch_weights(*layers: nn.Module) -> Iterator[list[Float[Tensor, "b h t s"]]]:
    """Yield a list that fills with the weights of each call of these layers; inside, they run as impl="reference".

    Raises:
        ValueError: a layer that does not give its weights (has no `need_weights`).
    """
    for layer in layers:
        require(
            "need_weights" in inspect.signature(layer.forward).parameters,
            f"{type(layer).__name__} does not give its weights: build the model with an attention that has need_weights",
        )
    seen, before = [], [layer.impl for layer in layers]

    def ask(layer, arguments, options):
        return arguments, {**options, "need_weights": True}

    def keep(layer, arguments, result):
        out, weights = result
        seen.append(weights)
        return out

    hooks = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    try:
        for layer in layers:
            layer.impl = "reference"
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for layer, impl in zip(layers, before, strict=True):
            layer.impl = impl


def init_embeddings(*embeddings: nn.Embedding) -> None:
    """Start with small vectors, as GPT-2 does: PyTorch's own, of length sqrt(d), drown what the blocks add."""
    with torch.no_grad():
        for embedding in embeddings:
            embedding.weight.normal_(std=0.02)
