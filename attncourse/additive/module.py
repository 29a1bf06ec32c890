"""Additive attention as a layer of a sequence-to-sequence model."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.layer import Form, check_impl, form_of
from attncourse._shared.masks import blank_padding
from attncourse._shared.precision import as_autocast
from attncourse._shared.validate import check_states, check_widths

from .blocked import additive_attention_blocked
from .reference import additive_attention, additive_weights


class AdditiveAttention(nn.Module):
    """The layer reads a memory (b, s, dm) with queries (b, t, dq): Bahdanau's alignment model.

    Bahdanau, Cho and Bengio 2014, https://arxiv.org/abs/1409.0473: w_q is W_a, w_k is U_a and w_score is v_a there,
    drawn as appendix B.1 says (normal, standard deviation 0.001; v_a zero). Differs from there: a zero v_a gives W_a
    and U_a no gradient in the first step, so w_score is drawn like the others, and all at Glorot's scale, which the
    course's short trainings need.

    Args:
        query_dim: width of the queries.
        memory_dim: width of the memory, which serves as keys and values.
        hidden_dim: width a of the scoring network.
        impl: "blocked" (without the hidden layer in memory), "reference" (the definition, which alone has weights to
            give) or "triton" (the kernel).
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": additive_attention,
        "blocked": additive_attention_blocked,
        "triton": "attncourse.additive.kernel:additive_attention_triton",
    }

    def __init__(self, query_dim: int, memory_dim: int, *, hidden_dim: int, impl: str = "blocked"):
        super().__init__()
        check_impl(impl, self.forms)
        check_widths(query_dim=query_dim, memory_dim=memory_dim, hidden_dim=hidden_dim)
        self.impl = impl
        self.w_q = nn.Parameter(torch.empty(hidden_dim, query_dim))
        self.w_k = nn.Parameter(torch.empty(hidden_dim, memory_dim))
        self.w_score = nn.Parameter(torch.empty(hidden_dim))
        nn.init.xavier_uniform_(self.w_q)
        nn.init.xavier_uniform_(self.w_k)
        nn.init.normal_(self.w_score, std=hidden_dim**-0.5)

    def forward(
        self,
        query: Float[Tensor, "b t dq"],
        memory: Float[Tensor, "b s dm"],
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        need_weights: bool = False,
    ):
        """Return the context (b, t, dm); with need_weights also the alignment (b, t, s).

        Args:
            key_lengths: (b,) integers; later keys are padding, whatever they hold.
            need_weights: whether the alignment is returned, too.

        Raises:
            ValueError: a shape, dtype or device does not fit; weights are asked of a form that never holds them.
        """
        check_states(query, memory, query_dim=self.w_q.shape[1], memory_dim=self.w_k.shape[1], like=self.w_q)
        q, k, *parameters = as_autocast(query[:, None], memory[:, None], self.w_q, self.w_k, self.w_score)
        if not need_weights:
            return form_of(self.impl, self.forms)(q, k, k, *parameters, key_lengths=key_lengths)[:, 0]
        if self.impl != "reference":
            raise ValueError(f"impl={self.impl!r} never forms weights: use impl='reference'")
        weights = additive_weights(q, k, *parameters, key_lengths=key_lengths)
        return (weights @ blank_padding(k, key_lengths))[:, 0], weights[:, 0]
