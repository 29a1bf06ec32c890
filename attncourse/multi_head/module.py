"""Multi-head attention as a layer: project for all heads at once, attend, project back."""

import copy
from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_dropout, check_impl, form_of, head_widths
from attncourse._shared.masks import Masking
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_context, check_key_lengths, check_widths, require
from attncourse.softmax_attention import (
    attention_weights,
    mix_values,
    softmax_attention,
    softmax_attention_blocked,
    softmax_attention_torch,
)


class MultiHeadAttention(nn.Module):
    """The layer is several attentions side by side over a sequence, or from one sequence into another.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.2. Each of w_q, w_k, w_v holds the matrices of
    all heads, one below the other, and w_o those that bring the heads' outputs back, side by side.

    Args:
        d_model: width of the queries' sequence, and of the output.
        n_heads: number of heads; it divides d_model where no head_dim is given.
        d_context: width of the sequence that is read (default: d_model).
        head_dim: width of a head's queries and keys (default: d_model / n_heads).
        v_head_dim: width of a head's values (default: head_dim).
        bias: whether the four projections add a bias.
        causal: query i of t stands at position s - t + i and sees nothing after it.
        rope: turns each head's queries and keys by their positions.
        scale: factor on q . k (default: head_dim ** -0.5).
        dropout: probability with which a weight is dropped in training (reference and torch only).
        impl: "torch" (PyTorch's fused attention), "blocked" (memory linear in the length), "reference" (the definition)
            or "triton" (the kernel; interpreted without a GPU).

    Raises:
        ValueError: a width, a head count, an impl or a dropout that does not fit.
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
        n_heads: int,
        *,
        d_context: int | None = None,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        bias: bool = False,
        causal: bool = False,
        rope: RotaryEmbedding | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        impl: str = "torch",
    ):
        super().__init__()
        d_context = d_model if d_context is None else d_context
        check_widths(d_context=d_context)
        _, head_dim, v_head_dim = head_widths(d_model, n_heads, head_dim=head_dim, v_head_dim=v_head_dim, rope=rope)
        check_impl(impl, self.forms)
        check_dropout(dropout, impl)
        self.d_model, self.n_heads, self.d_context = d_model, n_heads, d_context
        self.head_dim, self.v_head_dim = head_dim, v_head_dim
        self.causal, self.rope, self.scale, self.dropout, self.impl = causal, rope, scale, dropout, impl
        self.w_q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.w_k = nn.Linear(d_context, n_heads * head_dim, bias=bias)
        self.w_v = nn.Linear(d_context, n_heads * v_head_dim, bias=bias)
        self.w_o = nn.Linear(n_heads * v_head_dim, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s dc"] | None = None,
        *,
        key_lengths: Int[Tensor, " b"] | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        positions: Int[Tensor, " s"] | Int[Tensor, "b s"] | None = None,
        head_mask: Bool[Tensor, " h"] | Float[Tensor, " h"] | None = None,
        need_weights: bool = False,
    ):
        """Return the output (b, t, d); with need_weights also the weights (b, h, t, s), as they are before dropout.

        Args:
            need_weights: whether the weights are returned, too.
            context: what is read (default: x itself).
            key_lengths: later keys are padding, whatever they hold.
            mask: boolean (True = visible) or floats to add to the scores, broadcastable to (b, h, t, s).
            positions: where the s tokens that are read stand, for the rotary embedding (default: 0, 1, ...). The t
                queries are the last t of them.
            head_mask: a factor on each head's output.

        Raises:
            ValueError: a shape, dtype or device does not fit; weights asked of an impl that never forms them.
        """
        context = x if context is None else context
        self._check(x, context, key_lengths, positions, head_mask, need_weights)
        q, k, v = (
            split_heads(project(y), self.n_heads)
            for project, y in ((self.w_q, x), (self.w_k, context), (self.w_v, context))
        )
        if self.rope is not None:
            t, s = x.shape[1], context.shape[1]
            positions = torch.arange(s, device=x.device) if positions is None else positions
            k, q = self.rope(k, positions), self.rope(q, positions[..., s - t :])
        masking: Masking = {"causal": self.causal, "key_lengths": key_lengths, "mask": mask, "scale": self.scale}
        weights = attention_weights(q, k, **masking) if need_weights or self._drops else None
        out = self._attend(q, k, v, weights, masking)
        if head_mask is not None:
            out = out * head_mask.to(out.dtype)[:, None, None]
        out = self.w_o(merge_heads(out))
        return (out, weights) if need_weights else out

    def without_heads(self, heads: Iterable[int]) -> "MultiHeadAttention":
        """Return a smaller layer that computes what this one does with these heads masked.

        Michel et al. 2019, https://arxiv.org/abs/1905.10650. The other heads keep their order and copies of their
        parameters.

        Raises:
            ValueError: a head that is not there, or no head left.
        """
        dropped = set(heads)
        kept = [i for i in range(self.n_heads) if i not in dropped]
        require(
            dropped <= set(range(self.n_heads)) and len(kept) > 0,
            f"heads must be some, not all, of 0..{self.n_heads - 1}, got {sorted(dropped)}",
        )
        smaller = copy.deepcopy(self)
        smaller.n_heads = len(kept)
        for linear in (smaller.w_q, smaller.w_k, smaller.w_v):
            linear.weight = _keep_heads(linear.weight, kept, self.n_heads)
            if linear.bias is not None:
                linear.bias = _keep_heads(linear.bias, kept, self.n_heads)
            linear.out_features = len(linear.weight)
        # The bias of w_o belongs to no head.
        smaller.w_o.weight = _keep_heads(smaller.w_o.weight, kept, self.n_heads, dim=1)
        smaller.w_o.in_features = smaller.w_o.weight.shape[1]
        return smaller

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0 and self.impl == "reference"

    def _attend(self, q, k, v, weights, masking):
        if weights is not None:
            kept = nn.functional.dropout(weights, self.dropout) if self._drops else weights
            return mix_values(kept, v, key_lengths=masking["key_lengths"])
        if self.impl == "torch":
            masking = masking | dict(dropout=self.dropout if self.training else 0.0)
        return form_of(self.impl, self.forms)(q, k, v, **masking)

    def _check(self, x, context, key_lengths, positions, head_mask, need_weights):
        check_context(x, context, self.w_q.weight, self.w_k.weight)
        (b, t, _), s = x.shape, context.shape[1]
        check_key_lengths(key_lengths, b=b, s=s, like=x)
        if head_mask is not None and head_mask.shape != (self.n_heads,):
            raise ValueError(f"head_mask must have shape ({self.n_heads},), got {tuple(head_mask.shape)}")
        if self.rope is None and positions is not None:
            raise ValueError("positions are for a rotary embedding: give the layer a rope")
        if self.rope is not None and t > s:
            raise ValueError(f"with a rope the queries are the last t of the s tokens that are read, got t={t}, s={s}")
        if need_weights and self.impl != "reference":
            raise ValueError(f"impl={self.impl!r} never forms weights: use 'reference'")


def _keep_heads(parameter: Tensor, kept: list[int], n_heads: int, dim: int = 0) -> nn.Parameter:
    """Return a copy of the parts of a parameter that these heads own along this axis."""
    by_head = parameter.detach().unflatten(dim, (n_heads, -1))
    index = torch.tensor(kept, device=parameter.device)
    return nn.Parameter(by_head.index_select(dim, index).flatten(dim, dim + 1), parameter.requires_grad)
