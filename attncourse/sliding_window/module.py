"""Local attention as a layer: project for all heads, let each token see its neighbours, project back."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths, sdpa_under
from attncourse._shared.precision import outside_autocast
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_tokens, require

from .blocked import sliding_window_attention_blocked
from .pattern import check_local, local_band
from .reference import local_mask, sliding_window_attention
from .streaming import WindowCache, sliding_window_attention_step


@outside_autocast
def sliding_window_attention_torch(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    **pattern,
) -> Float[Tensor, "b h t dv"]:
    """`scaled_dot_product_attention` under `local_mask`: fused, and still all t s pairs; empty rows give zeros."""
    check_local(q, k, v, key_lengths)
    visible = local_mask(q.shape[2], k.shape[2], **pattern, device=q.device)
    return sdpa_under(q, k, v, visible, key_lengths=key_lengths, scale=scale)


class SlidingWindowAttention(nn.Module):
    """Multi-head self-attention in which a token sees its neighbours alone.

    Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, section 3.1. Give a window for a layer blind to the future, a
    radius for one that reads both ways.

    Args:
        d_model: width of the tokens.
        n_heads: number of heads; it divides d_model unless head_dim is told.
        window, radius, dilation, sinks: who sees whom, as in `local_mask`.
        n_kv_heads: heads of keys and values, n_heads unless told; it divides n_heads.
        head_dim: width of a head, d_model / n_heads unless told.
        bias: whether the four projections add a bias.
        rope: turns each head's queries and keys by their positions.
        impl: "blocked" (time and memory linear in the length), "reference" (the definition), "torch" (PyTorch's fused
            attention under the dense mask) or "triton" (the kernel; interpreted without a GPU).

    Raises:
        ValueError: a width, a head count, a pattern or an impl that does not fit.
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": sliding_window_attention,
        "blocked": sliding_window_attention_blocked,
        "torch": sliding_window_attention_torch,
        "triton": "attncourse.sliding_window.kernel:sliding_window_attention_triton",
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        window: int | None = None,
        radius: int | None = None,
        dilation: int = 1,
        sinks: int = 0,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        rope: RotaryEmbedding | None = None,
        impl: str = "blocked",
    ):
        super().__init__()
        n_kv_heads, head_dim, _ = head_widths(d_model, n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, rope=rope)
        check_impl(impl, self.forms)
        local_band(window=window, radius=radius, dilation=dilation, sinks=sinks)
        self.pattern = dict(window=window, radius=radius, dilation=dilation, sinks=sinks)
        self.n_heads, self.n_kv_heads, self.head_dim, self.rope, self.impl = n_heads, n_kv_heads, head_dim, rope, impl
        self.w_q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.w_k = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.w_v = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.w_o = nn.Linear(n_heads * head_dim, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        cache: WindowCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The output of each token.

        Args:
            key_lengths: later tokens are padding, whatever they hold.
            cache: what earlier tokens left, as `empty_cache` begins it; x are the next ones, and the cache moves on
                (`impl` is then "blocked").

        Raises:
            ValueError: a cache of another kind or pattern than the layer's, or beside key_lengths; as the functions behind
                each impl.
        """
        check_tokens(x, self.w_q.weight)
        self._check_cache(cache, key_lengths)
        q = split_heads(self.w_q(x), self.n_heads)
        k, v = (split_heads(project(x), self.n_kv_heads) for project in (self.w_k, self.w_v))
        if self.rope is not None:
            positions = torch.arange(x.shape[1], device=x.device) + (0 if cache is None else cache.seen)
            q, k = self.rope(q, positions), self.rope(k, positions)
        if cache is not None:
            return self.w_o(merge_heads(sliding_window_attention_step(q, k, v, cache)))
        return self.w_o(merge_heads(form_of(self.impl, self.forms)(q, k, v, key_lengths=key_lengths, **self.pattern)))

    def empty_cache(self, b: int) -> WindowCache:
        """A cache for b sequences from their beginning.

        Raises:
            ValueError: a radius, since a later token would have to change what was already given out.
        """
        require(self.pattern["radius"] is None, "a layer with a radius sees ahead and cannot stream: use a window")
        kept = {name: self.pattern[name] for name in ("window", "dilation", "sinks")}
        return WindowCache.empty(b, self.n_kv_heads, self.head_dim, **kept, like=self.w_k.weight)

    def _check_cache(self, cache, key_lengths):
        if cache is None:
            return
        require(
            isinstance(cache, WindowCache),
            f"this layer streams through a WindowCache, as its empty_cache(b) gives, got {type(cache).__name__}",
        )
        require(key_lengths is None, "a cache holds whole sequences: give key_lengths or a cache, not both")
        kept = dict(window=cache.window, radius=None, dilation=cache.dilation, sinks=cache.sinks)
        require(kept == self.pattern, f"a cache keeps what its layer sees, {self.pattern}, got one for {kept}")
