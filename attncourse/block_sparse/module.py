"""Block-sparse attention as a layer: project for all heads, attend along the pattern, project back."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.heads import merge_heads, split_heads
from attncourse._shared.layer import Form, check_impl, form_of, head_widths, sdpa_under
from attncourse._shared.precision import outside_autocast
from attncourse._shared.rope import RotaryEmbedding
from attncourse._shared.validate import check_tokens, require

from .blocked import block_sparse_attention_blocked
from .inputs import check_pattern
from .pattern import BlockPattern
from .reference import block_sparse_attention


@outside_autocast
def block_sparse_attention_torch(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b g s dk"],
    v: Float[Tensor, "b g s dv"],
    *,
    pattern: BlockPattern,
    key_lengths: Int[Tensor, " b"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h t dv"]:
    """Return what `scaled_dot_product_attention` does with the pattern as a dense mask:
    t * s booleans, and t * s scores computed.

    Args:
        pattern: who sees whom; its first s positions are used.
        key_lengths: (b,) integers; later keys are padding, whatever they hold.
        scale: factor on q . k (default: dk ** -0.5).
    """
    check_pattern(pattern, q, k, v, key_lengths)
    visible = pattern.dense_mask(q.shape[2], k.shape[2]).to(q.device)
    return sdpa_under(q, k, v, visible, key_lengths=key_lengths, scale=scale)


class BlockSparseAttention(nn.Module):
    """The layer is multi-head self-attention in which a position sees what the pattern says.

    Child et al. 2019, https://arxiv.org/abs/1904.10509. All heads share the pattern.

    Args:
        d_model: width of the sequence.
        n_heads: query heads; they divide d_model where no head_dim is given.
        pattern: who sees whom, over at least as many positions as any sequence has.
        n_kv_heads: key/value heads (default: n_heads); they divide n_heads.
        head_dim: width of a head (default: d_model / n_heads).
        bias: whether the four projections add a bias.
        rope: turns each head's queries and keys by their positions.
        impl: "reference" (a mask on all scores), "blocked" (the live blocks alone), "torch" (PyTorch's fused attention
            with the dense mask) or "triton" (the kernel; interpreted without a GPU).

    Raises:
        ValueError: a width, a head count, a rope, a pattern or an impl that does not fit.
    """

    forms: ClassVar[dict[str, Form]] = {
        "reference": block_sparse_attention,
        "blocked": block_sparse_attention_blocked,
        "torch": block_sparse_attention_torch,
        "triton": "attncourse.block_sparse.kernel:block_sparse_attention_triton",
    }

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        pattern: BlockPattern,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        rope: RotaryEmbedding | None = None,
        impl: str = "blocked",
    ):
        super().__init__()
        n_kv_heads, head_dim, _ = head_widths(d_model, n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, rope=rope)
        check_impl(impl, self.forms)
        require(isinstance(pattern, BlockPattern), f"pattern must be a BlockPattern, got {type(pattern).__name__}")
        self.d_model, self.n_heads, self.n_kv_heads, self.head_dim = d_model, n_heads, n_kv_heads, head_dim
        self.pattern, self.rope, self.impl = pattern, rope, impl
        self.w_q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.w_k = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.w_v = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.w_o = nn.Linear(n_heads * head_dim, d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "b t d"], *, key_lengths: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return the output; later tokens than key_lengths are padding, whatever they hold.

        Raises:
            ValueError: x does not fit the layer, or is longer than the pattern.
        """
        check_tokens(x, self.w_q.weight)
        q = split_heads(self.w_q(x), self.n_heads)
        k, v = (split_heads(project(x), self.n_kv_heads) for project in (self.w_k, self.w_v))
        if self.rope is not None:
            positions = torch.arange(x.shape[1], device=x.device)
            q, k = self.rope(q, positions), self.rope(k, positions)
        if self.pattern.device != x.device and not x.is_meta:  # there the pattern would lose what it says
            self.pattern = self.pattern.to(x.device)
        attend = form_of(self.impl, self.forms)
        return self.w_o(merge_heads(attend(q, k, v, pattern=self.pattern, key_lengths=key_lengths)))
