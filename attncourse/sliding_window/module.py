"""Local attention as a layer: project for all heads, let each token see its neighbours, project back."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.cache import CacheShape, KeyValueCache, read_cache
from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths, sdpa_under
from attncourse._shared.precision import outside_autocast
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_tokens

from .blocked import sliding_window_attention_blocked
from .pattern import check_local, local_band
from .reference import local_mask, sliding_window_attention


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
    """Return what `scaled_dot_product_attention` does under `local_mask`:
    fused, and still all t s pairs; empty rows give zeros.

    Args:
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).
        pattern: window, radius, dilation, sinks, as in `local_mask`.
    """
    check_local(q, k, v, key_lengths)
    visible = local_mask(q.shape[2], k.shape[2], **pattern, device=q.device)
    return sdpa_under(q, k, v, visible, key_lengths=key_lengths, scale=scale)


class SlidingWindowAttention(nn.Module):
    """The layer is multi-head self-attention in which a token sees its neighbours alone.

    Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, section 3.1. Give a window for a layer blind to the future, a
    radius for one that reads both ways.

    Args:
        d_model: width of the tokens.
        n_heads: number of heads; it divides d_model where no head_dim is given.
        window, radius, dilation, sinks: who sees whom, as in `local_mask`.
        n_kv_heads: heads of keys and values (default: n_heads); it divides n_heads.
        head_dim: width of a head (default: d_model / n_heads).
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

    @property
    def cache_shape(self) -> CacheShape:
        """Return what a cache keeps of a token: a key, turned already, and a value for each key/value head."""
        return CacheShape(self.n_kv_heads, (self.head_dim, self.head_dim))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the output of each token.

        Args:
            key_lengths: how many of the t tokens of each sequence exist; those after them are padding.
            cache: what earlier tokens left; x are the next ones, and are added to it. A ring of the layer's window and
                sinks holds all that is ever seen again. PyTorch's attention reads it, whatever `impl` says.

        Raises:
            ValueError: a cache for a layer that sees ahead or is dilated, or a ring that keeps less than the layer
                sees; as the cache's append, and the functions behind each impl.
        """
        check_tokens(x, self.w_q.weight)
        if cache is not None:
            self._check_cache(cache)
        q = split_heads(self.w_q(x), self.n_heads)
        k, v = (split_heads(project(x), self.n_kv_heads) for project in (self.w_k, self.w_v))
        positions = torch.arange(x.shape[1], device=x.device)
        if cache is not None:
            positions = cache.lengths[:, None] + positions
        if self.rope is not None:
            q, k = self.rope(q, positions), self.rope(k, positions)
        if cache is not None:
            return self.w_o(merge_heads(self._decode(q, k, v, cache, positions, key_lengths)))
        return self.w_o(merge_heads(form_of(self.impl, self.forms)(q, k, v, key_lengths=key_lengths, **self.pattern)))

    def _decode(self, q, k, v, cache, positions, counts):
        """Add the next tokens to the cache, and attend to what it then holds of their windows."""
        cache.append(k, v, counts=counts)
        window, sinks = self.pattern["window"], self.pattern["sinks"]
        (k, v), visible = read_cache(cache, positions, dtype=q.dtype, window=window, sinks=sinks)
        return sdpa_under(q, k, v, visible)

    def _check_cache(self, cache):
        window, sinks, dilation = (self.pattern[name] for name in ("window", "sinks", "dilation"))
        if window is None:
            raise ValueError("a layer with a radius sees ahead and cannot stream: use a window")
        if dilation > 1:
            raise ValueError(f"a dilated layer reads whole texts alone: give it no cache, got dilation={dilation}")
        if cache.window is not None and (cache.window < window or cache.sinks < sinks):
            raise ValueError(
                f"a cache must keep what its layer sees, window={window} and sinks={sinks}, "
                f"got a ring of window={cache.window} and sinks={cache.sinks}"
            )
