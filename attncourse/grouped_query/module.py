"""Grouped-query attention as a layer: project to h query heads and g key/value heads, attend, project back."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse._shared.cache import CacheShape, KeyValueCache, visible_through
from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths
from attncourse._shared.masks import Masking
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_softcap, check_tokens, check_window, require
from attncourse.softmax_attention import (
    attention_weights,
    mix_values,
    softmax_attention_blocked,
    softmax_attention_torch,
)

from .blocked import grouped_query_decode
from .reference import grouped_query_attention


class GroupedQueryAttention(nn.Module):
    """The layer is self-attention whose h query heads share g heads of keys and values.

    Ainslie et al. 2023, https://arxiv.org/abs/2305.13245, section 2.2. n_kv_heads = n_heads is multi-head attention,
    n_kv_heads = 1 multi-query attention (Shazeer 2019, https://arxiv.org/abs/1911.02150). Query head i reads head i //
    (n_heads / n_kv_heads).

    Args:
        d_model: width of the tokens.
        n_heads: number of query heads; it divides d_model where no head_dim is given.
        n_kv_heads: number of key/value heads; it divides n_heads.
        head_dim: width of a head (default: d_model / n_heads).
        bias: whether the four projections add a bias.
        causal: a token sees nothing after it; a layer that decodes must be.
        window: a causal layer's token sees this many tokens, itself included (default: all).
        rope: turns each head's queries and keys by their positions.
        scale: factor on q . k (default: head_dim ** -0.5).
        softcap: bounds scores smoothly, softcap * tanh(score / softcap) (default: not at all).
        impl: what attends without a cache: "torch" (PyTorch's fused attention), "blocked" (memory linear in the
            length), "reference" (the definition), "triton" (the kernels; interpreted without a GPU) or "numba" (as
            "blocked"). With a cache "triton" and "numba" read it where it lies, on a GPU and on a processor; all others
            call `grouped_query_decode`.

    Raises:
        ValueError: a width, a head count or an impl that does not fit.
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": grouped_query_attention,
        "blocked": softmax_attention_blocked,
        "torch": softmax_attention_torch,
        "triton": "attncourse.grouped_query.kernel:grouped_query_attention_triton",
        "numba": softmax_attention_blocked,
    }
    # What reads a cache where it lies.
    decoders: ClassVar[dict[str, Form]] = {
        "triton": "attncourse.grouped_query.kernel:grouped_query_decode_triton",
        "numba": "attncourse.grouped_query.cpu_kernel:grouped_query_decode_numba",
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int,
        head_dim: int | None = None,
        bias: bool = False,
        causal: bool = True,
        window: int | None = None,
        rope: RotaryEmbedding | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        impl: str = "torch",
    ):
        super().__init__()
        _, head_dim, _ = head_widths(d_model, n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, rope=rope)
        check_impl(impl, self.forms)
        check_window(window)
        require(
            window is None or causal, f"a window ends at the token itself: causal must be True, got window={window}"
        )
        check_softcap(softcap)
        require(
            softcap is None or impl != "torch",
            f"PyTorch's fused attention bounds no scores: use impl='blocked', got softcap={softcap}, impl={impl!r}",
        )
        self.d_model, self.n_heads, self.n_kv_heads, self.head_dim = d_model, n_heads, n_kv_heads, head_dim
        self.causal, self.window, self.rope, self.impl = causal, window, rope, impl
        self.scale, self.softcap = scale, softcap
        self.w_q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.w_k = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.w_v = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.w_o = nn.Linear(n_heads * head_dim, d_model, bias=bias)

    @property
    def cache_shape(self) -> CacheShape:
        """Return what a cache keeps of a token: g keys, turned already, and g values."""
        return CacheShape(self.n_kv_heads, (self.head_dim, self.head_dim))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        cache: KeyValueCache | None = None,
        need_weights: bool = False,
    ):
        """Return the output (b, t, d) of each token; with need_weights also the weights (b, h, t, t).

        Args:
            need_weights: whether the weights are returned, too.
            key_lengths: how many of the t tokens of each sequence exist; those after them are padding.
            mask: boolean (True = visible) or floats to add to the scores, broadcastable to (b, h, t, t); without a
                cache only.
            cache: what earlier tokens left. x are the next ones; they are added to it and attend to what it holds: of a
                ring no more than its window, if that is less than the layer's.

        Raises:
            ValueError: a width or dtype does not fit; a cache beside a mask, or in a layer that is not causal; weights
                asked of another impl than the reference, or with a cache; as the cache's append.
        """
        check_tokens(x, self.w_q.weight)
        if need_weights and (self.impl != "reference" or cache is not None):
            got = f"got impl={self.impl!r}, cache={cache}"
            raise ValueError(f"weights are formed by impl='reference' without a cache, {got}")
        require(
            cache is None or (self.causal and mask is None),
            "decoding is causal attention without a further mask: with a cache give no mask, and build with causal=True",
        )
        q, k, v = (
            split_heads(project(x), heads)
            for project, heads in ((self.w_q, self.n_heads), (self.w_k, self.n_kv_heads), (self.w_v, self.n_kv_heads))
        )
        positions = torch.arange(x.shape[1], device=x.device)
        if cache is not None:
            positions = cache.lengths[:, None] + positions
        if self.rope is not None:
            q, k = self.rope(q, positions), self.rope(k, positions)
        if cache is None:
            masking: Masking = {"causal": self.causal, "window": self.window, "key_lengths": key_lengths, "mask": mask}
            masking |= self._scores
            weights = attention_weights(q, k, **masking) if need_weights else None
            out = (
                form_of(self.impl, self.forms)(q, k, v, **masking)
                if weights is None
                else mix_values(weights, v, key_lengths=key_lengths)
            )
            out = self.w_o(merge_heads(out))
            return (out, weights) if need_weights else out
        starts = cache.lengths
        cache.append(k, v, counts=key_lengths)
        return self.w_o(merge_heads(self._decode(q, cache, starts, positions)))

    @property
    def _scores(self) -> Masking:
        """Return what becomes of q . k; only what was given, since PyTorch's attention knows no softcap."""
        given: Masking = {}
        if self.scale is not None:
            given["scale"] = self.scale
        if self.softcap is not None:
            given["softcap"] = self.softcap
        return given

    def _decode(self, q, cache, starts, positions):
        if self.impl in self.decoders:
            return self._decode_in_place(q, cache, starts)
        k, v = (x.to(q.dtype) for x in cache.view())  # no other than the cache's own, but under autocast
        visible = visible_through(cache, positions, window=self.window)
        return grouped_query_decode(q, k, v, mask=visible, **self._scores)

    def _decode_in_place(self, q, cache, starts):
        """Attend to what the cache holds without copying, gathering or decoding it first;
        but blocks of channels, which no kernel reads.
        """
        require(
            cache.in_order, "the kernel reads a cache that holds position j in place j: for a ring use another impl"
        )
        streams = cache.storage if cache.in_slots else tuple((x.contiguous(),) for x in cache.view())
        tensors = dict(cache_seqlens=cache.lengths, starts=starts, block_table=cache.block_table)
        vectors = []
        for which, (codes, *beside) in zip("kv", streams, strict=True):
            # Without a codec they are of no other dtype than q, but under autocast.
            vectors.append(codes if beside else codes.to(q.dtype))
            tensors |= dict(zip((f"{which}_scale", f"{which}_zero"), beside, strict=False))
        decode = form_of(self.impl, self.decoders)
        return decode(q, *vectors, window=self.window, **tensors, **self._scores)
