"""Softmax attention as a layer: project, attend, project."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from attncourse._shared.layer import Form, check_dropout, check_impl, form_of, head_widths, sdpa_under
from attncourse._shared.masks import Masking, narrow_mask, visible_keys
from attncourse._shared.precision import outside_autocast
from attncourse._shared.validate import check_attention, check_context, check_widths

from .blocked import softmax_attention_blocked
from .reference import attention_weights, mix_values, softmax_attention


@outside_autocast
def softmax_attention_torch(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    causal: bool = False,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b h t dv"]:
    """Return what `scaled_dot_product_attention` does with this course's masks:
    causal aligned to the end, empty rows give zeros.

    PyTorch's own `is_causal` aligns to the start; it is used only where t = s, where both agree.

    Args:
        causal: query i of t stands at position s - t + i and sees nothing after it.
        window: a causal band of this many keys, the query's own included (implies causal).
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        mask: boolean (True = visible) or floats to add, broadcastable to (b, h, t, s).
        scale: factor on q . k (default: dk ** -0.5).
        dropout: probability with which a weight is dropped.

    Raises:
        ValueError: a shape, dtype, device or range is wrong; the message names the rule and the values.
    """
    check_attention(q, k, v, window=window, key_lengths=key_lengths, mask=mask)
    t, s = q.shape[2], k.shape[2]
    if mask is None and key_lengths is None and window is None and (not causal or t == s):
        grouped = k.shape[1] != q.shape[1]
        return scaled_dot_product_attention(
            q, k, v, is_causal=causal, dropout_p=dropout, scale=scale, enable_gqa=grouped
        )
    added = q.new_zeros(t, s)  # grows only along the axes that a mask has
    visible = visible_keys(t, s, causal=causal, window=window, device=q.device)
    for allowed in (visible, mask):
        if allowed is not None and allowed.dtype == torch.bool:
            added = torch.where(allowed, added, -torch.inf)
        elif allowed is not None:
            added = added + narrow_mask(allowed, q.dtype)
    return sdpa_under(q, k, v, added, key_lengths=key_lengths, scale=scale, dropout=dropout)


class SoftmaxAttention(nn.Module):
    """The layer is one head of scaled dot-product attention over a sequence, or from one sequence into another.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.1, with learned projections before and after.

    Args:
        d_model: width of the queries' sequence, and of the output.
        d_context: width of the sequence that is read (default: d_model).
        head_dim: width of queries and keys (default: d_model).
        v_head_dim: width of values (default: head_dim).
        dropout: probability with which a weight is dropped in training (reference and torch only).
        causal: query i of t stands at position s - t + i and sees nothing after it.
        impl: "torch" (PyTorch's fused attention), "blocked" (memory linear in the length), "reference" (the definition)
            or "triton" (the kernel; interpreted without a GPU).

    Raises:
        ValueError: a width, an impl or a dropout that does not fit.
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": softmax_attention,
        "blocked": softmax_attention_blocked,
        "torch": softmax_attention_torch,
        "triton": "attncourse.softmax_attention.kernel:softmax_attention_triton",
    }

    def __init__(
        self,
        d_model: int,
        *,
        d_context: int | None = None,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        impl: str = "torch",
    ):
        super().__init__()
        check_impl(impl, self.forms)
        check_dropout(dropout, impl)
        d_context = d_model if d_context is None else d_context
        check_widths(d_context=d_context)
        _, head_dim, v_head_dim = head_widths(d_model, 1, head_dim=head_dim, v_head_dim=v_head_dim)
        self.dropout, self.causal, self.impl = dropout, causal, impl
        self.w_q = nn.Linear(d_model, head_dim, bias=False)
        self.w_k = nn.Linear(d_context, head_dim, bias=False)
        self.w_v = nn.Linear(d_context, v_head_dim, bias=False)
        self.w_o = nn.Linear(v_head_dim, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s dc"] | None = None,
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        need_weights: bool = False,
        need_lse: bool = False,
    ):
        """Return the output (b, t, d); with need_weights also (b, t, s), with need_lse also (b, t), in this order.

        Args:
            context: what is read (default: x).
            key_lengths: (b,) integers; later keys are padding, whatever they hold.
            mask: boolean (True = visible) or floats to add, broadcastable to (b, 1, t, s).
            need_weights, need_lse: whether the weights, and the log-sum-exp of the scores, are returned, too.

        Raises:
            ValueError: a shape, dtype or device does not fit; this impl has no weights or no log-sum-exp to give, and
                the message says which one has.
        """
        context = x if context is None else context
        check_context(x, context, self.w_q.weight, self.w_k.weight)
        q, k, v = (project(y)[:, None] for project, y in ((self.w_q, x), (self.w_k, context), (self.w_v, context)))
        masking: Masking = {"causal": self.causal, "key_lengths": key_lengths, "mask": mask}
        if need_weights and self.impl != "reference":
            raise ValueError(f"impl={self.impl!r} never forms weights: use 'reference'")
        if need_lse and self.impl == "torch":
            raise ValueError("impl='torch' gives no log-sum-exp: use any other")
        weights = attention_weights(q, k, **masking) if need_weights or self._drops else None
        out, lse = self._attend(q, k, v, weights, masking)
        result = [self.w_o(out[:, 0])]
        if need_weights and weights is not None:
            result.append(weights[:, 0])
        if need_lse:
            result.append(lse[:, 0])
        return result[0] if len(result) == 1 else tuple(result)

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0 and self.impl == "reference"

    def _attend(self, q, k, v, weights, masking):
        if self._drops:
            dropped = nn.functional.dropout(weights, self.dropout)
            _, lse = softmax_attention(q, k, v, **masking, return_lse=True)
            return mix_values(dropped, v, key_lengths=masking["key_lengths"]), lse
        attend = form_of(self.impl, self.forms)
        if self.impl == "torch":
            return attend(q, k, v, dropout=self.dropout if self.training else 0.0, **masking), None
        return attend(q, k, v, return_lse=True, **masking)
