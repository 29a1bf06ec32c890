"""Multiplicative attention as a layer of a sequence-to-sequence model."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.layer import Form, check_impl, form_of
from attncourse._shared.masks import apply_mask, blank_padding, length_mask, masked_softmax
from attncourse._shared.precision import as_autocast
from attncourse._shared.validate import check_key_lengths, check_states, check_widths, require

from .inputs import check_radius
from .reference import (
    concat_scores,
    dot_scores,
    gaussian_weights,
    general_scores,
    local_window,
    multiplicative_attention,
    predicted_positions,
)

SCORES = ("dot", "general", "concat")
LOCALITIES = ("global", "local_m", "local_p")


class MultiplicativeAttention(nn.Module):
    """The layer reads a memory (b, s, dm) with queries (b, t, dq) by one of Luong's scores, globally or in a window.

    Luong, Pham and Manning 2015, https://arxiv.org/abs/1508.04025, section 3.

    Args:
        query_dim: width of the queries.
        memory_dim: width of the memory, which serves as keys and values; equal to query_dim for "dot".
        score: "dot", "general" or "concat".
        hidden_dim: width of concat's hidden layer, and of local-p's predictor (default: query_dim).
        locality: "global"; "local_m", a window about the query's own time step; "local_p", about a predicted position,
            weighted by a Gaussian.
        radius: D, how many keys the window reaches to either side.
        impl: "reference" (the definition) or "triton" (the kernels).
    """

    # Of a global read by dot product; other scores and windows have kernels of their own.
    forms: ClassVar[dict[str, Form]] = {
        "reference": multiplicative_attention,
        "triton": "attncourse.multiplicative.kernel:multiplicative_attention_triton",
    }

    def __init__(
        self,
        query_dim: int,
        memory_dim: int,
        *,
        score: str = "general",
        hidden_dim: int | None = None,
        locality: str = "global",
        radius: int | None = None,
        impl: str = "reference",
    ):
        super().__init__()
        require(score in SCORES, f"score must be one of {', '.join(SCORES)}, got {score!r}")
        require(locality in LOCALITIES, f"locality must be one of {', '.join(LOCALITIES)}, got {locality!r}")
        check_impl(impl, self.forms)
        widths = f"got query_dim={query_dim}, memory_dim={memory_dim}"
        require(score != "dot" or query_dim == memory_dim, f"score='dot' needs equal widths, {widths}")
        if locality != "global":
            check_radius(radius)
        hidden_dim = query_dim if hidden_dim is None else hidden_dim
        check_widths(query_dim=query_dim, memory_dim=memory_dim, hidden_dim=hidden_dim)
        self.score, self.locality, self.radius, self.impl = score, locality, radius, impl
        self.query_dim, self.memory_dim = query_dim, memory_dim
        if score == "general":
            self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(query_dim, memory_dim)))
        elif score == "concat":
            self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(hidden_dim, query_dim + memory_dim)))
            self.w_score = nn.Parameter(torch.randn(hidden_dim) * hidden_dim**-0.5)
        if locality == "local_p":
            self.w_position = nn.Parameter(nn.init.xavier_uniform_(torch.empty(hidden_dim, query_dim)))
            self.v_position = nn.Parameter(torch.randn(hidden_dim) * hidden_dim**-0.5)

    def forward(
        self,
        query: Float[Tensor, "b t dq"],
        memory: Float[Tensor, "b s dm"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        positions: Int[Tensor, " t"] | None = None,
        need_weights: bool = False,
    ):
        """Return the context (b, t, dm); with need_weights also the alignment (b, t, s).

        Args:
            key_lengths: (b,) integers; later keys are padding, whatever they hold.
            need_weights: whether the alignment is returned, too.
            positions: the target time steps of the queries, which "local_m" needs.

        Raises:
            ValueError: a shape, dtype or device does not fit; "local_m" without positions; weights asked of the
                kernels, which never hold them; a window for the concat score asked of the kernels.
        """
        like = next(self.parameters(), query)  # the dot score has none
        check_states(query, memory, query_dim=self.query_dim, memory_dim=self.memory_dim, like=like)
        check_key_lengths(key_lengths, b=memory.shape[0], s=memory.shape[1], like=query)
        q, k = as_autocast(
            query[:, None], memory[:, None]
        )  # parameters follow: nothing but autocast parts their dtypes
        if self.impl == "triton":
            require(not need_weights, "impl='triton' never forms weights: use impl='reference'")
            return self._by_kernel(q, k, key_lengths, positions)[:, 0]
        weights = self._weights(q, blank_padding(k, key_lengths), key_lengths, positions)
        weights = weights.to(k.dtype)
        context = (weights @ blank_padding(k, key_lengths))[:, 0]
        return (context, weights[:, 0]) if need_weights else context

    def _weights(self, q, k, key_lengths, positions):
        if self.score == "dot":
            scores = dot_scores(q, k)
        elif self.score == "general":
            scores = general_scores(q, k, self.weight.to(q.dtype))
        else:
            scores = concat_scores(q, k, self.weight.to(q.dtype), self.w_score.to(q.dtype))
        if key_lengths is not None:
            scores = apply_mask(scores, length_mask(key_lengths, k.shape[2]))
        if self.locality == "global":
            return masked_softmax(scores)
        centres = self._centres(q, k, key_lengths, positions)
        weights = masked_softmax(apply_mask(scores, local_window(centres, k.shape[2], radius=self.radius) > 0))
        if self.locality == "local_m":
            return weights
        return weights * gaussian_weights(centres, k.shape[2], radius=self.radius).to(weights.dtype)

    def _centres(self, q, k, key_lengths, positions):
        """Return the middle of each query's window, (b, 1, t)."""
        b, _, t, _ = q.shape
        if self.locality == "local_m":
            require(positions is not None, "locality='local_m' needs positions, the queries' target time steps")
            require(positions.shape == (t,), f"positions must have shape ({t},), got {tuple(positions.shape)}")
            # Not q's dtype: bfloat16 knows no odd number beyond 256.
            return positions.to(torch.promote_types(q.dtype, torch.float32)).expand(b, 1, t)
        lengths = torch.full((b,), k.shape[2], device=q.device) if key_lengths is None else key_lengths
        return predicted_positions(q, self.w_position.to(q.dtype), self.v_position.to(q.dtype), lengths)

    def _by_kernel(self, q, k, key_lengths, positions):
        from . import kernel  # Triton is there on Linux alone

        weight = self.weight.to(q.dtype) if self.score != "dot" else None
        if self.score == "concat":
            require(self.locality == "global", "impl='triton' has no window for score='concat': use impl='reference'")
            return kernel.concat_attention_triton(q, k, k, weight, self.w_score.to(q.dtype), key_lengths=key_lengths)
        if self.locality == "global":
            return form_of(self.impl, self.forms)(q, k, k, weight, key_lengths=key_lengths)
        centres, gaussian = self._centres(q, k, key_lengths, positions), None
        if self.locality == "local_p":
            gaussian = gaussian_weights(centres, k.shape[2], radius=self.radius)
        return kernel.luong_local_attention_triton(
            q, k, k, centres, weight, radius=self.radius, gaussian=gaussian, key_lengths=key_lengths
        )
