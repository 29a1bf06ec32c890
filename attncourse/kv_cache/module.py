"""Self-attention as a layer that decodes: what it read stays in a cache, and each new token costs one query."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.cache import CacheShape, KeyValueCache
from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_tokens, check_window
from attncourse.softmax_attention import softmax_attention, softmax_attention_torch

from .reference import kv_cache_attention, read_cache


class CachedSelfAttention(nn.Module):
    """Causal multi-head self-attention, over a whole text or over the next tokens of one that a cache remembers.

    Args:
        d_model: width of the tokens.
        n_heads: number of heads; it divides d_model.
        window: a token sees this many, its own included; all before it unless told.
        rope: turns each head's queries and keys by their positions; keys are kept as turned.
        impl: "reference" (the definition), "torch" (PyTorch's fused attention) or "triton" (the kernel of softmax
            attention over what the cache gives; interpreted without a GPU).

    Raises:
        ValueError: a width, a window or an impl that does not fit.
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": softmax_attention,
        "torch": softmax_attention_torch,
        "triton": "attncourse.softmax_attention.kernel:softmax_attention_triton",
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        window: int | None = None,
        rope: RotaryEmbedding | None = None,
        impl: str = "torch",
    ):
        super().__init__()
        _, head_dim, _ = head_widths(d_model, n_heads, rope=rope)
        check_window(window)
        check_impl(impl, self.forms)
        self.n_heads, self.head_dim, self.window, self.rope, self.impl = n_heads, head_dim, window, rope, impl
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))

    @property
    def cache_shape(self) -> CacheShape:
        """What this layer keeps of a token: a key and a value for each head."""
        return CacheShape(self.n_heads, (self.head_dim, self.head_dim))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The output of each token.

        Args:
            key_lengths: how many of the t tokens of each sequence exist; the others are padding, whatever they hold.
            cache: what it holds of each sequence stands before x; the tokens of x are added to it. Of a ring no more is
                seen than its window, if that is less than the layer's.

        Raises:
            ValueError: x does not fit; as the cache's `append` and the functions behind each impl.
        """
        check_tokens(x, self.w_q.weight)
        q, k, v = (split_heads(project(x), self.n_heads) for project in (self.w_q, self.w_k, self.w_v))
        if self.rope is not None:
            positions = torch.arange(x.shape[1], device=x.device)
            if cache is not None:
                positions = cache.lengths[:, None] + positions
            q, k = self.rope(q, positions), self.rope(k, positions)
        if cache is None:
            return self.w_o(merge_heads(self._read(q, k, v, key_lengths)))
        cache.append(k, v, counts=key_lengths)
        return self.w_o(merge_heads(self._decode(q, cache, key_lengths)))

    def _read(self, q, k, v, key_lengths):
        """A whole text at once."""
        return form_of(self.impl, self.forms)(q, k, v, causal=True, window=self.window, key_lengths=key_lengths)

    def _decode(self, q, cache, counts):
        """The last tokens of what the cache holds."""
        if self.impl == "reference":
            return kv_cache_attention(q, cache, counts=counts, window=self.window)
        k, v, visible = read_cache(q, cache, counts=counts, window=self.window)
        return form_of(self.impl, self.forms)(q, k, v, mask=visible)
